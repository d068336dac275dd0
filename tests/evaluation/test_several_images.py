"""Questions about several images: answered as stock `generate` answers them with the compressor attached."""

import json
import re
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from foveate.bias.measure import measure
from foveate.bias.plan import BiasPlan
from foveate.compressors import Identity
from foveate.core.arrangement import Arrangement, Grid
from foveate.core.errors import DataError, UnsupportedNeed
from foveate.data.load import load_samples
from foveate.data.sample import InMemoryImage, media_of
from foveate.evaluation import EvalConfig, evaluate
from foveate.evaluation.answering import encodings_of as encodings_of_data
from foveate.evaluation.encodings import Encodings
from foveate.evaluation.latency import latency_ms
from foveate.evaluation.module import Answering
from foveate.evaluation.names import REUSABLE
from foveate.evaluation.prompts import with_prompts
from foveate.evaluation.run import cached_load, data_of
from foveate.methods import METHODS, blind, fastv, vtc_cls
from foveate.methods.fitting import with_fallbacks
from foveate.studies.corrections import mean_scores
from foveate.testing.families import WITHOUT_CUTS
from tests.data import detail_tables
from tests.evaluation.test_text_only import FAMILIES as OTHER_FAMILIES
from tests.tiers import parametrize

NEW = 5
COMPRESSORS = {
    "identity": Identity(),
    "vtc_cls": vtc_cls(0.3, 1),
    "fastv": fastv(0.3, 2),
    "fastv, a count": fastv(5, 2),
    "blind": blind(),
}
FAMILIES = ("reference", *OTHER_FAMILIES)
FAST = ("reference", "LLaVA-OneVision", "Qwen2.5-VL")
CONTENT = {
    "<image> and <image> ?": [None, " and ", None, " ?"],
    "what color is the ring ?": [],  # after its images
    "is <image> like <image> , or <image>": ["is ", None, " like ", None, " , or ", None],
}


@pytest.fixture(scope="module")
def encodings_of(loaded_of, tmp_path_factory):
    """Encodings of the images of `mixed` that stand alone."""
    return cache(
        lambda family: Encodings.of(loaded_of(family), media_of(mixed()), tmp_path_factory.mktemp("stored") / "all")
    )


@cache
def scenes():
    """Questions about parts of different images, one of which is no square; three fit into the context of any model."""
    some = list({sample.image_id: sample for sample in load_samples("scenes", "test", 40)}.values())
    sizes = [(48, 24), *[(24, 24)] * (len(some) - 1)]
    parts = [sample.image.crop((36, 36, 36 + x, 36 + y)) for sample, (x, y) in zip(some, sizes, strict=True)]
    return [replace(sample, sources=(InMemoryImage(part),)) for sample, part in zip(some, parts, strict=True)]


def several(question, count, first=0):
    """A question about `count` images."""
    some = [scenes()[first + i] for i in range(count)]
    name = " // ".join(sample.image_id for sample in some)
    sources = tuple(sample.sources[0] for sample in some)
    return replace(some[1], id=f"{name}: {question}", image_id=name, question=question, sources=sources)


@cache
def asked():
    return tuple(
        several(question, content.count(None) or 2, first) for first, (question, content) in enumerate(CONTENT.items())
    )


def mixed():
    """Questions about none, one and several images."""
    one, two, three = scenes()[3:6]
    return [one, asked()[0], replace(two, sources=(), image_id="text"), asked()[1], three, asked()[2]]


def stock_inputs(loaded, sample):
    """The stock model's inputs: the chat template gets the images where the question has them."""
    content = CONTENT[sample.question] or [*[None] * len(sample.sources), sample.question]
    return loaded.inputs([loaded.chat_prompt(content)], [[source.open() for source in sample.sources]])


def stock(loaded, compressor, sample):
    """Answer, log-probability of the reference, kept patches and tokens per block of stock `generate`."""
    inputs = stock_inputs(loaded, sample)
    images = loaded.image_inputs([source.open() for source in sample.sources], [len(sample.sources)])[1]
    length = inputs["input_ids"].shape[1]
    wanted = loaded.reference(sample.question, sample.references[0], len(sample.sources))
    steps = iter(wanted)
    options = {"do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    with compressor.attached(loaded) as run:
        said = loaded.model.generate(**inputs, max_new_tokens=NEW, do_sample=False)[:, length:]
        kept, patches = run.kept, [image.patches for image in images]
        blocks = run.tokens.per_block[0].tolist()
        forced = loaded.model.generate(
            **inputs, max_new_tokens=len(wanted), prefix_allowed_tokens_fn=lambda *_: [next(steps)], **options
        )
    likely = sum(float(row[0].log_softmax(-1)[token]) for row, token in zip(forced.logits, wanted, strict=True))
    starts = [sum(patches[:i]) for i in range(len(patches))]
    numbered = [patch + start for own, start in zip(kept, starts, strict=True) for patch in own.tolist()]
    return loaded.text(said.tolist())[0], likely, numbered, blocks


@torch.no_grad()
@parametrize("family", FAMILIES, fast=FAST)
@parametrize("name", COMPRESSORS, fast=("identity", "vtc_cls", "fastv, a count"))
def test_answers_are_those_of_stock_generate_with_the_compressor_attached(family, name, loaded_of, encodings_of):
    if COMPRESSORS[name].cuts and family in WITHOUT_CUTS:
        pytest.skip("it refuses cuts inside the language model")
    loaded, samples = loaded_of(family), mixed()
    compressor = with_fallbacks(COMPRESSORS[name], loaded)
    records = {r.sample_id: r for r in Answering(encodings_of(family), compressor, NEW).predict_step(samples)}
    assert len(records) == len(samples)
    for sample in asked():
        record = records[sample.id]
        said, likely, kept, blocks = stock(loaded, compressor, sample)
        assert (record.prediction, record.kept, record.tokens_per_block) == (said, kept, blocks)
        assert record.log_probability == pytest.approx(likely, abs=2e-3)
        ids = stock_inputs(loaded, sample)["input_ids"][0].tolist()
        assert record.tokens == blocks[0] and record.text_tokens == len(ids) - ids.count(loaded.adapter.image_token)
        assert record.has_image and np.isnan([record.evidence_recall, record.things_kept]).all()
    plain = [sample for sample in samples if not sample.several]
    for alone in Answering(encodings_of(family), compressor, NEW).predict_step(plain):
        other = records[alone.sample_id]
        assert (alone.prediction, alone.kept, alone.tokens_per_block) == (
            other.prediction,
            other.kept,
            other.tokens_per_block,
        )


@torch.no_grad()
@parametrize("family", FAMILIES, fast=FAST)
def test_without_compression_the_answer_is_that_of_the_stock_model(family, loaded_of, encodings_of):
    loaded = loaded_of(family)
    for record, sample in zip(answered(encodings_of(family), Identity(), asked()), asked(), strict=True):
        inputs = stock_inputs(loaded, sample)
        said = loaded.model.generate(**inputs, max_new_tokens=NEW, do_sample=False)
        assert record.prediction == loaded.text(said[:, inputs["input_ids"].shape[1] :].tolist())[0]
        assert len(record.kept) == record.kept[-1] + 1  # all patches of all images


def answered(encodings, compressor, samples, **more):
    return Answering(encodings, compressor, NEW, **more).predict_step(list(samples))


@torch.no_grad()
def test_budgets_are_those_of_each_image_before_and_inside_the_language_model(encodings_of):
    for compressor in (vtc_cls(16, 1), fastv(16, 2)):
        kept = [len(record.kept) for record in answered(encodings_of("reference"), compressor, asked())]
        assert kept == [32, 32, 48]


@torch.no_grad()
def test_drafts_change_no_answer_about_several_images(encodings_of):
    for compressor in (vtc_cls(16, 1), fastv(16, 2)):
        with_drafts = answered(encodings_of("reference"), compressor, asked())
        without = answered(encodings_of("reference"), compressor, asked(), reuse=())
        assert [r.prediction for r in with_drafts] == [r.prediction for r in without]
        assert [r.log_probability for r in with_drafts] == pytest.approx([r.log_probability for r in without], abs=1e-3)


@torch.no_grad()
def test_a_control_is_random_by_the_images_of_the_prompt_and_their_order(encodings_of):
    encodings, sample = encodings_of("reference"), asked()[1]
    other = replace(sample, id="turned", sources=sample.sources[::-1])
    for name in ("random", "random_inside"):
        one, again, turned = answered(encodings, METHODS[name](16), (sample, sample, other))
        assert one.kept == again.kept != turned.kept


@torch.no_grad()
def test_the_oracle_of_evidence_takes_these_questions_as_those_without_known_evidence(encodings_of):
    (record,) = answered(encodings_of("reference"), METHODS["evidence"](16), asked()[:1])
    assert len(record.kept) == 32


@torch.no_grad()
def test_a_method_that_needs_one_image_per_prompt_says_so(encodings_of):
    with pytest.raises(
        UnsupportedNeed, match="several images or none; give one image per prompt, or use a method that"
    ):
        answered(encodings_of("reference"), METHODS["response_attention"](16), asked()[:1])


IMAGES_FIRST = (
    "{% for message in messages %}{{ message['role'].upper() }} : "
    "{% for part in message['content'] if part['type'] == 'image' %}<image> {% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }} {% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT :{% endif %}"
)


@pytest.fixture
def prompt_with(loaded_of, monkeypatch):
    """The prompt of a question about two images by a chat template, with one token per image, as text."""

    def prompt(template, question):
        loaded = loaded_of("reference")
        monkeypatch.setattr(loaded.processor, "chat_template", template)
        fresh = replace(loaded)  # which remembers no prompt
        ids = fresh.prompt_about(question, [Arrangement((Grid(1, 1),))] * 2)
        return loaded.processor.tokenizer.decode(ids).removeprefix("<s> ")

    return prompt


def test_images_stand_where_the_question_has_them_also_if_the_template_puts_all_images_first(prompt_with):
    question = "is <image> red <image> ?"
    assert prompt_with(IMAGES_FIRST, question) == "USER : is <image> red <image>? ASSISTANT :"
    assert prompt_with(IMAGES_FIRST, "is red ?") == "USER : <image> <image> is red? ASSISTANT :"


def test_a_template_that_takes_no_images_elsewhere_is_an_error_with_its_cure(prompt_with):
    template = IMAGES_FIRST.replace("{{ part['text'] }}", "{{ part['text'] | replace('<image>', '') }}")
    with pytest.raises(DataError, match="leave the placeholders out, and all images stand before the question"):
        prompt_with(template, "is <image> like <image> ?")


def test_special_tokens_in_such_a_question_are_text(loaded_of):
    loaded = loaded_of("Qwen2.5-VL")
    token = loaded.processor.image_token
    ids = loaded.prompt_about(f"is {token} like <image> in <image> ?", [Arrangement((Grid(2, 2),))] * 2)
    assert ids.count(loaded.adapter.image_token) == 8
    text = loaded.processor.tokenizer.decode([i for i in ids if i != loaded.adapter.image_token])
    assert f"is {token} like " in text


def test_a_question_about_several_images_has_no_single_image():
    with pytest.raises(DataError, match="has 2 images: only questions about one image can be used here"):
        _ = asked()[0].image


@pytest.fixture
def config(tiny, tmp_path, monkeypatch):
    """An evaluation of a table: every second question is about two images, the last about one that is lost."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    some = load_samples("scenes", "test", 12)
    names = [f"{sample.image_id}.png" for sample in some]
    for sample, name in zip(some, names, strict=True):
        sample.image.save(tmp_path / name)
    rows = [
        {"image": [names[0], name] if i % 2 else name, "question": sample.question, "answer": sample.references[0]}
        for i, (sample, name) in enumerate(zip(some, names, strict=True))
    ]
    rows.append(rows[1] | {"image": [names[0], "text.png"]})
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "questions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "good.jsonl").write_text("\n".join(map(json.dumps, rows[:-1])))
    data = str(tmp_path / "good.jsonl")
    return EvalConfig(
        vtc_cls(3, 1), tiny, data=data, split="all", batch_size=5, max_new_tokens=2, out=tmp_path / "runs"
    )


def rows_of(folder):
    names = ("image_id", "prediction", "kept", "tokens_per_block", "text_tokens", "score")
    return {row["sample_id"]: [row[name] for name in names] for row in folder.read().to_pylist()}


@pytest.mark.parametrize("compressor", [vtc_cls(3, 1), fastv(3, 1)], ids=["vision", "cut"])
def test_batches_change_no_answer_of_a_table_and_a_run_resumes(compressor, config):
    config = replace(config, compressor=compressor)
    folder = evaluate(config)
    rows = rows_of(folder)
    assert len(rows) == 12 and sum(" // " in row[0] for row in rows.values()) == 6
    assert rows_of(evaluate(replace(config, batch_size=1, out=config.out / "one"))) == rows
    folder.parts()[1].unlink()
    (folder.folder / "DONE").unlink()
    assert len(folder.done()) < 12
    assert rows_of(evaluate(config)) == rows


@pytest.mark.parametrize("compressor", [vtc_cls(3, 1), fastv(3, 1)], ids=["vision", "cut"])
def test_questions_of_mmmu_are_answered_with_the_images_that_they_mention(compressor, config, tmp_path):
    data = f"mmmu:{detail_tables.mmmu(tmp_path / 'mmmu.parquet')}"
    config = replace(config, data=data, split="validation", compressor=compressor)
    rows = {row["sample_id"]: row for row in evaluate(config).read().to_pylist()}
    one, two = rows["validation_Art_1"], rows["validation_Art_Theory_2"]
    assert len(rows) == 3 and all(0 <= row["score"] <= 1 for row in rows.values())
    assert len(two["kept"]) == 2 * len(one["kept"]) == 6
    assert two["tokens_per_block"][-1] == 2 * one["tokens_per_block"][-1]


def test_memory_for_one_question_suffices_for_those_about_several_images(config, capsys):
    config = replace(config, reuse=tuple(set(REUSABLE) - {"images"}))  # a row of the batch for each question
    rows = rows_of(evaluate(replace(config, out=config.out / "undisturbed")))
    block = cached_load(config.model, config.device, config.dtype).model.model.language_model.layers[0]

    def refuse(module, arguments, options):
        if len(arguments[0] if arguments else options["hidden_states"]) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")

    hook = block.register_forward_pre_hook(refuse, with_kwargs=True)
    try:
        assert rows_of(evaluate(config)) == rows
    finally:
        hook.remove()
    assert "memory does not suffice for" in capsys.readouterr().err


def test_one_of_several_images_that_cannot_be_decoded_stops_the_run_or_is_recorded(config):
    config = replace(config, data=config.data.replace("good", "questions"))
    why = r"image 'text.png' \(8 bytes\) cannot be decoded"
    with pytest.raises(DataError, match=rf"question 'row-000013': {why}.*; correct the data, or record"):
        evaluate(config)
    folder = evaluate(replace(config, on_error="skip"))
    assert folder.read().num_rows == 12
    assert list(folder.failed()) == ["row-000013"] and re.match(why, folder.failed()["row-000013"])


def test_a_prompt_of_many_images_that_is_too_long_is_named(config, tmp_path):
    row = json.loads((tmp_path / "good.jsonl").read_text().splitlines()[1])
    (tmp_path / "long.jsonl").write_text(json.dumps(row | {"image": row["image"] * 40}))
    with pytest.raises(DataError, match=r"question 'row-000001': its prompt of .* exceed the model's context"):
        evaluate(replace(config, data=str(tmp_path / "long.jsonl")))


def test_what_needs_one_image_leaves_questions_about_several_out_or_refuses_them(config):
    samples, questions = data_of(config)
    loaded = cached_load(config.model, config.device, config.dtype)
    stored = encodings_of_data(config, loaded, samples, questions)
    asked = [sample for sample, _ in with_prompts(config, loaded, samples, stored.arrangements)]
    assert len(asked) == 6 and not any(sample.several for sample in asked)
    assert set(media_of(samples)) == {sample.image_id for sample in asked}
    with pytest.raises(DataError, match="are not about one image, the first is 'row-000002' with 2 images"):
        measure(config, BiasPlan())
    with pytest.raises(DataError, match="about no image or several, the first is 'row-000002'"):
        mean_scores(config)
    assert latency_ms(config) > 0
