"""The adapter of Gemma 3: a SigLIP tower whose patches are averaged in squares, and attention in both directions."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call
from transformers import Cache
from transformers.modeling_outputs import BaseModelOutputWithPooling

from foveate.core.arrangement import Arrangement, Grid
from foveate.core.budget import Keep
from foveate.core.errors import UnsupportedNeed
from foveate.functional.sequence import runs_of
from foveate.models.backbone.adapter import ImageInputs, Tower
from foveate.models.backbone.scaling import Scaling
from foveate.models.backbone.tile_tower import TileTower
from foveate.models.families.llava import tile_grid
from foveate.models.families.tiled import Tiled, arranged, concatenated

_CROPS = " and here are some crops to help you see better "
"""The text of the stock processor between an image and its crops; between crops there is a space."""


class Gemma3(Tiled):
    """Gemma 3, whose image tokens attend to the others of their image in both directions.

    With pan and scan (`do_pan_and_scan`), crops of an image follow it as further inputs of the tower, each with a run
    of placeholders of its own. A prompt shows which runs belong together only by the text between them, which takes the
    tokenizer to read: for a model without its tokenizer, each crop is an image.
    """

    image_inputs: ClassVar[tuple[str, ...]] = ("pixel_values",)
    token_inputs: ClassVar[tuple[str, ...]] = ("token_type_ids",)
    image_options: ClassVar[Mapping[str, Any]] = {
        "do_convert_rgb": True,
        "do_pan_and_scan": False,
        "pan_and_scan_min_crop_size": 256,
        "pan_and_scan_max_num_crops": 4,
        "pan_and_scan_min_ratio_to_activate": 1.2,
    }
    image_mark: ClassVar[str] = "boi_token"
    fixed_grid: ClassVar[bool] = True
    no_single_answer: ClassVar[str] = "takes images of one size, and has no [CLS]"

    def __init__(self, model: Any) -> None:  # noqa: ANN401 (a class per family)
        super().__init__(model, model.model.language_model)
        self.decoder.prompt_masks = self._masks
        tower: Any = self.inner.vision_tower
        layers = getattr(tower, "vision_model", tower).encoder.layers

        def states(pixels: Tensor, last: int) -> Tensor:
            return tower(pixel_values=pixels.to(model.dtype)).last_hidden_state

        self._projection = _Projection(self.inner.multi_modal_projector)
        side, heads = self.inner.multi_modal_projector.tokens_per_side, model.config.vision_config.num_attention_heads
        self.tower = Tower(len(layers), heads, len(layers) - 1, False, Grid(side, side))
        self.tiles = TileTower(tower, [layer.self_attn for layer in layers], self.tower, states)

    def scaling(self, size: tuple[int, int], keep: Keep, alone: bool = True) -> Scaling:
        raise UnsupportedNeed(
            f"{type(self.model).__name__} has no rule for smaller images: its tower and projector make "
            f"{self.tower.grid.patches} tokens of any image and know one size of pixels; use a method that compresses "
            "after the tower"
        )

    def arrangements(self, images: ImageInputs, runs: Sequence[int]) -> list[Arrangement]:
        return [arranged(self.tower.grid, 1)] * len(images["pixel_values"])

    def arrangements_in(self, images: ImageInputs, ids: Int[Tensor, "batch token"]) -> list[Arrangement]:
        if self.tokenizer is None:
            return self.arrangements(images, [])
        eoi, boi = self.tokenizer.eoi_token, self.tokenizer.boi_token
        gaps = [self.tokenizer(f"{eoi}\n\n{text}\n\n{boi}", add_special_tokens=False) for text in (_CROPS, " ")]
        views = _views(ids, self.image_token, self.tower.grid.patches, [gap["input_ids"] for gap in gaps])
        return [arranged(self.tower.grid, count) for count in views]

    def arrangements_of(self, images: ImageInputs, prepared: Mapping[str, Any]) -> list[Arrangement]:
        return [arranged(self.tower.grid, 1 + int(crops)) for crops in prepared["num_crops"]]

    def written(self, arrangement: Arrangement, tokenizer: Any) -> str:  # noqa: ANN401 (a class per family)
        one = f"\n\n{tokenizer.boi_token}{tokenizer.image_token}{tokenizer.eoi_token}\n\n"
        crops = len(arrangement.views) - 1
        return f"Here is the original image {one}{_CROPS}" + " ".join([one] * crops) if crops else one

    def runs(self, arrangement: Arrangement) -> list[int]:
        return [view.patches for view in arrangement.views]

    def chosen(self, images: ImageInputs, rows: Sequence[int], arrangements: Sequence[Arrangement]) -> ImageInputs:
        views = images["pixel_values"].split([len(arrangement.views) for arrangement in arrangements])
        return {"pixel_values": torch.cat([views[row] for row in rows])}

    def pixels(self, images: ImageInputs, arrangement: Arrangement) -> Float[Tensor, "image tile channel height width"]:
        return images["pixel_values"].unflatten(0, (-1, len(arrangement.views)))

    def joined(self, features: Float[Tensor, "tile patch width"]) -> Float[Tensor, "tile token joined"]:
        grid = tile_grid(self.model.config)
        square = features.transpose(1, 2).unflatten(2, (grid.rows, grid.columns)).contiguous()
        return self.inner.multi_modal_projector.avg_pool(square).flatten(2).transpose(1, 2)

    def pooled(self, values: Float[Tensor, "tile patch width"]) -> Float[Tensor, "tile token width"]:
        return self.joined(values)

    def exact_projector(self, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
        stock = self.inner.multi_modal_projector  # whose norm computes in float32 whatever it gets
        norm = {name: value.to(dtype) for name, value in stock.mm_soft_emb_norm.named_parameters()}
        weight = stock.mm_input_projection_weight.to(dtype)
        return lambda features: functional_call(stock.mm_soft_emb_norm, norm, (features,)) @ weight

    @property
    def projector(self) -> nn.Module:
        return self._projection

    @property
    def own_reads(self) -> dict[str, Tensor]:
        return {"model.multi_modal_projector": self.inner.multi_modal_projector.mm_input_projection_weight}

    def joined_output(self, output: BaseModelOutputWithPooling) -> BaseModelOutputWithPooling:
        return concatenated(output)

    def _masks(self, states: Tensor, real: Tensor, position: Tensor, cache: Cache | None, image: Tensor) -> Any:  # noqa: ANN401
        """Returns the masks of each kind of block, by the stock model's own code; see `PromptMasks`."""
        model: Any = self.model
        return model.create_masks_for_generate(
            config=model.config,
            inputs_embeds=states,
            attention_mask=real.long(),
            past_key_values=cache,
            position_ids=position,
            token_type_ids=image.long(),
        )


class _Projection(nn.Module):
    """The part of the stock projector behind its pooling, which runs token by token."""

    def __init__(self, stock: Any) -> None:  # noqa: ANN401 (Gemma3MultiModalProjector)
        super().__init__()
        self._stock = (stock,)  # no module of this one, so that its hooks and its device stay

    def forward(self, features: Tensor) -> Tensor:
        (stock,) = self._stock
        weight = stock.mm_input_projection_weight
        return (stock.mm_soft_emb_norm(features).to(weight.device) @ weight).type_as(features)


def _views(ids: Tensor, image_token: int, tokens: int, gaps: Sequence[Sequence[int]]) -> list[int]:
    """Returns the number of views of each image in prompts.

    Args:
        ids: (batch, token) token ids.
        image_token: The placeholder.
        tokens: Number of placeholders of a view.
        gaps: The tokens between an image and its first crop, and those between two crops.
    """
    views: list[int] = []
    last = (-1, 0)
    for row, start, end in runs_of(ids == image_token):
        gap = ids[row, last[1] : start].tolist() if last[0] == row else None
        if gap is not None and gap == gaps[views[-1] > 1]:
            views[-1] += 1
        else:
            views += [1] * ((end - start) // tokens)  # adjacent images share a run
        last = row, end
    return views
