"""The contracts of the plug-ins. An implementation is one file, one frozen dataclass, one formula."""

from abc import ABC, abstractmethod

from jaxtyping import Float, Int
from torch import Tensor

from foveate.core.needs import Need
from foveate.core.types import Compression, Trace


class VisionScorer(ABC):
    """Says how much each patch matters."""

    @property
    @abstractmethod
    def needs(self) -> tuple[Need, ...]:
        """What `score` will read from the trace."""

    @abstractmethod
    def score(self, trace: Trace) -> Float[Tensor, "batch patch"]:
        """Higher means keep."""


class Selector(ABC):
    """Turns scores into a choice of exactly `keep` patches."""

    @abstractmethod
    def select(self, scores: Float[Tensor, "batch patch"], trace: Trace, keep: int) -> Int[Tensor, "batch kept"]:
        """Kept patches in raster order; equal scores go to the lower index."""


class Merger(ABC):
    """Says what becomes of the patches that were not kept."""

    @abstractmethod
    def merge(
        self, features: Float[Tensor, "batch patch dim"], kept: Int[Tensor, "batch kept"], trace: Trace
    ) -> Compression:
        """How each token of the compressed image is made of patches."""
