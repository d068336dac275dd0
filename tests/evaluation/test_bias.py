from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from foveate.compression import Identity
from foveate.core.errors import BudgetError, DataError, OutputError
from foveate.data.load import load_samples
from foveate.evaluation import EvalConfig
from foveate.evaluation import bias as measuring
from foveate.evaluation.bias import BiasPlan, measure
from foveate.evaluation.run import cached_load
from foveate.evaluation.tables import TableFolder
from foveate.functional.regions import squares
from foveate.metrics.evidence import evidence_share

PLAN = BiasPlan(keep=16, side=4, shares=(0.1, 0.5))
TABLES = ("samples", "signals", "pairs", "curves", "maps")


@pytest.fixture(scope="module")
def config(tiny, tmp_path_factory):
    return EvalConfig(
        Identity(), model=tiny, limit=24, max_new_tokens=4, batch_size=12, out=tmp_path_factory.mktemp("bias")
    )


@pytest.fixture(scope="module")
def measured(config):
    return measure(config, PLAN, progress=False)


def frames(folder: TableFolder) -> dict[str, pd.DataFrame]:
    return {name: folder.read(name).to_pandas() for name in TABLES}


def one(frame: pd.DataFrame, **values) -> pd.DataFrame:
    for column, value in values.items():
        frame = frame[frame[column] == value]
    return frame.sort_values("sample_id", ignore_index=True)


def test_every_question_has_one_row_per_signal_layer_and_head(measured):
    tables = frames(measured)
    ids = {sample.id for sample in load_samples("scenes", "test", 24)}
    assert set(tables["samples"]["sample_id"]) == ids
    rows = tables["signals"].groupby(["signal", "layers", "head"])["sample_id"].nunique()
    assert set(rows) == {24}
    heads = tables["signals"].groupby("signal")["head"].unique().map(sorted)
    assert all(heads[name] == [-1, 0, 1, 2, 3] for name in ("cls", "cls sum", "received", "prompt", "response"))
    assert all(heads[name] == [-1] for name in ("evidence", "random", "uniform"))
    layers = tables["signals"].groupby("signal")["layers"].unique().map(set)
    assert layers["cls"] == layers["received"] == set("012345")
    assert layers["cls sum"] == {"0-5", "2-4"}
    assert layers["prompt"] == layers["every"] == set("0123")
    assert layers["response"] == layers["question"] == {*"0123", "0-3"}
    assert not tables["signals"].duplicated(["sample_id", "signal", "layers", "head"]).any()


def test_measures_are_those_of_the_stored_maps(measured, config):
    """Recomputed by numpy and scipy, question by question."""
    tables = frames(measured)
    maps = tables["maps"].set_index(["sample_id", "signal", "layers"])["map"].map(np.asarray)
    samples = {sample.id: sample for sample in load_samples("scenes", "test", 24)}
    drops = tables["samples"].set_index("sample_id")["drop"]
    grid = cached_load(config.model).adapter.tower.grid
    block = squares(grid, PLAN.side).numpy()
    rows = one(tables["signals"], head=-1)
    rows = rows[~rows["signal"].isin(["random", "uniform"])].sample(40, random_state=0)
    for row in rows.itertuples():
        a, target = maps[row.sample_id, row.signal, row.layers], maps[row.sample_id, "response", "0-3"]
        top, theirs = (set(np.argsort(-side, kind="stable")[:16].tolist()) for side in (a, target))
        assert row.overlap_response == pytest.approx(len(top & theirs) / 16)
        assert row.spearman_response == pytest.approx(stats.spearmanr(a, target)[0], abs=1e-6)
        assert row.kendall_response == pytest.approx(stats.kendalltau(a, target)[0], abs=1e-6)
        assert row.retained_response == pytest.approx(target[list(top)].sum() / target.sum(), abs=1e-6)
        shown = (evidence_share(torch.from_numpy(samples[row.sample_id].evidence), grid) >= 1 / 16).any(0).numpy()
        assert row.evidence_recall == pytest.approx(shown[list(top)].sum() / shown.sum(), abs=1e-6)
        assert row.evidence_precision == pytest.approx(shown[list(top)].mean(), abs=1e-6)
        assert row.row_correlation == pytest.approx(stats.spearmanr(a, np.arange(144) // 12)[0], abs=1e-6)
        assert row.last_rows_share == pytest.approx(a[108:].sum() / a.sum(), abs=1e-6)
        drop = np.asarray(drops[row.sample_id])
        mass = np.bincount(block, a)
        assert row.causal_spearman == pytest.approx(stats.spearmanr(mass, drop)[0], abs=1e-5)
        assert row.causal_hit == float(mass.argmax() == drop.argmax())
        falls = (np.clip(drop, 0, None) / np.bincount(block))[block]
        assert row.causal_mass == pytest.approx(falls[list(top)].sum() / falls.sum(), abs=1e-5)


def test_pairs_are_symmetric_facts_about_the_maps(measured):
    tables = frames(measured)
    maps = tables["maps"].set_index(["sample_id", "signal", "layers"])["map"].map(np.asarray)
    pairs = tables["pairs"]
    assert not pairs.duplicated(["sample_id", "signal_a", "layers_a", "signal_b", "layers_b"]).any()
    known = pairs[~pairs["signal_a"].eq("random") & ~pairs["signal_b"].eq("random")].sample(40, random_state=1)
    for row in known.itertuples():
        a, b = (
            maps[row.sample_id, name, layers]
            for name, layers in ((row.signal_a, row.layers_a), (row.signal_b, row.layers_b))
        )
        assert row.spearman == pytest.approx(stats.spearmanr(a, b)[0], abs=1e-6)
        assert row.kendall == pytest.approx(stats.kendalltau(a, b)[0], abs=1e-6)


def test_maps_are_the_attention_of_each_question(measured, config):
    """The rows of [CLS] do not depend on the question, those of the prompt do, and all are means over heads."""
    maps = frames(measured)["maps"]
    loaded = cached_load(config.model)
    for signal, same in (("cls", True), ("prompt", False)):
        rows = one(maps, signal=signal, layers="2")
        first = rows[rows["image_id"] == rows["image_id"].iloc[0]]["map"]
        assert (np.ptp(np.stack(first), axis=0).max() < 1e-6) == same
    sample = load_samples("scenes", "test", 1)[0]
    with torch.inference_mode():
        tower = loaded.model.model.vision_tower
        tower.set_attn_implementation("eager")
        attention = tower(loaded.images([sample.image])[0]["pixel_values"], output_attentions=True).attentions
        tower.set_attn_implementation("sdpa")
    expected = torch.stack(attention)[:, 0, :, 0, 1:].mean(1)
    found = np.stack([one(maps, sample_id=sample.id, signal="cls", layers=str(i))["map"][0] for i in range(6)])
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_measurement_that_was_killed_goes_on_and_ends_as_if_it_had_not_been(config, measured, monkeypatch):
    elsewhere = replace(config, out=config.out / "killed")
    whole, calls = measuring.Measuring.predict_step, []

    def dies(self, batch):
        calls.append(batch)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return whole(self, batch)

    with monkeypatch.context() as patched:
        patched.setattr(measuring.Measuring, "predict_step", dies)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            measure(elsewhere, PLAN, progress=False)
    (begun,) = (elsewhere.out / "bias").iterdir()
    assert len(TableFolder(begun).done()) == 12
    (begun / ".part-stale").mkdir()  # as one leaves that is killed while it writes
    folder = measure(elsewhere, PLAN, progress=False)
    assert folder.complete
    assert not list(begun.glob(".part-*"))
    for table in TABLES:
        pd.testing.assert_frame_equal(folder.read(table).to_pandas(), measured.read(table).to_pandas(), rtol=1e-6)
    assert measure(elsewhere, PLAN, progress=False).folder == folder.folder


def test_another_plan_is_another_run(config, measured, monkeypatch):
    monkeypatch.setattr(measuring, "predict", lambda *args: None)
    names = set()
    for change in ({}, {"keep": 15}, {"side": 6}, {"shares": (0.1,)}, {"head_rows": False}):
        with pytest.raises(OutputError, match="24 questions have no record"):
            measure(replace(config, out=config.out / "plans"), replace(PLAN, **change))
        names = {path.name for path in (config.out / "plans" / "bias").iterdir()}
    assert len(names) == 5


def test_what_cannot_be_measured_is_refused(config):
    with pytest.raises(BudgetError, match="keep=0"):
        measure(config, replace(PLAN, keep=0))
    with pytest.raises(BudgetError, match=r"side=13: blocks of 1\.\.12"):
        measure(config, replace(PLAN, side=13))
    with pytest.raises(DataError, match=r"no table 'signals'.*measure"):
        TableFolder(config.out / "nothing").read("signals")
