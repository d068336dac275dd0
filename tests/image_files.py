"""Batches of images from pixels, for models whose tower has one input size."""

from foveate.core.arrangement import Arrangement
from foveate.models.runtime.images import LiveImages


def live_images(adapter, pixels):
    return LiveImages(adapter, {"pixel_values": pixels}, Arrangement((adapter.tower.grid,)))
