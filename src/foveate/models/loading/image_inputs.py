"""Model inputs of images, at full size or smaller, made by the checkpoint's own image processor."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from foveate.core.arrangement import Arrangement
from foveate.core.budget import Keep
from foveate.core.errors import DataError, FoveateError, UnsupportedModel, message_of, shown
from foveate.data.rgb import as_rgb, upright_size
from foveate.models.backbone.adapter import Adapter, ImageInputs
from foveate.models.backbone.scaling import Scaling
from foveate.models.loading.checkpoint import device_of


@dataclass(frozen=True)
class ImagePreparation:
    """The preparation of images by a checkpoint's own image processor.

    Attributes:
        adapter: The adapter of the model, which has the image processor.
        options: Options of the image processor besides those of the family.
        resolution: Visual tokens of each image, as a count or a share of those at full size; None means full size.
    """

    adapter: Adapter
    options: Mapping[str, Any]
    resolution: Keep | None

    def inputs(
        self, images: Sequence[Image], per_prompt: Sequence[int] | None = None
    ) -> tuple[ImageInputs, list[Arrangement]]:
        """Returns the model inputs of images and their arrangements; see `LoadedModel.image_inputs`."""
        rgb = [as_rgb(image) for image in images]
        if self.resolution is None:
            return self._in_one_call(rgb, per_prompt)
        prompts = [1] * len(rgb) if per_prompt is None else [count for count in per_prompt if count]
        scalings = self._scalings(rgb, self.resolution, prompts)
        small = [scaling.resized(image) for scaling, image in zip(scalings, rgb, strict=True)]
        if all(scaling.together(scalings[0]) for scaling in scalings):
            return self._in_one_call(small, per_prompt, scalings[0])
        parts = [self._in_one_call([image], None, scaling) for image, scaling in zip(small, scalings, strict=True)]
        rows = (per_prompt or prompts) if self.adapter.row_per_prompt else None
        return _joined([inputs for inputs, _ in parts], rows), [image for _, (image,) in parts]

    def together(self, images: Sequence[Image]) -> list[list[int]]:
        """Returns groups of images that one call can prepare, each alone in its prompt; see `LoadedModel.together`."""
        if self.resolution is None:
            return [list(range(len(images)))] if images else []
        groups: list[tuple[Scaling, list[int]]] = []
        for row, scaling in enumerate(self._scalings(images, self.resolution, [1] * len(images))):
            rows = next((rows for other, rows in groups if other.together(scaling)), None)
            if rows is None:
                groups.append((scaling, rows := []))
            rows.append(row)
        return [rows for _, rows in groups]

    def _scalings(self, images: Sequence[Image], keep: Keep, prompts: Sequence[int]) -> list[Scaling]:
        """Returns the scaling of each image; `prompts` are the numbers of images of each prompt."""
        alone = [count == 1 for count in prompts for _ in range(count)]
        sizes = [(height, width) for width, height in map(upright_size, images)]
        with named_refusals("image", images):
            return [self.adapter.scaling(size, keep, one) for size, one in zip(sizes, alone, strict=True)]

    def _in_one_call(
        self, rgb: Sequence[Image], per_prompt: Sequence[int] | None, scaling: Scaling | None = None
    ) -> tuple[ImageInputs, list[Arrangement]]:
        """Returns what one call of the image processor makes of images in RGB."""
        left = iter(rgb)
        counts = [count for count in per_prompt or () if count or self.adapter.row_per_prompt]
        nested = list(rgb) if per_prompt is None else [list(islice(left, count)) for count in counts]
        options = {**self.adapter.image_options, **self.options, **(scaling.options if scaling else {})}
        with named_refusals("image", rgb):
            prepared = self.adapter.image_processor(nested, return_tensors="pt", **options)
        names = [name for name in self.adapter.image_inputs if name in prepared]
        model = self.adapter.model
        if self.adapter.image_inputs[0] not in names:
            raise UnsupportedModel(
                f"{type(model).__name__} takes {self.adapter.modality}s, not images: build its inputs with its own "
                "processor"
            )
        device = device_of(model)
        inputs: ImageInputs = {name: prepared[name].to(device) for name in names}
        inputs = self.adapter.scaled(inputs, scaling) if scaling else inputs
        return inputs, self.adapter.arrangements_of(inputs, prepared)


@contextmanager
def named_refusals(what: str, images: Sequence[Image]) -> Iterator[None]:
    """Names the sizes of images that the image processor refuses.

    Args:
        what: Word for the images.
        images: The images.

    Raises:
        DataError: It raised an error of its own.
    """
    try:
        yield
    except FoveateError:
        raise
    except (ValueError, ZeroDivisionError, RuntimeError) as error:
        sizes = " and ".join(sorted({f"{image.width} x {image.height}" for image in images}))
        raise DataError(
            f"the model's image processor takes no {what} of {shown(sizes)}: {message_of(error)}"
        ) from error


def _joined(parts: Sequence[ImageInputs], rows: Sequence[int] | None = None) -> ImageInputs:
    """Returns the inputs of images that were prepared one by one.

    Args:
        parts: Inputs of each image.
        rows: Number of images in each row of tiles, if tensors have one per prompt, padded with zeros.

    Raises:
        DataError: The images have tiles of different sizes, or a tensor of tiles per image of different numbers.
    """
    tile = 1 if rows is None else 2
    if any(len({part[name].shape[tile:] for part in parts}) > 1 for name in parts[0]):
        raise DataError(
            "these images get tiles of different sizes or numbers, which one call cannot hold: prepare them one by "
            "one, or give a prompt several images at full size"
        )
    columns = {name: [part[name] for part in parts] for name in parts[0]}
    if rows is None:
        return {name: torch.cat(column) for name, column in columns.items()}
    return {name: _padded_rows([part[0] for part in column], rows) for name, column in columns.items()}


def _padded_rows(tiles: Sequence[Tensor], rows: Sequence[int]) -> Tensor:
    """Returns the tiles of images in rows of so many images, padded with zeros."""
    left, empty = iter(tiles), tiles[0][:0]
    return pad_sequence([torch.cat([empty, *islice(left, images)]) for images in rows], batch_first=True)
