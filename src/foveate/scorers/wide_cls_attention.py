"""Attention of [CLS] in one layer, computed with a single head over the full width.

Source: the code of arXiv 2403.15388 (LLaVA-PruMerge), which concatenates the queries and keys of all heads in the last
layer, after the one that writes the features. The result is much flatter than the tower's own attention.
"""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from foveate.core.contracts import Scorer
from foveate.core.needs import ClsQuery, Keys, Need
from foveate.core.trace import Trace
from foveate.functional.attention import attention_rows


@dataclass(frozen=True)
class WideClsAttention(Scorer):
    """Scorer by the attention of [CLS] to a patch, among patches and [CLS], with all heads as one wide head.

    Attributes:
        layer: Layer of the tower, 0-based, negative from the end.
    """

    layer: int = -1

    @property
    def needs(self) -> tuple[Need, ...]:
        return ClsQuery(self.layer), Keys(self.layer)

    def score(self, trace: Trace) -> Float[Tensor, "batch patch"]:
        query, keys = trace[ClsQuery(self.layer)].flatten(1), trace[Keys(self.layer)].flatten(2)
        rows = attention_rows(query[:, None, None], keys[:, None], query.shape[1] ** -0.5)
        return rows[:, 0, 0, :-1]
