"""LLaVA-OneVision."""

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from foveate.models.backbone.adapter import ImageInputs
from foveate.models.families.llava_next import AnyResolution


class LlavaOnevision(AnyResolution):
    """LLaVA-OneVision, which shrinks large enlargements behind the projector.

    Only the image of a prompt with one is cut into tiles: images of a prompt with several are padded to squares.
    """

    image_inputs: ClassVar[tuple[str, ...]] = ("pixel_values", "image_sizes", "batch_num_images")
    packs_projected: ClassVar[bool] = True

    def _cut(self, images: ImageInputs) -> list[bool]:
        counts = images.get("batch_num_images")
        if counts is None:  # which the stock model takes for one image per prompt
            return super()._cut(images)
        cut = [count == 1 for count in counts.tolist() for _ in range(count)]
        if len(cut) != len(images["image_sizes"]):
            raise ValueError(
                f"batch_num_images {counts.tolist()} of {len(images['image_sizes'])} images: expected how many each "
                "prompt has, as the model's own processor gives it for nested lists of images"
            )
        return cut

    def pack(self, tiles: Float[Tensor, "tile patch width"], size: Tensor, newline: Tensor) -> Tensor:
        ratio = self.model.config.vision_aspect_ratio
        return self.inner.pack_image_features([tiles], size[None], newline, ratio)[0][0]
