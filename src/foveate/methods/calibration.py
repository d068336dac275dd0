"""FitPrune's table of cuts, fitted to a model and samples from statistics of attention (arXiv 2409.10197).

A share alpha of attention may be lost: each block drops the tokens that can go both by what the prompt and by what the
image attends to, so that at least 1 - alpha of each of the uncompressed run remains. The smallest alpha is looked for
whose tokens cost no more than a share of all operations.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from foveate.compressors import Compressor, DecoderCompressor, Pipeline
from foveate.compressors.base import Positions, uncompressed
from foveate.core.compression import Compressed, Compression, Decision
from foveate.core.contracts import Cut, ImageBatch
from foveate.core.errors import BudgetError
from foveate.core.needs import Need
from foveate.core.trace import Trace
from foveate.functional.ranking import listed
from foveate.functional.removal import removable
from foveate.models.loading.load import LoadedModel
from foveate.scorers import CrossAndSelfAttention

if TYPE_CHECKING:
    import foveate.data.sample

_NARROWEST = 0.01  # interval of alpha at which the authors stop


@dataclass(frozen=True)
class Widths:
    """Widths of a language model, which operations are counted by.

    Attributes:
        hidden: Width of the states.
        inner: Width inside the MLP.
    """

    hidden: int
    inner: int

    def block(self, tokens: np.ndarray) -> np.ndarray:
        """Returns the multiplications of a block for numbers of visual tokens."""
        return self.attention(tokens) + self.rest(tokens)

    def attention(self, tokens: np.ndarray) -> np.ndarray:
        """Returns those up to the attention, which tokens take part in that the block drops."""
        return 3 * tokens * self.hidden**2 + 2 * tokens**2 * self.hidden

    def rest(self, tokens: np.ndarray) -> np.ndarray:
        """Returns those after the attention."""
        return tokens * self.hidden**2 + 3 * self.inner * self.hidden * tokens


@dataclass(frozen=True)
class Step:
    """One alpha of the search.

    Attributes:
        alpha: Share of attention that may be lost.
        reached: Whether the operations are few enough.
        dropped: Share of the patches that each block drops, averaged over the samples. Blocks after the one that makes
            operations few enough drop none.
    """

    alpha: float
    reached: bool
    dropped: tuple[float, ...]


def search(entering: Callable[[float], np.ndarray], keep: float, widths: Widths) -> list[Step]:
    """Returns the steps of a bisection for the smallest alpha at which a share of the operations is enough.

    Args:
        entering: Returns for an alpha the tokens (sample, block) that enter each block if all blocks drop; those that
            enter the first one are all patches.
        keep: Share of the operations, 1 minus the authors' reduction.
        widths: Widths of the language model.
    """
    low, high, steps = 0.0, 1.0, []
    while high - low > _NARROWEST:
        alpha = (low + high) / 2
        steps.append(_step(alpha, np.asarray(entering(alpha), dtype=float), keep, widths))
        low, high = (low, alpha) if steps[-1].reached else (alpha, high)
    return steps


def _step(alpha: float, tokens: np.ndarray, keep: float, widths: Widths) -> Step:
    """Returns whether an alpha reaches the share, and the drops of the blocks before the first that could stop."""
    patches, depth = tokens[:, 0], tokens.shape[1]
    after = np.concatenate([tokens[:, 1:], tokens[:, -1:]], 1)  # what the last block drops changes nothing
    dropped = (tokens - after) / patches[:, None]
    used = np.zeros(len(tokens))
    for block in range(depth):
        used += widths.attention(tokens[:, block])
        forecast = widths.rest(tokens[:, block]) + (depth - 1 - block) * widths.block(tokens[:, block])
        if (used + forecast).mean() <= keep * depth * widths.block(patches).mean():
            return Step(alpha, True, (*dropped[:, :block].mean(0).tolist(), *[0.0] * (depth - block)))
        used += widths.rest(after[:, block])
    return Step(alpha, False, tuple(dropped.mean(0).tolist()))


def fitted(loaded: LoadedModel, samples: "Sequence[foveate.data.sample.VQASample]", keep: float = 0.4) -> Compressor:
    """Returns FitPrune with a table for a model and samples; `save` writes it to a recipe file.

    It is that of the smallest alpha tried that reaches the share. The authors print the last one tried, which may not
    reach it, and round the mean numbers of tokens down.

    Args:
        loaded: The model.
        samples: Samples with one image each.
        keep: Share of the operations on visual tokens that remains.

    Raises:
        BudgetError: No alpha reaches the share, it is not between 0 and 1, or there are no samples.
    """
    if not 0 < keep < 1:
        raise BudgetError(f"keep={keep}: expected the share of the operations that remains, between 0 and 1")
    if not samples:
        raise BudgetError("no samples: attention cannot be measured without any; give some, such as load_samples(...)")
    config: Any = loaded.adapter.decoder.config
    runs = [_Run(loaded, sample) for sample in samples]
    steps = search(
        lambda alpha: np.stack([run.entering(alpha) for run in runs]),
        keep,
        Widths(config.hidden_size, config.intermediate_size),
    )
    reached = [step for step in steps if step.reached]
    if not reached:
        raise BudgetError(f"keep={keep}: not even dropping nearly all tokens leaves so few operations; keep more")
    left = 1 - np.cumsum(reached[-1].dropped)
    return Pipeline(tuple(_cuts(reached[-1].dropped, left.tolist())))


def _cuts(dropped: Sequence[float], left: Sequence[float]) -> Iterable[DecoderCompressor]:
    for block, (here, share) in enumerate(zip(dropped, left, strict=True)):
        if here > 0:
            yield DecoderCompressor(CrossAndSelfAttention(block), max(share, 1e-9), block + 1)


@dataclass(frozen=True, eq=False)
class _MassCut(Cut):
    """Cut that drops what a share of attention allows; the first run measures the whole and drops nothing."""

    layer: int
    allowed: float
    whole: dict[int, tuple[Tensor, Tensor]]

    @property
    def needs(self) -> tuple[Need, ...]:
        return CrossAndSelfAttention(self.layer - 1).needs

    @property
    def repack(self) -> bool:
        return False

    def cut(self, states: Tensor, trace: Trace) -> Decision:
        cross, own = (trace[need][:, 0] for need in self.needs)
        sums = self.whole.setdefault(self.layer, (cross.double().sum(1), own.double().sum(1)))
        goes = [removable(rows, (1 - self.allowed) * total) for rows, total in zip((cross, own), sums, strict=True)]
        stays = ~(goes[0] & goes[1]) if self.allowed else torch.ones_like(goes[0])
        return Decision(cross * own, Compression(listed(stays)))

    def planned(self, blocks: tuple[float, ...], patches: int) -> tuple[float, ...]:
        return blocks


@dataclass(frozen=True, eq=False)
class _Cutting(Compressor):
    """Compressor of given cuts only."""

    given: tuple[Cut, ...]
    positions: Positions = "original"

    @property
    def cuts(self) -> tuple[Cut, ...]:
        return self.given

    def compress(self, images: ImageBatch) -> Compressed:
        return uncompressed(images)


@dataclass(frozen=True, eq=False)
class _Run:
    """The prompt of one sample, run again for every alpha.

    Attributes:
        loaded: The model.
        sample: The sample.
        whole: By block, the sums of both kinds of attention in the run that drops nothing.
    """

    loaded: LoadedModel
    sample: "foveate.data.sample.VQASample"
    whole: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def entering(self, alpha: float) -> np.ndarray:
        """Returns the visual tokens, without separators, that enter each block."""
        if not self.whole:
            self._tokens(0.0)
        return self._tokens(alpha)

    @torch.no_grad()
    def _tokens(self, alpha: float) -> np.ndarray:
        first, depth = max(1, self.loaded.adapter.deepstack_levels), self.loaded.adapter.decoder.depth
        cuts = tuple(_MassCut(layer, alpha, self.whole) for layer in range(first, depth))
        prompt = self.loaded.chat_prompt([None, self.sample.question])
        with _Cutting(cuts).attached(self.loaded) as result:
            self.loaded.model(**self.loaded.inputs([prompt], [[self.sample.image]]))
        patches = int(result.decisions[0].compression.count[0])
        per_block = result.tokens.per_block[0].numpy()
        return per_block - per_block[0] + patches
