"""The evidence of questions on the patch grid, after the same cropping, padding and resizing as the image."""

import math
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
    """Returns the share of each patch that shows each thing, shape (question, thing, patch).

    An image whose views have unknown positions has no things. Where a model merges frames of a video, a patch shows
    what any of these frames shows there.

    Args:
        samples: The questions.
        arrangements: Arrangements of their images or videos.
        loaded: The model whose processor crops, pads or stretches the images; None stretches them over the views.
    """
    shares = [
        _share_of_frames(s.frame_evidence, image) if image.frames else _share(s.evidence, image, loaded)
        for s, image in zip(samples, arrangements, strict=True)
    ]
    padded = torch.zeros(len(shares), *(max(share.shape[axis] for share in shares) for axis in (0, 1)))
    for row, share in enumerate(shares):
        if share.numel():
            padded[row, : share.shape[0], : share.shape[1]] = share
    return padded


def _share(masks: np.ndarray, image: Arrangement, loaded: LoadedModel | None) -> Tensor:
    """Returns the shares of one image: stretched if it has the grid's shape, else by the image processor."""
    height, width = masks.shape[1:]
    if not image.boxes or not len(masks):
        return torch.zeros(0, image.patches)
    if loaded is not None and loaded.adapter.fixed_grid and not _fits((width, height), image.views[0]):
        painted = [Image.fromarray(np.uint8(255) * mask) for mask in masks]
        visible = _light(loaded, painted).mean(1, keepdim=True)
        return F.adaptive_avg_pool2d(visible, (image.views[0].rows, image.views[0].columns)).flatten(1)
    return torch.cat([_share_of_view(masks, *view) for view in zip(image.views, image.boxes, strict=True)], 1)


def _share_of_frames(masks: np.ndarray, video: Arrangement) -> Tensor:
    """Returns the shares of one video, from masks (thing, frame, height, width): each view shows one or more frames."""
    shown = masks.shape[1]
    merged = math.ceil(shown / video.frames)
    if not video.boxes or not len(masks) or math.ceil(shown / merged) != video.frames:
        return torch.zeros(0, video.patches)
    together = np.split(masks, range(merged, shown, merged), 1)
    views = zip(together, video.views, video.boxes, strict=True)
    return torch.cat([_share_of_view(frames.max(1), grid, box) for frames, grid, box in views], 1)


def _share_of_view(masks: np.ndarray, grid: Grid, box: tuple[float, float, float, float]) -> Tensor:
    """Returns the shares of a view that shows a part of the image, stretched over its grid."""
    height, width = masks.shape[1:]
    top, left, bottom, right = box
    down, across = slice(int(top * height), int(bottom * height)), slice(int(left * width), int(right * width))
    return evidence_share(torch.from_numpy(masks[:, down, across]), grid)


def visible_part(loaded: LoadedModel, image: Image.Image, grid: Grid) -> Image.Image:
    """Returns the part of an image that the vision tower sees, with black padding."""
    if not loaded.adapter.fixed_grid or _fits(image.size, grid):
        return image
    light = _light(loaded, [image.convert("RGB")])[0].permute(1, 2, 0)
    return Image.fromarray((255 * light).round().byte().numpy())


def _fits(size: tuple[int, int], grid: Grid) -> bool:
    return size[1] * grid.columns == size[0] * grid.rows


def _light(loaded: LoadedModel, images: list[Image.Image]) -> Tensor:
    """Returns processed images of one size, scaled to [0, 1], shape (image, channel, height, width).

    The scale runs from the processor's output for black to that for white; where those are equal, there is padding.
    """
    plain = [Image.new("RGB", images[0].size, (light,) * 3) for light in (0, 255)]
    pixels = loaded.image_inputs([*plain, *images])[0]["pixel_values"].float().cpu()
    return ((pixels[2:] - pixels[0]) / (pixels[1] - pixels[0])).nan_to_num(0, 0, 0).clamp(0, 1)
