"""Where the evidence of questions lies among the patches, by the way that an image takes to the vision tower."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from foveate.core.arrangement import Arrangement, Grid
from foveate.data.sample import VQASample
from foveate.metrics.evidence import evidence_share
from foveate.models.loading.load import LoadedModel


def evidence_of(
    samples: Sequence[VQASample], arrangements: Sequence[Arrangement], loaded: LoadedModel | None = None
) -> Tensor:
    """(question, thing, patch): the share of each patch that shows each thing.

    Of an image whose views lie nobody knows where, nothing is known.

    Args:
        samples: The questions.
        arrangements: Of their images.
        loaded: The model whose processor crops, pads or stretches the images; None stretches them over the views.
    """
    shares = [_share(s.evidence, image, loaded) for s, image in zip(samples, arrangements, strict=True)]
    longest = [max(share.shape[axis] for share in shares) for axis in (0, 1)]
    return torch.stack([F.pad(s, (0, longest[1] - s.shape[1], 0, longest[0] - s.shape[0])) for s in shares])


def _share(masks: np.ndarray, image: Arrangement, loaded: LoadedModel | None) -> Tensor:
    """Where an image has the grid's shape, every processor stretches it; else the masks take the image's way."""
    height, width = masks.shape[1:]
    if not image.boxes or not len(masks):
        return torch.zeros(0, image.patches)
    if loaded is not None and loaded.adapter.fixed_grid and not _fits((width, height), image.views[0]):
        painted = [Image.fromarray(np.uint8(255) * mask) for mask in masks]
        shown = _light(loaded, painted).mean(1, keepdim=True)
        return F.adaptive_avg_pool2d(shown, (image.views[0].rows, image.views[0].columns)).flatten(1)
    views = []
    for grid, (top, left, bottom, right) in zip(image.views, image.boxes, strict=True):
        down, across = slice(int(top * height), int(bottom * height)), slice(int(left * width), int(right * width))
        views.append(evidence_share(torch.from_numpy(masks[:, down, across]), grid))
    return torch.cat(views, 1)


def as_seen(loaded: LoadedModel, image: Image.Image, grid: Grid) -> Image.Image:
    """The part of an image that the vision tower sees, padding black."""
    if not loaded.adapter.fixed_grid or _fits(image.size, grid):
        return image
    light = _light(loaded, [image.convert("RGB")])[0].permute(1, 2, 0)
    return Image.fromarray((255 * light).round().byte().numpy())


def _fits(size: tuple[int, int], grid: Grid) -> bool:
    return size[1] * grid.columns == size[0] * grid.rows


def _light(loaded: LoadedModel, images: list[Image.Image]) -> Tensor:
    """(image, channel, height, width) in [0, 1]: what the processor makes of images of one size.

    It lies between what the processor makes of black and of white; what those do not tell apart is padding.
    """
    plain = [Image.new("RGB", images[0].size, (light,) * 3) for light in (0, 255)]
    pixels = loaded.image_inputs([*plain, *images])[0]["pixel_values"].float().cpu()
    return ((pixels[2:] - pixels[0]) / (pixels[1] - pixels[0])).nan_to_num(0, 0, 0).clamp(0, 1)
