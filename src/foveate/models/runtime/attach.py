"""Attaches a compressor to a stock model's own `forward` and `generate`, and restores the model on leaving."""

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache, partial, wraps
from threading import RLock, local
from typing import Any

import torch
from torch import Tensor

from foveate.core.arrangement import Arrangement
from foveate.core.compression import Compressed
from foveate.core.contracts import Cut
from foveate.core.errors import FoveateError
from foveate.core.needs import Fingerprint, Need, Role
from foveate.models.backbone.adapter import Adapter
from foveate.models.backbone.decoder import Layout
from foveate.models.backbone.grouping import in_groups
from foveate.models.runtime.call_inputs import (
    check_cut_options,
    check_images,
    check_inner,
    check_inputs,
    check_positions,
    features_of,
    given_images,
    has_images,
    limits_of,
    named_arguments,
    pixels_of,
    sequences_of,
    with_prompt,
)
from foveate.models.runtime.hooks import CompressedCall, hooked, naming_one_graph
from foveate.models.runtime.images import Texts, TextSide, chosen, live_by_shape, texts_of
from foveate.models.runtime.kv_cache import (
    CachedPrompt,
    NextTurn,
    cache_of,
    cached_prompt_of,
    fingerprint_of,
    holds_tokens,
    length_of,
    set_cached_prompt,
)
from foveate.models.runtime.packing import host_inputs, in_reading_order, pack, pixel_inputs, prompts_of
from foveate.models.runtime.prefix_cache import Prefixes
from foveate.models.runtime.pruning import Pruning, pruning_of

Compress = Callable[..., Compressed]
OnResult = Callable[[Compressed, Layout, Pruning], None]
_ATTACHED = "_foveate_attached"
_NEW_IMAGES = (
    "new images after past_key_values that already hold tokens are not compressed: give the whole conversation "
    "without past_key_values"
)


class _Current(local):
    """The call of stock `generate` that runs in this thread and calls `forward` with shortened inputs."""

    call: CompressedCall | NextTurn | None = None


@dataclass(frozen=True, eq=False)
class Method:
    """A compressor as an attachment uses it.

    Attributes:
        compress: Compresses images of one arrangement before the language model.
        repack: Whether to number the tokens consecutively; see `pack`.
        cuts: Cuts inside the language model.
        needs: What the compressor reads; with a `Fingerprint` the pixels are read together with the prompts.
    """

    compress: Compress
    repack: bool
    cuts: Sequence[Cut]
    needs: Sequence[Need]


class Attachment:
    """A compressor attached to a model: replaces the model's `generate` and `forward` in `compressing`.

    Args:
        adapter: The model's adapter.
        method: The compressor.
        on_result: Receives the compressed images, layout and pruning of each call.
        texts: Companion and tokenizer for text-aware scorers.
        prefixes: Cache of images and prompts; None keeps nothing.
    """

    def __init__(
        self,
        adapter: Adapter,
        method: Method,
        on_result: OnResult,
        texts: TextSide,
        prefixes: Prefixes | None = None,
    ) -> None:
        self.adapter, self.compress, self.repack, self.cuts = adapter, method.compress, method.repack, method.cuts
        self.on_result, self.texts, self.prefixes = on_result, texts, prefixes
        self.reads_pixels = any(Fingerprint() in part.needs for part in (method, *self.cuts))
        self._current = _Current()
        self._hooks_lock = RLock()

    @contextmanager
    def shortened(
        self, inputs: dict[str, Any], generating: bool, keys: Sequence[Hashable] = ()
    ) -> Iterator[tuple[dict[str, Any], CompressedCall]]:
        """Yields inputs with compressed images, for use inside the context, and the state of this call.

        Args:
            inputs: The caller's inputs.
            generating: Whether they are those of `generate`.
            keys: Keys of the images, if they are known; see `Prefixes.keys`.

        Raises:
            ValueError: The inputs do not determine the positions of the images in the prompts.
            FoveateError: The compressor does not support an option of the call.
        """
        check_inputs(self.adapter, inputs)
        if self.cuts:
            check_cut_options(inputs, self.adapter, self.cuts, generating)
        ids, on_host = inputs["input_ids"], host_inputs(self.adapter, inputs, self.reads_pixels)
        inputs = on_host | pixel_inputs(self.adapter, inputs)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not generating):
            compressed = self._compressed(inputs, on_host, keys)
            result, layout = pack(self.adapter, inputs, compressed, self.repack, ids.device)
        pruning = pruning_of(self.adapter.decoder, layout, self.cuts, compressed)
        late = layout.late
        if late is not None and not self.cuts:  # prompts that lost no token continue as in the stock model
            remaining = (layout.patch >= 0) | (layout.role == Role.SEPARATOR)
            removed = remaining.sum(1) < self.adapter.is_placeholder(ids).sum(1)
            late = late.masked_fill(~removed, 0)
        call = CompressedCall(pruning, features_of(self.adapter, result), result["input_ids"].shape, late)
        with ExitStack() as stack:
            if self.cuts:
                stack.enter_context(self._hooks_lock)  # threads share the model's hooks
            if self.cuts or self.adapter.decoder.flashes:
                stack.enter_context(hooked(self.adapter.decoder, call))
            yield result, call
        if call.cache is not None:
            short, real = result["input_ids"], result["attention_mask"].bool()
            axes, fingerprint = self.adapter.position_axes, fingerprint_of(call.cache, short.shape[1])
            resumed = layout.following if layout.resumed is None else layout.resumed
            prompt = CachedPrompt(ids, short, real, resumed, axes, bool(self.cuts), fingerprint)
            set_cached_prompt(call.cache, prompt)
        call.chosen = (compressed, layout, pruning)
        self.on_result(*call.chosen)

    def generate(self, stock: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:  # noqa: ANN401 (as in transformers)
        """Runs `stock`, the model's own `generate`, with compressed images."""
        inputs = named_arguments(stock, args, kwargs) if args else dict(kwargs)
        if inputs.get("inputs") is not None:
            inputs["input_ids"] = inputs.pop("inputs")
        if self.prefixes is None:
            return self._generated(stock, inputs)[0]
        self.prefixes.cache.reused = 0
        if not self.prefixes.keeps_prompt(inputs):
            return self._generated(stock, inputs)[0]
        check_inputs(self.adapter, inputs)  # also if nothing is compressed anew
        keys = self.prefixes.keys(*self._images(host_inputs(self.adapter, inputs)))
        inputs, known = self.prefixes.opened(keys, inputs)
        output, call = self._generated(stock, inputs, keys)
        if known is not None:
            self.on_result(*known)
        self.prefixes.keep(keys, sequences_of(output), cache_of(inputs), known or call.chosen)
        return output

    def _generated(
        self, stock: Callable, inputs: dict[str, Any], keys: Sequence[Hashable] = ()
    ) -> tuple[Any, CompressedCall | NextTurn]:
        """Returns the output of `stock` for a prompt or the next turn of a conversation, and the call."""
        with ExitStack() as stack:
            if holds_tokens(cache_of(inputs)):
                shortened, call = self._next_turn(inputs), NextTurn(cache_of(inputs))
            else:
                check_images(self.adapter, inputs)
                shortened, call = stack.enter_context(self.shortened(inputs, True, keys))
            stack.enter_context(self._running(call))
            stack.enter_context(naming_one_graph(bool(self.cuts)))
            length, short = inputs["input_ids"].shape[1], shortened["input_ids"].shape[1]
            output = stock(**{**shortened, **limits_of(inputs, self.adapter, length - short)})
        return with_prompt(output, inputs["input_ids"], short), call

    def forward(self, stock: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:  # noqa: ANN401
        """Runs `stock`, the model's own `forward`, with compressed images."""
        inputs = named_arguments(stock, args, kwargs) if args else kwargs  # binding them takes longer than a kernel
        if (call := self._current.call) is None:
            return self._run(stock, inputs)
        if call.owns(features_of(self.adapter, inputs), cache_of(inputs)):
            return call.run(stock, self._joined(inputs))
        with self._running(None):  # a logits processor may run another prompt
            return self._run(stock, inputs, other=True)

    def _run(self, stock: Callable, inputs: dict[str, Any], other: bool = False) -> Any:  # noqa: ANN401
        """Runs a pass that does not belong to `generate`.

        Args:
            stock: The model's own `forward`.
            inputs: Its arguments.
            other: Whether a call of `generate` runs meanwhile; then the prompt may have no image.
        """
        cache = cache_of(inputs)
        if holds_tokens(cache):
            return stock(**self._continued(inputs, other))
        if not has_images(self.adapter, inputs) and other:
            return stock(**inputs)
        check_images(self.adapter, inputs)
        with self.shortened(inputs, generating=False) as (shortened, call), call.acting(True):
            with naming_one_graph(bool(self.cuts)):
                output = stock(**self._joined(shortened))
            call.cache = getattr(output, "cache", None) or getattr(output, "past_key_values", None)
        return output

    def _continued(self, inputs: dict[str, Any], other: bool) -> dict[str, Any]:
        """Returns the inputs of a `forward` that continues from a cache.

        Raises:
            FoveateError: The cache comes from a method with cuts, there are new images, or the caller gives positions.
        """
        prompt = cached_prompt_of(cache_of(inputs))
        if (prompt is None and self.cuts and not other) or (prompt is not None and prompt.cut):
            raise FoveateError(
                "a method that cuts inside the language model cannot continue from past_key_values in forward: use "
                "generate, which keeps track of the tokens of every block"
            )
        if has_images(self.adapter, inputs):
            raise FoveateError(_NEW_IMAGES)
        if prompt is None:
            return inputs
        check_positions(inputs)
        return prompt.continued(_without(inputs, self.adapter.token_inputs), whole=False)

    def _next_turn(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """Returns the inputs of a `generate` that continues from a cache.

        Raises:
            FoveateError: The method has cuts, there are new images, or the cache does not belong to the prompt.
        """
        ids, prompt = inputs["input_ids"], cached_prompt_of(cache_of(inputs))
        images = self.adapter.is_placeholder(ids)
        if self.cuts or (prompt is None and (images.any() or has_images(self.adapter, inputs))):
            raise FoveateError(
                "past_key_values that already hold tokens: the cache holds fewer tokens than the prompt, so `generate` "
                "cannot tell which tokens are new. Give the whole conversation without past_key_values"
            )
        if prompt is None:
            return inputs
        known = prompt.ids.shape[1] + length_of(cache_of(inputs)) - prompt.short.shape[1]
        if images[:, known + 1 :].any():  # the model may have generated its image token
            raise FoveateError(_NEW_IMAGES)
        check_positions(inputs)
        encoded = (name for kind in self.adapter.kinds for name in kind.image_inputs)
        cached = (*encoded, *self.adapter.token_inputs, "mm_encoder_outputs")
        return prompt.continued(_without(inputs, cached), whole=True)

    @contextmanager
    def _running(self, call: CompressedCall | NextTurn | None) -> Iterator[None]:
        before, self._current.call = self._current.call, call
        try:
            yield
        finally:
            self._current.call = before

    def _joined(self, inputs: dict[str, Any]) -> dict[str, Any]:
        if features_of(self.adapter, inputs) is None:
            return inputs
        kinds = {kind.modality: kind for kind in self.adapter.kinds}
        outputs = inputs["mm_encoder_outputs"].items()
        joined = {
            name: kinds[name].joined_output(output) if name in kinds and output is not None else output
            for name, output in outputs
        }
        return {**inputs, "mm_encoder_outputs": joined}

    def _compressed(self, inputs: dict[str, Any], on_host: dict[str, Any], keys: Sequence[Hashable]) -> Compressed:
        """Returns the compressed images.

        Args:
            inputs: The inputs of the call, with the prompts on the host.
            on_host: The same, also with the pixels on the host if they have been read.
            keys: Keys of the images, if they are known.
        """
        adapter = self.adapter
        if pixels_of(adapter, inputs) is None:
            return self.compress(given_images(adapter, features_of(adapter, inputs).pooler_output))
        images, arrangements = self._images(inputs)
        read = images | pixel_inputs(adapter, on_host)
        texts = cache(partial(self._texts, inputs, arrangements))

        def compressed(rows: list[int]) -> Compressed:
            some = chosen(adapter, images, rows, arrangements)
            about = [arrangements[row] for row in rows]
            compress = partial(self.compress, extra_needs=adapter.extra_needs)
            known = chosen(adapter, read, rows, arrangements) if self.reads_pixels else None
            groups = live_by_shape(adapter, some, about, lambda: texts().of(rows), self.texts.companion, known)
            return in_groups(compress, *groups)

        if self.prefixes is None or torch.is_grad_enabled():
            return compressed(list(range(len(arrangements))))
        prompts = texts().prompts if self.prefixes.reads else ()
        return self.prefixes.compressed(keys or self.prefixes.keys(read, arrangements, prompts), compressed)

    def _images(self, inputs: dict[str, Any]) -> tuple[dict[str, Tensor], list[Arrangement]]:
        """Returns the inputs of the images and videos of a call, and their arrangements in reading order."""
        images: dict[str, Tensor] = {}
        found = []
        for kind in self.adapter.apart:
            if inputs.get(kind.image_inputs[0]) is None:
                continue
            own = {name: inputs[name] for name in kind.image_inputs if inputs.get(name) is not None}
            if missing := [name for name in kind.image_inputs[:2] if name not in own]:
                raise ValueError(
                    f"{type(kind.model).__name__} needs {', '.join(missing)} for its {kind.modality}s: build the "
                    "inputs with the model's own processor"
                )
            found.append((kind.image_token, kind.arrangements_in(own, inputs["input_ids"])))
            images |= own
        return images, in_reading_order(inputs["input_ids"], found)

    def _texts(self, inputs: dict[str, Any], arrangements: Sequence[Arrangement]) -> Texts:
        """Returns for each image its prompt, and as question the text after the prompt's last image."""
        ids = inputs["input_ids"]
        mask = self.adapter.mask(ids) if inputs.get("attention_mask") is None else inputs["attention_mask"]
        groups = prompts_of(self.adapter.is_placeholder(ids).sum(1).tolist(), arrangements)
        prompts = [row[real].tolist() for row, real in zip(ids, mask.bool(), strict=True)]
        return texts_of(self.adapter, self.texts, prompts, [len(images) for images in groups])


def _without(inputs: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: value for name, value in inputs.items() if name not in names}


@contextmanager
def compressing(attachment: Attachment) -> Iterator[None]:
    """Replaces `generate` and `forward` of the stock model by versions that compress images, and restores both.

    `generate` still returns the full prompt followed by the new tokens, so that code that removes the prompt by its
    length keeps working.

    Raises:
        FoveateError: The model already has a compressor attached.
    """
    model: Any = attachment.adapter.model
    if _ATTACHED in vars(model):
        raise FoveateError("this model already has a compressor attached: leave its `with` block first")
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
