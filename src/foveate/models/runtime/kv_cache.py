"""Continuation of conversations from a key-value cache that holds a prompt with compressed images."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import Cache

from foveate.core.errors import FoveateError
from foveate.functional.sequence import positions

_ATTRIBUTE = "_foveate_prompt"
_WHOLE = "Give the whole conversation without past_key_values"


@dataclass(frozen=True, eq=False)
class CachedPrompt:
    """The compressed prompts that a key-value cache begins with.

    Attributes:
        ids: The prompts as the caller gave them.
        short: The prompts as the language model received them.
        real: Marks the tokens of `short` that are not padding.
        following: Position of the token that follows each prompt where a pass resumes from the cache.
        position_axes: Number of coordinates of a position.
        cut: Whether there were cuts, so that blocks hold different tokens.
        fingerprint: Keys that identify each prompt in the cache; None if the cache's keys cannot be read.
    """

    ids: Int[Tensor, "batch token"]
    short: Int[Tensor, "batch short"]
    real: Bool[Tensor, "batch short"]
    following: Int[Tensor, " batch"]
    position_axes: int
    cut: bool
    fingerprint: Tensor | None = None

    def continued(self, inputs: dict[str, Any], whole: bool) -> dict[str, Any]:
        """Returns the stock model's inputs for a pass that continues from the cache.

        Args:
            inputs: The caller's inputs, with a mask over the whole conversation with all placeholders.
            whole: Whether `input_ids` hold the whole conversation, as `generate` takes them, not only new tokens.

        Raises:
            FoveateError: The inputs do not continue this conversation.
        """
        ids, cache = inputs["input_ids"], cache_of(inputs)
        self._check(ids, cache, whole)
        prompt, since = self.ids.shape[1], length_of(cache) - self.short.shape[1]
        new = ids.shape[1] - prompt - since if whole else ids.shape[1]
        if new < 1:
            raise FoveateError(
                f"input_ids hold {ids.shape[1]} tokens, and the cache has {prompt + since} already: expected the whole "
                "conversation with new tokens at its end"
            )
        later = self._mask(inputs.get("attention_mask"), since + new)
        position = self.following[:, None] + positions(later)
        if self.position_axes > 1:
            counted = self.real.sum(1, keepdim=True) + positions(later)
            position = torch.cat([counted[None], position.expand(self.position_axes, -1, -1)])
        mask = torch.cat([self.real, later], 1).long()
        if not whole:
            return {**inputs, "attention_mask": mask, "position_ids": position[..., -new:]}
        # `generate` drops the positions of tokens that the cache holds.
        before = torch.zeros_like(position[..., :1]).expand(*position.shape[:-1], self.short.shape[1])
        known = {"input_ids": torch.cat([self.short, ids[:, prompt:]], 1), "attention_mask": mask}
        return {**inputs, **known, "position_ids": torch.cat([before, position], -1)}

    def _check(self, ids: Tensor, cache: Any, whole: bool) -> None:  # noqa: ANN401
        if self.cut:
            raise FoveateError(
                "this cache comes from a method that cuts inside the language model, where blocks hold different "
                f"tokens, so a conversation cannot continue from it. {_WHOLE}"
            )
        if len(ids) != len(self.ids) or length_of(cache) < self.short.shape[1]:
            raise FoveateError(
                f"the cache began with {len(self.ids)} prompts of {self.short.shape[1]} tokens, but now holds "
                f"{length_of(cache)} tokens for {len(ids)} prompts: caches of beams, of several sequences, or with "
                f"cropped prompts cannot be continued. {_WHOLE}"
            )
        fingerprint = fingerprint_of(cache, self.short.shape[1])
        if fingerprint is not None and self.fingerprint is not None and not torch.equal(fingerprint, self.fingerprint):
            raise FoveateError(
                "the prompts in the cache have been reordered since it was filled (reorder_cache, "
                f"batch_select_indices), so that masks and positions would belong to other prompts. {_WHOLE}"
            )
        prompt = self.ids.shape[1]
        if whole and not torch.equal(ids[:, :prompt], self.ids):
            raise FoveateError(
                f"input_ids do not begin with the {prompt} tokens that the cache began with: with past_key_values "
                f"`generate` takes the whole conversation, image tokens included. {_WHOLE}"
            )

    def _mask(self, mask: Tensor | None, later: int) -> Bool[Tensor, "batch later"]:
        """Returns the padding mask of the `later` tokens after the prompt."""
        expected = self.ids.shape[1] + later
        if mask is None:
            return torch.ones(len(self.ids), later, dtype=torch.bool, device=self.ids.device)
        if mask.ndim != 2 or mask.shape[1] != expected:
            raise FoveateError(
                f"attention_mask has the shape {tuple(mask.shape)}: expected ({len(self.ids)}, {expected}), for the "
                "whole conversation with all image tokens; or leave it out"
            )
        return mask[:, self.ids.shape[1] :].bool()


def fingerprint_of(cache: Any, length: int) -> Tensor | None:  # noqa: ANN401
    """Returns the last block's keys of the last token of each prompt: (batch, head, dim).

    Args:
        cache: A key-value cache.
        length: Number of tokens of the prompts.
    """
    layer = cache.layers[-1] if getattr(cache, "layers", None) else None
    if not isinstance(keys := getattr(layer, "keys", None), Tensor) or getattr(layer, "is_sliding", False):
        return None
    return keys[:, :, length - 1].detach().clone() if keys.ndim == 4 and keys.shape[2] >= length else None


def cached_prompt_of(cache: Any) -> CachedPrompt | None:  # noqa: ANN401
    """Returns the compressed prompts that a cache begins with, or None."""
    return getattr(cache, _ATTRIBUTE, None)


def set_cached_prompt(cache: Any, prompt: CachedPrompt) -> None:  # noqa: ANN401
    """Sets the compressed prompts as an attribute of the cache, which its copies keep."""
    setattr(cache, _ATTRIBUTE, prompt)


class NextTurn:
    """A call of `generate` that continues from a cache by passes of the stock model."""

    chosen = None  # nothing is chosen anew; see `hooks.CompressedCall`

    def __init__(self, cache: object) -> None:
        self.cache = cache

    def owns(self, features: object, cache: object) -> bool:
        """Returns whether a pass belongs to this call; see `hooks.CompressedCall.owns`."""
        return cache is self.cache

    def run(self, stock: Callable, inputs: dict[str, Any]) -> Any:  # noqa: ANN401 (as in transformers)
        """Returns the output of a pass of the stock model; see `hooks.CompressedCall.run`."""
        return stock(**inputs)


def length_of(cache: Any) -> int:  # noqa: ANN401
    """Returns the number of tokens per prompt in a cache; for a static cache this reads a value from the device."""
    return int(cache.get_seq_length())


def cache_of(inputs: dict[str, Any]) -> Any:  # noqa: ANN401
    """Returns the caller's key-value cache, given as `cache` (from transformers 5.24 on) or `past_key_values`."""
    return inputs.get("cache") if inputs.get("cache") is not None else inputs.get("past_key_values")


def holds_tokens(cache: Any) -> bool:  # noqa: ANN401
    """Returns whether a cache holds tokens already."""
    return cache is not None and (not isinstance(cache, Cache) or length_of(cache) > 0)
