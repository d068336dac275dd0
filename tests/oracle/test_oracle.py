"""Models with a compressor attached equal the oracle, for random prompts, compressors and modes of decoding."""

import os
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from foveate.testing.decoding import beams_by_hand
from foveate.testing.families import FAMILIES, IMAGE, PAD, VIDEO, VIDEOS
from tests.oracle import oracle
from tests.oracle.cases import (
    Case,
    cases,
    close,
    ends_whole,
    ends_with_an_image_seen_both_ways,
    expected,
    inputs_of,
    mixes_images_up,
    model_of,
    or_refused,
    prompts_of,
)

# beartype, which checks shapes, samples the values it checks at random
pytestmark = pytest.mark.filterwarnings("ignore:Do not use the `random` module")
DEEP = os.environ.get("FOVEATE_HYPOTHESIS") == "deep"
QUIET = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much)
NEW = 3
OPTIONS: dict[str, Any] = {
    "max_new_tokens": NEW,
    "min_new_tokens": NEW,
    "do_sample": False,
    "return_dict_in_generate": True,
    "output_logits": True,
    "suppress_tokens": [IMAGE, VIDEO],  # stock models would expect the image of a generated placeholder
}
CUT_FORWARD = "cannot continue from past_key_values in forward"
CUT_TURN = "past_key_values that already hold tokens"


def examples(fast: int, deep: int = 200) -> Any:
    """Returns settings for a few fixed examples, or for many new ones in `make properties`."""
    return settings(
        max_examples=deep if DEEP else fast,
        derandomize=not DEEP,
        database=None,
        deadline=None,
        suppress_health_check=QUIET,
    )


def check_generated(case: Case, run: Any, output: Any, times: int = 1) -> None:
    """Checks that every step's logits equal the oracle's, for each of `times` sequences per prompt."""
    inputs = inputs_of(case)
    length = inputs["input_ids"].shape[1]
    assert torch.equal(output.sequences[:, :length], inputs["input_ids"].repeat_interleave(times, 0))
    for row, (tokens, cuts) in enumerate(expected(case, run)):
        for copy in range(row * times, row * times + times):
            said = output.sequences[copy, length:].tolist()
            found = torch.stack([step[copy] for step in output.logits])
            wanted = oracle.answers(model_of(case.family), tokens, cuts, said[:-1])
            close(found, wanted, f"prompt {row}, sequence {copy}")


def check_logits(case: Case, run: Any, logits: Tensor) -> None:
    """Checks that the left-padded logits of `forward` equal the oracle's at every remaining token."""
    for row, (tokens, cuts) in enumerate(expected(case, run)):
        wanted, visible = oracle.run(model_of(case.family), tokens, cuts)
        wanted = wanted[visible]
        assert logits.shape[1] >= len(wanted)
        close(logits[row, logits.shape[1] - len(wanted) :], wanted, f"prompt {row}")


@pytest.mark.parametrize("family", FAMILIES)
def test_uncompressed_the_oracle_is_the_stock_model(family):
    for images, texts in (((1,), ((5, 6), (9, 10))), ((0, 3), ((5,), (8,), ())), ((), ((5, 6),))):
        case = Case(family, (texts,), (images,), None)  # type: ignore[arg-type]
        (prompt,) = prompts_of(case)
        with torch.no_grad():
            stock = model_of(family)(**inputs_of(case)).logits[0]
        close(oracle.run(model_of(family), oracle.remaining(model_of(family), family, prompt))[0], stock, str(images))


@pytest.mark.parametrize("family", VIDEOS)
def test_uncompressed_the_oracle_is_the_stock_model_with_images_and_videos(family):
    case = Case(family, (((5, 6), (9, 10), (8,), (7,)),), ((4, 1, 5),), None)  # type: ignore[arg-type]
    (prompt,) = prompts_of(case)
    with torch.no_grad():
        stock = model_of(family)(**inputs_of(case)).logits[0]
    close(oracle.run(model_of(family), oracle.remaining(model_of(family), family, prompt))[0], stock, "")


@pytest.mark.parametrize("family", FAMILIES)
@examples(fast=10)
@given(data=st.data())
def test_greedy_answers_are_the_oracles(family, data):
    case = data.draw(cases(family))
    assume(not (family.startswith(oracle.AXES) and ends_whole(case)))
    model = model_of(family)
    with case.attached() as run:
        output = model.generate(**inputs_of(case), **{**OPTIONS, "suppress_tokens": None})
    check_generated(case, run, output)
    if not case.cuts:
        origins = run.decisions[0].compression.origin
        assert [kept.tolist() for kept in run.kept] == [sorted(p for p in row.tolist() if p >= 0) for row in origins]


@pytest.mark.parametrize("family", FAMILIES)
@examples(fast=8)
@given(data=st.data(), use_cache=st.booleans())
def test_forward_gives_the_oracles_logits_at_every_token(family, data, use_cache):
    case = data.draw(cases(family))
    model = model_of(family)
    with torch.no_grad(), case.attached() as run:
        logits = model(**inputs_of(case), use_cache=use_cache).logits
    check_logits(case, run, logits)


@pytest.mark.parametrize("family", FAMILIES)
@examples(fast=6)
@given(data=st.data())
def test_answers_without_a_cache_are_the_oracles(family, data):
    case = data.draw(cases(family))
    assume(not (family.startswith(oracle.AXES) and ends_whole(case)))
    assume(not ends_with_an_image_seen_both_ways(case))
    model = model_of(family)
    with case.attached() as run:
        output = or_refused(
            lambda: model.generate(**inputs_of(case), **OPTIONS, use_cache=False),
            "use_cache=False" if case.cuts else None,
        )
    if output is not None:
        check_generated(case, run, output)


@pytest.mark.parametrize("family", FAMILIES)
@examples(fast=8)
@given(data=st.data(), masked=st.booleans())
def test_a_hand_written_loop_goes_on_from_the_cache_of_forward(family, data, masked):
    """The loop decodes one token at a time, and then several at once, as in a next turn."""
    case = data.draw(cases(family))
    model, inputs = model_of(family), inputs_of(case)
    more = [[20, 21, 22]] * len(case.texts)
    rows = range(len(case.texts))
    with torch.no_grad(), case.attached() as run:
        output = model(**inputs, use_cache=True)
        wanted = expected(case, run)
        said: list[list[int]] = [[] for _ in rows]
        mask = inputs.get("attention_mask", (inputs["input_ids"] != PAD).long())
        for step in range(3):
            best = output.logits[:, -1].argmax(1, keepdim=True)  # it may be the token of images
            new = best if step < 2 else torch.tensor(more)
            mask = torch.cat([mask, torch.ones_like(new)], 1)
            given = {"attention_mask": mask} if masked else {}
            cached = output.past_key_values
            output = or_refused(
                lambda new=new, cached=cached, given=given: model(input_ids=new, past_key_values=cached, **given),
                CUT_FORWARD if case.cuts else None,
            )
            if output is None:
                return
            for row, (tokens, cuts) in enumerate(wanted):
                said[row] += new[row].tolist()
                answer = oracle.answers(model, tokens, cuts, said[row], 0)[-new.shape[1] :]
                close(output.logits[row], answer, f"prompt {row}, step {step}")


@pytest.mark.parametrize("family", FAMILIES)
@examples(fast=8)
@given(
    data=st.data(),
    first=st.sampled_from(["forward", "generate"]),
    turns=st.lists(st.sampled_from(["forward", "generate", "generate without images"]), min_size=1, max_size=2),
)
def test_more_turns_go_on_from_the_cache(family, data, first, turns):
    """Each turn has three tokens, after which `generate` answers with three more."""
    case = data.draw(cases(family))
    assume(not (family.startswith(oracle.AXES) and ends_whole(case)))
    model, inputs, rows = model_of(family), inputs_of(case), len(case.texts)
    length = inputs["input_ids"].shape[1]
    more = torch.tensor([[20, 21, 22]] * rows)
    with torch.no_grad(), case.attached() as run:
        if first == "generate":
            output = model.generate(**inputs, **OPTIONS)
            ids, known = output.sequences, length + NEW - 1
        else:
            output = model(**inputs, use_cache=True)
            ids, known = inputs["input_ids"], length
        wanted = expected(case, run)
        for turn in turns:
            cache, ids = output.past_key_values, torch.cat([ids, more], 1)
            if turn == "forward":
                output = or_refused(
                    lambda ids=ids, cache=cache, known=known: model(input_ids=ids[:, known:], past_key_values=cache),
                    CUT_FORWARD if case.cuts else None,
                )
                new = ids.shape[1] - known
            else:
                again = {**inputs, **_longer(inputs, ids)}
                if turn == "generate without images":
                    again = {name: again[name] for name in ("input_ids", "attention_mask") if name in again}
                output = or_refused(
                    lambda again=again, cache=cache: model.generate(**again, **OPTIONS, past_key_values=cache),
                    CUT_TURN if case.cuts else None,
                )
                new = NEW
            if output is None:
                return
            if turn != "forward":
                assert torch.equal(output.sequences[:, : ids.shape[1]], ids)
                ids = output.sequences
            known = ids.shape[1] - (turn != "forward")
            for row, (tokens, cuts) in enumerate(wanted):
                logits = output.logits[row] if turn == "forward" else torch.stack([s[row] for s in output.logits])
                said = ids[row, length:known].tolist()
                resumed = NEW - 1 if first == "generate" else 0
                close(logits, oracle.answers(model, tokens, cuts, said, resumed)[-new:], f"{row}")


def _longer(inputs: dict[str, Any], ids: Tensor) -> dict[str, Any]:
    """Returns the inputs with one value per token, extended for a longer conversation."""
    found = {"input_ids": ids}
    for name in ("attention_mask", "mm_token_type_ids"):
        if name in inputs:
            fill = torch.full_like(ids[:, inputs[name].shape[1] :], int(name == "attention_mask"))
            found[name] = torch.cat([inputs[name], fill], 1)
    return found


@pytest.mark.parametrize("family", FAMILIES)
@examples(fast=8)
@given(data=st.data(), times=st.integers(2, 3))
def test_every_sampled_sequence_has_the_oracles_logits(family, data, times):
    case = data.draw(cases(family))
    assume(not (family.startswith(oracle.AXES) and ends_whole(case)))
    assume(not mixes_images_up(case))
    model = model_of(family)
    torch.manual_seed(0)
    with case.attached() as run:
        options = {**OPTIONS, "do_sample": True, "suppress_tokens": None, "num_return_sequences": times}
        output = model.generate(**inputs_of(case), **options)
    check_generated(case, run, output, times)


@pytest.mark.parametrize("family", FAMILIES)
@examples(fast=8, deep=60)
@given(data=st.data())
def test_beams_are_those_of_a_search_by_hand(family, data):
    case = data.draw(cases(family, rows=2))
    assume(not (family.startswith(oracle.AXES) and ends_whole(case)))
    assume(not mixes_images_up(case))
    model, length = model_of(family), inputs_of(case)["input_ids"].shape[1]
    with case.attached() as run:
        output = model.generate(
            **inputs_of(case), **{**OPTIONS, "output_scores": True}, num_beams=2, num_return_sequences=2
        )
    for row, (tokens, cuts) in enumerate(expected(case, run)):
        beams = beams_by_hand(
            lambda said, tokens=tokens, cuts=cuts: oracle.answers(model, tokens, cuts, said)[-1], beams=2, steps=NEW
        )
        scores = output.sequences_scores[2 * row : 2 * row + 2]
        close(scores, torch.tensor([score / NEW for score, _ in beams]), f"prompt {row}")
        for copy, (_, said) in enumerate(beams):
            if abs(beams[0][0] - beams[1][0]) > 1e-3:
                assert output.sequences[2 * row + copy, length:].tolist() == said
