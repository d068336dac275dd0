"""Questions about several images: answered as stock `generate` answers them with the compressor attached."""

from dataclasses import replace
from functools import cache

import pytest
import torch

from foveate.bias.measure import measure
from foveate.bias.plan import BiasPlan
from foveate.compressors import Identity
from foveate.core.errors import DataError, UnsupportedNeed
from foveate.data.load import data_hash, load_samples
from foveate.data.prompts import format_prompt
from foveate.data.sample import InMemoryImage, images_of
from foveate.evaluation.encodings import Encodings
from foveate.evaluation.module import Answering
from foveate.evaluation.prompts import with_prompts
from foveate.methods import METHODS, blind, fastv, vtc_cls
from foveate.methods.fitting import with_fallbacks
from foveate.models.loading.load import load
from foveate.testing.checkpoints import save_family
from tests.tiers import parametrize

NEW = 5
COMPRESSORS = {
    "identity": Identity(),
    "vtc_cls": vtc_cls(0.3, 1),
    "fastv": fastv(0.3, 2),
    "fastv, a count": fastv(5, 2),
    "blind": blind(),
    "evidence": METHODS["evidence"](0.3),
}
FAMILIES = ("reference", "LLaVA-1.5", "LLaVA-NeXT", "LLaVA-OneVision", "InternVL", "Qwen2.5-VL", "Qwen3-VL")
FAST = ("reference", "LLaVA-OneVision", "Qwen2.5-VL")
QUESTIONS = ("<image> and <image> ?", "what color is the ring ?", "is <image> like <image> , or <image> ?")


@pytest.fixture(scope="module")
def loaded_of(tmp_path_factory):
    def loaded(family):
        name = family if family == "reference" else str(save_family(family, tmp_path_factory.mktemp("family")))
        return load(name)

    return cache(loaded)


@pytest.fixture(scope="module")
def encodings_of(loaded_of, tmp_path_factory):
    """Encodings of the images of `mixed` that stand alone."""
    return cache(
        lambda family: Encodings.of(loaded_of(family), images_of(mixed()), tmp_path_factory.mktemp("stored") / "all")
    )


@cache
def scenes():
    """Questions about different images, one of which is no square."""
    some = list({sample.image_id: sample for sample in load_samples("scenes", "test", 40)}.values())
    wide = InMemoryImage(some[0].image.crop((0, 0, 96, 48)))
    return [replace(some[0], sources=(wide,), image_id="wide"), *some[1:]]


def several(question, count, first=0):
    """A question about `count` images."""
    some = [scenes()[first + i] for i in range(count)]
    name = " // ".join(sample.image_id for sample in some)
    sources = tuple(sample.sources[0] for sample in some)
    return replace(some[1], id=f"{name}: {question}", image_id=name, question=question, sources=sources)


@cache
def asked():
    return tuple(several(question, 3 if "or" in question else 2, first) for first, question in enumerate(QUESTIONS))


def mixed():
    """Questions about none, one and several images."""
    one, two, three = scenes()[3:6]
    return [one, asked()[0], replace(two, sources=(), image_id="text"), asked()[1], three, asked()[2]]


def stock_inputs(loaded, sample):
    """The stock model's inputs: the chat template gets the images where the question has them."""
    text = format_prompt(sample, loaded.model.config.model_type, instruct=False)
    pieces = text.split("<image>")
    count = len(sample.sources)
    content = [*[None] * count, text] if len(pieces) == 1 else [p for t in pieces for p in (t, None) if p != ""][:-1]
    if pieces[-1]:
        assert content[-1] is not None
    return loaded.inputs([loaded.chat_prompt(content)], [[source.open() for source in sample.sources]])


def stock(loaded, compressor, sample):
    """Answer, log-probability of the reference, kept patches and tokens per block of stock `generate`."""
    inputs = stock_inputs(loaded, sample)
    length = inputs["input_ids"].shape[1]
    wanted = loaded.reference(sample.question, sample.references[0], len(sample.sources))
    steps = iter(wanted)
    options = {"do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    with compressor.attached(loaded) as run:
        said = loaded.model.generate(**inputs, max_new_tokens=NEW, do_sample=False)[:, length:]
        kept, patches = run.kept, [image.patches for image in run._call[1].prompts[0]]
        account = run.tokens
        forced = loaded.model.generate(
            **inputs, max_new_tokens=len(wanted), prefix_allowed_tokens_fn=lambda *_: [next(steps)], **options
        )
    likely = sum(float(row[0].log_softmax(-1)[token]) for row, token in zip(forced.logits, wanted, strict=True))
    starts = [sum(patches[:i]) for i in range(len(patches))]
    numbered = [patch + start for own, start in zip(kept, starts, strict=True) for patch in own.tolist()]
    return loaded.text(said.tolist())[0], likely, numbered, account


@torch.no_grad()
@parametrize("family", FAMILIES, fast=FAST)
@parametrize("name", COMPRESSORS, fast=("identity", "vtc_cls", "fastv, a count"))
def test_answers_are_those_of_stock_generate_with_the_compressor_attached(family, name, loaded_of, encodings_of):
    loaded, samples = loaded_of(family), mixed()
    compressor = with_fallbacks(COMPRESSORS[name], loaded)
    records = {r.sample_id: r for r in Answering(encodings_of(family), compressor, NEW).predict_step(samples)}
    assert len(records) == len(samples)
    for sample in asked():
        record = records[sample.id]
        said, likely, kept, account = stock(loaded, compressor, sample)
        assert record.prediction == said
        assert record.log_probability == pytest.approx(likely, abs=2e-3)
        assert record.kept == kept
