"""The adapter of GLM-4.1V and GLM-4.6V, whose vision side is arranged as in Qwen-VL."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from foveate.core.arrangement import Arrangement
from foveate.core.errors import UnsupportedNeed
from foveate.models.backbone.adapter import Adapter, ImageInputs
from foveate.models.families.merged_squares import MergedSquares


class Glm(MergedSquares):
    """GLM-4.1V, GLM-4.5V or GLM-4.6V, whose frames of videos have the placeholders of images."""

    def arrangements_in(self, images: ImageInputs, ids: Int[Tensor, "batch token"]) -> list[Arrangement]:
        config: Any = self.model.config
        inside = (ids == config.video_start_token_id).cumsum(1) > (ids == config.video_end_token_id).cumsum(1)
        if ((ids == self.image_token) & inside).any():
            raise UnsupportedNeed(
                "a prompt has a video, whose frames have the placeholders of images in "
                f"{type(self.model).__name__}: only images are supported"
            )
        return super().arrangements_in(images, ids)

    @property
    def pixels_of_token(self) -> int:
        return super().pixels_of_token * self.image_processor.temporal_patch_size  # limits count the copies of an image

    def exact_projector(self, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
        return Adapter.exact_projector(self, dtype)  # a convolution has merged the squares of patches before
