"""Blocks on other devices than the prompt, simulated on the CPU.

Every tensor belongs to one of several simulated devices; a function that receives tensors of two of them raises an
error, as with two GPUs. Blocks move their inputs to their own device, as accelerate's hooks do.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils._pytree import tree_leaves, tree_map

from foveate.compressors import DecoderCompressor, VisionCompressor
from foveate.compressors.base import compressed_by
from foveate.methods import pyramiddrop, sparsevlm, sparsevlm_plus
from foveate.models.loading.load import adapt
from foveate.models.runtime.generation import Decoding, answer_each
from foveate.models.runtime.images import LiveImages
from foveate.scorers import PromptAttention, Random
from foveate.testing.families import END, FAMILIES, START, image_inputs

CPU = torch.device("cpu")
PLACES = [torch.device("cuda", number) for number in range(2)]
OPTIONS: dict[str, Any] = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False}
METHODS = {
    "behind the tower": VisionCompressor(Random(), 5),
    "kept places": VisionCompressor(Random(), 5, positions="original"),
    "one cut": DecoderCompressor(PromptAttention(1), 4, layer=2),
    "asked ahead": DecoderCompressor(PromptAttention(2, rotary=False), 4, layer=2, positions="repacked"),
    "several cuts": pyramiddrop(8, (1, 2, 3)),
    "recycling": sparsevlm(16, (0, 1, 2)),
    "debiased": sparsevlm_plus(16, (0, 1, 2)),
}


class Places(TorchFunctionMode):
    """A mode that tracks the device of each tensor; untracked ones are on the CPU, where scalars may be read."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        name = resolve_name(func) or ""
        if func == Tensor.device.__get__:
            return place_of(args[0])
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if name.endswith((".to", ".cpu", ".cuda")) and given:
            return self._moved(func, args, kwargs)
        wanted = kwargs.pop("device", None)
        places = {place_of(leaf) for leaf in given if leaf.ndim} or {place_of(leaf) for leaf in given}
        if name.endswith((".__getitem__", ".__setitem__", "index_put_")):  # an index may be on the CPU
            places = {place_of(args[0])} | {p for p in places if p != CPU}
        if len(places) > 1:
            raise RuntimeError(f"{name}: tensors on {sorted(map(str, places))}")
        found = func(*args, **kwargs)
        here = torch.device(wanted) if wanted is not None else next(iter(places), CPU)
        inplace = isinstance(found, Tensor) and any(found is leaf for leaf in given)
        return found if inplace else tree_map(lambda leaf: put(leaf, here), found)

    def _moved(self, func, args, kwargs):
        value, rest = args[0], list(args[1:])
        target = kwargs.pop("device", None)
        for number, part in enumerate(rest):
            if isinstance(part, torch.device) or (isinstance(part, str) and part.startswith(("cpu", "cuda"))):
                target = rest.pop(number)
                break
        if rest and isinstance(rest[0], Tensor):
            target = place_of(rest[0])
        if getattr(func, "__name__", "") == "cpu":
            target, func = CPU, Tensor.to
        found = func(value, *rest, **kwargs) if rest or kwargs else value.view_as(value)
        if found is value:
            found = value.view_as(value)
        return put(found, torch.device(target) if target is not None else place_of(value))


def place_of(value: Tensor) -> torch.device:
    return vars(value).get("place", CPU) if hasattr(value, "__dict__") else CPU


def put(value: Any, place: torch.device) -> Any:
    if isinstance(value, Tensor):
        value.place = place
    return value


@contextmanager
def placed(model: Any) -> Iterator[None]:
    """Places the last blocks on the second device and everything else on the first while the context is active."""

    def everything(module: Any, place: torch.device) -> None:
        for value in [*module.parameters(), *module.buffers()]:
            value.place = place

    def bringing(stock: Any, place: torch.device) -> Any:
        @wraps(stock)
        def forward(*args: Any, **kwargs: Any) -> Any:
            bring = lambda leaf: leaf.to(place) if isinstance(leaf, Tensor) else leaf  # noqa: E731
            return stock(*tree_map(bring, args), **{k: tree_map(bring, v) for k, v in kwargs.items()})

        return forward

    everything(model, PLACES[0])
    language: Any = model.model.language_model
    moved = [*language.layers[2:], language.norm]
    with Places():
        for module in moved:
            everything(module, PLACES[1])
            module.forward = bringing(module.forward, PLACES[1])
        for module in (*language.layers[:2], language.rotary_emb, model.lm_head):
            module.forward = bringing(module.forward, PLACES[0])
        yield


def batch() -> dict[str, Tensor]:
    ids = torch.tensor([[0, 0, 5, 6, START, *[119] * 36, END, 9, 10], [3, 4, 5, 6, START, *[119] * 36, END, 9, 11]])
    images = torch.cat([image["pixel_values"] for image in image_inputs("LLaVA-1.5")[:2]])
    return {"input_ids": ids, "attention_mask": (ids != 0).long(), "pixel_values": images}


@torch.no_grad()
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_blocks_may_lie_on_another_device_than_the_prompt(method):
    inputs = batch()
    alone: Any = FAMILIES["LLaVA-1.5"]()
    with method.attached(alone) as run:
        expected, kept = alone.generate(**inputs, **OPTIONS), [kept.tolist() for kept in run.kept]
    model: Any = FAMILIES["LLaVA-1.5"]()
    with placed(model):
        inputs = {name: value.to(PLACES[0]) for name, value in inputs.items()}
        with method.attached(model) as run:
            found = model.generate(**inputs, **OPTIONS)
            assert run.tokens.equivalent.tolist() and run.scores.shape[0] == 2
            assert [row.tolist() for row in run.kept] == kept
            looped = model(**inputs, use_cache=True).logits[:, -1].argmax(-1)
        assert found.tolist() == expected.tolist()
        assert looped.tolist() == expected[:, -3].tolist()
        adapter: Any = adapt(model)
        seen = LiveImages(adapter, {"pixel_values": inputs["pixel_values"]}, adapter.arrangements(inputs, [])[0])
        prompts = [
            row[mask.bool()].tolist() for row, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True)
        ]
        drafts = [[*row[-3:-1], 7] for row in expected.tolist()]
        for given in ((), drafts):
            compressed = compressed_by(method, seen, adapter.extra_needs)
            answers, _ = answer_each(adapter, prompts, compressed, method.repack, method.cuts, Decoding(3, given))
            assert answers.tokens == expected[:, -3:].tolist()


def test_the_stand_in_refuses_to_mix():
    with Places():
        one, other = (torch.ones(2).to(place) for place in PLACES)
        assert (one + one).device == PLACES[0]
        with pytest.raises(RuntimeError, match=r"add: tensors on \['cuda:0', 'cuda:1'\]"):
            one + other
