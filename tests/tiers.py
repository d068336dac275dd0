"""The two tiers of the tests: `make test` runs the fast one, `make test-all` both; see docs/explanation/tests.md."""

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import pytest

REASONS = {
    "every": "a representative of the same property is fast; this is one more plug-in, family, method or option",
    "moments": "a kill, a signal, a fault or a damage at one more moment or place",
    "devices": "several devices or workers, and their launchers",
    "training": "models are trained",
    "worlds": "thousands of worlds are simulated",
    "memory": "peaks of memory, in processes of their own",
    "notebooks": "one more notebook, or its page",
    "lmms": "lmms-eval is run",
    "servers": "servers and their clients, each in a process of its own",
    "site": "the site of the docs is built, and its tutorials run",
}


def extended(reason: str) -> pytest.MarkDecorator:
    """Marks a test as one of the extended tier, for a reason of the list."""
    return pytest.mark.extended(reason)


def parametrize(
    names: str | Sequence[str],
    values: Iterable[Any],
    *,
    fast: int | Collection[Any] = 1,
    reason: str = "every",
    ids: Callable[[Any], str] | Sequence[str] | None = None,
) -> pytest.MarkDecorator:
    """Is `pytest.mark.parametrize` with all but some of the values in the extended tier.

    Args:
        names: Of the arguments.
        values: Of the arguments, as pytest wants them.
        fast: The values that stay in the fast tier, or how many of the first.
        reason: Why the others are extended.
        ids: What pytest is to call them.
    """
    several = not isinstance(names, str) or "," in names
    values = list(values)
    stay = values[:fast] if isinstance(fast, int) else fast
    assert len(stay) and all(value in values for value in stay), f"{stay}: is none of the values"
    marks = [() if value in stay else (extended(reason),) for value in values]
    params = [pytest.param(*(v if several else (v,)), marks=mark) for v, mark in zip(values, marks, strict=True)]
    return pytest.mark.parametrize(names, params, ids=ids)


def is_extended(item: pytest.Item) -> bool:
    """Whether a test is in the extended tier.

    Raises:
        UsageError: It gives no reason, or one that is not on the list.
    """
    marks = list(item.iter_markers("extended"))
    for mark in marks:
        if len(mark.args) != 1 or mark.kwargs or mark.args[0] not in REASONS:
            given = ", ".join(map(repr, mark.args)) or "no reason"
            raise pytest.UsageError(f"{item.nodeid}: extended for {given}; the reasons are {', '.join(REASONS)}")
    return bool(marks)
