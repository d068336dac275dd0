"""What all adapters share: the parts of a stock model, run one by one."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from foveate.core.arrangement import Arrangement, Grid
from foveate.core.compression import Compression
from foveate.core.contracts import Cut, Reduction
from foveate.core.errors import UnsupportedNeed
from foveate.core.layers import resolve_layer, resolve_layers
from foveate.core.needs import ClsQuery, ClsRows, Deepstack, Keys, Need, PixelStatistic, ReceivedRows
from foveate.functional.pixel_filters import FILTERS
from foveate.functional.sequence import positions
from foveate.models.backbone.cut_checks import check_cuts
from foveate.models.backbone.decoder import Decoder
from foveate.models.backbone.pixels import WHITE, Normalisation, pair

ImageInputs = Mapping[str, Tensor]
"""Those inputs of a model that belong to its images."""


@dataclass(frozen=True)
class Tower:
    """What can be known of a vision tower before it runs.

    Attributes:
        depth: Number of layers.
        heads: Of each.
        feature_layer: The layer that writes the language model's input.
        has_cls: Whether there is a [CLS] token.
        grid: Visual tokens of one image of its size, before any compression; where it takes images of any size, of
            a typical one.
        windowed_layers: Layers in which a patch only sees a window of the image.
    """

    depth: int
    heads: int
    feature_layer: int
    has_cls: bool
    grid: Grid
    windowed_layers: tuple[int, ...] = ()


class Adapter(ABC):
    """Runs the parts of a stock model one by one.

    Attributes:
        tower: What is known of the vision tower.
        image_inputs: Names of the inputs that belong to images, the pixels first.
        modality: What the stock model calls them.
        image_options: What the model's own processor asks of its image processor.
        image_boundary_tokens: The tokenizer's names of the tokens that this processor puts before and behind a
            image's run.
        fixed_grid: Whether every image lies in the tower's own grid, and its tokens say all about it.
        position_axes: How many numbers a position has.
        packs_projected: Whether sources are behind the projector already.
        separator: Embedding of tokens between patches; None where there are none.
        deepstack_levels: Behind so many of the first blocks the language model is given more of the image.
        image_processor: Of the checkpoint; None where the model is known without it.
    """

    tower: Tower
    image_inputs: ClassVar[tuple[str, ...]] = ("pixel_values",)
    modality: ClassVar[str] = "image"
    image_options: ClassVar[Mapping[str, Any]] = {}
    image_boundary_tokens: ClassVar[tuple[str, ...]] = ()
    fixed_grid: ClassVar[bool] = False
    position_axes: ClassVar[int] = 1
    packs_projected: ClassVar[bool] = False
    separator: Tensor | None = None
    deepstack_levels: int = 0
    image_processor: Any = None

    def __init__(self, model: Any, language_model: nn.Module) -> None:  # noqa: ANN401 (a class per family)
        self.model: PreTrainedModel = model
        self.inner: Any = model.model
        self.text_config: Any = model.config.text_config
        self.decoder = Decoder(language_model, model.lm_head)

    @abstractmethod
    def arrangements(self, images: ImageInputs, runs: Sequence[int]) -> list[Arrangement]:
        """How each image is arranged.

        Args:
            images: Of all images of a call.
            runs: Lengths of the runs of placeholders in the prompts, in reading order; adjacent images share one.
        """

    @abstractmethod
    def chosen(self, images: ImageInputs, rows: Sequence[int], arrangements: Sequence[Arrangement]) -> ImageInputs:
        """Only some of the images.

        Args:
            images: Of all images of a call.
            rows: Which.
            arrangements: Of all.
        """

    @abstractmethod
    def encode(
        self, images: ImageInputs, arrangement: Arrangement, needs: Sequence[Need]
    ) -> tuple[Float[Tensor, "image source dim"], dict[Need, Tensor]]:
        """Sources (patches, then [CLS] if there is one), and what the vision side can answer of `needs`.

        Args:
            images: Images of one arrangement.
            arrangement: Of all of them.
            needs: What is asked.

        Raises:
            UnsupportedNeed: This family cannot answer a need about its tower.
            LayerError: A layer is out of range.
        """

    @abstractmethod
    def vision_grids(self, images: ImageInputs, arrangement: Arrangement) -> tuple[Grid, ...]:
        """Of one of these images all that the tower runs over, such as tiles: the tower's own patches of each."""

    @abstractmethod
    def pixels(self, images: ImageInputs, arrangement: Arrangement) -> Float[Tensor, "image tile channel height width"]:
        """Returns the pixels of all that the tower runs over, as it is given them.

        Args:
            images: Images of one arrangement.
            arrangement: Of all of them.
        """

    @abstractmethod
    def per_token(
        self, values: Float[Tensor, "image tile patch width"], images: ImageInputs, arrangement: Arrangement
    ) -> Float[Tensor, "image token width"]:
        """Returns, for each visual token in reading order, the mean of its patches.

        Args:
            values: Of the tower's own patches in raster order.
            images: Images of one arrangement.
            arrangement: Of all of them.
        """

    def pixel_statistic(
        self, images: ImageInputs, arrangement: Arrangement, need: PixelStatistic
    ) -> Float[Tensor, "image token"]:
        """Returns the answer to a need about pixels.

        Args:
            images: Images of one arrangement.
            arrangement: Of all of them.
            need: What is asked.

        Raises:
            UnsupportedNeed: Nobody knows how the pixels were normalised.
        """
        if self.image_processor is None:
            raise UnsupportedNeed(
                f"{need}: a model alone does not tell how its image processor normalises pixels; attach to what "
                "foveate.models.loading.load.load returns, which knows that"
            )
        tiles = self.pixels(images, arrangement)
        config: Any = self.model.config
        rgb = Normalisation.of(self.image_processor).undone(tiles.flatten(0, 1))
        found = FILTERS[need.name](rgb, pair(config.vision_config.patch_size)) / WHITE
        found = found.to(tiles.device, torch.float32).unflatten(0, (-1, tiles.shape[1]))
        return self.per_token(found[..., None], images, arrangement)[..., 0]

    @property
    def projector(self) -> nn.Module:
        """The module between tower and language model."""
        return self.inner.multi_modal_projector

    def project(self, features: Float[Tensor, "image token width"]) -> Float[Tensor, "image token dim"]:
        """From sources to what the language model is given, token by token."""
        return self.projector(features)

    def reduced(
        self, images: ImageInputs, reduction: Reduction, keep: int
    ) -> tuple[Float[Tensor, "image token dim"], Compression]:
        """Sources when `reduction` drops or merges tokens between the tower's blocks.

        Raises:
            UnsupportedNeed: It cannot in this family.
        """
        raise UnsupportedNeed(
            f"{reduction} works inside the tower of LLaVA-1.5; {type(self.model).__name__} cuts its images up or "
            "merges their patches afterwards: use a method that compresses behind the tower"
        )

    def rope(
        self, inputs: Mapping[str, Any], mask: Tensor, arrangements: Sequence[Arrangement]
    ) -> Int[Tensor, "axis batch token"]:
        """Positions of the tokens of full prompts.

        Args:
            inputs: The prompts, with whatever else they show, such as videos.
            mask: Which tokens are no padding.
            arrangements: Of the images in reading order.
        """
        return positions(mask.bool())[None]

    def output(self, tokens: Sequence[Tensor], deep: Sequence[Sequence[Tensor]]) -> BaseModelOutputWithPooling:
        """Returns the features of images as `generate` of the stock model takes them: one entry per image.

        Args:
            tokens: Of each image.
            deep: The same for each of the `deepstack_levels` blocks.
        """
        listed: Any = list(tokens)
        return BaseModelOutputWithPooling(pooler_output=listed)

    def joined_output(self, output: BaseModelOutputWithPooling) -> BaseModelOutputWithPooling:
        """Returns the same features as `forward` of the stock model takes them."""
        return output

    @property
    def image_token(self) -> int:
        return self.model.config.image_token_id

    @property
    def pad_token(self) -> int:
        return self._pad or 0

    @property
    def _pad(self) -> int | None:
        chosen = self.model.generation_config.pad_token_id
        return self.text_config.pad_token_id if chosen is None else chosen

    @property
    def ends(self) -> list[int]:
        """Tokens that end an answer."""
        ends = self.model.generation_config.eos_token_id
        return ends if isinstance(ends, list) else [] if ends is None else [ends]

    @property
    def extra_needs(self) -> tuple[Need, ...]:
        """What of images the language model must be given besides their tokens."""
        return (Deepstack(),) if self.deepstack_levels else ()

    @property
    def keeps_cls(self) -> bool:
        """Whether [CLS] is among the sources."""
        return self.tower.has_cls

    def layers(self, need: Need) -> tuple[int, ...]:
        """The tower's layers that a need names, non-negative.

        Raises:
            UnsupportedNeed: The need asks for [CLS] and the tower has none.
            LayerError: A layer is out of range.
        """
        if isinstance(need, ClsRows | ClsQuery) and not self.tower.has_cls:
            tower = getattr(self.inner, "vision_tower", None) or self.inner.visual
            hint = "; foveate.methods.fitting.with_fallbacks(compressor, model) puts received attention in its place"
            raise UnsupportedNeed(
                f"{type(tower).__name__} cannot answer {need}: it has no [CLS] token whose attention could be read"
                + hint * isinstance(need, ClsRows)
            )
        match need:
            case ClsRows(layers):
                return resolve_layers(layers, self.tower.depth, self.tower.feature_layer)
            case ClsQuery(layer) | Keys(layer) | ReceivedRows(layer):
                return (resolve_layer(layer, self.tower.depth),)
            case _:
                return ()

    def check(self, needs: Sequence[Need], cuts: Sequence[Cut] = ()) -> None:
        """Raises what running these needs and cuts would raise about layers, without an image."""
        for need in needs:
            self.layers(need)
        check_cuts(cuts, self.decoder.depth, self.deepstack_levels, self.decoder.window)

    def embed(self, ids: Tensor, tokens: Float[Tensor, "visual dim"]) -> Float[Tensor, "batch token dim"]:
        """Input embeddings in which the image tokens, in reading order, are the given ones."""
        words = self.inner.get_input_embeddings()(ids)
        return words.masked_scatter((ids == self.image_token)[..., None], tokens.to(words.dtype))

    def mask(self, ids: Tensor) -> Tensor:
        """What `generate` assumes without a mask: padding is not read, unless it is also what ends an answer."""
        pad = self._pad
        return torch.ones_like(ids) if pad is None or pad in self.ends else ids.ne(pad).long()

    def question(self, prompt: Sequence[int], tail: Sequence[int] = ()) -> list[int]:
        """The text behind the last image of a prompt, without special tokens.

        Args:
            prompt: Token ids with all placeholders.
            tail: What the chat template puts behind every question.
        """
        special = {self.image_token, self.pad_token, self.text_config.bos_token_id, *self.ends}
        others = ("vision_start_token_id", "vision_end_token_id", "video_token_id", "image_token_id")
        special |= {getattr(self.model.config, name, None) for name in others}
        start = max((i for i, token in enumerate(prompt) if token == self.image_token), default=-1) + 1
        words = list(prompt[start:])
        if tail and words[-len(tail) :] == list(tail):
            words = words[: -len(tail)]
        return [token for token in words if token not in special]
