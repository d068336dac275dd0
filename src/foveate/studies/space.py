"""Search spaces: functions from an Optuna trial to a compressor, which define their parameters as they run."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeVar, cast

import numpy as np
from optuna import Trial
from optuna.trial import FixedTrial

from foveate.compressors import Compressor, DecoderCompressor, Pipeline, VisionCompressor
from foveate.core.budget import resolve_keep
from foveate.models.backbone.adapter import Tower
from foveate.scorers import ClsAttention, ClsEnsemble, Hybrid, PromptAttention
from foveate.selectors import ImportantDiverse, Mass, TopK
from foveate.studies.plan import KINDS, Kind, check_ends, check_words

AnyTrial = Trial | FixedTrial
"""A trial that a study runs, or a `FixedTrial` with the parameters of one."""
_DIGITS = 4


@dataclass(frozen=True)
class Proposal:
    """A compressor that a trial suggests.

    Attributes:
        compressor: The compressor.
        label: Name for reports.
        family: Kind of layers, or the method's name.
        layers: The layers that it reads, as text.
        weights: Weight of every layer of the tower; empty if the compressor is no ensemble of layers.
        ranked: Whether it can be the study's best trial, as controls and oracles cannot.
    """

    compressor: Compressor
    label: str
    family: str
    layers: str = ""
    weights: tuple[float, ...] = ()
    ranked: bool = True


class Planned(dict):
    """Parameters of a trial to enqueue, with `attributes` for its user attributes."""

    def __init__(self, params: Mapping[str, Any], **attributes: Any) -> None:  # noqa: ANN401
        super().__init__(params)
        self.attributes = attributes


class Space(ABC):
    """A search space; a frozen value."""

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that identifies the space, by name, as JSON that error messages can show."""
        own: Any = self
        return {field.name: _as_json(getattr(own, field.name)) for field in fields(own)}

    @abstractmethod
    def suggest(self, trial: AnyTrial) -> Proposal:
        """Returns the compressor for the values that a trial suggests.

        Raises:
            BudgetError: The compressor cannot have its budget.
        """


def _as_json(value: Any) -> Any:  # noqa: ANN401 (JSON)
    if isinstance(value, tuple):
        return [_as_json(item) for item in value]
    return value if isinstance(value, bool | int | float | str | None) else repr(value)


@dataclass(frozen=True)
class Budget:
    """Equivalent tokens of one image: a fixed count, a range of counts, or the patches that hold a share of the score.

    Attributes:
        low: Smallest count.
        high: Largest count.
        mass: Whether the share of the score is searched instead of the count; `high` is then an upper limit.
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
        depth: Number of layers of the vision tower.
        heads: Number of attention heads of each layer.
        decoder_depth: Number of blocks of the language model.
        patches: Number of patches of an image.
        budget: The budget.
        kinds: Ways to weigh the layers; if there are several, the parameter `kind` selects one.
        reduce: Whether maximum and minimum over the layers are searched besides the sum.
        head_subset: Whether the attention heads that are read are searched.
        diversity: Whether a share of the budget may go to patches unlike those already chosen.
        prompt: Whether a second cut, inside the language model, is searched.
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
        """Returns the parameters of the plain sum of layers at the largest budget; None if it is not in the space."""
        kind: Kind = "single" if len(layers) == 1 and "single" in self.kinds else "range"
        if kind not in self.kinds:
            return self._equal_weights() if len(layers) == self.depth and "weights" in self.kinds else None
        params: dict[str, Any] = {"kind": kind} if len(self.kinds) > 1 else {}
        if kind == "single":
            params |= {"layer": layers[0]}
        else:
            end = (len(layers) - 0.5) / (self.depth - layers[0])  # the middle of the values that give this length
            params |= {"start": layers[0], "end": end, "decay": 1.0}
        return params | self._neutral(several=len(layers) > 1)

    def _equal_weights(self) -> dict[str, Any]:
        params: dict[str, Any] = {"kind": "weights"} if len(self.kinds) > 1 else {}
        return params | {f"weight_{i}": 0.5 for i in range(self.depth)} | self._neutral(several=True)

    def _neutral(self, several: bool) -> dict[str, Any]:
        """Returns parameters with which the dimensions other than the layers' weights change nothing."""
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
                following = self.depth - start  # depends on the start, so the end is suggested as a share of it
                length = 1 + min(following - 1, int(trial.suggest_float("end", 0.0, 1.0) * following))
                decay = trial.suggest_float("decay", 0.1, 1.0) if length > 1 else 1.0
                last = start + length - 1
                raw = [decay ** (last - i) if start <= i <= last else 0.0 for i in range(self.depth)]
            case "weights":
                # exponential variables divided by their sum are uniform on the simplex
                raw = [-np.log(trial.suggest_float(f"weight_{i}", 1e-6, 1.0)) for i in range(self.depth)]
        total = sum(raw)
        if not total:
            return tuple(round(1 / self.depth, _DIGITS) for _ in raw)
        return tuple(round(float(weight / total), _DIGITS) for weight in raw)

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
        """Suggests at least one head: the last one is chosen without a parameter if no other is."""
        chosen = [i for i in range(self.heads - 1) if trial.suggest_categorical(f"head_{i}", (True, False))]
        last = self.heads - 1
        if not chosen or trial.suggest_categorical(f"head_{last}", (True, False)):
            chosen.append(last)
        return "mean" if len(chosen) == self.heads else tuple(chosen)

    def _compressor(self, trial: AnyTrial, scorer: ClsAttention | ClsEnsemble, keep: int) -> Compressor:
        if self.budget.mass:
            return VisionCompressor(scorer, keep, Mass(trial.suggest_float("mass", 0.05, 0.99)))
        before_cut, after_cut, block = keep, keep, 0
        if self.prompt and (early := trial.suggest_float("early", 0.0, 1.0)) > 0:
            block = trial.suggest_int("block", 1, self.decoder_depth - 1)
            before_cut, after_cut = self._split(keep, block, early)
        diversity = trial.suggest_float("diversity", 0.0, 1.0) if self.diversity else 0.0
        selector = ImportantDiverse(round(1 - diversity, _DIGITS)) if diversity else TopK()
        vision = VisionCompressor(scorer, before_cut, selector)
        if after_cut == before_cut:
            return vision
        share = round(trial.suggest_float("prompt_share", 0.0, 1.0), _DIGITS)
        mixed = Hybrid((scorer, PromptAttention(block)), (1 - share, share))
        return Pipeline((vision, DecoderCompressor(mixed, after_cut, block)))

    def _split(self, keep: int, block: int, early: float) -> tuple[int, int]:
        """Returns tokens before and after a cut at `block` whose mean over all blocks is `keep`.

        Args:
            keep: Equivalent tokens.
            block: Number of blocks before the cut.
            early: 0 gives all blocks the same number of tokens, 1 gives the first blocks as many as possible.
        """
        following = self.decoder_depth - block
        most = min(self.patches, (self.decoder_depth * keep - following) // block)
        before_cut = round(keep + early * (most - keep))
        return before_cut, max(1, round((self.decoder_depth * keep - block * before_cut) / following))


Word = TypeVar("Word", bound=str)


def _one_of(trial: AnyTrial, name: str, words: Sequence[Word]) -> Word:
    """Returns the only word, or one that the trial suggests."""
    return cast(Word, trial.suggest_categorical(name, words)) if len(words) > 1 else words[0]


def layer_space(words: Iterable[str], keep: tuple[int | float, ...], tower: Tower, decoder_depth: int) -> LayerSpace:
    """Returns the space of layers that some of `plan.WORDS` describe.

    Args:
        words: The dimensions that are searched.
        keep: Equivalent tokens, as counts or fractions of the patches: one number is fixed, two are a range.
        tower: The model's vision tower.
        decoder_depth: Number of blocks of the language model.

    Raises:
        FoveateError: A word is unknown, or two exclude each other.
        BudgetError: The budget is not one or two numbers in range.
    """
    words = tuple(dict.fromkeys(words))
    check_words(words)
    kinds: tuple[Kind, ...] = tuple(kind for kind in KINDS if kind in words) or KINDS
    flags = {"reduce": "reduce" in words, "head_subset": "heads" in words}
    flags |= {"diversity": "diversity" in words, "prompt": "prompt" in words}
    budget = budget_of(keep, tower.grid.patches, mass="mass" in words)
    return LayerSpace(tower.depth, tower.heads, decoder_depth, tower.grid.patches, budget, kinds, **flags)


def budget_of(keep: tuple[int | float, ...], patches: int, mass: bool = False) -> Budget:
    """Returns a fixed budget for one number, and a range for two; with `mass` the last number is an upper limit.

    Raises:
        BudgetError: There is no number or more than two, or one is out of range.
    """
    check_ends(keep)
    counts = sorted(resolve_keep(one, patches) for one in keep)
    return Budget(1 if mass else counts[0], patches if mass and len(counts) == 1 else counts[-1], mass)
