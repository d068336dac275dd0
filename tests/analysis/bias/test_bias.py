"""Numbers, tables and figures of a bias measurement against independent ones, on constructed tables."""

import re
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy import stats
from statsmodels.stats.multitest import multipletests

from foveate.analysis import statistics, verdicts
from foveate.analysis.bias import report as bias_report
from foveate.analysis.bias.data import contrasts, headline, judges_table, pair_matrix, signal_frame, summary_table
from foveate.analysis.bias.figures import (
    curves_data,
    draw_curves,
    draw_layers,
    draw_map,
    draw_pairs,
    pairs_data,
    pairs_figure,
)
from foveate.analysis.bias.measurement import curve_areas, curve_frame, curve_table, mean_maps, placeless, row_nulls
from foveate.analysis.bias.measures import (
    MEASURED,
    NEAR,
    RESPONSES,
    WITH_RESPONSE,
    formatted,
    interval_of,
    with_interval,
)
from foveate.analysis.bias.report import contrasts_markdown, judges_markdown, report
from foveate.analysis.bias.slices import cross_table, heads_table, kinds_table, tokens_table
from foveate.analysis.bias.slices_figures import draw_cross, draw_heads, draw_tokens
from foveate.analysis.statistics import ratio_interval
from foveate.bias.tables import TableFolder

IMAGES, ASKED, ROWS, COLUMNS, HEADS = 20, 3, 6, 5, 4
SHARES = (0.05, 0.11, 0.25)
PLAN = "BiasPlan(keep=4, side=3)"
CONFIG = {"grid": [ROWS, COLUMNS], "plan": PLAN, "model": "/somewhere/tiny", "data": "scenes", "split": "test"}
FREE = (  # measures whose values here follow a planted level, and nothing else
    *("visual_mass", "js_response", "retained_response", "evidence_precision", "entropy", "effective_tokens"),
    *("sink_share", "block_spearman", "thinned_spearman", "block_hit", "raster_correlation"),
)
TOKEN_MEASURES = ("spearman", "overlap", "evidence_recall", "row_correlation")
OF_RESPONSE = (*WITH_RESPONSE, *NEAR["answer"])  # known of answers of at least three tokens


_SIZES = np.random.default_rng(9).exponential(0.3, (3, IMAGES * ASKED)) * (np.arange(IMAGES * ASKED) % 3 > 0)
WHOLE = dict(zip(("block", "thinned", "thing"), _SIZES, strict=True))  # a third of the questions has no worth


class Planted(NamedTuple):
    """A planted signal: nearness to the response, lean towards the bottom, and worth to the answer."""

    near: float
    lean: float
    causal: float


def planted(cls: Planted, prompt: Planted, response: Planted) -> dict[tuple[str, str], Planted]:
    """Returns all signals of a tower of three layers and a language model of three blocks."""
    weak = cls._replace(near=cls.near * 0.5)
    nothing = Planted(0.0, 0.0, 0.2)
    signals = {("cls", str(layer)): weak for layer in range(3)} | {("cls sum", "0-2"): cls, ("cls sum", "1-2"): cls}
    signals[("received", "1")] = nothing
    for name, some in (("prompt", prompt), ("response", response), ("answer", response)):
        signals |= {(name, str(block)): some for block in range(3)}
    other = prompt._replace(near=3 * prompt.near)  # of both prompts the nearer one
    signals |= {("question", "1"): other, ("question", "0-2"): other, ("every", "1"): nothing}
    signals |= {("response", "0-2"): response, ("answer", "0-2"): response, ("evidence", ""): Planted(0.4, 0.0, 0.6)}
    return signals | {("random", str(seed)): nothing for seed in range(3)} | {("uniform", ""): nothing}


CLAIMED = planted(Planted(2.0, 0.0, 0.7), Planted(0.7, 2.0, 0.3), Planted(0.0, 0.0, 0.6))  # as the seed paper has it
REFUTED = planted(Planted(0.1, 0.0, 0.2), Planted(2.0, 0.0, 0.7), Planted(0.0, 2.0, 0.2))


def maps_of(signals: dict[tuple[str, str], Planted], rng: np.random.Generator) -> dict[tuple[str, str], np.ndarray]:
    """Returns attention over patches, one row per question."""
    questions, patches = IMAGES * ASKED, ROWS * COLUMNS
    wanted, down = rng.normal(size=(questions, patches)), np.repeat(np.linspace(-1, 1, ROWS), COLUMNS)
    found = {}
    for (name, layers), how in signals.items():
        own = how.near * wanted + rng.normal(size=wanted.shape)
        if name in RESPONSES:
            own = wanted + ((name, layers) != ("response", "0-2")) * 0.5 * rng.normal(size=wanted.shape)
        found[name, layers] = np.exp(own + how.lean * down) * rng.uniform(0.001, 0.02)
    found["uniform", ""] = np.tile(rng.permutation(patches) + 1.0, (questions, 1))
    return found


def ranked(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = (stats.rankdata(np.broadcast_to(side, (IMAGES * ASKED, ROWS * COLUMNS)), axis=1) for side in (a, b))
    return stats.pearsonr(a, b, axis=1).statistic


def measured(
    row: np.ndarray, targets: tuple[np.ndarray, np.ndarray], how: Planted, ease: np.ndarray, rng: np.random.Generator
) -> dict:
    """Returns every measure of one signal; some are unknown for some questions."""
    down, n = np.repeat(np.arange(ROWS), COLUMNS), len(row)
    tops = [np.argsort(-side, axis=1)[:, :4] for side in (row, *targets)]
    found = {measure: 0.5 + rng.normal(0, 0.05, n) for measure in FREE}
    found |= {measure: rng.normal(0, 0.05, n) for measure in ("centroid_down", "centroid_right")}
    found["block_hit"] = (rng.random(n) < how.causal).astype(float)
    found["kendall_response"] = 0.3 + 0.1 * rng.normal(size=n)
    for name, target, top in zip(RESPONSES, targets, tops[1:], strict=True):
        found[f"overlap_{name}"] = np.array([len({*a} & {*b}) / 4 for a, b in zip(tops[0], top, strict=True)])
        found[f"spearman_{name}"] = ranked(row, target)
    found["row_correlation"] = ranked(row, down)
    found["last_rows_share"] = row[:, down >= 5].sum(1) / row.sum(1)
    found["evidence_recall"] = np.clip(how.causal + ease + 0.1 * rng.normal(size=n), 0, 1)
    for judge in ("block", "thinned", "thing"):  # nats; the whole is planted by `worths_of`
        found[f"{judge}_nats"] = WHOLE[judge] * np.clip(how.causal + ease + 0.1 * rng.normal(size=n), 0, 1)
    found["evidence_recall"][3::4] = np.nan
    found["thing_nats"][3::4] = np.nan
    return found


def worths_of(rng: np.random.Generator) -> dict[str, list]:
    """Returns the worth of a few blocks, and of a thing where one is known, in nats."""
    n = IMAGES * ASKED
    parts = rng.dirichlet(np.ones(4), n)
    block = np.concatenate([parts * WHOLE["block"][:, None], np.full((n, 1), -0.2)], 1)  # the last is worth nothing
    things = [[value] if i % 4 != 3 else [] for i, value in enumerate(WHOLE["thing"])]
    thinned = parts * WHOLE["thinned"][:, None]
    checked = thinned.max(1) - rng.exponential(0.05, n)
    return {"drop": list(block), "thinned": list(thinned), "thinned_best": checked, "thing_drop": things}


def joined(parts: list[dict]) -> pd.DataFrame:
    """Returns tables whose columns are arrays or constants, one below the other."""
    sizes = [len(part["sample_id"]) for part in parts]
    return pd.DataFrame(
        {
            column: np.concatenate([np.broadcast_to(part[column], n) for part, n in zip(parts, sizes, strict=True)])
            for column in parts[0]
        }
    )


def tables_of(signals: dict[tuple[str, str], Planted], seed: int, heads: bool) -> dict[str, pd.DataFrame]:
    rng, n = np.random.default_rng(seed), IMAGES * ASKED
    maps = maps_of(signals, rng)
    ids = {"sample_id": [f"q{i:03d}" for i in range(n)], "image_id": [f"p{i // ASKED:03d}" for i in range(n)]}
    whole = rng.normal(-0.5, 0.2, n)
    ease = np.repeat(rng.normal(0, 0.05, IMAGES), ASKED)  # of an image, which its questions share
    parts: dict[str, list[dict]] = {"signals": [], "pairs": [], "curves": []}
    for (name, layers), how in signals.items():
        rows = ids | {"signal": name, "layers": layers}
        targets = maps["response", "0-2"], maps["answer", "0-2"]
        values = measured(maps[name, layers], targets, how, ease, rng)
        parts["signals"].append(rows | {"head": -1} | values)
        if heads and name not in ("random", "uniform", "evidence"):
            single = values | {"kendall_response": np.full(n, np.nan)}
            for head in range(HEADS):
                single["spearman_response"] = values["spearman_response"] / (2 + head)
                parts["signals"].append(rows | {"head": head} | single)
    curved = {key: how.causal for key, how in signals.items() if key[0] not in ("received", "every", "answer")}
    for (name, layers), causal in (curved | {("occlusion", ""): 0.9, ("thinned", ""): 0.9}).items():
        for share in SHARES:
            left, gone = (lost + ease + 0.05 * rng.normal(size=n) for lost in (1 - causal - share, causal + share))
            rows = ids | {"signal": name, "layers": layers, "share": share}
            parts["curves"].append(rows | {"insertion": whole - left, "deletion": whole - gone})
    paired = [key for key in signals if key[0] not in ("every", "uniform")]
    for (name, layers), (other, others) in combinations(paired, 2):
        rows = ids | {"signal_a": name, "layers_a": layers, "signal_b": other, "layers_b": others}
        values = {measure: rng.random(n) for measure in ("overlap", "spearman", "kendall", "jensen_shannon")}
        values["spearman"][5] = np.nan
        parts["pairs"].append(rows | values)
    found = {name: joined(some) for name, some in parts.items()}
    shown = {key: rows.astype(np.float32) for key, rows in maps.items() if key[0] not in ("random", "uniform")}
    found["maps"] = joined([ids | {"signal": name, "layers": layers} for name, layers in shown])
    found["maps"]["map"] = [row for rows in shown.values() for row in rows]
    lengths = np.array([1 + number % 5 for number in range(n)])
    singles = []
    for token in range(3):
        present = lengths > token
        some = {name: np.asarray(column)[present] for name, column in ids.items()}
        for name, layers in (("cls sum", "0-2"), ("question", "0-2")):
            values = {measure: rng.random(present.sum()) for measure in TOKEN_MEASURES}
            values["thinned_nats"] = WHOLE["thinned"][present] * rng.random(present.sum())
            singles.append(some | {"signal": name, "layers": layers, "token": token} | values)
    found["tokens"] = joined(singles)
    samples = ids | {"kind": [("color", "list")[i % 2] for i in range(n)], "log_probability": whole}
    return found | {"samples": pd.DataFrame(samples | {"answer_tokens": lengths} | worths_of(rng))}


class Made(NamedTuple):
    """What was written, and what the analysis makes of it."""

    folder: TableFolder
    tables: dict[str, pd.DataFrame]
    frame: pd.DataFrame
    summary: pd.DataFrame
    contrasts: pd.DataFrame
    judges: pd.DataFrame

    def of(self, signal: str, layers: str, measure: str) -> pd.Series:
        """Returns the known values of the mean over heads by question; for random maps the mean over seeds."""
        rows, samples = self.tables["signals"], self.samples
        rows = rows[(rows["head"] == -1) & (rows["signal"] == signal)]
        if signal != "random":
            rows = rows[rows["layers"] == layers]
        values = rows.groupby("sample_id")[measure].mean()
        brief = samples["answer_tokens"].reindex(values.index) < 3
        if measure in ("block_spearman", "thinned_spearman", "block_hit"):
            values[samples["drop"].map(max).reindex(values.index) < 0.05] = np.nan
        return values.mask(brief) if measure in OF_RESPONSE or signal in RESPONSES else values

    def row(self, signal: str, layers: str) -> pd.Series:
        return self.summary[(self.summary["signal"] == signal) & (self.summary["layers"] == layers)].iloc[0]

    def contrast(self, a: tuple[str, str], b: tuple[str, str], measure: str) -> pd.Series:
        rows = self.contrasts.set_index(["signal_a", "layers_a", "signal_b", "layers_b", "measure"])
        return rows.loc[(*a, *b, measure)]

    @property
    def samples(self) -> pd.DataFrame:
        return self.tables["samples"].set_index("sample_id")

    @property
    def image_of(self) -> pd.Series:
        return self.samples["image_id"]


def make(out: Path, signals: dict[tuple[str, str], Planted], seed: int = 0, heads: bool = True) -> Made:
    """Writes the tables in two parts."""
    tables, folder = tables_of(signals, seed, heads), TableFolder(out)
    ids = tables["samples"]["sample_id"]
    folder.begin(CONFIG)
    for half in (ids[:30], ids[30:]):
        rows = {name: table[table["sample_id"].isin(half)] for name, table in tables.items()}
        folder.append({name: pa.Table.from_pandas(some, preserve_index=False) for name, some in rows.items()})
    frame = signal_frame(folder)
    shown = headline(frame)
    summary = summary_table(shown, row_nulls(folder))
    return Made(folder, tables, frame, summary, contrasts(shown), judges_table(folder))


@pytest.fixture(scope="module", autouse=True)
def _fast():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verdicts, "DRAWS", 29_999)  # 2 / 30,000 times 500 contrasts is below 0.05
        patch.setattr(statistics, "RESAMPLES", 500)
        yield


@pytest.fixture(scope="module")
def claimed(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(tmp_path_factory.mktemp("claimed"), CLAIMED)


@pytest.fixture(scope="module")
def refuted(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(tmp_path_factory.mktemp("refuted"), REFUTED, 1, heads=False)


def test_every_measure_is_the_mean_over_the_questions_that_know_it(claimed):
    assert len(claimed.summary) == len(CLAIMED) - 3 + 1 + 2  # three seeds are one row; the judges have curves only
    for _, row in claimed.summary[~claimed.summary["signal"].isin(["occlusion", "thinned"])].iterrows():
        assert (row["n"], row["images"]) == (60, 20)
        for measure in MEASURED:
            values = claimed.of(row["signal"], row["layers"], measure)
            assert row[measure] == pytest.approx(values.mean())
            assert row[f"{measure}_n"] == values.notna().sum()
    assert set(claimed.summary["evidence_recall_n"]) == {45, 27, 0}
    assert set(claimed.summary["spearman_response_n"]) == {36, 0}


def test_measures_of_the_response_need_answers_of_three_tokens(claimed):
    brief = claimed.samples.index[claimed.samples["answer_tokens"] < 3]
    assert len(brief) == 24
    shown = headline(claimed.frame)
    assert not shown.loc[shown["signal"].isin(RESPONSES), "sample_id"].isin(brief).any()
    rows = shown[shown["sample_id"].isin(brief)]
    assert rows[list(OF_RESPONSE)].isna().all(axis=None)
    pd.testing.assert_series_equal(rows["block_nats"], claimed.frame.loc[rows.index, "block_nats"])
    others = shown[~shown["sample_id"].isin(brief)]
    pd.testing.assert_frame_equal(others, claimed.frame.loc[others.index])


@pytest.mark.parametrize("judge", ["block", "thinned", "thing"])
def test_worth_is_a_ratio_of_sums_and_relative_to_the_oracle_another(claimed, judge):
    oracle, whole = claimed.of("evidence", "", f"{judge}_nats"), WHOLE[judge]
    for key in (("cls sum", "1-2"), ("prompt", "0"), ("random", "")):
        mine, row = claimed.of(*key, f"{judge}_nats"), claimed.row(*key)
        known = mine.notna().to_numpy()
        assert row[f"{judge}_share"] == pytest.approx(mine[known].sum() / whole[known].sum())
        assert row[f"{judge}_of_oracle"] == pytest.approx(mine.sum() / oracle.sum())
        assert row[f"{judge}_share_low"] < row[f"{judge}_share"] < row[f"{judge}_share_high"]
        assert row[f"{judge}_share_n"] == (45 if judge == "thing" else 60)
    assert claimed.row("evidence", "")[f"{judge}_of_oracle"] == pytest.approx(1)
    a, b = (claimed.of(*key, f"{judge}_nats") for key in (("cls sum", "0-2"), ("question", "0-2")))
    got = claimed.contrast(("cls sum", "0-2"), ("question", "0-2"), f"{judge}_share")
    known = a.notna().to_numpy()
    assert got["difference"] == pytest.approx((a - b).sum() / whole[known].sum())
    assert (got["mean_a"] - got["mean_b"], got["n"]) == (pytest.approx(got["difference"]), known.sum())


def test_judges_say_in_how_many_questions_they_find_anything(claimed):
    table = claimed.judges.set_index("judge")
    for judge, column in (("block", "drop"), ("thinned", "thinned"), ("thing", "thing_drop")):
        most = np.array([max(worth, default=np.nan) for worth in claimed.samples[column]])
        most = claimed.samples["thinned_best"].to_numpy() if judge == "thinned" else most
        known = ~np.isnan(most)
        row = table.loc[judge]
        assert (row["share"], row["n"]) == (pytest.approx((most[known] >= 0.05).mean()), known.sum())
        assert row["nats"] == pytest.approx(WHOLE[judge][known].mean())
        assert row["low"] < row["share"] < row["high"] and row["nats_low"] < row["nats"] < row["nats_high"]


def half_width(values, images, bounded=True):
    """Student's over images; a bounded measure's questions count once each at most, even if images agree by chance."""
    spread = values - values.mean()
    sums = spread.groupby(images).sum()
    between = (sums**2).sum() * len(sums) / (len(sums) - 1)
    return stats.t.ppf(0.975, len(sums) - 1) * np.sqrt(max(between, (spread**2).sum() * bounded)) / len(values)


@pytest.mark.parametrize("measure", ["spearman_response", "evidence_recall", "entropy"])
def test_intervals_are_over_images_not_questions(claimed, measure):
    for key in (("cls sum", "1-2"), ("prompt", "1"), ("random", "")):
        values = claimed.of(*key, measure).dropna()
        half, row = half_width(values, claimed.image_of[values.index], measure != "entropy"), claimed.row(*key)
        expected = values.mean() - half, values.mean() + half
        assert (row[f"{measure}_low"], row[f"{measure}_high"]) == pytest.approx(expected, abs=0.2 * half)


def test_equal_values_have_an_interval_only_if_the_measure_is_bounded():
    values, images = pd.Series([0.5, 0.5, np.nan, 0.5]), pd.Series(list("aabb"))
    low, high = interval_of(values, images, "last_rows_share")[1:3]
    assert low < 0.5 < high
    assert interval_of(values, images, "entropy")[:1] == (0.5,)
    assert np.isnan(interval_of(values, images, "entropy")[1:3]).all()
    assert interval_of(values * np.nan, images, "entropy").n == 0


def test_a_value_outside_its_range_is_an_error_and_rounding_is_not():
    images = pd.Series(list("aabb"))
    with pytest.raises(ValueError, match=r"last_rows_share of 1\.01: expected a value in \[0, 1\]"):
        interval_of(pd.Series([0.5, 1.01, 0.2, np.nan]), images, "last_rows_share")
    with pytest.raises(ValueError, match=r"row_correlation of -1\.2: expected a value in \[-1, 1\]"):
        interval_of(pd.Series([0.5, -1.2, 0.2, 0.1]), images, "row_correlation")
    assert interval_of(pd.Series([1 + 1e-9, 1.0, 1.0, 1.0]), images, "last_rows_share").mean == 1
    assert interval_of(pd.Series([5.0, 7.0, -9.0, 1.0]), images, "insertion_area").mean == 1


def test_signals_stand_in_order_with_sums_after_single_layers(claimed):
    keys = list(zip(claimed.summary["signal"], claimed.summary["layers"], strict=True))
    assert keys[:5] == [*(("cls", str(i)) for i in range(3)), ("cls sum", "0-2"), ("cls sum", "1-2")]
    controls = ("evidence", "occlusion", "thinned", "random", "uniform")
    assert keys[-5:] == [(name, "") for name in controls]
    assert keys[9:11] == [("question", "1"), ("question", "0-2")]


@pytest.mark.parametrize(
    ("a", "b", "measure"),
    [
        (("cls sum", "1-2"), ("prompt", "1"), "spearman_response"),
        (("cls sum", "0-2"), ("prompt", "0"), "evidence_recall"),
        (("prompt", "2"), ("response", "0-2"), "evidence_recall"),
        (("question", "0-2"), ("answer", "0-2"), "evidence_recall"),
        (("cls sum", "1-2"), ("question", "1"), "spearman_answer"),
        (("cls sum", "1-2"), ("prompt", "2"), "overlap_answer"),
        (("prompt", "2"), ("response", "0-2"), "row_correlation"),
        (("prompt", "2"), ("evidence", ""), "row_correlation"),
        (("response", "0-2"), ("evidence", ""), "last_rows_share"),
    ],
)
def test_contrasts_are_paired_differences_with_a_sign_flip_p(claimed, a, b, measure):
    pair = pd.DataFrame({"a": claimed.of(*a, measure), "b": claimed.of(*b, measure)}).dropna()
    delta = pair["a"] - pair["b"]
    sums = delta.groupby(claimed.image_of[pair.index]).sum().to_numpy()
    got = claimed.contrast(a, b, measure)
    assert (got["mean_a"], got["mean_b"]) == pytest.approx((pair["a"].mean(), pair["b"].mean()))
    images = claimed.image_of[pair.index].nunique()
    assert (got["difference"], got["n"], got["images"]) == (pytest.approx(delta.mean()), len(delta), images)
    p = stats.permutation_test((sums,), np.sum, permutation_type="samples", n_resamples=20_000, rng=0).pvalue
    assert got["p"] == pytest.approx(p, abs=0.015)
    half = half_width(delta, claimed.image_of[pair.index])
    assert (got["low"], got["high"]) == pytest.approx((delta.mean() - half, delta.mean() + half), abs=0.2 * half)


def test_contrasts_are_corrected_over_the_whole_table_and_need_both_sides(claimed):
    table = claimed.contrasts
    assert table["p_holm"].to_numpy() == pytest.approx(multipletests(table["p"], method="holm")[1])
    assert not table.duplicated(["measure", "signal_a", "layers_a", "signal_b", "layers_b"]).any()
    assert table["n"].min() == 27  # of long answers those whose evidence is known
    for name in RESPONSES:
        assert set(table.loc[table["signal_b"] == name, "layers_b"]) == {"0-2"}
    assert set(table.loc[(table["signal_a"] == "cls sum") & (table["signal_b"] == "question"), "layers_b"]) == {
        "1",
        "0-2",
    }
    against = table[(table["signal_b"] == "random") & (table["measure"] == "thinned_share")]
    assert len(against) == len(CLAIMED) - 3 - 6  # of both responses only the mean over blocks
    assert "occlusion" in set(table.loc[table["measure"] == "insertion_area", "signal_a"])


def test_losses_and_areas_are_those_of_the_curves(claimed):
    curves = claimed.tables["curves"].merge(claimed.tables["samples"], on=["sample_id", "image_id"])
    curves["insertion_loss"] = curves["log_probability"] - curves["insertion"]
    curves["deletion_loss"] = curves["log_probability"] - curves["deletion"]
    curves.loc[curves["signal"] == "random", "layers"] = ""
    frame = curve_frame(claimed.folder)
    table, areas = curve_table(frame), curve_areas(frame)
    keys = ["signal", "layers", "share"]
    expected = curves.groupby(keys)[["insertion_loss", "deletion_loss"]].mean()
    got = table.set_index(keys)[["insertion_loss", "deletion_loss"]]
    pd.testing.assert_frame_equal(got.sort_index(), expected.sort_index())
    assert set(table["n"]) == {60}
    assert ((table["insertion_loss_low"] < table["insertion_loss"]) & (table["deletion_loss_high"] > 0)).all()
    one = curves[(curves["signal"] == "prompt") & (curves["layers"] == "1") & (curves["sample_id"] == "q013")]
    one = one.sort_values("share")
    by_hand = (one["insertion_loss"].rolling(2).mean() * np.log(one["share"]).diff()).sum() / np.log(5)
    found = areas.set_index(["signal", "layers", "sample_id"]).sort_index()
    assert found.loc[("prompt", "1", "q013"), "insertion_area"] == pytest.approx(by_hand)
    assert claimed.row("occlusion", "")["deletion_area"] == pytest.approx(
        found.loc["occlusion", "deletion_area"].mean()
    )


def test_a_curve_of_one_share_is_its_own_area():
    one = pd.DataFrame({"sample_id": ["q"], "image_id": ["p"], "signal": ["cls"], "layers": ["0"], "share": [0.1]})
    assert curve_areas(one.assign(insertion_loss=0.7, deletion_loss=0.2))["insertion_area"].tolist() == [0.7]


def stacked(made: Made, signal: str, layers: str) -> np.ndarray:
    rows = made.tables["maps"]
    maps = np.stack(rows[(rows["signal"] == signal) & (rows["layers"] == layers)].sort_values("sample_id")["map"])
    return maps / maps.sum(1, keepdims=True).astype(float)


def test_only_signals_without_a_bias_of_position_have_a_large_p_of_shuffled_patches(claimed, refuted):
    p = claimed.summary.set_index(["signal", "layers"])["row_correlation_p_null"]
    assert p["prompt", "1"] == 2 / 1000  # the least that 999 permutations can give
    assert (p["evidence", ""], p["cls sum", "0-2"]) > (0.01, 0.01)
    assert p[["random", "uniform", "occlusion"]].isna().all()  # they have no maps
    assert refuted.row("response", "0-2")["row_correlation_p_null"] == 2 / 1000
    rng = np.random.default_rng(5)
    maps = stacked(claimed, "evidence", "").reshape(IMAGES, ASKED, -1).mean(1)
    down = np.repeat(np.arange(ROWS), COLUMNS)

    def mean(order: np.ndarray) -> float:
        return float(np.mean([stats.spearmanr(row[some], down)[0] for row, some in zip(maps, order, strict=True)]))

    own = mean(np.tile(np.arange(maps.shape[1]), (IMAGES, 1)))
    null = [mean(rng.permuted(np.tile(np.arange(maps.shape[1]), (IMAGES, 1)), axis=1)) for _ in range(400)]
    tails = np.mean(np.array(null) >= own), np.mean(np.array(null) <= own)
    assert p["evidence", ""] == pytest.approx(min(1, 2 * min(tails)), abs=0.1)


def test_mean_maps_weigh_every_question_equally(claimed):
    maps = {(one.signal, one.layers): one for one in mean_maps(claimed.folder)}
    assert len(maps) == len(CLAIMED) - 4
    for key, one in maps.items():
        assert one.values.ravel() == pytest.approx(stacked(claimed, *key).mean(0))
        assert (one.values.sum(), one.values.shape, one.n) == (pytest.approx(1), (ROWS, COLUMNS), 60)
    lowest = maps["prompt", "0"].values.sum(1)
    assert lowest[-1] > 2 * lowest[0]


def test_without_mean_maps_only_the_differences_between_questions_are_compared(claimed):
    found = placeless(claimed.folder).set_index(["signal", "layers", "sample_id"])["placeless_spearman"].sort_index()
    target = stacked(claimed, "response", "0-2")
    for key in (("cls sum", "1-2"), ("prompt", "1"), ("evidence", "")):
        mine = stacked(claimed, *key)
        pairs = zip(mine - mine.mean(0), target - target.mean(0), strict=True)
        expected = [stats.spearmanr(a, b)[0] for a, b in pairs]
        assert found.loc[key].to_numpy() == pytest.approx(np.array(expected), abs=0.01)
        row, long = claimed.row(*key), claimed.samples.sort_index()["answer_tokens"].to_numpy() >= 3
        assert row["place_part"] == pytest.approx(
            row["spearman_response"] - np.mean(np.array(expected)[long]), abs=0.01
        )
    assert np.isnan(claimed.row("random", "")["placeless_spearman"])


def test_a_constant_map_has_no_rest(tmp_path):
    ids = {"sample_id": [f"q{i}" for i in range(4)], "image_id": ["p0", "p0", "p1", "p1"]}
    rng = np.random.default_rng(0)
    rows = [
        pd.DataFrame(ids).assign(signal="response", layers="0-2", map=list(rng.random((4, 9)))),
        pd.DataFrame(ids).assign(signal="prompt", layers="0", map=[np.arange(1.0, 10.0) / 7] * 4),
    ]
    folder = TableFolder(tmp_path)
    folder.begin({})
    parts = {"maps": pa.Table.from_pandas(pd.concat(rows)), "samples": pa.table(ids)}
    folder.append(parts)
    assert placeless(folder).set_index("signal").loc["prompt", "placeless_spearman"].isna().all()


def test_questions_without_evidence_have_no_map_and_no_part_in_its_mean(tmp_path):
    ids = {"sample_id": [f"q{i}" for i in range(4)], "image_id": ["p0", "p0", "p1", "p1"]}
    known = np.random.default_rng(0).random((4, 9))
    rows = [
        pd.DataFrame(ids).assign(signal="response", layers="0-2", map=list(known)),
        pd.DataFrame(ids).assign(signal="evidence", layers="", map=[known[0], [np.nan] * 9, None, known[3]]),
        pd.DataFrame(ids)[:1].assign(signal="prompt", layers="0", map=[known[1]]),
    ]
    folder = TableFolder(tmp_path)
    folder.begin({"grid": [1, 9]})
    folder.append({"maps": pa.Table.from_pandas(pd.concat(rows)), "samples": pa.table(ids)})
    evidence = next(one for one in mean_maps(folder) if one.signal == "evidence")
    expected = (known[0] / known[0].sum() + known[3] / known[3].sum()) / 2
    assert (evidence.signal, evidence.n, evidence.values.ravel()) == ("evidence", 2, pytest.approx(expected))
    found = placeless(folder)
    assert set(found.loc[found["signal"] == "evidence", "sample_id"]) == {"q0", "q3"}


def test_heads_have_their_own_means(claimed):
    heads = heads_table(claimed.folder)
    rows = claimed.tables["signals"]
    long = claimed.samples.index[claimed.samples["answer_tokens"] >= 3]
    rows = rows[(rows["head"] >= 0) & rows["sample_id"].isin(long)]
    expected = rows.groupby(["signal", "layers", "head"])["spearman_response"].mean()
    got = heads.set_index(["signal", "layers", "head"])
    assert got["spearman_response"].sort_index().to_numpy() == pytest.approx(expected.sort_index().to_numpy())
    assert (set(heads["head"]), set(heads["n"])) == (set(range(HEADS)), {36})
    one = rows[(rows["signal"] == "prompt") & (rows["layers"] == "1") & (rows["head"] == 2)]
    ends = ratio_interval(one["spearman_response"], np.ones(len(one)), one["image_id"])[1:3]
    row = got.loc["prompt", "1", 2]
    assert (row["spearman_response_low"], row["spearman_response_high"]) == pytest.approx(ends)


def test_each_cls_layer_is_held_against_each_block_on_long_answers(claimed):
    table, rows = cross_table(claimed.folder), claimed.tables["pairs"]
    long = claimed.samples.index[claimed.samples["answer_tokens"] >= 3]
    rows = rows[(rows["signal_a"] == "cls") & rows["sample_id"].isin(long) & rows["layers_b"].str.isdigit()]
    assert list(dict.fromkeys(table["signal"])) == ["prompt", "question", "response", "answer"]
    assert len(table) == 3 * (3 + 1 + 3 + 3)
    for row in table.sample(8, random_state=0).itertuples():
        some = rows[(rows["signal_b"] == row.signal) & (rows["layers_b"] == str(row.block))]
        values = some[some["layers_a"] == str(row.layer)].dropna(subset="spearman")
        ends = ratio_interval(values["spearman"], np.ones(len(values)), values["image_id"])
        assert (row.spearman, row.spearman_low, row.spearman_high, row.n) == pytest.approx(tuple(ends))
    prompt = table[table["signal"] == "prompt"]
    lines = draw_cross(prompt, "spearman", Figure().subplots()).get_lines()
    wanted = [prompt.loc[prompt["block"] == block, "spearman"].to_numpy() for block in range(3)]
    assert all(np.allclose(line.get_ydata(), one) for line, one in zip(lines, wanted, strict=True))


def test_each_token_is_measured_over_the_answers_that_have_it(claimed):
    table, rows = tokens_table(claimed.folder), claimed.tables["tokens"]
    assert table["token"].tolist() == [0, 0, 1, 1, 2, 2]
    assert table["n"].tolist() == [60, 60, 48, 48, 36, 36]
    for row in table.to_dict("records"):
        some = rows[(rows["token"] == row["token"]) & (rows["signal"] == row["signal"])]
        for measure in TOKEN_MEASURES:
            assert row[measure] == pytest.approx(some[measure].mean())
            assert row[f"{measure}_low"] < row[measure] < row[f"{measure}_high"]
        whole = dict(zip(claimed.samples.index, WHOLE["thinned"], strict=True))
        total = sum(whole[name] for name in some["sample_id"])
        assert row["thinned_share"] == pytest.approx(some["thinned_nats"].sum() / total)
    lines = draw_tokens(table, "spearman", Figure().subplots()).get_lines()
    assert np.allclose(lines[0].get_ydata(), table.loc[table["signal"] == "cls sum", "spearman"])


def test_question_types_count_all_answers(claimed):
    table = kinds_table(claimed.frame).set_index(["kind", "signal", "layers"])
    for kind, some in claimed.samples.groupby("kind"):
        row = table.loc[kind, "question", "0-2"]
        values = claimed.tables["signals"]
        values = values[(values["signal"] == "question") & (values["layers"] == "0-2") & (values["head"] == -1)]
        values = values[values["sample_id"].isin(some.index)]
        assert (row["n"], row["tokens"]) == (30, pytest.approx(some["answer_tokens"].mean()))
        assert row["spearman_response"] == pytest.approx(values["spearman_response"].mean())
        assert row["spearman_response_n"] == 30
        whole = WHOLE["block"][claimed.samples["kind"].to_numpy() == kind].sum()
        assert row["block_share"] == pytest.approx(values["block_nats"].sum() / whole)


@pytest.mark.parametrize("measure", ["spearman", "overlap", "jensen_shannon"])
def test_pairs_make_a_symmetric_square(claimed, measure):
    square = pair_matrix(claimed.folder, measure)
    rows = claimed.tables["pairs"]
    one = rows[(rows["signal_a"] == "cls") & (rows["layers_a"] == "2") & (rows["signal_b"] == "prompt")]
    assert square.loc[("cls", "2"), ("prompt", "1")] == pytest.approx(one[one["layers_b"] == "1"][measure].mean())
    random = rows[(rows["signal_a"] == "response") & (rows["layers_a"] == "0-2") & (rows["signal_b"] == "random")]
    seeds = random.groupby("layers_b")[measure].mean()
    assert (len(seeds), square.loc[("response", "0-2"), ("random", "")]) == (3, pytest.approx(seeds.mean()))
    np.testing.assert_array_equal(square, square.T)
    assert set(np.diag(square)) == {0.0 if measure == "jensen_shannon" else 1.0}
    assert square.index[0] == ("cls", "0")
    assert square.notna().all(axis=None)


def test_against_random_maps_the_seeds_are_permuted_one_by_one(claimed):
    """Of each image the four runs, the signal and three seeds, in any order: recomputed by drawing orders here."""
    rows = claimed.tables["signals"]
    rows = rows[rows["head"] == -1].pivot(index="sample_id", columns=["signal", "layers"], values="evidence_recall")
    known = rows[[("uniform", ""), *(("random", str(seed)) for seed in range(3))]].dropna()
    sums = known.groupby(claimed.image_of[known.index]).sum().to_numpy()
    own = (sums[:, 0] - sums[:, 1:].mean(1)).sum()
    rng, drawn = np.random.default_rng(3), []
    for _ in range(20_000):
        mixed = rng.permuted(sums, axis=1)
        drawn.append((mixed[:, 0] - mixed[:, 1:].mean(1)).sum())
    expected = 2 * min(np.mean(np.array(drawn) >= own), np.mean(np.array(drawn) <= own))
    got = claimed.contrast(("uniform", ""), ("random", ""), "evidence_recall")
    assert got["p"] == pytest.approx(min(1, expected), abs=0.02)
    assert got["difference"] == pytest.approx(own / len(known))


def test_the_table_has_the_verdicts_that_were_planted(claimed, refuted):
    text, other = (contrasts_markdown(some.frame, some.contrasts) for some in (claimed, refuted))
    start = "| [CLS], sum of layers 0-2 | last prompt token |"
    assert next(line for line in text.splitlines() if line.startswith(start)).count(": higher 3 |") >= 2
    assert next(line for line in other.splitlines() if line.startswith(start)).count(": lower 3 |") >= 2
    position = text[text.index("### Position") :]
    assert re.search(r"\| last prompt token \| evidence \(oracle\) \| \S+ to \S+: higher 3 \|", position)
    assert re.search(r"\| response \| evidence \(oracle\) \| \S+ \[[^]]+\] not significant \|", position)


def test_a_single_contrast_has_its_difference_and_several_are_counted(claimed):
    text = contrasts_markdown(claimed.frame, claimed.contrasts)
    one = claimed.contrast(("cls sum", "0-2"), ("random", ""), "evidence_recall")
    assert f"{100 * one['difference']:+.1f} [{100 * one['low']:+.1f}, {100 * one['high']:+.1f}] " in text
    assert f"over the {claimed.contrasts['p'].notna().sum()} tests" in text


def test_what_is_not_significant_has_no_sign(claimed):
    text = contrasts_markdown(claimed.frame, claimed.contrasts.assign(p_holm=0.3))
    assert ": not significant 3 |" in text
    assert not any(f" {word} " in text for word in ("higher", "lower"))


def test_few_images_allow_no_verdict(claimed):
    text = contrasts_markdown(claimed.frame, claimed.contrasts.assign(images=3))
    assert "Too few images for any test (n = 3)." in text
    assert not any(f" {word}" in text for word in ("higher", "lower", "not significant"))


def test_every_judge_has_a_row(claimed):
    row = claimed.judges.set_index("judge").loc["thinned"]
    shown = f"| thinned context | {100 * row['share']:.1f} [{100 * row['low']:.1f}, {100 * row['high']:.1f}] |"
    assert shown in judges_markdown(claimed.judges)


def test_numbers_are_written_in_the_unit_of_their_measure():
    assert formatted(0.4567, "thinned_share") == "45.7"
    assert formatted(-0.0001, "thinned_share", True) == "+0.0"
    assert formatted(0.4567, "spearman_response", True) == "+0.46"
    assert formatted(0.4567, "insertion_area") == "0.457"
    row = pd.Series(
        {"n": 60, "entropy": 2.0, "entropy_low": np.nan, "entropy_high": np.nan, "entropy_n": 50}, dtype=object
    )
    assert with_interval(row, "entropy") == "2.00 [no interval] (n = 50)"


def test_lines_by_layer_are_those_of_the_table(claimed):
    ax = Figure().subplots()
    draw_layers(claimed.summary, "thinned_share", ("prompt", "question"), ax)
    lines = {tuple(np.round(line.get_ydata(), 9)) for line in ax.get_lines()}
    assert tuple(np.round([claimed.row("prompt", str(i))["thinned_share"] for i in range(3)], 9)) in lines
    whole = claimed.row("question", "0-2")["thinned_share"]
    assert tuple(np.round([whole] * 2, 9)) in lines
    assert tuple(np.round([claimed.row("random", "")["thinned_share"]] * 2, 9)) in lines
    assert not draw_layers(claimed.summary, "spearman_response", ("response",), Figure().subplots()).get_lines()[1:-2]
    shown = draw_layers(claimed.summary, "spearman_answer", ("response",), Figure().subplots()).get_lines()
    assert len(shown) == 4  # of the other definition the mean over blocks is no tautology


def test_figures_show_the_data(claimed):
    square = pairs_data(pair_matrix(claimed.folder), most=2)
    assert list(square.index[:4]) == ["cls 0", "cls 2", "cls sum 0-2", "cls sum 1-2"]
    drawn = draw_pairs(square, "spearman", Figure().subplots()).collections[0].get_array()
    assert np.asarray(drawn).ravel() == pytest.approx(square.to_numpy().ravel())
    one = mean_maps(claimed.folder)[0]
    shown = draw_map(one, Figure().subplots()).get_images()[0].get_array()
    assert 2 ** np.asarray(shown) / (ROWS * COLUMNS) == pytest.approx(one.values)
    heads = heads_table(claimed.folder)
    dots = draw_heads(heads, "spearman_response", ("cls",), Figure().subplots()).collections
    heights = np.sort(np.concatenate([np.asarray(some.get_offsets())[:, 1] for some in dots]))
    assert heights == pytest.approx(np.sort(heads.loc[heads["signal"] == "cls", "spearman_response"]))


def test_names_below_a_small_square_end_above_the_caption():
    keys = [*(("cls", str(layer)) for layer in range(6)), ("cls sum", "0-5"), ("cls sum", "2-4")]
    index = pd.MultiIndex.from_tuples(keys)
    square = pd.DataFrame(np.eye(8), index, index)
    square.iloc[2, 7] = square.iloc[7, 2] = 0.5
    figure = pairs_figure({"spearman": square}, 504, 42, "Model tiny")
    FigureCanvasAgg(figure).draw()
    lowest = min(name.get_window_extent().y0 for name in figure.axes[0].get_xticklabels())
    (caption,) = (text for text in figure.texts if "n = 504" in text.get_text())
    assert caption.get_window_extent().y1 < lowest


def test_curves_are_drawn_for_a_few_layers_of_each_signal(claimed):
    table = curve_table(curve_frame(claimed.folder))
    rows = curves_data(table, most=2)
    keys = set(zip(rows["signal"], rows["layers"], strict=True))
    assert keys >= {("prompt", "0"), ("prompt", "2"), ("response", "0-2"), ("occlusion", ""), ("cls sum", "1-2")}
    assert not keys & {("cls", "0"), ("prompt", "1"), ("response", "1")}
    figure = Figure()
    ax = draw_curves(rows, "deletion_loss", figure.subplots())
    assert len(ax.get_lines()) == len(keys) == len(ax.texts)
    one = rows[(rows["signal"] == "prompt") & (rows["layers"] == "2")]["deletion_loss"].to_numpy()
    assert any(np.allclose(line.get_ydata(), one) for line in ax.get_lines())


@pytest.fixture
def saved(monkeypatch: pytest.MonkeyPatch) -> dict[str, Figure]:
    """Keeps figures instead of writing them, which takes most of the time of a report."""
    figures: dict[str, Figure] = {}
    monkeypatch.setattr(bias_report, "save_figure", lambda figure, path: figures.update({path.name: figure}))
    return figures


def test_the_report_writes_tables_and_figures(claimed, saved, tmp_path):
    text = report(claimed.folder, tmp_path)
    tables = ("contrasts", "judges", "kinds", "tokens", "heads", "cross")
    assert {path.name for path in tmp_path.iterdir()} == {"table.csv", "table.md", *(f"{name}.csv" for name in tables)}
    assert set(saved) == {f"{name}.png" for name in ("layers", "pairs", "maps", "curves", "heads", "tokens", "cross")}
    assert all("Model tiny, data scenes, split test" in figure.get_supxlabel() for figure in saved.values())
    assert all("somewhere" not in figure.get_supxlabel() for figure in saved.values())
    assert all("n = " in figure.get_supxlabel() for figure in saved.values())
    assert all(ax.has_data() for figure in saved.values() for ax in figure.axes)
    table = pd.read_csv(tmp_path / "table.csv", keep_default_na=False, dtype={"layers": str})
    assert table["layers"].tolist() == claimed.summary["layers"].tolist()
    assert len(pd.read_csv(tmp_path / "contrasts.csv")) == len(claimed.contrasts)
    written = (tmp_path / "table.md").read_text(encoding="utf-8")
    row = claimed.row("prompt", "1")
    cells = [with_interval(row, measure) for measure in ("spearman_response", "spearman_answer")]
    assert f"| last prompt token | 1 | {' | '.join(cells)} |" in text and "(n = 36)" in cells[0]
    near = with_interval(claimed.row("response", "0-2"), "spearman_answer")
    assert f"| response | 0-2 | itself | {near} |" in text
    assert written[: written.index("## Contrasts")].count("| question tokens |") == 2
    verdicts_shown = contrasts_markdown(claimed.frame, claimed.contrasts)
    assert verdicts_shown in text and verdicts_shown in written
    assert "| 0.002 |" in written and "p of shuffled patches" in written
    assert "nan" not in text.lower()


def test_a_report_needs_no_heads_no_evidence_and_no_long_answers(saved, tmp_path):
    few = {
        ("cls sum", "0-2"),
        ("prompt", "1"),
        ("response", "0-2"),
        ("answer", "0-2"),
        ("random", "0"),
        ("uniform", ""),
    }
    tables, folder = tables_of({key: CLAIMED[key] for key in few}, 3, False), TableFolder(tmp_path / "data")
    tables["signals"][["evidence_recall", "thing_nats"]] = np.nan
    tables["samples"]["answer_tokens"] = 1
    tables["samples"]["thing_drop"] = [[]] * len(tables["samples"])
    folder.begin(CONFIG)
    folder.append({name: pa.Table.from_pandas(table, preserve_index=False) for name, table in tables.items()})
    text = report(folder, tmp_path)
    assert not {"heads.png", "cross.png"} & set(saved)
    assert "evidence recall" not in text
    assert "Spearman with the response, without mean maps" not in text
    assert "nan" not in text
