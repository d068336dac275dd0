"""The language model block by block, and the layout of its token sequence."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import Cache

from foveate.core.arrangement import Arrangement
from foveate.core.errors import UnsupportedNeed
from foveate.core.needs import Role
from foveate.core.transfer import on_device
from foveate.models.backbone.attention_tap import tapped
from foveate.models.backbone.internals import cache_argument, internal

PromptMasks = Callable[[Tensor, Tensor, Tensor, Cache | None, Tensor], Any]
"""Maps states, padding mask, positions, key-value cache and the marks of image tokens to the masks of a prompt."""


class Decoder:
    """A causal language model of transformers with rotary positions.

    Attributes:
        prompt_masks: The masks of a prompt in which the tokens of an image attend to each other in both directions;
            None if all attention is causal.
    """

    prompt_masks: PromptMasks | None = None

    def __init__(self, model: Any, head: nn.Module) -> None:  # noqa: ANN401 (a class per family)
        self.model, self.head, self.config = model, head, model.config
        self.blocks: Sequence[Any] = model.layers
        # A model without blocks is refused by `LoadedModel.check`.
        self.cache_argument = cache_argument(self.blocks[0]) if len(self.blocks) else "cache"
        self.rotated_by_halves: set[int] = set()  # blocks whose rotary embedding has been checked
        self._attention = {block.self_attn: number for number, block in enumerate(self.blocks)}

    @property
    def window(self) -> int | None:
        """Size in tokens of the smallest sliding window of a block; None if all blocks attend to all tokens."""
        kinds = getattr(self.config, "layer_types", None)
        if getattr(self.config, "use_sliding_window", True) and (kinds is None or "sliding_attention" in kinds):
            return getattr(self.config, "sliding_window", None)
        return getattr(self.config, "attention_chunk_size", None) if "chunked_attention" in (kinds or ()) else None

    @property
    def takes_masks(self) -> bool:
        """Returns whether one mask of any form serves all blocks."""
        return self.window is None and not self.both_ways and self.config._attn_implementation in ("sdpa", "eager")

    def as_given(self, mask: Bool[Tensor, "batch one query key"], states: Tensor) -> Tensor:
        """Returns a mask of the tokens that are attended to as the blocks receive it; see `takes_masks`."""
        if self.config._attn_implementation == "sdpa":
            return mask
        return torch.zeros_like(mask, dtype=states.dtype).masked_fill(~mask, torch.finfo(states.dtype).min)

    @property
    def both_ways(self) -> bool:
        """Returns whether the tokens of an image attend to each other in both directions."""
        return self.prompt_masks is not None

    @property
    def flashes(self) -> bool:
        """Returns whether attention runs on a flash kernel, which takes gaps in positions for sequence borders."""
        return "flash" in str(self.config._attn_implementation)

    @property
    def depth(self) -> int:
        return len(self.blocks)

    def tapped(self, listener: Callable[[int, Tensor, Tensor, float], None]) -> Any:  # noqa: ANN401
        """Returns a context in which `listener` receives the attention calls of all blocks; see `tapped`."""
        return tapped(self.model, self._attention, listener)

    def mask(
        self,
        states: Tensor,
        real: Tensor,
        cache: Cache | None,
        block: int,
        padded: bool | None = None,
    ) -> Any:  # noqa: ANN401
        """Returns the attention mask of the blocks from `block` on.

        Args:
            states: The states that enter the block.
            real: (batch, token) bool, marks the tokens that are not padding, those in the cache included.
            cache: The key-value cache.
            block: Number of the block.
            padded: Whether there is padding; if it is unknown (None), the mask is read, and a device waited for.
        """
        given = None if padded is False else real.long().to(states.device)
        return internal("masking_utils.create_causal_mask")(
            self.config, states, given, cache, layer_idx=block, allow_is_causal_skip=not padded
        )

    def rotation(self, states: Tensor, position: Int[Tensor, "axis batch token"]) -> tuple[Tensor, Tensor]:
        """Returns cosines and sines of the positions."""
        position = position.to(states.device)
        cosine, sine = self.model.rotary_emb(states, position_ids=position if len(position) > 1 else position[0])
        return cosine.to(states.device), sine.to(states.device)

    def queries_and_keys(self, block: int, states: Tensor, rotation: Any) -> tuple[Tensor, Tensor, float]:  # noqa: ANN401
        """Returns the queries, keys and scaling that the attention kernel of a block receives.

        The block itself runs up to its kernel, so that its own norms and projections are applied.

        Args:
            block: Number of the block.
            states: The states that enter the block.
            rotation: Cosines and sines of the positions.
        """
        captured: list[tuple[Tensor, Tensor, float]] = []

        def listen(number: int, query: Tensor, key: Tensor, scaling: float) -> None:
            captured.append((query.detach(), key.detach(), scaling))
            raise _Captured

        with self.tapped(listen), torch.no_grad(), suppress(_Captured):
            self.blocks[block](states, attention_mask=None, position_ids=None, position_embeddings=rotation)
        return captured[0]

    def check_readable(self) -> None:
        """Checks that attention is a plain softmax over all earlier tokens, so that it can be recomputed.

        Raises:
            UnsupportedNeed: Blocks attend to sliding windows or in both directions, or cap their logits.
        """
        cap = getattr(self.config, "attn_logit_softcapping", None)
        if self.both_ways:
            raise UnsupportedNeed(
                f"attention inside {type(self.model).__name__} cannot be read: image tokens attend to each other in "
                "both directions, but only a plain softmax over all earlier tokens can be recomputed; use a method "
                "that reads the vision side"
            )
        if self.window is not None or cap is not None:
            found = f"a window of {self.window} tokens" if self.window is not None else f"logits capped at {cap:g}"
            raise UnsupportedNeed(
                f"attention inside {type(self.model).__name__} cannot be read: it has {found}, but only a plain "
                "softmax over all earlier tokens can be recomputed; use a method that reads the vision side"
            )

    def normed(self, states: Tensor) -> Tensor:
        """Returns states after the final norm.

        Raises:
            UnsupportedNeed: The language model has no final norm under a known name.
        """
        for name in ("norm", "final_layernorm"):
            if hasattr(self.model, name):
                return getattr(self.model, name)(states)
        raise UnsupportedNeed(
            f"{type(self.model).__name__} has no final norm, looked for norm and final_layernorm: use a method that "
            "does not read TokenStates"
        )

    def logits(self, states: Tensor) -> Tensor:
        """Returns the logits of the next token for each of these states, which are normalised."""
        return self.head(states).to(states.device)


@dataclass(frozen=True)
class Extent:
    """Sizes of a left-padded batch of tokens, which the host knows without waiting for a device.

    Attributes:
        padded: Whether a prompt has padding.
        visual: The greatest number of visual tokens of a prompt.
        first_visual: The first column that holds a visual token; 0 if there is none.
        first_question: The first column that holds a token of a question, or the last column.
    """

    padded: bool
    visual: int
    first_visual: int
    first_question: int


def extent_of(role: Int[Tensor, "batch token"]) -> Extent:
    """Returns the extent of a batch; if it is on a device, the host waits for it."""
    padded, *rest = extents(role).tolist()
    return Extent(bool(padded), *rest)


def extents(role: Int[Tensor, "batch token"]) -> Int[Tensor, " 4"]:
    """Returns the numbers of an `Extent`, still on the device of the roles."""
    visual, question = role == Role.VISUAL, (role == Role.QUESTION).any(0).int()
    question[-1:] = 1
    first = [visual.any(0).int().argmax(), question.argmax()]  # of equal values the first
    return torch.stack([(role == Role.PADDING).any().long(), visual.sum(1).amax(), *first])


class _Captured(Exception):
    """A signal that ends a block's pass once its queries and keys are known."""


@dataclass(frozen=True, eq=False)
class Layout:
    """The role, patch and position of each token of a left-padded batch.

    Attributes:
        role: The token's `Role`.
        patch: The patch of a visual token, or `EXTRA`; patches are numbered across all images of a prompt. `PADDING`
            for other tokens.
        position: The position that the rotary embedding receives.
        following: Position of the text that follows each prompt, where `generate` puts the answer.
        prompts: The arrangements of the images of each prompt.
        tokens: The visual tokens in reading order.
        deepstack: The features that are added to the visual tokens after each of the first blocks.
        late: Offset of the next token's position from that of the prompt's last token plus one, which is positive after
            an image whose last tokens were dropped; None if every prompt ends with text.
        resumed: Position of the next token where the stock model resumes a prompt from its cache. It is past all
            positions, also those of Qwen2.5-VL's videos, which pass the text after them; None if it is `following`.
        extent: The extent of the tokens; None if the host does not know it yet.
    """

    role: Int[Tensor, "batch token"]
    patch: Int[Tensor, "batch token"]
    position: Int[Tensor, "axis batch token"]
    following: Int[Tensor, " batch"]
    prompts: Sequence[Sequence[Arrangement]]
    tokens: Float[Tensor, "visual dim"]
    deepstack: Sequence[Float[Tensor, "visual dim"]] = ()
    late: Int[Tensor, "axis batch"] | None = None
    resumed: Int[Tensor, " batch"] | None = None
    extent: Extent | None = None

    def to(self, device: torch.device) -> "Layout":
        """Returns the layout with roles, patches and positions on a device."""
        names = ("role", "patch", "position", "following", "late", "resumed")
        values = {name: value for name in names if (value := getattr(self, name)) is not None}
        return replace(self, **{name: on_device(value, device) for name, value in values.items()})
