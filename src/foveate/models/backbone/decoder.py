"""The language model block by block, and what each token of its sequence is."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import Cache

from foveate.core.arrangement import Arrangement
from foveate.core.errors import UnsupportedNeed
from foveate.models.backbone.attention_tap import tapped
from foveate.models.backbone.internals import cache_argument, internal


class Decoder:
    """A causal language model of transformers with rotary positions."""

    def __init__(self, model: Any, head: nn.Module) -> None:  # noqa: ANN401 (a class per family)
        self.model, self.head, self.config = model, head, model.config
        self.blocks: Sequence[Any] = model.layers
        self.cache_argument = (
            cache_argument(self.blocks[0]) if len(self.blocks) else "cache"
        )  # none: refused by `check`
        self.rotated_by_halves: set[int] = set()  # blocks of which that was found
        self._attention = {block.self_attn: number for number, block in enumerate(self.blocks)}

    @property
    def window(self) -> int | None:
        """How many of the last tokens those blocks attend to that see the fewest; None where all see everything."""
        kinds = getattr(self.config, "layer_types", None)
        if getattr(self.config, "use_sliding_window", True) and (kinds is None or "sliding_attention" in kinds):
            return getattr(self.config, "sliding_window", None)
        return getattr(self.config, "attention_chunk_size", None) if "chunked_attention" in (kinds or ()) else None

    @property
    def flashes(self) -> bool:
        """Whether attention is computed by a flash kernel, which reads packed sequences from positions."""
        return "flash" in str(self.config._attn_implementation)

    @property
    def depth(self) -> int:
        return len(self.blocks)

    def tapped(self, listener: Callable[[int, Tensor, Tensor, float], None]) -> Any:  # noqa: ANN401
        """See `tap.tapped`."""
        return tapped(self.model, self._attention, listener)

    def mask(self, states: Tensor, seen: Tensor, cache: Cache | None, block: int) -> Any:  # noqa: ANN401
        """What attention from block `block` on is given; `seen` marks the real ones of all its tokens."""
        return internal("masking_utils.create_causal_mask")(
            self.config, states, seen.long().to(states.device), cache, layer_idx=block
        )

    def rotation(self, states: Tensor, position: Int[Tensor, "axis batch token"]) -> tuple[Tensor, Tensor]:
        """Cosines and sines of the positions."""
        position = position.to(states.device)
        cosine, sine = self.model.rotary_emb(states, position_ids=position if len(position) > 1 else position[0])
        return cosine.to(states.device), sine.to(states.device)

    def heard(self, block: int, states: Tensor, rotation: Any) -> tuple[Tensor, Tensor, float]:  # noqa: ANN401
        """Returns queries, keys and their scaling as the kernel of a block would be given them.

        The block itself is run up to its kernel, so that they are the model's own, whatever it does to them.

        Args:
            block: Its number.
            states: As they enter it.
            rotation: Cosines and sines of the positions.
        """
        heard: list[tuple[Tensor, Tensor, float]] = []

        def listen(number: int, query: Tensor, key: Tensor, scaling: float) -> None:
            heard.append((query.detach(), key.detach(), scaling))
            raise _Heard

        with self.tapped(listen), torch.no_grad(), suppress(_Heard):
            self.blocks[block](states, attention_mask=None, position_ids=None, position_embeddings=rotation)
        return heard[0]

    def check_readable(self) -> None:
        """Refuses to read attention where a kernel does more than softmax over all that came before.

        Raises:
            UnsupportedNeed: Its blocks attend to windows, or bound their logits.
        """
        cap = getattr(self.config, "attn_logit_softcapping", None)
        if self.window is not None or cap is not None:
            found = f"a window of {self.window} tokens" if self.window is not None else f"logits capped at {cap:g}"
            raise UnsupportedNeed(
                f"attention inside {type(self.model).__name__} cannot be read: it has {found}, and what is read is a "
                "softmax over all tokens before; use a method that reads the vision side"
            )

    def normed(self, states: Tensor) -> Tensor:
        """Returns states after the norm behind the last block.

        Raises:
            UnsupportedNeed: It has none, or another name.
        """
        for name in ("norm", "final_layernorm"):
            if hasattr(self.model, name):
                return getattr(self.model, name)(states)
        raise UnsupportedNeed(f"{type(self.model).__name__} has no norm behind its last block: use another method")

    def logits(self, states: Tensor) -> Tensor:
        """Of the token that follows each of these states, which are normalised."""
        return self.head(states).to(states.device)


class _Heard(Exception):
    """Ends a block's pass once its queries and keys are known."""


@dataclass(frozen=True, eq=False)
class Layout:
    """What each token of a left-padded batch is.

    Attributes:
        role: A `Role`.
        place: Of visual tokens the patch, where those of a prompt's second image count on from the first's, or
            `EXTRA`; of others `PADDING`.
        position: What the rotary embedding is given.
        following: Position of the token that follows each prompt.
        prompts: The images of each prompt.
        tokens: The image tokens in reading order.
        deepstack: What is added to them behind each of the first blocks.
        late: How much later than right behind the prompt's last token the next one stands, as after an image whose end
            was removed; None where every prompt ends with text.
    """

    role: Int[Tensor, "batch token"]
    place: Int[Tensor, "batch token"]
    position: Int[Tensor, "axis batch token"]
    following: Int[Tensor, " batch"]
    prompts: Sequence[Sequence[Arrangement]]
    tokens: Float[Tensor, "visual dim"]
    deepstack: Sequence[Float[Tensor, "visual dim"]] = ()
    late: Int[Tensor, "axis batch"] | None = None
