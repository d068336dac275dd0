import math
from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from transformers import LlavaForConditionalGeneration, SiglipVisionConfig

from foveate.bias import measure as bias
from foveate.bias import module as measuring
from foveate.bias.measure import measure, resolve_plan
from foveate.bias.plan import BiasPlan
from foveate.bias.tables import TableFolder
from foveate.compressors import Identity
from foveate.core.arrangement import Arrangement, Grid
from foveate.core.errors import BudgetError, DataError, OutputError
from foveate.data.load import data_hash, load_samples
from foveate.data.sample import Masks
from foveate.evaluation import EvalConfig, answering
from foveate.evaluation.run import cached_load
from foveate.functional.regions import squares
from foveate.metrics.evidence import evidence_share
from foveate.models.loading.load import load
from foveate.reference.architecture import clip_config, llava_config, make_processor
from tests.tiers import extended

PLAN = BiasPlan(keep=16, side=4, orders=1, shares=(0.1, 0.5), tokens=3)
QUICK = BiasPlan(keep=16, side=12, orders=1, shares=(0.5,), head_rows=False)
QUESTIONS = 14  # about two images, each a batch
LAYERS = BLOCKS = "01234567"
TABLES = ("samples", "signals", "pairs", "curves", "tokens", "maps")


@pytest.fixture(scope="module")
def config(tiny, tmp_path_factory):
    return EvalConfig(
        Identity(),
        model=tiny,
        limit=QUESTIONS,
        max_new_tokens=4,
        batch_size=QUESTIONS // 2,
        out=tmp_path_factory.mktemp("bias"),
    )


@pytest.fixture(scope="module")
def measured(config):
    return measure(config, PLAN)


def frames(folder: TableFolder) -> dict[str, pd.DataFrame]:
    return {name: folder.read(name).to_pandas() for name in TABLES}


def one(frame: pd.DataFrame, **values) -> pd.DataFrame:
    for column, value in values.items():
        frame = frame[frame[column] == value]
    return frame.sort_values("sample_id", ignore_index=True)


def test_every_question_has_one_row_per_signal_layer_and_head(measured):
    tables = frames(measured)
    things = {sample.id: len(sample.evidence) for sample in load_samples("scenes", "test", QUESTIONS)}
    assert set(tables["samples"]["sample_id"]) == set(things)
    rows = tables["signals"].groupby(["signal", "layers", "head"])["sample_id"].nunique()
    assert set(rows.drop("answer")) == {QUESTIONS}
    assert set(rows["answer"]) == {(tables["samples"]["answer_tokens"] >= 2).sum()}
    heads = tables["signals"].groupby("signal")["head"].unique().map(sorted)
    assert all(heads[name] == [-1, 0, 1, 2, 3] for name in ("cls", "cls sum", "received", "prompt", "response"))
    assert all(heads[name] == [-1] for name in ("evidence", "random", "uniform"))
    layers = tables["signals"].groupby("signal")["layers"].unique().map(set)
    assert layers["cls"] == layers["received"] == set(LAYERS)
    assert layers["cls sum"] == {"0-7", "4-6"}
    assert layers["every"] == set(BLOCKS)
    assert all(layers[name] == {*BLOCKS, "0-7"} for name in ("prompt", "question", "response", "answer"))
    curves = tables["curves"].groupby("signal")["layers"].unique().map(set)
    assert curves["received"] == {"6"}  # ReceivedAttention(layer=-2)
    assert curves["cls"] == set(LAYERS)
    assert measured.identity["grid"] == [12, 12]
    assert "side=4, blocks=9" in measured.identity["plan"]
    samples = tables["samples"]
    assert {len(worth) for name in ("drop", "thinned") for worth in samples[name]} == {9}
    assert samples.set_index("sample_id")["thing_drop"].map(len).to_dict() == things
    assert not tables["signals"].duplicated(["sample_id", "signal", "layers", "head"]).any()


def test_measures_are_those_of_the_stored_maps(measured, config):
    """Compares with numpy and scipy, question by question."""
    tables = frames(measured)
    maps = tables["maps"].set_index(["sample_id", "signal", "layers"])["map"].map(np.asarray)
    samples = {sample.id: sample for sample in load_samples("scenes", "test", QUESTIONS)}
    worths = tables["samples"].set_index("sample_id")
    grid = cached_load(config.model).adapter.tower.grid
    block = squares(grid, PLAN.side).numpy()
    rows = one(tables["signals"], head=-1)
    rows = rows[~rows["signal"].isin(["random", "uniform"])].sample(40, random_state=0)
    for row in rows.itertuples():
        a, target = maps[row.sample_id, row.signal, row.layers], maps[row.sample_id, "response", "0-7"]
        top, theirs = (set(np.argsort(-side, kind="stable")[:16].tolist()) for side in (a, target))
        assert row.overlap_response == pytest.approx(len(top & theirs) / 16)
        assert row.spearman_response == pytest.approx(stats.spearmanr(a, target)[0], abs=1e-6)
        assert row.kendall_response == pytest.approx(stats.kendalltau(a, target)[0], abs=1e-6)
        assert row.retained_response == pytest.approx(target[list(top)].sum() / target.sum(), abs=1e-6)
        own = maps.get((row.sample_id, "answer", "0-7"))
        assert np.isnan(row.spearman_answer) == np.isnan(row.overlap_answer) == (own is None)
        if own is not None:
            best = set(np.argsort(-own, kind="stable")[:16].tolist())
            assert row.overlap_answer == pytest.approx(len(top & best) / 16)
            assert row.spearman_answer == pytest.approx(stats.spearmanr(a, own)[0], abs=1e-6)
        things = (evidence_share(torch.from_numpy(samples[row.sample_id].evidence), grid) >= 1 / 16).numpy()
        shown = things.any(0)
        assert row.evidence_recall == pytest.approx(shown[list(top)].sum() / shown.sum(), abs=1e-6)
        assert row.evidence_precision == pytest.approx(shown[list(top)].mean(), abs=1e-6)
        assert row.row_correlation == pytest.approx(stats.spearmanr(a, np.arange(144) // 12)[0], abs=1e-6)
        assert row.last_rows_share == pytest.approx(a[108:].sum() / a.sum(), abs=1e-6)
        drop, thinned, fall = (
            np.asarray(worths.loc[row.sample_id, name]) for name in ("drop", "thinned", "thing_drop")
        )
        mass, size = np.bincount(block, a), np.bincount(block)
        assert row.block_spearman == pytest.approx(stats.spearmanr(mass, drop)[0], abs=1e-5)
        assert row.thinned_spearman == pytest.approx(stats.spearmanr(mass, thinned)[0], abs=1e-5)
        assert row.block_hit == float(mass.argmax() == drop.argmax())
        assert row.block_nats == pytest.approx((np.clip(drop, 0, None) / size)[block][list(top)].sum(), abs=1e-5)
        assert row.thinned_nats == pytest.approx((thinned / size)[block][list(top)].sum(), abs=1e-5)
        kept = [thing[list(top)].sum() / thing.sum() for thing in things if thing.any()]
        assert row.thing_nats == pytest.approx((np.clip(fall, 0, None) * kept).sum(), abs=1e-5)


def test_rows_of_single_tokens_have_the_measures_of_their_signals(measured):
    tables = frames(measured)
    maps = tables["maps"].set_index(["sample_id", "signal", "layers"])["map"].map(np.asarray)
    tokens, lengths = tables["tokens"], tables["samples"].set_index("sample_id")["answer_tokens"]
    first = one(tokens, token=0)
    assert set(zip(first["signal"], first["layers"], strict=True)) == {
        ("cls sum", "0-7"), ("cls sum", "4-6"), ("prompt", "0-7"), ("question", "0-7")
    }  # fmt: skip
    last_token = one(first, signal="prompt")
    assert last_token["spearman"].to_numpy() == pytest.approx(1) and len(last_token) == QUESTIONS
    counts = one(tokens, signal="prompt").groupby("sample_id")["token"].nunique()
    assert counts.to_dict() == {name: min(3, max(1, length)) for name, length in lengths.items()}
    for row in one(first, signal="cls sum").itertuples():
        a, b = (maps[row.sample_id, name, layers] for name, layers in ((row.signal, row.layers), ("prompt", "0-7")))
        assert row.spearman == pytest.approx(stats.spearmanr(a, b)[0], abs=1e-6)
    whole = one(tables["signals"], signal="prompt", layers="0-7", head=-1).set_index("sample_id")
    own = last_token.set_index("sample_id")
    for name in ("evidence_recall", "row_correlation", "block_nats", "thinned_nats", "thing_nats"):
        pd.testing.assert_series_equal(own[name], whole[name], atol=1e-6, check_exact=False)


def test_both_definitions_of_the_response_are_recorded_if_the_answer_has_two_tokens(measured, monkeypatch):
    tables = frames(measured)
    maps = tables["maps"].set_index(["sample_id", "signal", "layers"])["map"].map(np.asarray)
    for name, length in tables["samples"].set_index("sample_id")["answer_tokens"].items():
        assert ((name, "answer", "0-7") in maps) == (length >= 2)
        response, last = maps[name, "response", "0-7"], maps[name, "prompt", "0-7"]
        if length >= 2:
            mixed = (last + (length - 1) * maps[name, "answer", "0-7"]) / length
            np.testing.assert_allclose(response, mixed, atol=1e-6)
        else:
            np.testing.assert_allclose(response, last, atol=1e-6)


def test_correlations_of_pairs_are_those_of_the_stored_maps(measured):
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
    """Checks that maps of [CLS] do not depend on the question, that those of the prompt do, and the mean over heads."""
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
        attention = tower(loaded.image_inputs([sample.image])[0]["pixel_values"], output_attentions=True).attentions
        tower.set_attn_implementation("sdpa")
    expected = torch.stack(attention)[:, 0, :, 0, 1:].mean(1)
    found = np.stack([one(maps, sample_id=sample.id, signal="cls", layers=i)["map"][0] for i in LAYERS])
    np.testing.assert_allclose(found, expected, atol=1e-5)


def with_unknown_evidence(samples, blind):
    """Returns the questions, those that `blind` selects with unknown evidence or with too little of it."""
    speck = np.zeros((1, 96, 96), bool)
    speck[0, 40, 40] = True
    masks = {False: None, "none": speck[:0], "speck": speck}
    return [
        sample if (mask := masks[blind(i)]) is None else replace(sample, things=Masks(mask))
        for i, sample in enumerate(samples)
    ]


def use_samples(monkeypatch, samples):
    monkeypatch.setattr(bias, "data_of", lambda *args: (tuple(samples), data_hash(samples)))


def test_unknown_evidence_removes_the_evidence_signal_and_changes_no_other(config, measured, monkeypatch):
    def blind(i):
        return False if i in (1, 2, 6) else "speck" if i == 5 else "none"  # unknown in the whole second batch

    samples = load_samples("scenes", "test", QUESTIONS)
    known = {samples[i].id for i in (1, 2, 6)}
    use_samples(monkeypatch, with_unknown_evidence(samples, blind))
    found, expected = frames(measure(config, PLAN)), frames(measured)
    for name, sides in (("signals", [""]), ("pairs", ["_a", "_b"]), ("curves", [""]), ("maps", [""])):
        about = [found[name][f"signal{side}"] == "evidence" for side in sides]
        assert set(found[name].loc[np.logical_or.reduce(about), "sample_id"]) == known
        rows, wanted = found[name], expected[name]
        keys = [column for column in rows if column.split("_")[0] in ("sample", "signal", "layers", "head", "share")]
        evidence = np.logical_or.reduce([wanted[f"signal{side}"] == "evidence" for side in sides])
        wanted = wanted[~evidence | wanted["sample_id"].isin(known)]
        measures = ["evidence_recall", "evidence_precision", "thing_nats"] if name == "signals" else []
        assert rows.loc[~rows["sample_id"].isin(known), measures].isna().all(axis=None)
        assert rows.loc[rows["sample_id"].isin(known), measures].notna().all(axis=None)
        rows, wanted = (frame.sort_values(keys, ignore_index=True).drop(columns=measures) for frame in (rows, wanted))
        pd.testing.assert_frame_equal(rows, wanted, rtol=1e-4, atol=1e-4)


def test_data_without_evidence_are_measured_without_the_evidence_signal(config, monkeypatch):
    samples = with_unknown_evidence(load_samples("scenes", "test", 11), lambda i: "none")
    use_samples(monkeypatch, samples)
    tables = frames(measure(replace(config, limit=11), QUICK))
    for name in ("signals", "curves", "maps"):
        assert "evidence" not in set(tables[name]["signal"])
        assert set(tables[name]["sample_id"]) == {sample.id for sample in samples}
    assert "evidence" not in {*tables["pairs"]["signal_a"], *tables["pairs"]["signal_b"]}
    assert tables["signals"][["evidence_recall", "evidence_precision"]].isna().all(axis=None)
    assert tables["signals"]["thing_nats"].isna().all() and tables["signals"]["block_nats"].notna().all()
    assert (tables["samples"]["thing_drop"].map(len) == 0).all()


def test_grids_need_not_be_square(config, tmp_path, monkeypatch):
    """Arranges the 144 patches as 9 rows of 16 and compares measures of position with numpy and scipy."""

    @cache
    def wide(*args):
        loaded = load(*args)
        grid = Grid(9, 16)
        loaded.adapter.tower = replace(loaded.adapter.tower, grid=grid)
        loaded.adapter.arrangements = lambda images, runs: [Arrangement((grid,))] * len(images["pixel_values"])
        return loaded

    monkeypatch.setattr(bias, "cached_load", wide)
    folder = measure(replace(config, limit=11, out=tmp_path), replace(QUICK, side=4))
    assert folder.identity["grid"] == [9, 16]
    tables, samples = frames(folder), {sample.id: sample for sample in load_samples("scenes", "test", 11)}
    row, column = np.divmod(np.arange(144), 16)
    block = row // 4 * 4 + column // 4
    drops = tables["samples"].set_index("sample_id")["drop"]
    assert {len(drop) for drop in drops} == {12}
    maps = tables["maps"].set_index(["sample_id", "signal", "layers"])["map"].map(np.asarray)
    rows = tables["signals"][~tables["signals"]["signal"].isin(["random", "uniform"])]
    for one_row in rows.sample(30, random_state=2).itertuples():
        a, drop = maps[one_row.sample_id, one_row.signal, one_row.layers], np.asarray(drops[one_row.sample_id])
        best = np.argsort(-a, kind="stable")[:16]
        assert one_row.row_correlation == pytest.approx(stats.spearmanr(a, row)[0], abs=1e-6)
        assert one_row.last_rows_share == pytest.approx(a[row >= 7].sum() / a.sum(), abs=1e-6)
        assert one_row.centroid_down == pytest.approx(np.average((row + 0.5) / 9, weights=a) - 0.5, abs=1e-6)
        assert one_row.centroid_right == pytest.approx(np.average((column + 0.5) / 16, weights=a) - 0.5, abs=1e-6)
        pixels = samples[one_row.sample_id].evidence
        across = np.minimum(np.arange(96) * 16 // 96, 15)  # 96 pixels of width over 16 patches
        down = [
            slice(i * 96 // 9, -(-(i + 1) * 96 // 9)) for i in range(9)
        ]  # rows share pixels, because 9 does not divide 96
        shown = np.array(
            [
                [pixels[:, part][:, :, across == j].mean((1, 2)).max(initial=0) >= 1 / 16 for j in range(16)]
                for part in down
            ]
        ).ravel()
        assert one_row.evidence_recall == pytest.approx(shown[best].sum() / shown.sum())
        falls = (np.clip(drop, 0, None) / np.bincount(block))[block]
        assert one_row.block_nats == pytest.approx(falls[best].sum(), abs=1e-5)
        assert one_row.block_hit == float(np.bincount(block, a).argmax() == drop.argmax())


def test_a_tower_without_cls_has_a_curve_for_the_layer_of_the_fallback(config, tmp_path):
    llava = llava_config(clip_config().vision_config)
    llava.vision_config = SiglipVisionConfig(
        hidden_size=32, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2, image_size=96, patch_size=8
    )
    llava.vision_feature_select_strategy, llava.vision_feature_layer = "full", -1
    LlavaForConditionalGeneration(llava).save_pretrained(tmp_path / "siglip")
    make_processor().save_pretrained(tmp_path / "siglip")
    model = replace(config, model=str(tmp_path / "siglip"), limit=11, out=tmp_path)
    curves = measure(model, QUICK).read("curves").to_pandas()
    of_tower = curves[
        ~curves["signal"].isin(
            ["prompt", "question", "response", "evidence", "occlusion", "thinned", "random", "uniform"]
        )
    ]
    assert set(zip(of_tower["signal"], of_tower["layers"], strict=True)) == {("received", "1")}  # ReceivedAttention(-2)
    assert of_tower["insertion"].notna().all()


@extended("moments")
def test_a_killed_measurement_resumes_with_the_same_tables(config, measured, monkeypatch):
    elsewhere = replace(config, out=config.out / "killed")
    whole, calls = measuring.BiasModule.predict_step, []

    def dies(self, batch):
        calls.append(batch)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return whole(self, batch)

    with monkeypatch.context() as patched:
        patched.setattr(measuring.BiasModule, "predict_step", dies)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            measure(elsewhere, PLAN)
    (begun,) = (elsewhere.out / "bias").iterdir()
    assert len(TableFolder(begun).done()) == QUESTIONS // 2
    (begun / ".part-stale").mkdir()  # left by a process that is killed while it writes
    folder = measure(elsewhere, PLAN)
    assert folder.complete
    assert not list(begun.glob(".part-*"))
    for table in TABLES:
        pd.testing.assert_frame_equal(folder.read(table).to_pandas(), measured.read(table).to_pandas(), rtol=1e-6)
    assert measure(elsewhere, PLAN).folder == folder.folder


def test_each_plan_has_its_own_folder(config, measured, monkeypatch):
    monkeypatch.setattr(answering, "predict", lambda *args: None)
    names = set()
    for change in (
        {},
        {"keep": 15},
        {"side": 6},
        {"blocks": 4},
        {"shares": (0.1,)},
        {"orders": 2},
        {"head_rows": False},
    ):
        with pytest.raises(OutputError, match=f"{QUESTIONS} questions have no record"):
            measure(replace(config, out=config.out / "plans"), replace(PLAN, **change))
        names = {path.name for path in (config.out / "plans" / "bias").iterdir()}
    assert len(names) == 6  # at most 4 blocks are 4 blocks of side 6


@pytest.mark.parametrize("grid", [Grid(12, 12), Grid(9, 16), Grid(24, 24), Grid(3, 1)], ids=str)
def test_a_plan_uses_the_smallest_blocks_within_the_maximum_number(grid):
    longest = max(grid.rows, grid.columns)
    for side in range(1, longest + 1):
        counts = {s: math.ceil(grid.rows / s) * math.ceil(grid.columns / s) for s in range(side, longest + 1)}
        assert resolve_plan(BiasPlan(side=side), grid) == BiasPlan(side=side, blocks=counts[side])
        for most in {1, 4, 10, counts[side], counts[side] + 1}:
            plan = resolve_plan(BiasPlan(side=side, blocks=most), grid)
            assert plan.side == min(s for s, count in counts.items() if count <= most)
            assert plan.blocks == counts[plan.side] == len(squares(grid, plan.side).unique())
            assert resolve_plan(plan, grid) == plan


def test_plans_that_do_not_fit_are_refused(config):
    with pytest.raises(BudgetError, match="keep=0"):
        measure(config, replace(PLAN, keep=0))
    with pytest.raises(BudgetError, match=r"side=13: expected 1\.\.12 patches"):
        measure(config, replace(PLAN, side=13))
    with pytest.raises(BudgetError, match=r"blocks=0: expected at least 1"):
        measure(config, replace(PLAN, blocks=0))
    with pytest.raises(BudgetError, match=r"shares=\(\): a curve needs at least one"):
        measure(config, replace(PLAN, shares=()))
    with pytest.raises(DataError, match=r"no config.json.*no run began here"):
        _ = TableFolder(config.out / "nothing").identity
    with pytest.raises(DataError, match=r"no table 'signals'.*measure"):
        TableFolder(config.out / "nothing").read("signals")
