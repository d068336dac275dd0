"""Choices for images, and keys and values of prompts, kept from one call of `generate` to the next."""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from transformers import DynamicCache

from foveate.core.arrangement import Arrangement
from foveate.core.compression import Compressed
from foveate.core.values import whole
from foveate.models.backbone.adapter import Adapter, ImageInputs
from foveate.models.backbone.grouping import in_groups
from foveate.models.runtime.call_inputs import option_of
from foveate.models.runtime.kv_cache import cache_of, cached_prompt_of, fingerprint_of, length_of, set_cached_prompt
from foveate.models.runtime.packing import prompt_mask

_OTHER_DECODING = ("assistant_model", "prompt_lookup_num_tokens", "cache_implementation", "prefill_chunk_size")
_OF_WHOLE_PROMPTS = ("output_attentions", "output_hidden_states")
Call = tuple[Any, Any, Any]
"""The choice of a call, as `Result.note` takes it."""
_V = TypeVar("_V")


class _Latest(OrderedDict[Hashable, _V], Generic[_V]):
    """A dictionary of the latest entries.

    Args:
        most: Number of entries.
    """

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most

    def __setitem__(self, key: Hashable, value: _V) -> None:
        super().__setitem__(key, value)
        self.move_to_end(key)
        while len(self) > self.most:
            self.popitem(last=False)


@dataclass(frozen=True, eq=False)
class KeptPrompt:
    """A prompt with its answer, whose keys and values are kept.

    Attributes:
        ids: The tokens of both, with all placeholders.
        cache: The key-value cache.
        call: What was chosen when the cache was filled.
    """

    ids: list[int]
    cache: Any
    call: Call


class PrefixCache:
    """Cache of what was chosen for images, and of keys and values of their prompts; see `Compressor.attached`.

    A later `generate` about the same images does not run the vision tower, and of its prompt only what follows the part
    that it shares with the latest prompt about them. Unless `first_choice` is set, the answers are those without a
    cache, up to rounding.

    Keys and values are kept for prompts of one row that `generate` decodes with a cache of its own. A method that reads
    the question has a choice of its own for each prompt, and keeps no keys and values. One that cuts inside the
    language model keeps nothing, nor does a pass with gradients. Call `clear` after a change of the model's weights.

    Args:
        entries: Number of images, and of prompts, that are kept.
        first_choice: Whether a method that reads the question keeps its choice for the first question about an image,
            so that answers depend on what was asked before.

    Attributes:
        reused: Number of leading tokens of the latest prompt whose keys and values were kept, with all placeholders.

    Raises:
        OptionError: `entries` is not a whole number from 1 up.
    """

    def __init__(self, entries: int = 8, first_choice: bool = False) -> None:
        most = whole("entries", entries, least=1)
        self.first_choice, self.reused = first_choice, 0
        self.images: OrderedDict[Hashable, Compressed] = _Latest(most)
        self.prompts: OrderedDict[Hashable, KeptPrompt] = _Latest(most)

    def clear(self) -> None:
        """Removes everything."""
        self.images.clear()
        self.prompts.clear()


@dataclass(frozen=True, eq=False)
class Prefixes:
    """A `PrefixCache` as one attached method uses it.

    Attributes:
        cache: The cache.
        adapter: The model's adapter.
        method: The method, or a value that identifies it.
        per_question: Whether its choice depends on the question.
    """

    cache: PrefixCache
    adapter: Adapter
    method: Hashable
    per_question: bool

    @property
    def reads(self) -> bool:
        """True if keys contain the prompt."""
        return self.per_question and not self.cache.first_choice

    def keys(
        self, images: ImageInputs, arrangements: Sequence[Arrangement], prompts: Sequence[Sequence[int]] = ()
    ) -> list[Hashable]:
        """Returns the key of each image: model, method, content and, if the method reads it, the prompt.

        Args:
            images: Inputs of all images of a call.
            arrangements: Their arrangements.
            prompts: Token ids of the prompt of each image; empty unless `reads`.
        """
        contents = [_digest(self.adapter.chosen(images, [row], arrangements)) for row in range(len(arrangements))]
        read = map(tuple, prompts) if prompts else [()] * len(contents)
        about = zip(arrangements, contents, read, strict=True)
        return [(self.adapter.model, self.method, *parts) for parts in about]

    def compressed(self, keys: Sequence[Hashable], compress: Callable[[list[int]], Compressed]) -> Compressed:
        """Returns the images of a call, of which only those that are not kept are compressed.

        Args:
            keys: Their keys.
            compress: Compresses the images with these numbers.
        """
        known = {key: self.cache.images[key] for key in keys if key in self.cache.images}
        if missing := [row for row, key in enumerate(keys) if key not in known]:
            made = compress(missing)
            known |= {keys[row]: made.chosen([number]) for number, row in enumerate(missing)}
        for key in keys:
            self.cache.images[key] = known[key]
        images = [[row] for row in range(len(keys))]
        return in_groups(_itself, images, lambda rows: known[keys[rows[0]]])  # type: ignore[arg-type]

    def keeps_prompt(self, inputs: dict[str, Any]) -> bool:
        """Returns whether keys and values of the prompt of a `generate` can be kept.

        They cannot if another input than text and images, such as a video, belongs to the prompt.
        """
        adapter, option = self.adapter, partial(option_of, inputs, self.adapter)
        given = {name for name, value in inputs.items() if isinstance(value, Tensor)}
        needed = {"input_ids", adapter.image_inputs[0]}
        if not needed <= given <= {"attention_mask", *needed, *adapter.image_inputs, *adapter.token_inputs}:
            return False
        counts = (len(inputs["input_ids"]), option("num_beams") or 1, option("num_return_sequences") or 1)
        return (
            counts == (1, 1, 1)
            and not self.reads
            and cache_of(inputs) is None
            and inputs.get("mm_encoder_outputs") is None
            and option("use_cache") is not False
            and adapter.decoder.window is None
            and bool(prompt_mask(adapter, inputs).all())
            and all(option(name) is None for name in _OTHER_DECODING)
            and not any(option(name) for name in _OF_WHOLE_PROMPTS)
        )

    def opened(self, keys: Sequence[Hashable], inputs: dict[str, Any]) -> tuple[dict[str, Any], Call | None]:
        """Returns the inputs with a cache, and what was chosen if the cache holds the beginning of the prompt already.

        What is kept of the prompt is taken out until `keep`, so that a call that fails leaves nothing behind.

        Args:
            keys: Keys of the prompt's images.
            inputs: Arguments of `generate`.
        """
        name = self.adapter.decoder.cache_argument
        kept = self.cache.prompts.pop(tuple(keys), None)
        self.cache.reused = _shorten(kept, inputs["input_ids"], self.adapter.image_token) if kept else 0
        if kept and self.cache.reused:
            for key in keys:
                if key in self.cache.images:
                    self.cache.images.move_to_end(key)
            return {**inputs, name: kept.cache}, kept.call
        return {**inputs, name: DynamicCache(config=self.adapter.decoder.config)}, None

    def keep(self, keys: Sequence[Hashable], sequences: Tensor, cache: Any, call: Call | None) -> None:  # noqa: ANN401
        """Keeps a prompt with its answer.

        Args:
            keys: Keys of the prompt's images.
            sequences: Their tokens, of shape (1, token), with all placeholders.
            cache: The cache of both.
            call: What was chosen; None keeps nothing.
        """
        if call is not None and cached_prompt_of(cache) is not None:
            self.cache.prompts[tuple(keys)] = KeptPrompt(sequences[0].tolist(), cache, call)


def _shorten(kept: KeptPrompt, ids: Tensor, image_token: int) -> int:
    """Shortens a kept prompt to the tokens that it shares with another, and returns their number.

    It is 0, and nothing is changed, if they end before the last image.
    """
    prompt, cache, new = cached_prompt_of(kept.cache), kept.cache, ids[0].tolist()
    assert prompt is not None
    length, short = prompt.ids.shape[1], prompt.short.shape[1]
    most = min(len(new) - 1, length + length_of(cache) - short)
    pairs = zip(kept.ids[:most], new[:most], strict=True)
    common = next((place for place, (old, other) in enumerate(pairs) if old != other), most)
    images = [place for place, token in enumerate(kept.ids[:length]) if token == image_token]
    if common <= images[-1] or image_token in new[common:]:
        return 0
    removed = max(0, length - common)  # from the end of the prompt, where nothing was compressed
    if (later := length_of(cache) - (short + common - length)) > 0:
        cache.crop(-later)
    set_cached_prompt(
        cache,
        replace(
            prompt,
            ids=prompt.ids[:, : length - removed],
            short=prompt.short[:, : short - removed],
            real=prompt.real[:, : short - removed],
            following=prompt.following - removed,
            fingerprint=fingerprint_of(cache, short - removed),
        ),
    )
    return common


def _digest(images: ImageInputs) -> bytes:
    """Returns a hash of the inputs of an image."""
    found = hashlib.sha256()
    for name, value in sorted(images.items()):
        found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        found.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return found.digest()


def _itself(compressed: Compressed) -> Compressed:
    return compressed
