"""Images given as pixels to a model whose tower sees one size."""

from foveate.core.arrangement import Arrangement
from foveate.models.runtime.images import LiveImages


def seen(adapter, pixels):
    return LiveImages(adapter, {"pixel_values": pixels}, Arrangement((adapter.tower.grid,)))
