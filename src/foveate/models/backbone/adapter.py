"""The base class of all adapters, which run the parts of a stock model one by one."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from foveate.core.arrangement import Arrangement, Grid
from foveate.core.budget import Keep
from foveate.core.compression import Compression
from foveate.core.contracts import Cut, Reduction
from foveate.core.errors import UnsupportedNeed
from foveate.core.layers import resolve_layer, resolve_layers
from foveate.core.needs import ClsQuery, ClsRows, Deepstack, Downsampled, Keys, Need, PixelStatistic, ReceivedRows
from foveate.core.transfer import on_device
from foveate.data.clip import Clip
from foveate.functional.fingerprint import fingerprints
from foveate.functional.pixel_filters import filtered
from foveate.functional.sequence import positions, runs_of
from foveate.models.backbone.cut_checks import check_cuts
from foveate.models.backbone.decoder import Decoder
from foveate.models.backbone.pixels import WHITE, Normalisation, pair
from foveate.models.backbone.scaling import Scaling

_TOWERS = ("vision_tower", "visual", "vision_model")
ImageInputs = Mapping[str, Tensor]
"""The model inputs that belong to images."""


@dataclass(frozen=True)
class Tower:
    """The properties of a vision tower that are known before it runs.

    Attributes:
        depth: Number of layers.
        heads: Number of attention heads per layer.
        feature_layer: The layer that writes the language model's input.
        has_cls: Whether there is a [CLS] token.
        grid: Visual tokens of one image before any compression. A tower that takes images of any size has the grid of a
            typical one.
        windowed_layers: Layers in which a patch attends only to a window of the image.
        pools: Whether it answers `PoolingRows` and `FrameVectors`, by a pooling head or the mean query of a frame.
    """

    depth: int
    heads: int
    feature_layer: int
    has_cls: bool
    grid: Grid
    windowed_layers: tuple[int, ...] = ()
    pools: bool = False


class Adapter(ABC):
    """An interface to one model family, which runs the parts of a stock model one by one.

    Attributes:
        tower: The properties of the vision tower.
        image_inputs: Names of the inputs that belong to images, the pixels first.
        modality: The stock model's name for these inputs, "image" or "video"; where it is "video", each of these inputs
            is a video, and all that is said about images here is true of videos.
        other: The adapter of the model's other kind of inputs, videos or images; None if it has none, or if this is it.
        token_inputs: Names of inputs with one value per token, which are shortened with the prompt.
        image_options: Options that the model's own processor passes to its image processor.
        shares_inputs: Whether the model's other kind of inputs stands in the same tensors, in reading order, and has
            the same placeholders.
        row_per_prompt: Whether the inputs have a row for every prompt, also for one without images.
        image_mark: Tokenizer attribute that names the text of an image in prompts of the chat template; empty if it is
            the placeholder.
        image_boundary_tokens: Tokenizer attributes that name the tokens before and after an image's run of
            placeholders.
        fixed_grid: Whether every image has the grid of the tower, so that its tokens alone determine its arrangement.
        any_size: Whether an image can have fewer patches than the tower's grid, which is then a typical one.
        makes_smaller_videos: Whether `prepared_videos` takes a number of visual tokens.
        resizes_pixels: Whether `encode` answers `Downsampled`, by resizing pixels that are prepared already.
        position_axes: Number of coordinates of a position.
        packs_projected: Whether sources have passed the projector already.
        separator: Embedding of the separators between patches; None if the family has none.
        deepstack_levels: Number of leading decoder blocks that receive DeepStack features.
        image_processor: The checkpoint's image processor; None if the model was given without one.
        video_settings: Size and crop of frames, as the checkpoint's video processor has them; empty if it has none.
        tokenizer: The checkpoint's tokenizer; None if the model was given without one.
        checkpoint: Function that returns the checkpoint's hash; it is empty if the model was given without one.
    """

    tower: Tower
    image_inputs: ClassVar[tuple[str, ...]] = ("pixel_values",)
    modality: ClassVar[str] = "image"
    makes_smaller_videos: ClassVar[bool] = False
    token_inputs: ClassVar[tuple[str, ...]] = ()
    image_options: ClassVar[Mapping[str, Any]] = {}
    shares_inputs: ClassVar[bool] = False
    row_per_prompt: ClassVar[bool] = False
    image_mark: ClassVar[str] = ""
    image_boundary_tokens: ClassVar[tuple[str, ...]] = ()
    fixed_grid: ClassVar[bool] = False
    resizes_pixels: ClassVar[bool] = False
    any_size: ClassVar[bool] = False
    position_axes: ClassVar[int] = 1
    packs_projected: ClassVar[bool] = False
    other: "Adapter | None" = None
    separator: Tensor | None = None
    deepstack_levels: int = 0
    image_processor: Any = None
    video_settings: Mapping[str, Any] = MappingProxyType({})
    tokenizer: Any = None

    def __init__(self, model: Any, language_model: nn.Module) -> None:  # noqa: ANN401 (a class per family)
        self.model: PreTrainedModel = model
        self.inner: Any = model.model
        self.text_config: Any = model.config.text_config
        self.decoder = Decoder(language_model, model.lm_head)
        self.checkpoint: Callable[[], str] = lambda: ""

    @abstractmethod
    def arrangements(self, images: ImageInputs, runs: Sequence[int]) -> list[Arrangement]:
        """Returns the arrangement of each image.

        Args:
            images: Inputs of all images of a call.
            runs: Lengths of the runs of placeholders in the prompts, in reading order; adjacent images share one.
        """

    def arrangements_in(self, images: ImageInputs, ids: Int[Tensor, "batch token"]) -> list[Arrangement]:
        """Returns the arrangement of each image of a call.

        Args:
            images: Inputs of all images of the call.
            ids: Its prompts with all placeholders.
        """
        return self.arrangements(images, [end - start for _, start, end in runs_of(ids == self.image_token)])

    def arrangements_of(self, images: ImageInputs, prepared: Mapping[str, Any]) -> list[Arrangement]:
        """Returns the arrangement of each image that the image processor has prepared.

        Args:
            images: Inputs of all images.
            prepared: All that the image processor returned.
        """
        return self.arrangements(images, [])

    def prepared_videos(self, clips: Sequence[Clip], keep: Keep | None = None) -> tuple[ImageInputs, list[Arrangement]]:
        """Returns the model inputs of videos and their arrangements, in a family that takes videos.

        Args:
            clips: The videos.
            keep: Visual tokens of each video from smaller frames: about as many, or a share of those at full size; None
                leaves the frames as they are. Only with `makes_smaller_videos`.

        Raises:
            DataError: One call cannot hold these videos.
            UnsupportedNeed: The adapter is one of images.
        """
        raise UnsupportedNeed(f"{type(self).__name__} prepares no videos: define `prepared_videos`")

    def joined_inputs(
        self,
        images: tuple[ImageInputs, Sequence[Arrangement]],
        videos: tuple[ImageInputs, Sequence[Arrangement]],
        ids: Int[Tensor, "batch token"],
    ) -> ImageInputs:
        """Returns the model inputs of the images and the videos of a call.

        Args:
            images: Inputs and arrangements of all images; no inputs without images.
            videos: The same of all videos.
            ids: The prompts with all placeholders.

        Raises:
            DataError: The prompts do not tell images and videos apart.
        """
        return {**images[0], **videos[0]}

    def mark(self, tokenizer: Any) -> str:  # noqa: ANN401 (a class per family)
        """Returns the text that stands for an image in prompts of the chat template; empty without such a token."""
        token = self.image_token
        return getattr(tokenizer, self.image_mark) if self.image_mark else tokenizer.convert_ids_to_tokens(token) or ""

    def written(self, arrangement: Arrangement, tokenizer: Any) -> str:  # noqa: ANN401 (a class per family)
        """Returns the text that replaces an image's mark in a prompt, with one image token per run of placeholders.

        Args:
            arrangement: The image's arrangement.
            tokenizer: The checkpoint's tokenizer.

        Returns:
            The text; empty if the mark stays as it is.
        """
        return ""

    def runs(self, arrangement: Arrangement) -> list[int]:
        """Returns the lengths of an image's runs of placeholders, between which there may be text."""
        return [arrangement.length]

    @abstractmethod
    def chosen(self, images: ImageInputs, rows: Sequence[int], arrangements: Sequence[Arrangement]) -> ImageInputs:
        """Returns the inputs of some of the images.

        Args:
            images: Inputs of all images of a call.
            rows: Indices of the images to return.
            arrangements: Arrangements of all images of the call.
        """

    @abstractmethod
    def encode(
        self, images: ImageInputs, arrangement: Arrangement, needs: Sequence[Need]
    ) -> tuple[Float[Tensor, "image source dim"], dict[Need, Tensor]]:
        """Returns sources (patches, then [CLS] if there is one) and the answers to those `needs` that images answer.

        Args:
            images: Images of one arrangement.
            arrangement: The arrangement of all of them.
            needs: The values that a scorer reads.

        Raises:
            UnsupportedNeed: This family cannot answer a need about its tower.
            LayerError: A layer is out of range.
        """

    @abstractmethod
    def vision_grids(self, images: ImageInputs, arrangement: Arrangement) -> tuple[Grid, ...]:
        """Returns, for one of these images, the grid of the tower's own patches in each input of the tower."""

    @abstractmethod
    def pixels(self, images: ImageInputs, arrangement: Arrangement) -> Float[Tensor, "image tile channel height width"]:
        """Returns the pixels of all inputs of the tower, as the tower receives them.

        Args:
            images: Images of one arrangement.
            arrangement: The arrangement of all of them.
        """

    @abstractmethod
    def per_token(
        self, values: Float[Tensor, "image tile patch width"], images: ImageInputs, arrangement: Arrangement
    ) -> Float[Tensor, "image token width"]:
        """Returns, for each visual token in reading order, the mean over its patches.

        Args:
            values: One row per patch of the tower, in raster order.
            images: Images of one arrangement.
            arrangement: The arrangement of all of them.
        """

    def fingerprints(self, images: ImageInputs, arrangement: Arrangement) -> Int[Tensor, " image"]:
        """Returns the answer to `Fingerprint`, for which the host reads the pixels.

        Args:
            images: Images of one arrangement.
            arrangement: The arrangement of all of them.
        """
        return fingerprints(self.pixels(images, arrangement))

    def derived(self, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
        """Returns what the host has to know of the pixels of a call, by names in `image_inputs`, on their device.

        The host reads it together with the prompts, so that it waits for the device once.

        Args:
            inputs: The inputs of a call of the stock model.
        """
        return {}

    def scaling(self, size: tuple[int, int], keep: Keep, alone: bool = True) -> Scaling:
        """Returns how the image processor gives an image about `keep` visual tokens; see `LoadedModel.smaller`.

        A family without a rule of its own has no smaller images.

        Args:
            size: Height and width of the image in pixels.
            keep: Number of patches, or the share of those that the image has at full size.
            alone: Whether it is the only image of its prompt.

        Raises:
            UnsupportedNeed: The family has no rule, or the adapter has no image processor.
            BudgetError: The image has fewer patches at full size.
        """
        raise UnsupportedNeed(
            f"{type(self.model).__name__} has no rule for smaller images: use a method that compresses after the "
            f"tower, or define `scaling` in {type(self).__name__}"
        )

    def scaled(self, images: ImageInputs, scaling: Scaling) -> ImageInputs:
        """Returns what the image processor made of images with a scaling, as the tower takes it."""
        return images

    def pixel_statistics(
        self, images: ImageInputs, arrangement: Arrangement, needs: Sequence[Need]
    ) -> dict[Need, Float[Tensor, "image token"]]:
        """Returns the answers to those needs that are about pixels.

        Args:
            images: Images of one arrangement.
            arrangement: The arrangement of all of them.
            needs: The needs, also others.

        Raises:
            UnsupportedNeed: The normalisation of the pixels is unknown, because there is no image processor.
        """
        wanted = [need for need in needs if isinstance(need, PixelStatistic)]
        if not wanted:
            return {}
        if self.image_processor is None:
            raise UnsupportedNeed(
                f"{wanted[0]}: the normalisation of pixels is unknown, because the model was given without its image "
                "processor; attach to what foveate.models.loading.load.load returns, which has it"
            )
        tiles = self.pixels(images, arrangement)
        config: Any = self.model.config
        rgb = Normalisation.of(self.image_processor).undone(tiles.flatten(0, 1))
        rgb = rgb.cpu() if rgb.device.type == "mps" else rgb  # which has no float64
        names = [need.name for need in wanted]
        per_patch = filtered(rgb, pair(config.vision_config.patch_size), names) / WHITE
        per_patch = on_device(per_patch.float(), tiles.device).unflatten(0, (-1, tiles.shape[1]))
        return dict(zip(wanted, self.per_token(per_patch, images, arrangement).unbind(-1), strict=True))

    @property
    def kinds(self) -> tuple["Adapter", ...]:
        """The adapters of all kinds of inputs that the model takes besides text, this one first."""
        return (self,) if self.other is None else (self, self.other)

    @property
    def apart(self) -> tuple["Adapter", ...]:
        """The adapters of the inputs that stand in tensors of their own; this one also has those that share its own."""
        return (self,) if self.shares_inputs else self.kinds

    def kind(self, modality: str) -> "Adapter | None":
        """Returns the adapter of images or of videos; None if the model takes none."""
        return next((kind for kind in self.kinds if kind.modality == modality), None)

    def of(self, arrangement: Arrangement) -> "Adapter":
        """Returns the adapter of the kind of inputs, images or videos, that an arrangement describes."""
        return self.kind("video" if arrangement.frames else "image") or self

    @property
    def own_reads(self) -> dict[str, Tensor]:
        """Weights that no module of the stock model reads when it runs, by the name that a device map gives them."""
        separator = self.any_separator
        return {} if separator is None else {"model.image_newline": separator}

    @property
    def any_separator(self) -> Tensor | None:
        """The embedding of the separators of images or videos; None if neither has any."""
        return next((kind.separator for kind in self.kinds if kind.separator is not None), None)

    @property
    def projector(self) -> nn.Module:
        """The module between tower and language model."""
        return self.inner.multi_modal_projector

    def project(self, features: Float[Tensor, "image token width"]) -> Float[Tensor, "image token dim"]:
        """Maps sources to input embeddings of the language model, token by token."""
        return self.projector(features)

    def exact_projector(self, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
        """Returns the projector in another precision, as a function from unprojected to projected features.

        Args:
            dtype: The precision, also that of the features.
        """
        module = self.projector
        named = (*module.named_parameters(), *module.named_buffers())
        weights = {name: value.to(dtype) for name, value in named if value.is_floating_point()}
        return lambda features: functional_call(module, weights, (features,))

    def reduced(
        self, images: ImageInputs, reduction: Reduction, keep: int
    ) -> tuple[Float[Tensor, "image token dim"], Compression]:
        """Returns sources after `reduction` has dropped or merged tokens between the tower's blocks.

        Raises:
            UnsupportedNeed: This family does not support reductions.
        """
        raise UnsupportedNeed(
            f"{reduction} works inside the tower of LLaVA-1.5; {type(self.model).__name__} splits images into tiles or "
            "merges patches after the tower: use a method that compresses after the tower"
        )

    def rope(
        self, inputs: Mapping[str, Any], mask: Tensor, arrangements: Sequence[Arrangement]
    ) -> Int[Tensor, "axis batch token"]:
        """Returns the positions of the tokens of full prompts.

        Args:
            inputs: The model inputs of the prompts, those of videos included.
            mask: Marks the tokens that are not padding.
            arrangements: The arrangements of the images in reading order.
        """
        return positions(mask.bool())[None]

    def output(self, tokens: Sequence[Tensor], deep: Sequence[Sequence[Tensor]]) -> BaseModelOutputWithPooling:
        """Returns the features of images as `generate` of the stock model takes them: one entry per image.

        Args:
            tokens: The tokens of each image.
            deep: The DeepStack features of each image, for each of the `deepstack_levels` blocks.
        """
        listed: Any = list(tokens)
        return BaseModelOutputWithPooling(pooler_output=listed)

    def joined_output(self, output: BaseModelOutputWithPooling) -> BaseModelOutputWithPooling:
        """Returns the same features as `forward` of the stock model takes them."""
        return output

    def token_types(self, ids: Int[Tensor, "batch token"]) -> dict[str, Tensor]:
        """Returns the marks of image tokens in prompts, under each name by which the stock model takes them."""
        names = (*self.token_inputs, *{"mm_token_type_ids"}.intersection(self.image_inputs))
        numbers = {"image": 1, "video": 2}
        types = torch.zeros_like(ids)
        for kind in self.kinds:
            types = types.masked_fill(ids == kind.image_token, numbers[kind.modality])
        return dict.fromkeys(names, types)

    @cached_property
    def image_token(self) -> int:
        return self.model.config.image_token_id

    def is_placeholder(self, ids: Tensor) -> Tensor:
        """Marks the placeholders of images and videos."""
        found = ids == self.image_token
        return found if self.other is None else found | (ids == self.other.image_token)

    @property
    def placeholders(self) -> frozenset[int]:
        """The tokens that stand for images or videos, also for those that other adapters handle."""
        config: Any = self.model.config
        known = {self.image_token, *(getattr(config, f"{kind}_token_id", None) for kind in ("image", "video"))}
        return frozenset(known - {None})

    @property
    def pad_token(self) -> int:
        return self._pad or 0

    @property
    def _pad(self) -> int | None:
        chosen = self.model.generation_config.pad_token_id
        return self.text_config.pad_token_id if chosen is None else chosen

    @property
    def ends(self) -> list[int]:
        """The tokens that end an answer."""
        ends = self.model.generation_config.eos_token_id
        return ends if isinstance(ends, list) else [] if ends is None else [ends]

    @property
    def extra_needs(self) -> tuple[Need, ...]:
        """The needs about images that the language model reads in addition to their tokens."""
        return (Deepstack(),) if self.deepstack_levels else ()

    @property
    def keeps_cls(self) -> bool:
        """Returns whether [CLS] is among the sources."""
        return self.tower.has_cls

    def layers(self, need: Need) -> tuple[int, ...]:
        """Returns the tower's layers that a need names, non-negative.

        Raises:
            UnsupportedNeed: The need reads [CLS] and the tower has none.
            LayerError: A layer is out of range.
        """
        if isinstance(need, ClsRows | ClsQuery) and not self.tower.has_cls:
            parts = (getattr(self.inner, name, None) for name in _TOWERS)
            tower = next((part for part in parts if part is not None), self.model)
            hint = "; foveate.methods.fitting.with_fallbacks(compressor, model) reads received attention instead"
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
        """Raises the errors about layers that a run with these needs and cuts would raise; takes no image."""
        for need in needs:
            self.layers(need)
        check_cuts(cuts, self.decoder.depth, self.deepstack_levels, self.decoder.window, self.decoder.both_ways)

    def embed(self, ids: Tensor, tokens: Float[Tensor, "visual dim"]) -> Float[Tensor, "batch token dim"]:
        """Returns input embeddings with the given visual tokens at the placeholders, in reading order."""
        words = self.inner.get_input_embeddings()(ids)
        return words.masked_scatter(self.is_placeholder(ids)[..., None], tokens.to(words.dtype))

    def mask(self, ids: Tensor) -> Tensor:
        """Returns the mask that `generate` assumes without one: padding is masked unless it also ends an answer."""
        pad = self._pad
        return torch.ones_like(ids) if pad is None or pad in self.ends else ids.ne(pad).long()

    def question(self, prompt: Sequence[int], tail: Sequence[int] = ()) -> list[int]:
        """Returns the text after the last image or video of a prompt, without special tokens.

        Args:
            prompt: Token ids with all placeholders.
            tail: Token ids that the chat template puts after every question.
        """
        images = self.placeholders
        special = {*images, self.pad_token, self.text_config.bos_token_id, *self.ends}
        others = ("vision_start_token_id", "vision_end_token_id", "image_end_token_id", "eoi_token_id")
        special |= {getattr(self.model.config, name, None) for name in others}
        start = max((i for i, token in enumerate(prompt) if token in images), default=-1) + 1
        words = list(prompt[start:])
        if tail and words[-len(tail) :] == list(tail):
            words = words[: -len(tail)]
        return [token for token in words if token not in special]


def downsampled_too_late(need: Downsampled) -> str:
    """Returns the message for pixels that already have a size and cannot be made smaller in the tower."""
    return (
        f"{need}: these pixels were prepared at full size, and this tower cannot make them smaller; prepare smaller "
        "ones by load(...).smaller(keep).inputs(texts, images), without a compressor, or let foveate.evaluate, compare "
        "or frontier do so"
    )
