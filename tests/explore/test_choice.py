"""Methods with budgets and options as text."""

import shlex
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import tyro
from tyro.conf import Positional

from foveate.core.errors import DataError, OptionError, UnknownMethod
from foveate.explore.choice import Choice, options_of
from foveate.explore.plan import Plan, check_port
from foveate.explore.session import Session
from foveate.models.loading.load import load


@pytest.mark.parametrize(
    "text",
    [
        "vtc_cls",
        "vtc_cls(keep=0.11, start_layer=0)",
        "sparsevlm(keep=64, after=(2, 6, 15))",
        "scope(keep=9, combine='add')",
        "vtc_cls+per_tile(keep=9)",
        "my_package.my_module:mine(keep=9, flag=True)",
    ],
)
def test_a_choice_is_spelled_as_it_is_parsed(text):
    assert str(Choice.parsed(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        *("vtc_cls(", "vtc_cls(0.11)", "vtc_cls(keep=a)", "vtc_cls(**{})", "vtc_cls(keep=print())", "vtc_cls(keep=1))"),
        *("vtc_cls(keep=1, keep=2)", "vtc_cls(keep=1)(start_layer=2)"),
    ],
)
def test_what_is_no_choice_is_refused_and_never_run(text):
    with pytest.raises(OptionError, match=r"expected (a method|different names with values)"):
        Choice.parsed(text)


def test_an_unknown_method_is_refused_with_the_nearest_name():
    with pytest.raises(UnknownMethod, match="did you mean fastv"):
        Choice.parsed("fastvv(keep=3)")


def test_no_options_are_an_empty_text():
    assert options_of("") == options_of("  ") == ()


PLAN = Plan((Choice("fastv"),))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"methods": (Choice("fastv"),) * 5}, "5 methods: expected at most 4"),
        ({"frames": 0}, "frames=0: expected at least 1"),
        ({"index": 100}, r"index=100: expected 0 to 99"),
        ({"new_tokens": 0}, "new_tokens=0"),
        ({"image": Path("nothing.png")}, "there is no such file"),
        ({"limit": 0}, "limit=0"),
        ({"data": "nothing"}, "is unknown"),
    ],
)
def test_a_plan_that_cannot_be_shown_is_refused(changed, message):
    PLAN.check()
    with pytest.raises((OptionError, DataError), match=message):
        replace(PLAN, **changed).check()


def test_a_port_that_does_not_exist_is_refused():
    check_port(None), check_port(7860)
    with pytest.raises(OptionError, match="port 70000: expected 1 to 65535"):
        check_port(70000)


def test_the_command_of_a_plan_names_what_is_not_the_default():
    assert PLAN.command == "foveate explore --methods fastv"
    plan = replace(PLAN, image=Path("my photo.png"), question="what's this?", new_tokens=4, split="test")
    words = (
        """foveate explore 'my photo.png' --methods fastv --question 'what'"'"'s this?' --split test --new-tokens 4"""
    )
    assert plan.command == words


def test_words_of_the_command_that_begin_with_a_hyphen_are_no_options(monkeypatch):
    plan = replace(PLAN, image=Path("-x.png"), question="-what?")
    assert plan.command == "foveate explore ./-x.png --methods fastv '--question=-what?'"
    monkeypatch.setattr(sys, "argv", shlex.split(plan.command)[1:])
    assert tyro.cli(_image_and_question) == (plan.image, plan.question)


def _image_and_question(
    image: Positional[Path], methods: tuple[str, ...], question: str | None = None
) -> tuple[Path, str | None]:
    return image, question


def test_a_method_that_the_page_does_not_offer_is_refused_and_not_imported(tmp_path, monkeypatch):
    (tmp_path / "imported_by_a_page.py").write_text("def mine(keep): ...")
    monkeypatch.syspath_prepend(tmp_path)
    session = Session(Plan(()), load("reference"), ())
    with pytest.raises(UnknownMethod, match="not offered"):
        session.options_hint("imported_by_a_page:mine")
    assert "imported_by_a_page" not in sys.modules
