"""Files of a run that were damaged or lost: never read, named, set aside, and made anew."""

import json
from dataclasses import replace

import pandas as pd
import pytest

from foveate.analysis.records import read_records
from foveate.bias.measure import measure
from foveate.bias.plan import BiasPlan
from foveate.bias.tables import TableFolder
from foveate.core.errors import DataError
from foveate.evaluation import EvalConfig, evaluate
from foveate.evaluation.records import RecordFolder
from foveate.methods import vtc_cls
from foveate.studies.ablation import ablate, named_choices
from foveate.studies.study_folder import StudyFolder
from foveate.testing.checkpoints import save_family

PLAN = BiasPlan(keep=16, side=12, shares=(0.5,), head_rows=False)


@pytest.fixture
def config(tiny, tmp_path):
    return EvalConfig(vtc_cls(16, 1), model=tiny, limit=33, max_new_tokens=3, batch_size=11, out=tmp_path)


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def flip(path, place=-20):
    """Deep in the footer, where the checksums of parquet's pages do not reach."""
    content = bytearray(path.read_bytes())
    content[place] ^= 4
    path.write_bytes(content)


@pytest.mark.guards("checksum: core/storage.py takes everything for intact")
@pytest.mark.parametrize("damage", [cut, flip], ids=["cut", "flipped"])
def test_a_damaged_part_is_never_read_and_its_questions_are_answered_anew(config, damage):
    folder = evaluate(config)
    expected = folder.read()
    before, part, *_ = folder.parts()
    untouched = before.stat().st_mtime_ns
    damage(part)
    spoilt = part.read_bytes()
    assert not folder.complete
    for read in (folder.read, folder.failed, lambda: read_records(config.out, folder.folder.name)):
        with pytest.raises(DataError, match=rf"{part.name} is damaged.*run the command that made it again"):
            read()
    with pytest.warns(UserWarning, match=f"damaged: {part}"):
        again = evaluate(config)
    assert again.complete
    assert again.read().equals(expected)
    assert part.with_name(f"{part.name}.damaged-1").read_bytes() == spoilt
    assert before.stat().st_mtime_ns == untouched


@pytest.mark.guards("records: their number in DONE is not compared")
def test_a_part_that_is_lost_from_a_finished_run_is_noticed_and_answered_anew(config):
    folder = evaluate(config)
    expected = folder.read()
    folder.parts()[1].unlink()
    assert not folder.complete
    with pytest.raises(DataError, match=r"\d+ records are there, and 33 were"):
        folder.read()
    assert evaluate(config).read().equals(expected)
    assert folder.complete


@pytest.mark.parametrize("damage", [cut, flip], ids=["cut", "flipped"])
def test_a_damaged_config_is_quarantined_and_written_again(config, damage):
    folder = evaluate(config)
    identity, content = folder.identity, (folder.folder / "config.json").read_bytes()
    parts = {part: part.stat().st_mtime_ns for part in folder.parts()}
    damage(folder.folder / "config.json")
    with pytest.raises(DataError, match=r"config.json is damaged.*run the command that made it again"):
        _ = folder.identity
    with pytest.warns(UserWarning, match="damaged: .*config.json"):
        evaluate(config)
    assert folder.complete
    assert folder.identity == identity
    assert (folder.folder / "config.json").read_bytes() == content
    assert {part: part.stat().st_mtime_ns for part in folder.parts()} == parts


@pytest.mark.parametrize("content", [b"", b"32\n", b"\xff"])
def test_a_damaged_mark_of_completeness_is_written_again(config, content):
    folder = evaluate(config)
    mark = folder.folder / "DONE"
    expected = mark.read_bytes()
    mark.write_bytes(content)
    assert not folder.complete
    evaluate(config)
    assert folder.complete and mark.read_bytes() == expected


@pytest.mark.guards("checksum: a run's config.json is not verified")
def test_a_value_in_the_note_of_a_run_cannot_be_changed_unnoticed(config):
    folder = evaluate(config)
    note = json.loads((folder.folder / "config.json").read_text())
    (folder.folder / "config.json").write_text(json.dumps(note | {"max_new_tokens": 4}, indent=1))
    with pytest.raises(DataError, match=r"config.json is damaged"):
        _ = folder.identity


@pytest.mark.parametrize("damage", [cut, lambda path: flip(path, len(path.read_bytes()) // 2)], ids=["cut", "flipped"])
def test_damaged_encodings_are_set_aside_and_encoded_anew(config, damage):
    expected = evaluate(config).read()
    (encodings,) = config.out.glob("encodings/*.arrow")
    damage(encodings)
    with pytest.warns(UserWarning, match=f"damaged: {encodings}"):
        evaluate(replace(config, compressor=vtc_cls(9, 1)))
    for part in config.out.glob("records/*/*"):
        part.unlink()
    assert evaluate(config).read().equals(expected)
    assert encodings.with_name(f"{encodings.name}.damaged-1").exists()
    (anew,) = config.out.glob("encodings/*.arrow")
    assert anew == encodings


def test_a_damaged_table_of_a_measurement_is_measured_anew(tiny, tmp_path):
    config = EvalConfig(vtc_cls(16, 1), model=tiny, limit=4, max_new_tokens=2, batch_size=2, out=tmp_path)
    folder = measure(config, PLAN)
    expected = {name: folder.read(name).to_pandas() for name in ("samples", "signals", "pairs", "curves", "maps")}
    part = folder.parts()[0]
    flip(part / "signals.parquet")
    for name in expected:  # also those that are whole: a part is one thing
        with pytest.raises(DataError, match=f"{part.name} is damaged"):
            TableFolder(folder.folder).read(name)
    with pytest.warns(UserWarning, match=f"damaged: {part}"):
        again = measure(config, PLAN)
    for name, frame in expected.items():
        pd.testing.assert_frame_equal(again.read(name).to_pandas(), frame)


@pytest.mark.guards("records: a finished study does not check those of its trials")
@pytest.mark.parametrize("family", ["LLaVA-1.5", "LLaVA-OneVision"])
def test_a_finished_study_restores_the_records_that_it_has_lost(config, tmp_path, family):
    """Of a tower without [CLS] too, where the choices have fallbacks."""
    config = replace(config, model=str(save_family(family, tmp_path / "model")), limit=6)

    def studied():
        return ablate(
            StudyFolder("s", config.out), config, lambda tower: named_choices(tower, ("cls[0]", "cls[1]"))[:2], (4,)
        )

    trials = studied().trials
    folders = [RecordFolder(config.out / "records" / trial.user_attrs["run_id"]) for trial in trials]
    expected = [folder.read() for folder in folders]
    flip(folders[0].parts()[0])
    for path in folders[1].folder.iterdir():
        path.unlink()
    with pytest.warns(UserWarning, match=f"damaged: .*{folders[0].folder.name}"):
        again = studied().trials
    assert [trial.number for trial in again] == [trial.number for trial in trials]
    assert all(folder.read().equals(table) for folder, table in zip(folders, expected, strict=True))


def test_a_study_whose_database_is_damaged_is_made_anew_from_its_records(config):
    def studied():
        study = ablate(
            StudyFolder("s", config.out), config, lambda tower: named_choices(tower, ("cls[0]", "cls[1]"))[:2], (7,)
        )
        return [(trial.number, trial.params, trial.values, trial.user_attrs["run_id"]) for trial in study.trials]

    before = studied()
    parts = {part: part.stat().st_mtime_ns for part in config.out.glob("records/*/part-*")}
    content = (config.out / "s" / "study.db").read_bytes()[:9000]
    (config.out / "s" / "study.db").write_bytes(content)
    with pytest.warns(UserWarning, match=r"damaged: .*study.db"):
        assert studied() == before
    assert {part: part.stat().st_mtime_ns for part in config.out.glob("records/*/part-*")} == parts
    assert (config.out / "s" / "study.db.damaged-1").read_bytes() == content
