"""Questions without an image: answered as the stock model answers them, beside others, whatever the compressor."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from foveate.bias.measure import measure
from foveate.bias.plan import BiasPlan
from foveate.compressors import Identity
from foveate.core.errors import DataError
from foveate.data.load import load_samples
from foveate.data.sample import media_of
from foveate.evaluation import EvalConfig, evaluate
from foveate.evaluation.answering import encodings_of
from foveate.evaluation.encodings import Encodings
from foveate.evaluation.module import Answering
from foveate.evaluation.prompts import with_prompts
from foveate.evaluation.run import data_of, first_usable
from foveate.methods import blind, fastv, vtc_cls
from foveate.methods.fitting import with_fallbacks
from foveate.models.loading.load import load
from foveate.testing.families import WITHOUT_CUTS
from tests.data import tables
from tests.tiers import parametrize

NEW = 6
COMPRESSORS = {"identity": Identity(), "vtc_cls": vtc_cls(0.3, 1), "fastv": fastv(0.3, 2), "blind": blind()}
FAMILIES = (
    "LLaVA-1.5",
    "LLaVA-NeXT",
    "LLaVA-OneVision",
    "InternVL",
    "Qwen2.5-VL",
    "Qwen3-VL",
    "Qwen3-VL-MoE",
    "Gemma 3",
    "Idefics3",
    "SmolVLM",
    "GLM-4.1V",
)


@pytest.fixture(autouse=True)
def cache_of_tables(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def mixed(count=8):
    """Every second question has lost its image."""
    samples = load_samples("scenes", "test", count)
    return [replace(s, sources=(), image_id=f"text-{i}") if i % 2 else s for i, s in enumerate(samples)]


def stock(loaded, sample):
    """Answer and log-probability of the reference by the stock model alone: one prompt, no padding."""
    turn = [{"role": "user", "content": [{"type": "text", "text": sample.question}]}]
    written = loaded.processor.apply_chat_template(turn, add_generation_prompt=True)
    ids = loaded.processor.tokenizer(written, return_tensors="pt")["input_ids"]
    output = loaded.model.generate(input_ids=ids, max_new_tokens=NEW, do_sample=False)
    said = loaded.text(output[:, ids.shape[1] :].tolist())[0]
    wanted = loaded.reference(sample.question, sample.references[0])
    logits = loaded.model(input_ids=torch.tensor([ids[0].tolist() + wanted])).logits[0].log_softmax(-1)
    likely = sum(float(logits[ids.shape[1] - 1 + i, token]) for i, token in enumerate(wanted))
    return said, likely, ids.shape[1]


@torch.no_grad()
@parametrize("family", FAMILIES, fast=("LLaVA-1.5", "Qwen2.5-VL"))
@pytest.mark.parametrize("name", COMPRESSORS)
def test_text_only_questions_in_a_mixed_batch_get_the_stock_models_answer(family, name, loaded_of, tmp_path):
    if COMPRESSORS[name].cuts and family in WITHOUT_CUTS:
        pytest.skip("it refuses cuts inside the language model")
    loaded, samples = loaded_of(family), mixed()
    compressor = with_fallbacks(COMPRESSORS[name], loaded)
    encodings = Encodings.of(loaded, media_of(samples), tmp_path / "encodings")
    records = {record.sample_id: record for record in Answering(encodings, compressor, NEW).predict_step(samples)}
    assert len(records) == len(samples)
    answers = set()
    for sample in samples:
        record = records[sample.id]
        assert record.has_image == bool(sample.sources)
        if not sample.sources:
            said, likely, tokens = stock(loaded, sample)
            assert record.prediction == said
            assert record.log_probability == pytest.approx(likely, abs=2e-3)
            assert (record.kept, record.tokens, set(record.tokens_per_block), record.text_tokens) == (
                [],
                0,
                {0},
                tokens,
            )
            assert np.isnan([record.evidence_recall, record.things_kept]).all()
            answers.add(said)
    assert len(answers) > 1
    shown = [sample for sample in samples if sample.sources]
    alone = {record.sample_id: record for record in Answering(encodings, compressor, NEW).predict_step(shown)}
    for sample in shown:  # and the others get the answer that they have without them
        one, other = records[sample.id], alone[sample.id]
        assert (one.prediction, one.kept, one.tokens_per_block) == (
            other.prediction,
            other.kept,
            other.tokens_per_block,
        )


@torch.no_grad()
def test_a_checkpoint_without_template_is_asked_about_text_as_vicuna_was_trained(loaded_of, monkeypatch):
    loaded = loaded_of("LLaVA-1.5")
    monkeypatch.setattr(loaded.processor, "chat_template", None, raising=False)
    fresh = replace(loaded)  # which remembers no prompt
    assert fresh.text_prompt("what is it?") == fresh.processor.tokenizer("USER: what is it? ASSISTANT:")["input_ids"]


def test_a_text_only_question_may_hold_the_text_of_an_image_token(loaded_of):
    loaded = loaded_of("LLaVA-1.5")
    prompt = loaded.text_prompt("what is <image>?")
    assert loaded.adapter.image_token not in prompt
    assert loaded.processor.tokenizer.decode(prompt) == "USER: what is <image>? ASSISTANT:"


@pytest.fixture
def config(tiny, tmp_path):
    place = tables.scienceqa(tmp_path / "scienceqa.parquet")
    return EvalConfig(Identity(), model=tiny, data=f"scienceqa:{place}", max_new_tokens=3, out=tmp_path / "runs")


def records_of(config):
    return evaluate(config).read().to_pandas().set_index("sample_id")


@parametrize("name", COMPRESSORS, fast=("vtc_cls",))
def test_one_evaluation_answers_both_and_batches_change_nothing(name, config):
    config = replace(config, compressor=COMPRESSORS[name])
    many = records_of(config)
    one = records_of(replace(config, batch_size=1, out=config.out / "one"))
    assert many["has_image"].tolist() == [True, False, True] and len(many) == 3
    assert many["prediction"].tolist() == one["prediction"].tolist()
    plain = records_of(replace(config, compressor=Identity()))
    assert many["prediction"]["test-000001"] == plain["prediction"]["test-000001"]


def test_questions_that_are_all_text_only_need_no_encodings(config):
    place = config.out / "text.parquet"
    rows = [row | {"image": None} for row in tables.scienceqa_rows()]
    tables.write(place, rows, tables.SCIENCEQA)
    config = replace(config, data=f"scienceqa:{place}")
    assert not records_of(config)["has_image"].any()
    with pytest.raises(DataError, match=r"none of 3 questions of .* is about an image"):
        first_usable(config, data_of(config)[0])


def test_a_text_only_question_that_is_too_long_is_recorded_like_others(config):
    rows = tables.scienceqa_rows()
    rows[1] |= {"question": "is there any star? " * 200}
    tables.write(config.out / "long.parquet", rows, tables.SCIENCEQA)
    config = replace(config, data=f"scienceqa:{config.out / 'long.parquet'}")
    with pytest.raises(DataError, match=r"question 'test-000001'.*exceed the model's context"):
        evaluate(config)
    folder = evaluate(replace(config, on_error="skip"))
    assert set(folder.failed()) == {"test-000001"} and folder.read().num_rows == 2


def test_what_needs_an_image_leaves_text_only_questions_out_or_refuses_them(config):
    samples, questions = data_of(config)
    loaded = load(config.model)
    encodings = encodings_of(config, loaded, samples, questions)
    asked = [sample.id for sample, _ in with_prompts(config, loaded, samples, encodings.arrangements)]
    assert asked == ["test-000000", "test-000002"]
    assert first_usable(config, samples[1:], loaded).id == "test-000002"
    with pytest.raises(DataError, match="are not about one image, the first is 'test-000001' with no images"):
        measure(config, BiasPlan())
