"""The plans of a search and of a recommendation, and the names that their options accept."""

from collections.abc import Collection
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal, get_args

from foveate.core.budget import check_budgets
from foveate.core.errors import BudgetError, FoveateError, OptionError
from foveate.methods.registry import check_names, parts_of, usual_methods

Goal = Literal["quality", "accuracy", "tokens", "latency"]
"""Mean log-probability of the reference answer, mean score, mean equivalent tokens, median ms per question."""
DIRECTIONS: dict[Goal, Literal["maximize", "minimize"]] = {
    "quality": "maximize",
    "accuracy": "maximize",
    "tokens": "minimize",
    "latency": "minimize",
}
SamplerName = Literal["tpe", "nsga2", "gp", "random"]
ProxySignal = Literal["response", "evidence"]
"""The signal that a proxy compares kept patches with."""
Kind = Literal["single", "range", "weights"]
KINDS: tuple[Kind, ...] = get_args(Kind)
WORDS = {
    "single": "one layer of the vision tower",
    "range": "neighbouring layers, whose weights decay by a factor from the last to the first",
    "weights": "all layers, with free weights that sum to 1",
    "reduce": "sum, maximum or minimum over the layers",
    "heads": "which attention heads are read",
    "diversity": "a share of the budget for patches unlike those already chosen",
    "prompt": "a second cut inside the language model: its block and its shares of the budget and of prompt attention",
    "mass": "as many patches as hold a share of the score, instead of a count",
}
"""The dimensions of a space of layers."""


@dataclass(frozen=True)
class SearchPlan:
    """The plan of a search.

    Attributes:
        space: Dimensions of a space of layers (single, range, weights, reduce, heads, diversity, prompt, mass), or the
            name of one method.
        open: Options of that method that are searched, such as layer=1:3, negated, combine=multi|add.
        keep: Equivalent tokens: one number is a fixed budget, two are a range that is searched.
        goals: Goals that are optimized; several give a Pareto front.
        max_loss: Points of accuracy that a winner may lose against the uncompressed model; a constraint.
        trials: Number of trials, including the planned ones.
        sampler: Optuna's sampler of the trials that are not planned.
        sampler_seed: Seed of the sampler and the proxy.
        proxy: Signal by which proposals are ranked without the language model: response attention or evidence.
        candidates: Number of proposals that the proxy ranks.
        stops: Whether Optuna's WilcoxonPruner stops trials that are worse than the best one; only with the single goal
            quality or accuracy. No trial is stopped for exceeding `max_loss`.
        report_split: Split on which the winner is reported.
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
        """Checks the values that are invalid whatever the model and the data.

        Raises:
            FoveateError: A value is invalid.
        """
        if self.trials < 1:
            raise FoveateError(f"trials={self.trials}: expected 1 or more")
        if len(set(self.goals)) != len(self.goals) or not self.goals:
            raise FoveateError(f"goals={self.goals}: expected one goal, or several different ones")
        if set(self.goals) <= {"tokens", "latency"} and self.max_loss is None:
            raise FoveateError(
                f"goals={self.goals}: the best value is reached by keeping nothing; add quality or accuracy to the "
                "goals, or limit the points of accuracy that may be lost with --max-loss"
            )
        if self.open:
            if len(self.space) != 1:
                raise FoveateError(f"open={self.open}: options belong to one method: expected its name as the space")
            parts_of(self.space[0])
        else:
            check_words(self.space)
        check_ends(self.keep)

    def check_apart(self, split: str) -> None:
        """Checks that the winner is not reported on the split that is searched.

        Raises:
            FoveateError: The splits are the same.
        """
        if self.report_split == split:
            raise FoveateError(
                f"report_split={split!r} is the split that is searched: a winner is reported on questions that the "
                "search never saw"
            )


Aim = Literal["tokens", "latency", "memory"]
"""Equivalent tokens, milliseconds per question, or peak memory of a batch."""


@dataclass(frozen=True)
class RecommendationPlan:
    """The plan of a recommendation.

    Attributes:
        max_loss: Points of accuracy that the setting may lose against the uncompressed model.
        confidence: Confidence that the recommended setting keeps to it, one-sided.
        aim: What is to be small: equivalent tokens, measured milliseconds per question, or measured peak memory.
        methods: Names of methods, your own as ./file.py:function, or recipe files; simple controls are always tried.
        layers: Vision layers and sums of them that take part as well, such as cls[3], cls[2:] or cls[all].
        keep: Budgets in equivalent tokens: counts, or fractions of an image's patches.
        race_share: Share of the images on which settings are compared; the others confirm.
        batch: Questions per batch when milliseconds or memory are measured.
        new_tokens: Length of the answers when milliseconds or memory are measured.
        rounds: Rounds of that measurement.
    """

    max_loss: float = 1.0
    confidence: float = 0.95
    aim: Aim = "tokens"
    methods: tuple[str, ...] = usual_methods(videos=False)
    layers: tuple[str, ...] = ()
    keep: tuple[int | float, ...] = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 1 / 3, 2 / 9, 1 / 9)
    race_share: float = 0.4
    batch: int = 8
    new_tokens: int = 10
    rounds: int = 10

    def check(self) -> None:
        """Checks the values that are invalid whatever the model and the data.

        Raises:
            FoveateError: A value is invalid.
        """
        if not 0 < self.max_loss < 100:
            raise OptionError(f"max_loss={self.max_loss}: expected points of accuracy, above 0 and below 100")
        if not 0.5 <= self.confidence < 1:
            raise OptionError(f"confidence={self.confidence}: expected a share from 0.5 to below 1, such as 0.95")
        if not 0.1 <= self.race_share <= 0.9:
            raise OptionError(f"race_share={self.race_share}: expected a share of the images from 0.1 to 0.9")
        for name, value, least in (
            ("batch", self.batch, 1),
            ("new_tokens", self.new_tokens, 2),
            ("rounds", self.rounds, 3),
        ):
            if value < least:
                raise OptionError(f"{name}={value}: expected {least} or more")
        check_names(self.methods)
        check_budgets(self.keep)


def check_words(words: Collection[str]) -> None:
    """Checks words that describe a space of layers.

    Raises:
        FoveateError: One is not in `WORDS`, or two exclude each other.
    """
    for word in words:
        if word not in WORDS:
            near = get_close_matches(word, WORDS, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise FoveateError(f"space {word!r} is unknown: {hint}known are {', '.join(WORDS)}")
    if "mass" in words and (clash := {"diversity", "prompt"}.intersection(words)):
        raise FoveateError(
            f"space mass cannot be combined with {' and '.join(sorted(clash))}: with mass each image keeps its own "
            "number of patches, and the others divide a number that is the same for all images"
        )


def check_ends(keep: tuple[int | float, ...]) -> None:
    """Checks a fixed budget or a range of budgets.

    Raises:
        BudgetError: There is no number or more than two, or one is out of range for every image.
    """
    if not 1 <= len(keep) <= 2:
        raise BudgetError(f"keep={keep}: expected one number for a fixed budget or two for a range to search")
    check_budgets(keep)
