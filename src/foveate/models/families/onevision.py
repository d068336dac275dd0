"""The adapters of images and videos in LLaVA-OneVision."""

import math
from dataclasses import replace
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from foveate.core.arrangement import Arrangement, Grid
from foveate.models.backbone.adapter import ImageInputs
from foveate.models.families.frames import Frames
from foveate.models.families.llava_next import AnyResolution
from foveate.models.families.tiled import concatenated


class LlavaOnevision(AnyResolution):
    """LLaVA-OneVision, which shrinks large enlargements after the projector.

    An image is split into tiles only if it is the only one of its prompt; other images are padded to squares.
    """

    image_inputs: ClassVar[tuple[str, ...]] = ("pixel_values", "image_sizes", "batch_num_images")
    packs_projected: ClassVar[bool] = True
    splits_several: ClassVar[bool] = False

    def __init__(self, model: Any) -> None:  # noqa: ANN401 (a class per family)
        super().__init__(model)
        self.other = LlavaOnevisionVideos(model)

    def _split(self, images: ImageInputs) -> list[bool]:
        counts = images.get("batch_num_images")
        if counts is None:  # the stock model then assumes one image per prompt
            return super()._split(images)
        split = [count == 1 for count in counts.tolist() for _ in range(count)]
        if len(split) != len(images["image_sizes"]):
            raise ValueError(
                f"batch_num_images {counts.tolist()} for {len(images['image_sizes'])} images: expected the number of "
                "images of each prompt, as the model's own processor gives it for nested lists of images"
            )
        return split

    def pack(self, tiles: Float[Tensor, "tile patch width"], size: Tensor, newline: Tensor) -> Tensor:
        ratio = self.model.config.vision_aspect_ratio
        return self.packer(tiles).pack_image_features([tiles], size[None], newline, ratio)[0][0]


class LlavaOnevisionVideos(Frames):
    """Videos in LLaVA-OneVision: grids halved after the projector, a separator after the last frame."""

    packs_projected: ClassVar[bool] = True

    def __init__(self, model: Any) -> None:  # noqa: ANN401 (a class per family)
        super().__init__(model)
        own = self.tiles.properties
        self.tower = replace(own, grid=Grid(math.ceil(own.grid.rows / 2), math.ceil(own.grid.columns / 2)))
        self.separator = self.inner.image_newline

    def packed(
        self, tiles: Float[Tensor, "image tile token width"], images: ImageInputs, arrangement: Arrangement
    ) -> Float[Tensor, "image patch width"]:
        frames = self.inner.apply_pooling(tiles.flatten(0, 1).contiguous())
        return super().packed(frames.unflatten(0, tiles.shape[:2]), images, arrangement)

    def joined_output(self, output: BaseModelOutputWithPooling) -> BaseModelOutputWithPooling:
        return concatenated(output)
