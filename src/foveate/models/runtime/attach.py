"""Compression inside a stock model's own `forward` and `generate`; on leaving, the model is as it was."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache, partial, wraps
from threading import RLock, local
from typing import Any

import torch

from foveate.core.arrangement import Arrangement
from foveate.core.compression import Compressed
from foveate.core.contracts import Cut, ImageBatch
from foveate.core.errors import FoveateError
from foveate.core.needs import Role
from foveate.models.backbone.adapter import Adapter
from foveate.models.backbone.decoder import Layout
from foveate.models.backbone.grouping import group_by_shape, in_groups
from foveate.models.runtime.call_inputs import (
    by_name,
    check_images,
    check_inner,
    check_inputs,
    check_positions,
    given_images,
    given_of,
    has_images,
    limits_of,
    pixels_of,
    refuse_with_cuts,
    runs_of,
    with_other_modalities,
    with_prompt,
)
from foveate.models.runtime.hooks import Conversation, hooked
from foveate.models.runtime.images import LiveImages, Texts, TextSide
from foveate.models.runtime.kv_cache import Held, NextTurn, cache_of, held_by, hold, holds_tokens, length_of, mark_of
from foveate.models.runtime.packing import pack, prompts_of
from foveate.models.runtime.pruning import Pruning, pruning_of

Compress = Callable[..., Compressed]
Note = Callable[[Compressed, Layout, Pruning], None]
_ATTACHED = "_foveate_attached"
_NEW_IMAGES = (
    "new images behind past_key_values that already hold tokens are not compressed: give the whole conversation "
    "without past_key_values"
)


class _Inside(local):
    """The conversation of stock `generate` in this thread, which calls `forward` with what was shortened already."""

    conversation: Conversation | NextTurn | None = None


class Attachment:
    """What `compressing` does in one call of the model.

    Args:
        adapter: Of the model.
        compress: The vision side of a compressor.
        repack: Its positions; see `pack`.
        cuts: Its cuts inside the language model.
        note: Told what became of each call's images.
        texts: For text-aware scorers.
    """

    def __init__(
        self,
        adapter: Adapter,
        compress: Compress,
        repack: bool,
        cuts: Sequence[Cut],
        note: Note,
        texts: TextSide,
    ) -> None:
        self.adapter, self.compress, self.repack, self.cuts, self.note = adapter, compress, repack, cuts, note
        self.texts = texts
        self._inside = _Inside()
        self._hooks_lock = RLock()

    @contextmanager
    def shortened(self, inputs: dict[str, Any], generating: bool) -> Iterator[tuple[dict[str, Any], Conversation]]:
        """Yields inputs with compressed images, for a call inside the context, and the conversation that this is.

        Raises:
            ValueError: What is given does not determine where the images stand.
            FoveateError: The compressor cannot work with what is given.
        """
        check_inputs(self.adapter, inputs)
        if self.cuts:
            refuse_with_cuts(inputs, self.adapter, self.cuts, generating)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not generating):
            compressed = self._compressed(inputs)
            result, layout = pack(self.adapter, inputs, compressed, self.repack)
        pruning = pruning_of(self.adapter.decoder, layout, self.cuts, compressed)
        late = layout.late
        if late is not None and not self.cuts:  # what lost nothing goes on as in the stock model
            stays = (layout.place >= 0) | (layout.role == Role.SEPARATOR)
            removed = stays.sum(1) < (inputs["input_ids"] == self.adapter.image_token).sum(1)
            late = late.masked_fill(~removed, 0)
        conversation = Conversation(pruning, given_of(self.adapter, result), result["input_ids"].shape, late)
        with ExitStack() as stack:
            if self.cuts:
                stack.enter_context(self._hooks_lock)  # hooks are the model's, so one thread at a time
            if self.cuts or self.adapter.decoder.flashes:
                stack.enter_context(hooked(self.adapter.decoder, conversation))
            yield result, conversation
        if conversation.cache is not None:
            ids, short, real = inputs["input_ids"], result["input_ids"], result["attention_mask"].bool()
            mark = mark_of(conversation.cache, short.shape[1])
            held = Held(ids, short, real, layout.following, self.adapter.position_axes, bool(self.cuts), mark)
            hold(conversation.cache, held)
        self.note(compressed, layout, pruning)

    def generate(self, stock: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:  # noqa: ANN401 (as in transformers)
        """What `generate` does while attached; `stock` is the model's own."""
        inputs = by_name(stock, args, kwargs)
        if inputs.get("inputs") is not None:
            inputs["input_ids"] = inputs.pop("inputs")
        with ExitStack() as stack:
            if holds_tokens(cache_of(inputs)):
                shortened, conversation = self._next_turn(inputs), NextTurn(cache_of(inputs))
            else:
                check_images(self.adapter, inputs)
                shortened, conversation = stack.enter_context(self.shortened(inputs, generating=True))
            stack.enter_context(self._in(conversation))
            length, short = inputs["input_ids"].shape[1], shortened["input_ids"].shape[1]
            output = stock(**{**shortened, **limits_of(inputs, self.adapter, length - short)})
        return with_prompt(output, inputs["input_ids"], short)

    def forward(self, stock: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:  # noqa: ANN401
        """What `forward` does while attached."""
        inputs = by_name(stock, args, kwargs)
        if (conversation := self._inside.conversation) is None:
            return self._alone(stock, inputs)
        if conversation.owns(given_of(self.adapter, inputs), cache_of(inputs)):
            with conversation.passing(self._joined(inputs)) as placed:
                return stock(**placed)
        with self._in(None):  # another prompt, as a logits processor may run it
            return self._alone(stock, inputs, besides=True)

    def _alone(self, stock: Callable, inputs: dict[str, Any], besides: bool = False) -> Any:  # noqa: ANN401
        """A pass that is no part of `generate`, or of another conversation `besides` it, which may be about text."""
        cache = cache_of(inputs)
        if holds_tokens(cache):
            return stock(**self._further(inputs, besides))
        if not has_images(self.adapter, inputs) and besides:
            return stock(**inputs)
        check_images(self.adapter, inputs)
        with self.shortened(inputs, generating=False) as (shortened, conversation), conversation.acting(True):
            output = stock(**self._joined(with_other_modalities(self.adapter, shortened)))
            conversation.cache = getattr(output, "cache", None) or getattr(output, "past_key_values", None)
        return output

    def _further(self, inputs: dict[str, Any], besides: bool) -> dict[str, Any]:
        """Inputs of a `forward` that goes on from a cache.

        Raises:
            FoveateError: That cannot be done.
        """
        held = held_by(cache_of(inputs))
        if (held is None and self.cuts and not besides) or (held is not None and held.cut):
            raise FoveateError(
                "a method that cuts inside the language model cannot go on from past_key_values in forward: use "
                "generate, which keeps track of what every block knows"
            )
        if has_images(self.adapter, inputs):
            raise FoveateError(_NEW_IMAGES)
        if held is None:
            return inputs
        check_positions(inputs)
        return held.further(inputs, whole=False)

    def _next_turn(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Inputs of a `generate` that goes on from a cache.

        Raises:
            FoveateError: That cannot be done.
        """
        ids, held = inputs["input_ids"], held_by(cache_of(inputs))
        images = ids == self.adapter.image_token
        if self.cuts or (held is None and (images.any() or has_images(self.adapter, inputs))):
            raise FoveateError(
                "past_key_values that already hold tokens: the cache holds fewer tokens than the prompt, in which "
                "`generate` would look for those that are new. Give the whole conversation without past_key_values"
            )
        if held is None:
            return inputs
        known = held.ids.shape[1] + length_of(cache_of(inputs)) - held.short.shape[1]
        if images[:, known + 1 :].any():  # a model may say its image token
            raise FoveateError(_NEW_IMAGES)
        check_positions(inputs)
        seen = (*self.adapter.image_inputs, "mm_encoder_outputs")  # of images that the cache holds
        return held.further({name: value for name, value in inputs.items() if name not in seen}, whole=True)

    @contextmanager
    def _in(self, conversation: Conversation | NextTurn | None) -> Iterator[None]:
        before, self._inside.conversation = self._inside.conversation, conversation
        try:
            yield
        finally:
            self._inside.conversation = before

    def _joined(self, inputs: dict[str, Any]) -> dict[str, Any]:
        given = given_of(self.adapter, inputs)
        if given is None:
            return inputs
        others = inputs["mm_encoder_outputs"]
        return {**inputs, "mm_encoder_outputs": {**others, self.adapter.modality: self.adapter.joined_output(given)}}

    def _compressed(self, inputs: dict[str, Any]) -> Compressed:
        adapter = self.adapter
        if pixels_of(adapter, inputs) is None:
            return self.compress(given_images(adapter, given_of(adapter, inputs).pooler_output))
        images = {name: inputs[name] for name in adapter.image_inputs if inputs.get(name) is not None}
        if missing := [name for name in adapter.image_inputs[:2] if name not in images]:
            raise ValueError(f"this model's images need {', '.join(missing)}: build the inputs with its own processor")
        arrangements = adapter.arrangements(images, runs_of(inputs["input_ids"] == adapter.image_token))
        texts = cache(lambda: self._asked(inputs, arrangements))

        def batch_of(rows: list[int]) -> ImageBatch:
            some = images if len(rows) == len(arrangements) else adapter.chosen(images, rows, arrangements)
            return LiveImages(adapter, some, arrangements[rows[0]], lambda: texts().of(rows), self.texts.companion)

        return in_groups(lambda some: self.compress(some, adapter.extra_needs), group_by_shape(arrangements), batch_of)

    def _asked(self, inputs: dict[str, Any], arrangements: Sequence[Arrangement]) -> Texts:
        """Of each image the prompt that it stands in; its question is the text behind the last image."""
        ids, token = inputs["input_ids"], self.adapter.image_token
        mask = self.adapter.mask(ids) if inputs.get("attention_mask") is None else inputs["attention_mask"]
        prompts, questions = [], []
        groups = prompts_of((ids == token).sum(1).tolist(), arrangements)
        for row, real, images in zip(ids, mask.bool(), groups, strict=True):
            prompt = row[real].tolist()
            prompts += [prompt] * len(images)
            questions += [self.adapter.question(prompt, self.texts.tail)] * len(images)
        return Texts(prompts, questions, self.texts.spell(questions) if self.texts.spell else None)


@contextmanager
def compressing(attachment: Attachment) -> Iterator[None]:
    """While active, `generate` and `forward` of the stock model see compressed images.

    `generate` still returns the full prompt followed by the new tokens, so that callers who cut off the prompt by its
    length go on working. On leaving, the model is as it was.
    """
    model: Any = attachment.adapter.model
    if _ATTACHED in vars(model):
        raise FoveateError("this model already has a compressor attached: leave its `with` first")
    before = {name: vars(model).get(name) for name in ("generate", "forward")}
    generate, forward = model.generate, model.forward
    model.generate = wraps(generate)(lambda *args, **kwargs: attachment.generate(generate, args, kwargs))
    model.forward = wraps(forward)(lambda *args, **kwargs: attachment.forward(forward, args, kwargs))
    setattr(model, _ATTACHED, True)
    inner = attachment.adapter.inner.register_forward_pre_hook(
        partial(check_inner, attachment.adapter), with_kwargs=True
    )
    try:
        yield
    finally:
        inner.remove()
        delattr(model, _ATTACHED)
        for name, function in before.items():
            delattr(model, name) if function is None else setattr(model, name, function)
