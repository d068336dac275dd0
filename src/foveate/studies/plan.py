"""What studies are told by name, and what a search is told."""

from collections.abc import Collection
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal, get_args

from foveate.core.budget import check_budgets
from foveate.core.errors import BudgetError, FoveateError
from foveate.methods.registry import parts_of

Goal = Literal["quality", "accuracy", "tokens", "latency"]
"""Mean log-probability of the reference answer, mean score, mean equivalent tokens, median ms per question."""
SamplerName = Literal["tpe", "nsga2", "gp", "random"]
ProxySignal = Literal["response", "evidence"]
"""What a proxy compares kept patches with."""
Kind = Literal["single", "range", "weights"]
KINDS: tuple[Kind, ...] = get_args(Kind)
WORDS = {
    "single": "one layer of the vision tower",
    "range": "neighbouring layers, each weighing less than the one behind it by a factor",
    "weights": "all layers with free weights that sum to 1",
    "reduce": "sum, maximum or minimum over the layers",
    "heads": "which attention heads are read",
    "diversity": "a share of the budget for patches unlike those chosen",
    "prompt": "a second cut inside the language model: where, how much of the budget, how far by prompt attention",
    "mass": "as many patches as hold a share of the score, instead of a count",
}
"""Of a space of layers."""


@dataclass(frozen=True)
class SearchPlan:
    """What is searched, and how.

    Attributes:
        space: Words of `WORDS`, or one method's name.
        open: Options of that method that are searched: layer=1:3, negated, combine=multi|add.
        keep: Equivalent tokens: one number is fixed, between two is searched.
        goals: What is optimised.
        max_loss: Points of accuracy that may be lost against the uncompressed model.
        trials: How many, planned ones among them.
        sampler: Of those that are not planned.
        sampler_seed: Of sampler and proxy.
        proxy: What the proxy compares kept patches with.
        candidates: How many proposals it ranks.
        stops: Whether hopeless trials end early.
        report_split: Where the winner is reported.
    """

    space: tuple[str, ...] = ("single", "range", "weights")
    open: tuple[str, ...] = ()
    keep: tuple[int | float, ...] = (0.11,)
    goals: tuple[Goal, ...] = ("quality",)
    max_loss: float | None = None
    trials: int = 80
    sampler: SamplerName = "tpe"
    sampler_seed: int = 0
    proxy: ProxySignal | Literal["none"] = "response"
    candidates: int = 2000
    stops: bool = True
    report_split: str = "test"

    def check(self) -> None:
        """Refuses what no model and no data allow.

        Raises:
            FoveateError: Something cannot be used; the message says what.
        """
        if self.trials < 1:
            raise FoveateError(f"trials={self.trials}: at least one is needed")
        if len(set(self.goals)) != len(self.goals) or not self.goals:
            raise FoveateError(f"goals={self.goals}: name one goal, or several different ones")
        if set(self.goals) <= {"tokens", "latency"} and self.max_loss is None:
            raise FoveateError(
                f"goals={self.goals}: without a limit the cheapest is to keep nothing; add quality or accuracy to the "
                "goals, or say with --max-loss how many points of accuracy may be lost"
            )
        if self.open:
            if len(self.space) != 1:
                raise FoveateError(f"open={self.open}: options belong to one method: name it alone as the space")
            parts_of(self.space[0])
        else:
            check_words(self.space)
        check_ends(self.keep)

    def check_apart(self, split: str) -> None:
        """Refuses to report on the split that is searched.

        Raises:
            FoveateError: They are the same.
        """
        if self.report_split == split:
            raise FoveateError(
                f"report_split={split!r} is the split that is searched: a winner is reported on questions that the "
                "search never saw"
            )


def check_words(words: Collection[str]) -> None:
    """Refuses words that open no space of layers.

    Raises:
        FoveateError: One is not in `WORDS`, or does not go with another.
    """
    for word in words:
        if word not in WORDS:
            near = get_close_matches(word, WORDS, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise FoveateError(f"space {word!r} is unknown: {hint}known are {', '.join(WORDS)}")
    if "mass" in words and (clash := {"diversity", "prompt"}.intersection(words)):
        raise FoveateError(
            f"space mass does not go with {' and '.join(sorted(clash))}: with a mass every image has a count of its "
            "own, and the others share out a count that is the same for all"
        )


def check_ends(keep: tuple[int | float, ...]) -> None:
    """Refuses what is neither a fixed budget nor a range of budgets.

    Raises:
        BudgetError: There are none or more than two, or one is out of range for every image.
    """
    if not 1 <= len(keep) <= 2:
        raise BudgetError(f"keep={keep}: expected one number for a fixed budget or two for a range to search")
    check_budgets(keep)
