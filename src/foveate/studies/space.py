"""What a study varies: define-by-run spaces from an Optuna trial to a compressor."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeVar, cast

import numpy as np
from optuna import Trial
from optuna.trial import FixedTrial

from foveate.compressors import Compressor, DecoderCompressor, Pipeline, VisionCompressor
from foveate.core.budget import resolve_keep
from foveate.models.families.llava import Tower
from foveate.scorers import ClsAttention, ClsEnsemble, Hybrid, PromptAttention
from foveate.selectors import ImportantDiverse, Mass, TopK
from foveate.studies.plan import KINDS, Kind, check_ends, check_words

AnyTrial = Trial | FixedTrial
"""One that a study runs, or a repetition of its parameters."""
_DIGITS = 4


@dataclass(frozen=True)
class Proposal:
    """What a trial suggests.

    Attributes:
        compressor: To be evaluated.
        label: What to call it.
        family: Kind of layers, or the method's name.
        layers: The layers that it reads, as text.
        weights: Factor of every layer of the tower; empty if it is no ensemble of layers.
    """

    compressor: Compressor
    label: str
    family: str
    layers: str = ""
    weights: tuple[float, ...] = ()


class Planned(dict):
    """Parameters of a trial that is to be run in any case, with `attributes` for its user attributes."""

    def __init__(self, params: Mapping[str, Any], **attributes: Any) -> None:  # noqa: ANN401
        super().__init__(params)
        self.attributes = attributes


class Space(ABC):
    """A frozen value."""

    @property
    def identity(self) -> dict[str, Any]:
        """What identifies it: a value of JSON per name, as an error message may show it."""
        own: Any = self
        return {field.name: _plain(getattr(own, field.name)) for field in fields(own)}

    @abstractmethod
    def suggest(self, trial: AnyTrial) -> Proposal:
        """Asks the trial for values.

        Raises:
            BudgetError: What it suggests cannot have its budget.
        """


def _plain(value: Any) -> Any:  # noqa: ANN401 (JSON)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, bool | int | float | str | None) else repr(value)


@dataclass(frozen=True)
class Budget:
    """Equivalent tokens of one image: a fixed count, an opened range of counts, or as many patches as hold a mass.

    Attributes:
        low: The fewest.
        high: The most.
        mass: Whether a share of the score is searched instead of a count; then `high` is a cap.
    """

    low: int
    high: int
    mass: bool = False

    def suggest(self, trial: AnyTrial) -> int:
        if self.mass or self.low == self.high:
            return self.high
        return trial.suggest_int("keep", self.low, self.high, log=True)


@dataclass(frozen=True)
class LayerSpace(Space):
    """Ensembles of [CLS] attention, alone or mixed with prompt attention and diversity.

    Attributes:
        depth: Layers of the vision tower.
        heads: Attention heads of each.
        decoder_depth: Blocks of the language model.
        patches: Of an image.
        budget: What may be kept.
        kinds: Ways to weigh the layers; several are chosen between by `kind`.
        reduce: Whether maximum and minimum over the layers are searched besides the sum.
        head_subset: Whether the heads that are read are searched.
        diversity: Whether a share of the budget may go to patches unlike those chosen.
        prompt: Whether a part of the budget may be spent before a cut inside the language model.
    """

    depth: int
    heads: int
    decoder_depth: int
    patches: int
    budget: Budget
    kinds: tuple[Kind, ...] = KINDS
    reduce: bool = False
    head_subset: bool = False
    diversity: bool = False
    prompt: bool = False

    def suggest(self, trial: AnyTrial) -> Proposal:
        kind = _one_of(trial, "kind", self.kinds)
        weights = self._weights(trial, kind)
        layers = [i for i, weight in enumerate(weights) if weight]
        scorer = self._scorer(trial, tuple(layers), weights)
        compressor = self._compressor(trial, scorer, self.budget.suggest(trial))
        shown = f"{layers[0]}-{layers[-1]}" if len(layers) > 1 else f"{layers[0]}"
        label = {"single": f"cls[{shown}]", "range": f"cls[{shown.replace('-', ' to ')}]", "weights": "weights"}[kind]
        return Proposal(compressor, label, kind, shown, weights)

    def params_of(self, layers: range) -> dict[str, Any] | None:
        """Parameters of the plain sum of these layers at the highest budget; None if the space does not hold it."""
        kind: Kind = "single" if len(layers) == 1 and "single" in self.kinds else "range"
        if kind not in self.kinds:
            return self._uniform() if len(layers) == self.depth and "weights" in self.kinds else None
        params: dict[str, Any] = {"kind": kind} if len(self.kinds) > 1 else {}
        if kind == "single":
            params |= {"layer": layers[0]}
        else:
            params |= {"start": layers[0], "end": self._end_share(layers), "decay": 1.0}
        return params | self._plain(several=len(layers) > 1)

    def _uniform(self) -> dict[str, Any]:
        """Equal weights."""
        params: dict[str, Any] = {"kind": "weights"} if len(self.kinds) > 1 else {}
        return params | {f"weight_{i}": 0.5 for i in range(self.depth)} | self._plain(several=True)

    def _plain(self, several: bool) -> dict[str, Any]:
        """The other dimensions, closed."""
        params: dict[str, Any] = {"reduce": "sum"} if self.reduce and several else {}
        if self.head_subset:
            params |= {f"head_{i}": True for i in range(self.heads)}
        if self.budget.mass:
            params["mass"] = 0.5
        elif self.budget.low < self.budget.high:
            params["keep"] = self.budget.high
        if self.diversity:
            params["diversity"] = 0.0
        if self.prompt:
            params["early"] = 0.0
        return params

    def _weights(self, trial: AnyTrial, kind: Kind) -> tuple[float, ...]:
        match kind:
            case "single":
                layer = trial.suggest_int("layer", 0, self.depth - 1)
                return tuple(float(i == layer) for i in range(self.depth))
            case "range":
                start = trial.suggest_int("start", 0, self.depth - 1)
                # a share of what is left, because the number of layers that are left depends on the start
                left = self.depth - start
                length = 1 + min(left - 1, int(trial.suggest_float("end", 0.0, 1.0) * left))
                decay = trial.suggest_float("decay", 0.1, 1.0) if length > 1 else 1.0
                last = start + length - 1
                raw = [decay ** (last - i) if start <= i <= last else 0.0 for i in range(self.depth)]
            case "weights":
                # exponential variables over their sum are uniform on the simplex
                raw = [-np.log(trial.suggest_float(f"weight_{i}", 1e-6, 1.0)) for i in range(self.depth)]
        total = sum(raw)
        if not total:
            return tuple(round(1 / self.depth, _DIGITS) for _ in raw)
        return tuple(round(float(weight / total), _DIGITS) for weight in raw)

    def _end_share(self, layers: range) -> float:
        left = self.depth - layers[0]
        return (len(layers) - 0.5) / left

    def _scorer(
        self, trial: AnyTrial, layers: tuple[int, ...], weights: tuple[float, ...]
    ) -> ClsAttention | ClsEnsemble:
        heads: tuple[int, ...] | Literal["mean"] = self._heads(trial) if self.head_subset else "mean"
        if len(layers) == 1:
            return ClsAttention(layers[0], heads)
        reduce = _one_of(trial, "reduce", ("sum", "max", "min") if self.reduce else ("sum",))
        factors = tuple(weights[i] for i in layers)
        return ClsEnsemble(layers, () if len(set(factors)) == 1 else factors, reduce, heads)

    def _heads(self, trial: AnyTrial) -> tuple[int, ...] | Literal["mean"]:
        """At least one: where none of the others was chosen, the last is not asked for."""
        chosen = [i for i in range(self.heads - 1) if trial.suggest_categorical(f"head_{i}", (True, False))]
        last = self.heads - 1
        if not chosen or trial.suggest_categorical(f"head_{last}", (True, False)):
            chosen.append(last)
        return "mean" if len(chosen) == self.heads else tuple(chosen)

    def _compressor(self, trial: AnyTrial, scorer: ClsAttention | ClsEnsemble, keep: int) -> Compressor:
        if self.budget.mass:
            return VisionCompressor(scorer, keep, Mass(trial.suggest_float("mass", 0.05, 0.99)))
        given, left, block = keep, keep, 0
        if self.prompt and (early := trial.suggest_float("early", 0.0, 1.0)) > 0:
            block = trial.suggest_int("block", 1, self.decoder_depth - 1)
            given, left = self._split(keep, block, early)
        diversity = trial.suggest_float("diversity", 0.0, 1.0) if self.diversity else 0.0
        selector = ImportantDiverse(round(1 - diversity, _DIGITS)) if diversity else TopK()
        before = VisionCompressor(scorer, given, selector)
        if left == given:
            return before
        share = round(trial.suggest_float("prompt_share", 0.0, 1.0), _DIGITS)
        mixed = Hybrid((scorer, PromptAttention(block)), (1 - share, share))
        return Pipeline((before, DecoderCompressor(mixed, left, block)))

    def _split(self, keep: int, block: int, early: float) -> tuple[int, int]:
        """Tokens given to the language model and left before `block`, of which the mean over the blocks is `keep`."""
        behind = self.decoder_depth - block
        most = min(self.patches, (self.decoder_depth * keep - behind) // block)
        given = round(keep + early * (most - keep))
        return given, max(1, round((self.decoder_depth * keep - block * given) / behind))


Word = TypeVar("Word", bound=str)


def _one_of(trial: AnyTrial, name: str, words: Sequence[Word]) -> Word:
    """Among several a dimension."""
    return cast(Word, trial.suggest_categorical(name, words)) if len(words) > 1 else words[0]


def layer_space(words: Iterable[str], keep: tuple[int | float, ...], tower: Tower, decoder_depth: int) -> LayerSpace:
    """The space that some of `plan.WORDS` open.

    Args:
        words: What is varied.
        keep: Equivalent tokens, as counts or fractions of the patches: one is fixed, between two is searched.
        tower: Of the model.
        decoder_depth: Blocks of the language model.

    Raises:
        FoveateError: A word is unknown, or does not go with another.
        BudgetError: The budget is no number or pair of numbers in range.
    """
    words = tuple(dict.fromkeys(words))
    check_words(words)
    kinds: tuple[Kind, ...] = tuple(kind for kind in KINDS if kind in words) or KINDS
    flags = {"reduce": "reduce" in words, "head_subset": "heads" in words}
    flags |= {"diversity": "diversity" in words, "prompt": "prompt" in words}
    budget = budget_of(keep, tower.grid.patches, mass="mass" in words)
    return LayerSpace(tower.depth, tower.heads, decoder_depth, tower.grid.patches, budget, kinds, **flags)


def budget_of(keep: tuple[int | float, ...], patches: int, mass: bool = False) -> Budget:
    """One number is a fixed budget, two are a range; for a mass the last is the most.

    Raises:
        BudgetError: There are none or more than two, or one is out of range.
    """
    check_ends(keep)
    counts = sorted(resolve_keep(one, patches) for one in keep)
    return Budget(1 if mass else counts[0], patches if mass and len(counts) == 1 else counts[-1], mass)
