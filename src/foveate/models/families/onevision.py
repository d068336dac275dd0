"""The adapter of LLaVA-OneVision."""

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from foveate.models.backbone.adapter import ImageInputs
from foveate.models.families.llava_next import AnyResolution


class LlavaOnevision(AnyResolution):
    """LLaVA-OneVision, which shrinks large enlargements after the projector.

    An image is split into tiles only if it is the only one of its prompt; other images are padded to squares.
    """

    image_inputs: ClassVar[tuple[str, ...]] = ("pixel_values", "image_sizes", "batch_num_images")
    packs_projected: ClassVar[bool] = True
    splits_several: ClassVar[bool] = False

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
