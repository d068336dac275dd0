"""Pictures given as pixels to a model whose tower sees one size."""

from foveate.core.types import Arrangement
from foveate.models.pictures import SeenPictures


def seen(adapter, pixels):
    return SeenPictures(adapter, {"pixel_values": pixels}, Arrangement((adapter.tower.grid,)))
