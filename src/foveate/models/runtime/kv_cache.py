"""Conversations that go on from a key-value cache: what it holds of a prompt whose images were compressed."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import Cache

from foveate.core.errors import FoveateError
from foveate.functional.sequence import positions

_HELD = "_foveate_held"
_WHOLE = "Give the whole conversation without past_key_values"


@dataclass(frozen=True, eq=False)
class Held:
    """What a key-value cache began with.

    Attributes:
        ids: The prompts as the caller gave them.
        short: The prompts as the language model was given them.
        real: Which of `short` are no padding.
        following: Position of the token that follows each prompt.
        position_axes: How many numbers a position has.
        cut: Whether its blocks know different tokens.
        mark: By which each prompt is known again in the cache; None where that cannot be looked into.
    """

    ids: Int[Tensor, "batch token"]
    short: Int[Tensor, "batch short"]
    real: Bool[Tensor, "batch short"]
    following: Int[Tensor, " batch"]
    position_axes: int
    cut: bool
    mark: Tensor | None = None

    def further(self, inputs: dict[str, Any], whole: bool) -> dict[str, Any]:
        """Inputs of a pass that goes on from the cache, as the stock model has to be given them.

        Args:
            inputs: As the caller gave them: the mask covers the whole conversation with all placeholders.
            whole: Whether `input_ids` are the whole conversation too, as `generate` takes them, and not what is new.

        Raises:
            FoveateError: They do not go on from this conversation.
        """
        ids, cache = inputs["input_ids"], cache_of(inputs)
        self._check(ids, cache, whole)
        prompt, since = self.ids.shape[1], length_of(cache) - self.short.shape[1]
        new = ids.shape[1] - prompt - since if whole else ids.shape[1]
        if new < 1:
            raise FoveateError(
                f"input_ids hold {ids.shape[1]} tokens, of which the cache knows {prompt + since}: expected the whole "
                "conversation, with something new at its end"
            )
        later = self._mask(inputs.get("attention_mask"), since + new)
        position = self.following[:, None] + positions(later)
        if self.position_axes > 1:
            counted = self.real.sum(1, keepdim=True) + positions(later)
            position = torch.cat([counted[None], position.expand(self.position_axes, -1, -1)])
        mask = torch.cat([self.real, later], 1).long()
        if not whole:
            return {**inputs, "attention_mask": mask, "position_ids": position[..., -new:]}
        before = torch.zeros_like(position[..., :1]).expand(*position.shape[:-1], self.short.shape[1])  # cut off again
        known = {"input_ids": torch.cat([self.short, ids[:, prompt:]], 1), "attention_mask": mask}
        return {**inputs, **known, "position_ids": torch.cat([before, position], -1)}

    def _check(self, ids: Tensor, cache: Any, whole: bool) -> None:  # noqa: ANN401
        if self.cut:
            raise FoveateError(
                "this cache comes from a method that cuts inside the language model, where every block knows other "
                f"tokens, and cannot be gone on from. {_WHOLE}"
            )
        if len(ids) != len(self.ids) or length_of(cache) < self.short.shape[1]:
            raise FoveateError(
                f"the cache began with {len(self.ids)} prompts of {self.short.shape[1]} tokens, and now "
                f"{length_of(cache)} tokens of {len(ids)} prompts are to be gone on from: beams, several "
                f"sequences and prompts that were cropped cannot be. {_WHOLE}"
            )
        mark = mark_of(cache, self.short.shape[1])
        if mark is not None and self.mark is not None and not torch.equal(mark, self.mark):
            raise FoveateError(
                "the prompts in the cache do not stand as they did when it was filled (reorder_cache, "
                f"batch_select_indices), so that masks and positions would be those of others. {_WHOLE}"
            )
        prompt = self.ids.shape[1]
        if whole and not torch.equal(ids[:, :prompt], self.ids):
            raise FoveateError(
                f"input_ids do not begin with the {prompt} tokens that the cache began with: with past_key_values "
                f"`generate` takes the whole conversation, its image tokens too. {_WHOLE}"
            )

    def _mask(self, mask: Tensor | None, later: int) -> Bool[Tensor, "batch later"]:
        """Which of so many tokens behind the prompt are no padding."""
        expected = self.ids.shape[1] + later
        if mask is None:
            return torch.ones(len(self.ids), later, dtype=torch.bool, device=self.ids.device)
        if mask.ndim != 2 or mask.shape[1] != expected:
            raise FoveateError(
                f"attention_mask has the shape {tuple(mask.shape)}: expected ({len(self.ids)}, {expected}), for the "
                "whole conversation with all image tokens; or leave it out"
            )
        return mask[:, self.ids.shape[1] :].bool()


def mark_of(cache: Any, length: int) -> Tensor | None:  # noqa: ANN401
    """Returns the last block's keys of the last token of each prompt: (batch, head, dim).

    Args:
        cache: A key-value cache.
        length: Of the prompts.
    """
    layer = cache.layers[-1] if getattr(cache, "layers", None) else None
    if not isinstance(keys := getattr(layer, "keys", None), Tensor) or getattr(layer, "is_sliding", False):
        return None
    return keys[:, :, length - 1].detach().clone() if keys.ndim == 4 and keys.shape[2] >= length else None


def held_by(cache: Any) -> Held | None:  # noqa: ANN401
    """Returns what a cache began with, if that was a compressed prompt."""
    return getattr(cache, _HELD, None)


def hold(cache: Any, held: Held) -> None:  # noqa: ANN401
    """Notes on a cache what it began with, where copies of the cache find it too."""
    setattr(cache, _HELD, held)


class NextTurn:
    """A call of `generate` that goes on from a cache, whose passes are those of the stock model."""

    def __init__(self, cache: object) -> None:
        self.cache = cache

    def owns(self, given: object, cache: object) -> bool:
        """See `hooks.Conversation.owns`."""
        return cache is self.cache

    @contextmanager
    def passing(self, inputs: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """See `hooks.Conversation.passing`."""
        yield inputs


def length_of(cache: Any) -> int:  # noqa: ANN401
    """Returns how many tokens a cache holds of each prompt; a static one counts on the device."""
    return int(cache.get_seq_length())


def cache_of(inputs: dict[str, Any]) -> Any:  # noqa: ANN401
    """Returns the key-value cache that a caller gave, under its name in transformers 5.24 or under the older one."""
    return inputs.get("cache") if inputs.get("cache") is not None else inputs.get("past_key_values")


def holds_tokens(cache: Any) -> bool:  # noqa: ANN401
    """Tells whether something was run with this cache."""
    return cache is not None and (not isinstance(cache, Cache) or length_of(cache) > 0)
