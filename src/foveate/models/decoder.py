"""The language model block by block, and what each token of its sequence is."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import Cache

from foveate.core.types import Arrangement
from foveate.models.internals import cache_argument, internal
from foveate.models.tap import tapped


class Decoder:
    """A causal language model of transformers with rotary positions, as LLaMA, Mistral and Qwen have."""

    def __init__(self, model: Any, head: nn.Module) -> None:  # noqa: ANN401 (a class per family)
        self.model, self.head, self.config = model, head, model.config
        self.blocks: Sequence[Any] = model.layers
        self.cache_argument = (
            cache_argument(self.blocks[0]) if len(self.blocks) else "cache"
        )  # none: refused by `check`
        self._attention = {block.self_attn: number for number, block in enumerate(self.blocks)}

    @property
    def windowed(self) -> bool:
        """Whether every block attends to a window of the last tokens only, as in Mistral 7B v0.1."""
        given = getattr(self.config, "sliding_window", None), getattr(self.config, "use_sliding_window", True)
        return all(given) and not getattr(self.config, "layer_types", None)

    @property
    def depth(self) -> int:
        return len(self.blocks)

    def tapped(self, listener: Callable[[int, Tensor, Tensor, float], None]) -> Any:  # noqa: ANN401
        """See `tap.tapped`."""
        return tapped(self.model, self._attention, listener)

    def mask(self, states: Tensor, seen: Tensor, cache: Cache | None, block: int) -> Any:  # noqa: ANN401
        """What attention from block `block` on is given; `seen` marks the real ones of all its tokens."""
        whole = internal("masking_utils.create_causal_mask")
        made = internal("masking_utils.create_sliding_window_causal_mask") if self.windowed else whole
        return made(self.config, states, seen.long(), cache, layer_idx=block)

    def rotation(self, states: Tensor, position: Int[Tensor, "axis batch token"]) -> tuple[Tensor, Tensor]:
        """Cosines and sines of the positions."""
        return self.model.rotary_emb(states, position_ids=position if len(position) > 1 else position[0])

    def query_and_key(self, block: int, states: Tensor) -> tuple[Tensor, Tensor]:
        """Queries and keys that a block would compute from the states entering it, without positions."""
        attention = self.blocks[block].self_attn
        states = self.blocks[block].input_layernorm(states)
        shape = (*states.shape[:2], -1, attention.head_dim)
        query, key = attention.q_proj(states).view(shape), attention.k_proj(states).view(shape)
        norms = (getattr(attention, name, nn.Identity()) for name in ("q_norm", "k_norm"))
        query, key = (norm(x).transpose(1, 2) for norm, x in zip(norms, (query, key), strict=True))
        return query, key

    def logits(self, states: Tensor) -> Tensor:
        """Of the token that follows each of these states."""
        return self.head(self.model.norm(states))


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
        deep: What is added to them behind each of the first blocks.
    """

    role: Int[Tensor, "batch token"]
    place: Int[Tensor, "batch token"]
    position: Int[Tensor, "axis batch token"]
    following: Int[Tensor, " batch"]
    prompts: Sequence[Sequence[Arrangement]]
    tokens: Float[Tensor, "visual dim"]
    deep: Sequence[Float[Tensor, "visual dim"]] = ()
