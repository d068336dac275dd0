"""Times a CLIP tower alone: plain, with [CLS] rows from the tap, and with those of eager attention's matrices."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from foveate.core.needs import ClsRows
from foveate.profiling.clock import Clock
from foveate.profiling.speed import Batch

SIDES = PLAIN, TAPPED, EAGER = "tower", "tower, rows by the tap", "tower, rows by eager attention"


@torch.inference_mode()
def timed(side: str, batch: Batch) -> float:
    """Returns the milliseconds of one pass of the tower."""
    run, clock = _passes(batch)[side], Clock(batch.loaded.model.device)
    with clock.part(side):
        run()
    return clock.ms[side]


@torch.inference_mode()
def difference(batch: Batch) -> float:
    """Returns the largest difference of the tap's rows from eager ones, as a share of the largest of these."""
    passes = _passes(batch)
    images = batch.images(list(range(len(batch.arrangements)))).images
    tiles = passes[EAGER]().float().movedim(-1, 1)  # (tile, patch, layer, head)
    by_image = tiles.flatten(2).unflatten(0, (len(batch.arrangements), -1))
    eager = batch.adapter.per_token(by_image, images, batch.arrangements[0])  # in the order of the image's tokens
    found = passes[TAPPED]().float().movedim(-1, 1).flatten(2)
    return float((found - eager).abs().max() / eager.max())


def _passes(batch: Batch) -> dict[str, Callable[[], Tensor]]:
    adapter, images = batch.adapter, batch.images(list(range(len(batch.arrangements)))).images
    arrangement, need = batch.arrangements[0], ClsRows(tuple(range(batch.adapter.tower.depth)))

    tower: Any = batch.loaded.model.model.vision_tower
    pixels = adapter.pixels(images, arrangement).flatten(0, 1)

    def eager() -> Tensor:
        before = tower.config._attn_implementation
        tower.set_attn_implementation("eager")
        try:
            matrices = tower(pixels, output_attentions=True).attentions
        finally:
            tower.set_attn_implementation(before)
        return torch.stack([matrix[:, :, 0, 1:] for matrix in matrices], 1)

    return {
        PLAIN: lambda: tower(pixels).last_hidden_state,  # all layers: without rows `encode` leaves the last ones out
        TAPPED: lambda: adapter.encode(images, arrangement, (need,))[1][need],
        EAGER: eager,
    }
