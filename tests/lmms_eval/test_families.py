"""Checkpoints of every family that takes images, loaded as a user loads them and run on lmms-eval's requests."""

import numpy as np
import pytest
import torch
from PIL import Image

from foveate.compressors import Fallback
from foveate.models.loading.load import load
from foveate.testing.checkpoints import save_family

pytest.importorskip("lmms_eval", reason="lmms-eval is not installed: docs/how_to/lmms_eval.md")
from foveate.lmms_eval.model import Foveate
from tests.lmms_eval.asking import generating
from tests.tiers import extended

SHAPES = [(20, 50), (60, 61), (20, 50), (50, 22)]
FAMILIES = [
    "LLaVA-1.5",
    "LLaVA-NeXT",
    "LLaVA-OneVision",
    "InternVL",
    "Qwen2.5-VL",
    "Qwen3-VL",
    "Qwen3-VL-MoE",
    "GLM-4.1V",
]
NEW = 4
FURTHER = [pytest.param(name, marks=extended("every")) for name in FAMILIES[1:]]


@pytest.fixture(scope="module", params=[FAMILIES[0], *FURTHER])
def folder(request, tmp_path_factory):
    return save_family(request.param, tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def docs():
    """Questions about one image, about several, and about none."""
    noise = np.random.default_rng(0)
    images = [Image.fromarray(noise.integers(0, 255, (*shape, 3), dtype=np.uint8)) for shape in SHAPES]
    rows = [([0], "w20 w21"), ([1, 2], "w30 <image> w31 <image> w32"), ([], "w40 w41 w42"), ([3], "w50"), ([2], "w60")]
    return [{"images": [images[i] for i in chosen], "text": text} for chosen, text in rows]


def stock(loaded, doc):
    """Returns the stock model's answer to one prompt, whose text and images are joined here."""
    tokenizer, adapter = loaded.processor.tokenizer, loaded.adapter
    images, parts = doc["images"], doc["text"].split("<image>")
    if len(parts) == 1:
        parts = [""] * len(images) + parts
    content = [{"type": "text", "text": parts[0].strip()}]
    for part in parts[1:]:
        content += [{"type": "image"}, {"type": "text", "text": part.strip()}]
    content = [part for part in content if part != {"type": "text", "text": ""}]
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )
    inputs, arrangements = loaded.image_inputs(images, [len(images)]) if images else ({}, [])
    framed = type(loaded.model).__name__.startswith("InternVL")
    for arrangement in arrangements:
        run = "<placeholder>" * arrangement.length
        text = text.replace(tokenizer.image_token, f"<img>{run}</img>" if framed else run, 1)
    ids = tokenizer(text.replace("<placeholder>", tokenizer.image_token), return_tensors="pt")["input_ids"]
    if "image_grid_thw" in inputs:
        inputs = {**inputs, "mm_token_type_ids": (ids == adapter.image_token).int()}
    output = loaded.model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), **inputs, max_new_tokens=NEW, do_sample=False
    )
    return loaded.text([output[0, ids.shape[1] :].tolist()])[0]


def answers(folder, docs, method, batch_size, **options):
    model = Foveate(str(folder), method, keep=5, device="cpu", batch_size=batch_size, **options)
    return [answer.text for answer in model.generate_until(generating(model, docs, max_new_tokens=NEW))]


@torch.inference_mode()
@pytest.mark.parametrize("batch_size", [1, 4])
def test_without_compression_answers_are_those_of_the_stock_model(folder, docs, batch_size):
    loaded = load(folder)
    expected = [stock(loaded, doc) for doc in docs]
    assert len(set(expected)) >= 3  # a wrong order would change the answers
    assert answers(folder, docs, "full", batch_size) == expected


def test_batch_size_changes_no_answer(folder, docs):
    one = answers(folder, docs, "fastv", 1, layer=2)
    assert answers(folder, docs, "fastv", 4, layer=2) == one
    assert one != answers(folder, docs, "full", 4)


def test_a_method_that_reads_cls_has_a_fallback_in_towers_without_it(folder, docs):
    model = Foveate(str(folder), "vtc_cls", keep=5, device="cpu", batch_size=2)
    assert isinstance(model.compressor, Fallback) == (not model.loaded.adapter.tower.has_cls)
    assert len(model.generate_until(generating(model, docs[:2], max_new_tokens=NEW))) == 2
