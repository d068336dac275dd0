import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from foveate.compressors import Identity, Pipeline, VisionCompressor
from foveate.core.errors import OutputError
from foveate.core.layers import LayersFrom
from foveate.core.needs import ClsRows, EvidenceShare, Features, Fingerprint, Keys, ReceivedRows, Sensitivity
from foveate.data.load import load_samples
from foveate.evaluation import EvalConfig, evaluate
from foveate.evaluation.encodings import Encodings
from foveate.evaluation.records import Record, RecordFolder
from foveate.methods import evidence, fastv, mmtok, prumerge, pyramiddrop, random, tome, uniform, vtc_cls
from foveate.models.loading.load import load
from foveate.models.runtime.images import Texts
from foveate.scorers import ClsEnsemble
from foveate.selectors import Mass
from tests.scripts import start, wait_for
from tests.tiers import extended, parametrize

NO_TEXTS = Texts([], [], None)
COMPRESSORS = [
    Identity(),
    vtc_cls(16, 1),
    VisionCompressor(ClsEnsemble((0, 5)), 36, positions="original"),
    random(7, seed=3),
    evidence(7),
    prumerge(5),
    VisionCompressor(ClsEnsemble((0, 5)), None, Mass(0.4)),
    tome(40),
    mmtok(9),
    fastv(9, 2),
    Pipeline((vtc_cls(40, 1), pyramiddrop(7, layers=(1, 3)))),
]


@pytest.fixture
def config(tiny, tmp_path):
    return EvalConfig(Identity(), model=tiny, limit=66, max_new_tokens=5, out=tmp_path)


def answers(folder: RecordFolder) -> dict[str, str]:
    table = folder.read()
    return dict(zip(table["sample_id"].to_pylist(), table["prediction"].to_pylist(), strict=True))


ONE_OF_EACH_PLACE = (vtc_cls(16, 1), tome(40), fastv(9, 2))


@pytest.mark.guards("padding mask: every token of a batch may be attended to")
@parametrize("compressor", COMPRESSORS, fast=ONE_OF_EACH_PLACE, ids=repr)
def test_batch_size_padding_reuse_and_cache_never_change_an_answer(config, compressor):
    config = replace(config, compressor=compressor, limit=44)
    many = answers(evaluate(config))
    one = answers(evaluate(replace(config, batch_size=1, out=config.out / "one")))
    assert [i for i in many if many[i] != one[i]] == []

    loaded = load(config.model)
    uncached = {}
    for sample in load_samples("scenes", "test", 44):
        text = loaded.processor.apply_chat_template(
            [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": sample.question}]}],
            add_generation_prompt=True,
        )
        inputs = loaded.processor(text=text, images=sample.image, return_tensors="pt")
        if compressor == evidence(7):
            continue  # its scores come from the annotations, which a stock model does not see
        with compressor.attached(loaded):
            output = loaded.model.generate(**inputs, max_new_tokens=5, do_sample=False)
        uncached[sample.id] = loaded.text(output[:, inputs["input_ids"].shape[1] :].tolist())[0]
    assert [i for i in uncached if many[i] != uncached[i]] == []


def test_records_hold_what_was_kept_and_how_right_the_answer_is(config):
    table = evaluate(replace(config, compressor=evidence(7))).read()
    samples = {sample.id: sample for sample in load_samples("scenes", "test", 66)}
    assert table["sample_id"].to_pylist() == sorted(samples)
    for row in table.to_pylist():
        assert row["tokens"] == len(row["kept"]) == 7
        assert row["reference"] == samples[row["sample_id"]].references[0]
        assert 0 <= row["score"] <= 1
        assert row["things_kept"] == 1.0  # seven patches are enough for one of each of at most four things
    recalls = [row["evidence_recall"] for row in table.to_pylist()]
    assert 0.2 < sum(recalls) / len(recalls) <= 1


def test_a_second_call_reads_and_does_not_compute(config):
    folder = evaluate(config)
    parts = {part: part.stat().st_mtime_ns for part in folder.folder.glob("part-*")}
    assert evaluate(config).folder == folder.folder
    assert {part: part.stat().st_mtime_ns for part in folder.folder.glob("part-*")} == parts


def retold(model: str, folder: Path) -> str:
    """The same weights with another chat template."""
    copied = shutil.copytree(model, folder / "retold")
    template = copied / "chat_template.jinja"
    template.write_text(template.read_text().replace("upper()", "lower()"))
    return str(copied)


@pytest.mark.guards("identity: run_id is a constant, or lacks compressor, checkpoint, questions, answer length or code")
def test_what_can_change_an_answer_changes_the_run_and_what_cannot_does_not(config):
    runs = {
        name: evaluate(replace(config, limit=11, **change)).folder.name
        for name, change in {
            "same": {},
            "batch": {"batch_size": 3},
            "compressor": {"compressor": uniform(16)},
            "budget": {"compressor": uniform(17)},
            "seed": {"seed": 1},
            "split": {"split": "search"},
            "tokens": {"max_new_tokens": 4},
            "dtype": {"dtype": "bfloat16"},
            "checkpoint": {"model": retold(config.model, config.out)},
        }.items()
    }
    assert runs.pop("batch") == runs["same"]
    assert len(set(runs.values())) == len(runs)
    identity = json.loads((config.out / "records" / runs["same"] / "config.json").read_text())
    assert {"compressor", "checkpoint", "data_hash", "code"} <= identity.keys()


def test_an_interrupted_run_answers_only_what_is_missing(config):
    expected = evaluate(config).read()
    folder = evaluate(replace(config, out=config.out / "again", batch_size=11))
    parts = sorted(folder.folder.glob("part-*"))
    (folder.folder / "DONE").unlink()
    for part in parts[1::2]:
        part.unlink()
    untouched = {part: part.stat().st_mtime_ns for part in parts[::2]}
    resumed = evaluate(replace(config, out=config.out / "again", batch_size=22))
    likely, wanted = resumed.read()["log_probability"].to_numpy(), expected["log_probability"].to_numpy()
    np.testing.assert_allclose(likely, wanted, atol=2e-5)
    assert resumed.read().drop("log_probability").equals(expected.drop("log_probability"))
    assert {part: part.stat().st_mtime_ns for part in untouched} == untouched


@extended("moments")
@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_a_killed_process_leaves_a_run_that_a_second_one_completes(config):
    code = (
        "from pathlib import Path; from foveate.evaluation import EvalConfig, evaluate;"
        "from foveate.methods import vtc_cls;"
        f"out = Path({str(config.out)!r});"
        f"evaluate(EvalConfig(vtc_cls(36, 1), model={config.model!r}, limit=330, batch_size=11, out=out))"
    )
    process = start("-c", code)
    wait_for(process, lambda: len(list(config.out.glob("records/*/part-*.parquet"))) >= 3)
    process.send_signal(signal.SIGKILL)
    process.wait()
    run = EvalConfig(vtc_cls(36, 1), model=config.model, limit=330, batch_size=11, out=config.out)
    (folder,) = config.out.glob("records/*")
    assert not (folder / "DONE").exists()
    before = sum(pq.read_metadata(part).num_rows for part in folder.glob("part-*.parquet"))
    assert 0 < before < 330
    resumed = evaluate(run)
    assert resumed.folder == folder
    assert resumed.read().equals(evaluate(replace(run, out=config.out / "fresh")).read())


def test_replayed_encodings_equal_a_fresh_pass(config):
    loaded = load(config.model)
    samples = load_samples("scenes", "test", 44)
    images = {sample.image_id: sample.image for sample in samples}
    ids = list(images)[::-1]
    needs = (ClsRows((0, -1)), ClsRows(LayersFrom(2)), Fingerprint(), Keys(-1), Features(True), ReceivedRows(2))
    with torch.no_grad():
        live = loaded.images([images[i] for i in ids])
        features, trace = live.encode(needs)
        encodings = Encodings.of(loaded, images, config.out / "enc")
        replayed, replay = encodings.batch(ids, torch.rand(4, 1, 144), NO_TEXTS).encode((*needs, EvidenceShare()))
        again = encodings.batch([ids[2], ids[0], ids[2]], torch.rand(3, 1, 144), NO_TEXTS).encode(needs)
        alone = Encodings.of(loaded, {}, config.out / "enc").batch(ids, torch.empty(0), NO_TEXTS)  # no tower can run
        stored = alone.encode(())[0]
        sensitivity = Sensitivity(directions=4)
        computed_live = live.encode((sensitivity,))[1][sensitivity]
        computed_stored = alone.encode((sensitivity,))[1][sensitivity]
    torch.testing.assert_close(replayed, features, atol=1e-5, rtol=1e-5)
    for need in needs:
        torch.testing.assert_close(replay[need], trace[need], atol=1e-5, rtol=1e-4)
        assert torch.equal(again[1][need], replay[need][[2, 0, 2]])
    assert stored.equal(replayed)
    torch.testing.assert_close(computed_stored, computed_live, atol=0, rtol=1e-3)


def test_a_place_that_cannot_be_written_is_named(config, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"file.*choose another --out"):
        evaluate(replace(config, out=tmp_path / "file"))


def test_a_part_is_never_half_written(tmp_path, monkeypatch):
    folder = RecordFolder(tmp_path / "run")
    record = Record("a/b", "i", "k", "q", "r", "p", 1.0, [1], 1, [1, 1], 5, 1.0, 1.0, -0.5)
    folder.begin({})
    folder.append([record])
    folder.append([replace(record, sample_id="a_b")])
    with pytest.raises(OutputError, match=r"1 questions have no record.*'c'"):
        folder.finish(["a/b", "a_b", "c"])

    def dies(table, path):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr("foveate.evaluation.records.pq.write_table", dies)
    with pytest.raises(KeyboardInterrupt):
        folder.append([replace(record, sample_id="b")])
    assert folder.done() == {"a/b", "a_b"}
