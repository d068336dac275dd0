"""Patches of every group that loads on one principal direction of the features."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from foveate.core.contracts import Selector
from foveate.core.needs import Features, Need
from foveate.core.trace import Trace
from foveate.core.values import Natural
from foveate.functional.matching import cosine
from foveate.functional.principal import principal_loadings
from foveate.functional.ranking import in_raster_order
from foveate.functional.suppression import chosen_by_group, group_quotas, survivors

_RASTER_ABOVE = 150  # kept patches of the variant for Qwen2-VL


@dataclass(frozen=True)
class PrincipalGroups(Selector):
    """Selector that splits the budget among groups of patches and keeps the best of each that differ from each other.

    There is a group for every fourth token of the budget: that of the patches whose features load most on one principal
    direction. Within a group, patches that resemble a better one are suppressed; see `functional.suppression`. Kept
    patches are ordered by group, survivors by falling score and then suppressed ones. The threshold of similarity is
    the mean over all pairs times a thirty-second of the budget; with 192 tokens and a mean above a sixth it is above 1,
    and nothing is suppressed.

    Source: arXiv 2603.09480 (PruneSID), whose code draws a randomised decomposition for every image, without a seed.

    Attributes:
        seed: None decomposes the features exactly; a number is the seed of the authors' randomised decomposition.
        extra: Number of tokens of the budget beside the kept patches: 1 if [CLS] is one.
        merged: Whether the authors' variant for Qwen2-VL is used, which reads features after the projector, takes as
            score of a patch its loading on the direction of its group, and has at least four groups, another threshold,
            and raster order for more than 150 patches.
    """

    needs_keep: ClassVar[bool] = True
    static_count: ClassVar[bool] = True
    seed: Natural | None = None
    extra: Natural = 0
    merged: bool = False

    @property
    def needs(self) -> tuple[Need, ...]:
        return (Features(self.merged),)

    def select(self, scores: Float[Tensor, "batch patch"], trace: Trace, keep: int) -> Int[Tensor, "batch kept"]:
        features, real, total = trace[Features(self.merged)].double(), scores > -torch.inf, keep + self.extra
        groups = max(total // 4, 4 if self.merged else 1)
        loadings = principal_loadings(features.sigmoid() * real[..., None], groups, self.seed).abs()
        strongest, group = loadings.max(-1)
        ranking = strongest.masked_fill(~real, -torch.inf) if self.merged else scores
        similarity = cosine(features, features)
        alive = survivors(similarity, ranking, group, self._threshold(similarity, real, total))
        nothing = torch.zeros_like(group[:, :1]).expand(-1, loadings.shape[2])
        sizes, surviving = (nothing.scatter_add(1, group, mask.long()) for mask in (real, alive))
        quota = group_quotas(sizes, surviving, keep, total)
        kept = chosen_by_group(ranking, alive, group, quota, keep)
        return in_raster_order(kept, scores.shape[1]) if self.merged and keep > _RASTER_ABOVE else kept

    def _threshold(
        self, similarity: Float[Tensor, "batch patch patch"], real: Bool[Tensor, "batch patch"], total: int
    ) -> Float[Tensor, " batch"]:
        count = real.sum(1)
        above = torch.ones_like(similarity[0], dtype=torch.bool).triu(0 if self.merged else 1)
        pairs = above & real[:, :, None] & real[:, None]
        sums = torch.where(pairs, similarity, 0).sum((1, 2))
        if self.merged:  # pairs below the diagonal count as 0 in the authors' mean
            return (total / (count / 18)).clamp(min=1) * sums / count.square()
        return total / 32 * sums / pairs.sum((1, 2)).clamp(min=1)
