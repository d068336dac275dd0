"""Compression inside a stock model's own `forward` and `generate`; on leaving, the model is as it was."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial, wraps
from threading import Lock, local
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache, StaticCache

from foveate.core.contracts import Cut, Pictures
from foveate.core.errors import FoveateError
from foveate.core.types import Compressed
from foveate.models.cutting import Cutting, cuts_of
from foveate.models.decoder import Layout
from foveate.models.llava import Llava
from foveate.models.packing import pack
from foveate.models.pictures import GivenPictures, SeenPictures, Texts, TextSide

Compress = Callable[[Pictures], Compressed]
Note = Callable[[Compressed, Layout, Cutting], None]
_ATTACHED = "_foveate_attached"


class _Inside(local):
    """Whether this thread is in stock `generate`, which calls `forward` with what was shortened already."""

    generate = False


class Attachment:
    """What `compressing` does in one call of the model.

    Args:
        llava: The model.
        compress: The vision side of a compressor.
        repack: Its positions; see `pack`.
        stages: Its cuts inside the language model.
        note: Told what became of each call's images.
        texts: For text-aware scorers.
    """

    def __init__(
        self,
        llava: Llava,
        compress: Compress,
        repack: bool,
        stages: Sequence[Cut],
        note: Note,
        texts: TextSide,
    ) -> None:
        self.llava, self.compress, self.repack, self.stages, self.note = llava, compress, repack, stages, note
        self.texts = texts
        self._inside = _Inside()
        self._cutting = Lock()

    @contextmanager
    def shortened(self, inputs: dict[str, Any], generating: bool) -> Iterator[dict[str, Any]]:
        """Inputs with compressed images, for a call inside the context; there the stages cut.

        Raises:
            ValueError: What is given does not determine where the images stand.
            FoveateError: The compressor cannot work with what is given.
        """
        if inputs.get("input_ids") is None:
            raise ValueError("compression needs input_ids: image tokens cannot be found in inputs_embeds")
        if inputs.get("vision_feature_layer") is not None:
            raise ValueError("vision_feature_layer cannot be changed per call: set it in the model's configuration")
        if inputs.get("vision_feature_select_strategy") is not None:
            raise ValueError("vision_feature_select_strategy cannot be changed per call: it belongs to the model")
        if inputs.get("pixel_values") is not None and (inputs.get("mm_encoder_outputs") or {}).get("image") is not None:
            raise ValueError("give pixel_values or mm_encoder_outputs, not both")
        if self.stages:
            _refuse(inputs, self.llava, generating)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not generating):
            compressed = self.compress(self._pictures(inputs))
            result, layout = pack(self.llava, inputs, compressed, self.repack)
        cuts = cuts_of(self.llava.decoder, layout, self.stages, compressed)
        with ExitStack() as stack:
            if self.stages:
                stack.enter_context(self._cutting)  # hooks are the model's, so one call at a time
                stack.enter_context(_cutting(self.llava, cuts))
            yield result
        self.note(compressed, layout, cuts)

    def generate(self, stock: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:  # noqa: ANN401 (as in transformers)
        """What `generate` does while attached; `stock` is the model's own."""
        inputs = _by_name(stock, args, kwargs)
        if inputs.get("inputs") is not None:
            inputs["input_ids"] = inputs.pop("inputs")
        if _holds_tokens(inputs.get("past_key_values")):
            return stock(**self._next_turn(inputs))
        _check_images(inputs)
        with self.shortened(inputs, generating=True) as shortened:
            self._inside.generate = True
            try:
                length, short = inputs["input_ids"].shape[1], shortened["input_ids"].shape[1]
                output = stock(**{**shortened, **_limits(inputs, self.llava, length - short)})
            finally:
                self._inside.generate = False
        return _with_prompt(output, inputs["input_ids"], short)

    def forward(self, stock: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:  # noqa: ANN401
        """What `forward` does while attached."""
        inputs = _by_name(stock, args, kwargs)
        if self._inside.generate:
            return stock(**inputs)
        if not _holds_tokens(inputs.get("past_key_values")):
            _check_images(inputs)
        elif self.stages:
            raise FoveateError(
                "a method that cuts inside the language model cannot go on from past_key_values in forward: use "
                "generate, which keeps track of what every block knows"
            )
        if not _has_images(inputs):
            return stock(**inputs)
        with self.shortened(inputs, generating=False) as shortened:
            return stock(**shortened)

    def _next_turn(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """The inputs as they are, if stock `generate` can go on from the cache.

        Raises:
            FoveateError: It cannot.
        """
        if self.stages or _has_images(inputs) or (inputs["input_ids"] == self.llava.image_token).any():
            raise FoveateError(
                "past_key_values that already hold tokens: the cache holds fewer tokens than the prompt, in which "
                "`generate` would look for those that are new. Give the whole conversation without past_key_values"
            )
        return inputs

    def _pictures(self, inputs: dict[str, Any]) -> Pictures:
        if inputs.get("pixel_values") is None:
            given: Any = inputs["mm_encoder_outputs"]["image"].pooler_output
            counts = [len(image) for image in given]
            if len(set(counts)) != 1:
                raise ValueError(f"mm_encoder_outputs holds {counts} tokens: expected equally many of every image")
            return GivenPictures(self.llava, given if isinstance(given, Tensor) else torch.stack(list(given)))
        return SeenPictures(self.llava, inputs["pixel_values"], lambda: self._asked(inputs), self.texts.companion)

    def _asked(self, inputs: dict[str, Any]) -> Texts:
        """Of each image the prompt that it stands in; its question is the text behind the last image."""
        ids, token = inputs["input_ids"], self.llava.image_token
        mask = self.llava.mask(ids) if inputs.get("attention_mask") is None else inputs["attention_mask"]
        prompts, questions = [], []
        for row, real in zip(ids, mask.bool(), strict=True):
            prompt = row[real].tolist()
            images = prompt.count(token) // self.llava.tower.grid.patches
            prompts += [prompt] * images
            questions += [self.llava.question(prompt, self.texts.tail)] * images
        return Texts(prompts, questions, self.texts.spell(questions) if self.texts.spell else None)


@contextmanager
def compressing(attachment: Attachment) -> Iterator[None]:
    """While active, `generate` and `forward` of the stock model see compressed images.

    `generate` still returns the full prompt followed by the new tokens, so that callers who cut off the prompt by its
    length go on working. On leaving, the model is as it was.
    """
    model: Any = attachment.llava.model
    if _ATTACHED in vars(model):
        raise FoveateError("this model already has a compressor attached: leave its `with` first")
    before = {name: vars(model).get(name) for name in ("generate", "forward")}
    generate, forward = model.generate, model.forward
    model.generate = wraps(generate)(lambda *args, **kwargs: attachment.generate(generate, args, kwargs))
    model.forward = wraps(forward)(lambda *args, **kwargs: attachment.forward(forward, args, kwargs))
    setattr(model, _ATTACHED, True)
    try:
        yield
    finally:
        delattr(model, _ATTACHED)
        for name, function in before.items():
            delattr(model, name) if function is None else setattr(model, name, function)


@contextmanager
def _cutting(llava: Llava, cuts: Cutting) -> Iterator[None]:
    """Hooks that cut the prompt before its stages' blocks and give every later pass what its blocks know."""
    decoder = llava.decoder
    prompt, state = True, {}

    def hook(block: nn.Module, args: tuple, kwargs: dict[str, Any], number: int) -> tuple[tuple, dict[str, Any]]:
        nonlocal prompt
        states = args[0]
        if number == 0:
            prompt = kwargs["past_key_values"] is None or kwargs["past_key_values"].get_seq_length() == 0
            if prompt and len(states) != len(cuts.segments[0].real):
                cuts.expand(len(states) // len(cuts.segments[0].real))
            if not prompt:
                cuts.advance(torch.ones(states.shape[:2], dtype=torch.bool, device=states.device))
        if prompt:
            states = cuts.enter(number, states)
        segment = cuts.segment(number)
        if segment.start == 0:
            return (states, *args[1:]), kwargs
        if number == segment.start:
            position = cuts.tokens.position if prompt else kwargs["position_ids"] - segment.shift[:, None]
            state["attention_mask"] = decoder.mask(states, segment.real, kwargs["past_key_values"], number)
            state["position_ids"], state["position_embeddings"] = position, decoder.rotation(states, position)
        return (states, *args[1:]), {**kwargs, **state}

    with ExitStack() as stack:
        stack.enter_context(cuts.listening())
        for number, block in enumerate(decoder.blocks):
            stack.callback(block.register_forward_pre_hook(partial(hook, number=number), with_kwargs=True).remove)
        yield


def _refuse(inputs: dict[str, Any], llava: Llava, generating: bool) -> None:
    """What a method that cuts inside the language model cannot work with."""
    config = inputs.get("generation_config") or llava.model.generation_config

    def option(name: str) -> Any:  # noqa: ANN401
        return inputs[name] if inputs.get(name) is not None else getattr(config, name, None)

    cache = inputs.get("past_key_values")
    static = isinstance(cache, StaticCache) or "static" in str(option("cache_implementation"))
    sliding = any("sliding" in kind for kind in getattr(llava.decoder.config, "layer_types", None) or ())
    sliding = sliding or "sliding" in str(option("cache_implementation")) or any(getattr(cache, "is_sliding", ()))
    reasons = {
        "chunked prefill (prefill_chunk_size)": option("prefill_chunk_size") is not None,
        "assisted decoding": inputs.get("assistant_model") is not None
        or option("prompt_lookup_num_tokens") is not None,
        "decoding without a cache (use_cache=False)": generating and option("use_cache") is False,
        "a loss (labels)": inputs.get("labels") is not None,
        "a static cache on a GPU": static and llava.model.device.type != "cpu",
        "a sliding-window cache": sliding,
    }
    for reason, given in reasons.items():
        if given:
            raise FoveateError(
                f"{reason} does not work with a method that cuts inside the language model, where every block knows "
                "other tokens: switch it off, or use a method that compresses before the language model"
            )


def _limits(inputs: dict[str, Any], llava: Llava, removed: int) -> dict[str, int]:
    """Limits of the whole length, which count the prompt as the caller knows it, for the shortened prompt."""
    config = inputs.get("generation_config") or llava.model.generation_config
    limits = {}
    for name, new in (("max_length", "max_new_tokens"), ("min_length", "min_new_tokens")):
        counted = inputs.get(new) is not None or getattr(config, new, None) is not None
        if not counted and (total := inputs.get(name) or getattr(config, name, None)):
            limits[name] = max(1, total - removed)
    return limits


def _holds_tokens(cache: Any) -> bool:  # noqa: ANN401
    return cache is not None and (not isinstance(cache, Cache) or bool(cache.get_seq_length() > 0))


def _has_images(inputs: dict[str, Any]) -> bool:
    return inputs.get("pixel_values") is not None or bool((inputs.get("mm_encoder_outputs") or {}).get("image"))


def _check_images(inputs: dict[str, Any]) -> None:
    if not _has_images(inputs):
        raise FoveateError(
            "this call has no image (neither pixel_values nor mm_encoder_outputs), so there is nothing to compress: "
            "leave the `with` for prompts without an image"
        )


def _by_name(function: Callable, args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
    """All arguments of a call by name; those of `**kwargs` too."""
    bound = inspect.signature(function).bind(*args, **kwargs).arguments
    return {**{name: value for name, value in bound.items() if name != "kwargs"}, **bound.get("kwargs", {})}


def _with_prompt(output: Any, prompt: Tensor, shortened: int) -> Any:  # noqa: ANN401
    """Puts the caller's prompt in the place of the shortened one."""
    sequences = output if isinstance(output, Tensor) else output.sequences
    prompts = prompt.repeat_interleave(len(sequences) // len(prompt), 0)
    sequences = torch.cat([prompts, sequences[:, shortened:]], 1)
    if isinstance(output, Tensor):
        return sequences
    output.sequences = sequences
    return output
