"""Questions that cannot be asked: named, then fatal or recorded, never counted as right or wrong."""

import json
import math
import shutil
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from foveate.bias.measure import measure
from foveate.bias.plan import BiasPlan
from foveate.compressors import Identity
from foveate.core.arrangement import Arrangement, Grid
from foveate.core.errors import DataError, OptionError
from foveate.data.load import load_samples
from foveate.data.sample import Boxes, InMemoryImage
from foveate.evaluation import EvalConfig, evaluate
from foveate.evaluation.answering import encodings_of
from foveate.evaluation.evidence import evidence_of, visible_part
from foveate.evaluation.latency import latency_ms
from foveate.evaluation.module import Answering
from foveate.evaluation.prompts import with_prompts
from foveate.evaluation.run import data_of, first_usable
from foveate.methods import uniform
from foveate.models.loading.load import load
from foveate.studies.context import StudyContext
from foveate.studies.plan import SearchPlan
from foveate.studies.proxy import rank_by_proxy
from foveate.studies.search import space_of
from tests.data import tables

TYPES = tables.POPE | {"image": {"bytes": tables.Value("binary"), "path": tables.TEXT}}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def config(tiny, tmp_path, change, rows=None) -> EvalConfig:
    rows = rows or [row for row in tables.pope_rows() if row["category"] == "random"]
    rows = [row | (change if number == 2 else {}) for number, row in enumerate(rows)]
    place = tables.write(tmp_path / "pope.parquet", rows, TYPES)
    return EvalConfig(Identity(), model=tiny, data=f"pope:{place}", max_new_tokens=3, out=tmp_path / "runs")


BROKEN = {
    "noise": ({"image": {"bytes": b"noise", "path": None}, "image_source": "lone"}, "cannot be decoded"),
    "answer": ({"answer": ""}, "answer is ''"),
    "context": ({"question": "is there any star? " * 200}, "exceed the model's context of 512"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_question_that_cannot_be_asked_stops_the_run_and_is_named(kind, tiny, tmp_path):
    change, cause = BROKEN[kind]
    with pytest.raises(DataError, match="question '") as caught:
        evaluate(config(tiny, tmp_path, change))
    assert cause in str(caught.value)
    assert ("000002" if kind == "answer" else "random-3") in str(caught.value)


@pytest.mark.parametrize("kind", BROKEN)
def test_or_it_is_skipped_and_recorded_as_failed_for_every_method_alike(kind, tiny, tmp_path):
    change, cause = BROKEN[kind]
    broken = replace(config(tiny, tmp_path, change), on_error="skip")
    for compressor in (Identity(), uniform(9)):
        folder = evaluate(replace(broken, compressor=compressor))
        assert folder.complete
        table = folder.read()
        assert table.num_rows == 5
        assert table["error"].to_pylist() == [""] * 5
        assert not math.isnan(table["score"].to_numpy().mean())
        ((name, why),) = folder.failed().items()
        assert cause in why
        assert name == ("test-000002" if kind == "answer" else "random-3")
    intact = evaluate(config(tiny, tmp_path / "intact", {})).read()
    same = intact.filter([name in table["sample_id"].to_pylist() for name in intact["sample_id"].to_pylist()])
    expected = evaluate(broken).read()
    assert expected["prediction"].to_pylist() == same["prediction"].to_pylist()


def test_a_skipping_run_does_not_hide_the_failure_from_one_that_stops(tiny, tmp_path):
    broken = config(tiny, tmp_path, BROKEN["noise"][0])
    evaluate(replace(broken, on_error="skip"))
    with pytest.raises(DataError, match="'random-3': image 'lone'"):
        evaluate(broken)


def test_nothing_that_can_be_asked_is_an_error_too(tiny, tmp_path):
    rows = [row | BROKEN["noise"][0] for row in tables.pope_rows(1)]
    broken = replace(config(tiny, tmp_path, {}, rows), on_error="skip")
    samples, _ = data_of(broken)
    with pytest.raises(DataError, match="none of 6 questions"):
        first_usable(broken, samples)


@pytest.fixture
def kind(request):
    """Kind of failure; the checks of `make test-all` look up the first image of a mapping, which must not be broken."""
    if request.param == "noise" and request.config.getoption("--jaxtyping-packages").startswith("foveate,"):
        pytest.skip("the checks of shapes would open the image")
    return request.param


@pytest.mark.parametrize("kind", [*BROKEN, "image token"], indirect=True)
def test_a_skipping_run_of_which_nothing_is_left_names_how_many_and_the_first_cause(kind, tiny, tmp_path):
    change, cause = BROKEN.get(kind, ({"question": "<image> is there a star?"}, "holds '<image>'"))
    rows = [row | change for row in tables.pope_rows() if row["category"] == "random"]
    broken = replace(config(tiny, tmp_path, {}, rows), on_error="skip")
    with pytest.raises(
        DataError, match=r"none of 6 questions c.* be (asked|answered); the first, '(random-1|test-000000)': "
    ) as error:
        evaluate(broken).read()
    assert cause in str(error.value)
    assert "--on-error skip" not in str(error.value)


@pytest.mark.parametrize("kind", [*BROKEN, "image token"], indirect=True)
def test_a_study_that_skips_is_not_stopped_by_its_first_question(kind, tiny, tmp_path):
    change, _ = BROKEN.get(kind, ({"question": "<image> is there a star?"}, ""))
    rows = [row for row in tables.pope_rows() if row["category"] == "random"]
    rows[0] |= change
    broken = replace(config(tiny, tmp_path, {}, rows), on_error="skip")
    samples, questions = data_of(broken)
    loaded = load(tiny)
    assert first_usable(broken, samples, loaded).id == "random-2"
    encodings = encodings_of(broken, loaded, samples, questions)
    asked = [sample.id for sample, _ in with_prompts(broken, loaded, samples, encodings.arrangements)]
    assert asked == [sample.id for sample in samples[1:]]
    with pytest.raises(DataError, match=rf"question '{samples[0].id}'.*--on-error skip"):
        first_usable(replace(broken, on_error="stop"), samples, loaded)


def test_a_first_rung_ranks_by_the_questions_that_can_be_asked(tiny, tmp_path):
    broken = replace(config(tiny, tmp_path, BROKEN["context"][0]), on_error="skip")
    space = space_of(SearchPlan(space=("single",), keep=(0.25,)), load(tiny))
    assert len(rank_by_proxy(StudyContext.of(broken), space, "response", 3, 0).params)
    with pytest.raises(DataError, match=r"question 'random-3': its prompt of 1149 tokens"):
        rank_by_proxy(StudyContext.of(replace(broken, on_error="stop")), space, "response", 3, 0)


def test_the_time_of_a_question_is_not_that_of_one_which_is_not_asked(tiny, tmp_path, monkeypatch):
    asked = []

    def timed(self, batch):
        asked.extend(sample.id for sample in batch)
        time.sleep(0.1)

    monkeypatch.setattr(Answering, "predict_step", timed)
    latency_ms(replace(config(tiny, tmp_path, BROKEN["context"][0]), on_error="skip"))
    assert set(asked) == {f"random-{number}" for number in (1, 2, 4, 5, 6)}


def test_bias_is_measured_of_every_question_or_says_which_cannot_be_asked(tiny, tmp_path):
    plan = BiasPlan(blocks=4)
    with pytest.raises(DataError, match=r"question 'random-3': its prompt of 1149 tokens.*correct the data$"):
        measure(config(tiny, tmp_path, BROKEN["context"][0]), plan)
    with pytest.raises(OptionError, match="on_error='skip': bias is measured on every question"):
        measure(replace(config(tiny, tmp_path, {}), on_error="skip"), plan)


def test_methods_are_not_compared_on_a_split_without_answers(tiny, tmp_path):
    place = tables.vqav2(tmp_path / "vqav2.parquet", answered=False)
    unanswered = EvalConfig(Identity(), model=tiny, data=f"vqav2:{place}", split="test", out=tmp_path)
    samples, _ = data_of(unanswered)
    with pytest.raises(DataError, match=r"has no answers.*foveate answer"):
        first_usable(unanswered, samples)
    table = evaluate(replace(unanswered, max_new_tokens=3)).read()
    assert np.isnan(table["score"].to_numpy()).all() and np.isnan(table["log_probability"].to_numpy()).all()
    assert table["error"].to_pylist() == ["", ""]


def test_a_moved_file_is_the_same_run_and_another_split_is_not(tiny, tmp_path):
    first = config(tiny, tmp_path, {})
    moved = tmp_path / "elsewhere" / "questions.parquet"
    moved.parent.mkdir()
    moved.write_bytes((tmp_path / "pope.parquet").read_bytes())
    second = replace(first, data=f"pope:{moved}")
    assert evaluate(first).folder == evaluate(second).folder
    assert evaluate(replace(first, split="random")).folder != evaluate(first).folder
    assert first.split == "test" and EvalConfig(Identity(), data="vizwiz").split == "val"


@pytest.fixture
def cropping(tiny, tmp_path):
    """A model whose processor scales the shorter edge and keeps the middle square, as LLaVA-1.5's does."""
    folder = shutil.copytree(tiny, tmp_path / "cropping")
    settings = json.loads((folder / "processor_config.json").read_text())
    settings["image_processor"] |= {"do_center_crop": True, "size": {"shortest_edge": 96}}
    (folder / "processor_config.json").write_text(json.dumps(settings))
    return load(str(folder))


def test_evidence_and_images_are_cropped_as_the_processor_crops(cropping, tmp_path):
    grid = Grid(12, 12)
    place = tables.refcoco(tmp_path / "refcoco.parquet")  # 160 x 80, the thing at x 80..120, y 0..40
    sample = load_samples(f"refcoco:{place}", "val")[0]
    expected = torch.zeros(12, 12)
    expected[:6, 6:] = 1  # of the square x 40..120 the right half, its upper half
    seen = evidence_of([sample], [Arrangement((grid,))], cropping)[0].reshape(12, 12)
    torch.testing.assert_close(seen, expected, atol=0.1, rtol=0)
    stretched = evidence_of([sample], [Arrangement((grid,))])[0].reshape(12, 12)
    assert stretched[:, 9:].sum() == 0 and stretched.sum() > 0
    image = np.asarray(visible_part(cropping, sample.image, grid))
    crop = sample.image.resize((192, 96), Image.Resampling.BICUBIC).crop((48, 0, 144, 96))
    assert np.abs(image.astype(int) - np.asarray(crop.convert("RGB"))).max() <= 1


def test_the_reference_models_processor_stretches(tiny):
    loaded = load(tiny)
    sample = replace(
        load_samples("scenes", "test", 1)[0],
        sources=(InMemoryImage(Image.new("RGB", (192, 96))),),
        things=Boxes(((0.5, 0.0, 1.0, 0.5),)),
    )
    image = Arrangement((loaded.adapter.tower.grid,))
    seen = evidence_of([sample], [image], loaded)
    stretched = evidence_of([sample], [image])
    torch.testing.assert_close(seen, stretched, atol=0.1, rtol=0)


def test_a_step_that_ends_like_data_do_is_no_end_of_the_data(tiny, tmp_path, monkeypatch):
    """Loops take a StopIteration that leaves a step for the end: questions would be missing without a cause."""

    def ends(*_: object):
        raise StopIteration

    monkeypatch.setattr(Answering, "predict_step", ends)
    with pytest.raises(RuntimeError, match="ended after 0 of 11 questions"):
        evaluate(EvalConfig(Identity(), tiny, limit=11, max_new_tokens=1, out=tmp_path))
