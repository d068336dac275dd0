"""The numbers, sentences and pictures of a bias measurement against independent ones, on tables made up here."""

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

from analysis import bias_report, statistics, verdicts
from analysis.bias import (
    MEASURED,
    contrasts,
    curve_areas,
    curve_frame,
    curve_table,
    heads_data,
    interval_of,
    pair_matrix,
    signal_frame,
    summary_table,
    unnoticed,
)
from analysis.bias_answer import bias_answer, number, side, told
from analysis.bias_figures import (
    curves_data,
    draw_curves,
    draw_heads,
    draw_layers,
    draw_map,
    draw_pairs,
    pairs_data,
    pairs_figure,
)
from analysis.bias_report import report
from analysis.maps import mean_maps, place_nulls, placeless
from analysis.statistics import Interval
from foveate.evaluation.tables import TableFolder

IMAGES, ASKED, ROWS, COLUMNS, HEADS = 20, 3, 6, 5, 4
SHARES = (0.05, 0.11, 0.25)
CONFIG = {"grid": [ROWS, COLUMNS]}
FREE = (  # measures whose values here follow a planted level, and nothing else
    *("visual_mass", "js_response", "retained_response", "evidence_precision", "entropy", "effective_tokens"),
    *("sink_share", "causal_spearman", "causal_hit", "raster_correlation"),
)


class Planted(NamedTuple):
    """How a signal is made: nearness to the response, lean towards the bottom, and what it knows of the answer."""

    near: float
    lean: float
    causal: float


def planted(cls: Planted, prompt: Planted, response: Planted) -> dict[tuple[str, str], Planted]:
    """All signals of a tower of three layers and a language model of three blocks."""
    weak = cls._replace(near=cls.near * 0.5)
    nothing = Planted(0.0, 0.0, 0.2)
    signals = {("cls", str(layer)): weak for layer in range(3)} | {("cls sum", "0-2"): cls, ("cls sum", "1-2"): cls}
    signals[("received", "1")] = nothing
    for name, some in (("prompt", prompt), ("response", response)):
        signals |= {(name, str(block)): some for block in range(3)}
    signals |= {("question", "1"): prompt, ("question", "0-2"): prompt, ("every", "1"): nothing}
    signals |= {("response", "0-2"): response, ("evidence", ""): Planted(0.4, 0.0, 0.6)}
    return signals | {("random", str(seed)): nothing for seed in range(3)} | {("uniform", ""): nothing}


CLAIMED = planted(Planted(2.0, 0.0, 0.7), Planted(0.7, 2.0, 0.3), Planted(0.0, 0.0, 0.6))  # as the seed paper has it
REFUTED = planted(Planted(0.1, 0.0, 0.2), Planted(2.0, 0.0, 0.7), Planted(0.0, 2.0, 0.2))


def maps_of(signals: dict[tuple[str, str], Planted], rng: np.random.Generator) -> dict[tuple[str, str], np.ndarray]:
    """Attention over patches, one row per question."""
    questions, patches = IMAGES * ASKED, ROWS * COLUMNS
    wanted, down = rng.normal(size=(questions, patches)), np.repeat(np.linspace(-1, 1, ROWS), COLUMNS)
    found = {}
    for (name, layers), how in signals.items():
        own = how.near * wanted + rng.normal(size=wanted.shape)
        if name == "response":
            own = wanted + (layers != "0-2") * 0.5 * rng.normal(size=wanted.shape)
        found[name, layers] = np.exp(own + how.lean * down) * rng.uniform(0.001, 0.02)
    found["uniform", ""] = np.tile(rng.permutation(patches) + 1.0, (questions, 1))
    return found


def ranked(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = (stats.rankdata(np.broadcast_to(side, (IMAGES * ASKED, ROWS * COLUMNS)), axis=1) for side in (a, b))
    return stats.pearsonr(a, b, axis=1).statistic


def measured(row: np.ndarray, target: np.ndarray, how: Planted, ease: np.ndarray, rng: np.random.Generator) -> dict:
    """Every measure of one signal; some are not known for some questions."""
    down, n = np.repeat(np.arange(ROWS), COLUMNS), len(row)
    tops = [np.argsort(-side, axis=1)[:, :4] for side in (row, target)]
    found = {measure: 0.5 + rng.normal(0, 0.05, n) for measure in FREE}
    found |= {measure: rng.normal(0, 0.05, n) for measure in ("centroid_down", "centroid_right")}
    found["causal_hit"] = (rng.random(n) < how.causal).astype(float)
    found["kendall_response"] = 0.3 + 0.1 * rng.normal(size=n)
    found["overlap_response"] = np.array([len({*a} & {*b}) / 4 for a, b in zip(*tops, strict=True)])
    found["spearman_response"], found["row_correlation"] = ranked(row, target), ranked(row, down)
    found["last_rows_share"] = row[:, down >= 5].sum(1) / row.sum(1)
    for measure in ("evidence_recall", "causal_mass"):
        found[measure] = np.clip(how.causal + ease + 0.1 * rng.normal(size=n), 0, 1)
    found["evidence_recall"][3::4] = np.nan
    found["causal_mass"][7] = np.nan
    return found


def joined(parts: list[dict]) -> pd.DataFrame:
    """Tables whose columns are arrays or constants, one below the other."""
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
        values = measured(maps[name, layers], maps["response", "0-2"], how, ease, rng)
        parts["signals"].append(rows | {"head": -1} | values)
        if heads and name not in ("random", "uniform", "evidence"):
            single = values | {"kendall_response": np.full(n, np.nan)}
            for head in range(HEADS):
                single["spearman_response"] = values["spearman_response"] / (2 + head)
                parts["signals"].append(rows | {"head": head} | single)
    curved = {key: how.causal for key, how in signals.items() if key[0] not in ("received", "every")}
    for (name, layers), causal in (curved | {("occlusion", ""): 0.9}).items():
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
    tokens = [1 + number % 3 for number in range(len(whole))]
    samples = ids | {"log_probability": whole, "answer_tokens": tokens}
    return found | {"samples": pd.DataFrame(samples | {"drop": list(rng.exponential(0.01, (n, 4)))})}


class Made(NamedTuple):
    """What was written, and what the analysis makes of it."""

    folder: TableFolder
    tables: dict[str, pd.DataFrame]
    frame: pd.DataFrame
    summary: pd.DataFrame
    contrasts: pd.DataFrame
    unnoticed: Interval

    def of(self, signal: str, layers: str, measure: str) -> pd.Series:
        """What was measured of the mean over heads, by question; of random maps the mean over seeds."""
        rows = self.tables["signals"]
        rows = rows[(rows["head"] == -1) & (rows["signal"] == signal)]
        if signal != "random":
            rows = rows[rows["layers"] == layers]
        return rows.groupby("sample_id")[measure].mean()

    def row(self, signal: str, layers: str) -> pd.Series:
        return self.summary[(self.summary["signal"] == signal) & (self.summary["layers"] == layers)].iloc[0]

    def contrast(self, a: tuple[str, str], b: tuple[str, str], measure: str) -> pd.Series:
        rows = self.contrasts.set_index(["signal_a", "layers_a", "signal_b", "layers_b", "measure"])
        return rows.loc[(*a, *b, measure)]

    @property
    def image_of(self) -> pd.Series:
        return self.tables["samples"].set_index("sample_id")["image_id"]


def make(out: Path, signals: dict[tuple[str, str], Planted], seed: int = 0, heads: bool = True) -> Made:
    """Tables in two parts."""
    tables, folder = tables_of(signals, seed, heads), TableFolder(out)
    ids = tables["samples"]["sample_id"]
    with folder.lock(CONFIG):
        for half in (ids[:30], ids[30:]):
            rows = {name: table[table["sample_id"].isin(half)] for name, table in tables.items()}
            folder.append({name: pa.Table.from_pandas(some, preserve_index=False) for name, some in rows.items()})
    frame = signal_frame(folder)
    return Made(folder, tables, frame, summary_table(frame, place_nulls(folder)), contrasts(frame), unnoticed(folder))


@pytest.fixture(scope="module", autouse=True)
def _fast():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verdicts, "DRAWS", 9_999)  # 2 / 10,000 times 158 contrasts is still below 0.05
        patch.setattr(statistics, "RESAMPLES", 500)
        yield


@pytest.fixture(scope="module")
def claimed(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(tmp_path_factory.mktemp("claimed"), CLAIMED)


@pytest.fixture(scope="module")
def refuted(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(tmp_path_factory.mktemp("refuted"), REFUTED, 1, heads=False)


def test_every_measure_is_the_mean_over_the_questions_that_know_it(claimed):
    assert len(claimed.summary) == len(CLAIMED) - 3 + 1 + 1  # three seeds are one row; the causal order has curves only
    for _, row in claimed.summary[claimed.summary["signal"] != "occlusion"].iterrows():
        assert (row["n"], row["images"]) == (60, 20)
        for measure in MEASURED:
            values = claimed.of(row["signal"], row["layers"], measure)
            assert row[measure] == pytest.approx(values.mean())
            assert row[f"{measure}_n"] == values.notna().sum()
    assert set(claimed.summary["evidence_recall_n"]) == {45, 0}
    assert set(claimed.summary["causal_mass_n"]) == {59, 0}


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


def test_what_all_images_agree_on_has_an_interval_only_where_the_measure_is_bounded():
    values, images = pd.Series([0.5, 0.5, np.nan, 0.5]), pd.Series(list("aabb"))
    low, high = interval_of(values, images, "causal_mass")[1:3]
    assert low < 0.5 < high
    assert interval_of(values, images, "entropy")[:1] == (0.5,)
    assert np.isnan(interval_of(values, images, "entropy")[1:3]).all()
    assert interval_of(values * np.nan, images, "entropy").n == 0


def test_a_value_out_of_its_range_is_named_and_rounding_is_not():
    images = pd.Series(list("aabb"))
    with pytest.raises(ValueError, match=r"causal_mass of 1\.01: expected a value in \[0, 1\]"):
        interval_of(pd.Series([0.5, 1.01, 0.2, np.nan]), images, "causal_mass")
    with pytest.raises(ValueError, match=r"row_correlation of -1\.2: expected a value in \[-1, 1\]"):
        interval_of(pd.Series([0.5, -1.2, 0.2, 0.1]), images, "row_correlation")
    assert interval_of(pd.Series([1 + 1e-9, 1.0, 1.0, 1.0]), images, "causal_mass").mean == 1
    assert interval_of(pd.Series([5.0, 7.0, -9.0, 1.0]), images, "insertion_area").mean == 1


def test_the_share_of_blocks_that_go_unnoticed_weighs_questions_and_draws_images(claimed):
    drops = np.stack(claimed.tables["samples"]["drop"])
    few = [sum(drop < 0.01 for drop in row) / 4 for row in drops]
    per_image = np.reshape(few, (IMAGES, ASKED)).mean(1)
    drawn = per_image[np.random.default_rng(1).integers(0, IMAGES, (4000, IMAGES))].mean(1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert 0.4 < low < high < 0.9
    assert claimed.unnoticed == pytest.approx((np.mean(few), low, high, 60), abs=0.15 * (high - low))


def test_signals_stand_in_order_with_sums_after_single_layers(claimed):
    keys = list(zip(claimed.summary["signal"], claimed.summary["layers"], strict=True))
    assert keys[:5] == [*(("cls", str(i)) for i in range(3)), ("cls sum", "0-2"), ("cls sum", "1-2")]
    assert keys[-4:] == [("evidence", ""), ("occlusion", ""), ("random", ""), ("uniform", "")]
    assert keys[9:11] == [("question", "1"), ("question", "0-2")]


@pytest.mark.parametrize(
    ("a", "b", "measure"),
    [
        (("cls sum", "1-2"), ("prompt", "1"), "spearman_response"),
        (("cls sum", "0-2"), ("prompt", "0"), "evidence_recall"),
        (("prompt", "2"), ("response", "0-2"), "causal_mass"),
        (("received", "1"), ("random", ""), "evidence_recall"),
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
    assert (got["difference"], got["n"], got["images"]) == (pytest.approx(delta.mean()), len(delta), 20)
    p = stats.permutation_test((sums,), np.sum, permutation_type="samples", n_resamples=20_000, rng=0).pvalue
    assert got["p"] == pytest.approx(p, abs=0.015)
    half = half_width(delta, claimed.image_of[pair.index])
    assert (got["low"], got["high"]) == pytest.approx((delta.mean() - half, delta.mean() + half), abs=0.2 * half)


def test_contrasts_are_corrected_over_the_whole_table_and_need_both_sides(claimed):
    table = claimed.contrasts
    assert table["p_holm"].to_numpy() == pytest.approx(multipletests(table["p"], method="holm")[1])
    assert not table.duplicated(["measure", "signal_a", "layers_a", "signal_b", "layers_b"]).any()
    assert table["n"].min() == 45
    assert set(table.loc[table["signal_b"] == "response", "layers_b"]) == {"0-2"}
    against = table[(table["signal_b"] == "random") & (table["measure"] == "causal_mass")]
    assert len(against) == len(CLAIMED) - 3
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
    by_hand = (one["insertion_loss"].rolling(2).mean() * one["share"].diff()).sum() / 0.2
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


def test_shuffled_patches_acquit_what_has_no_place_and_no_other(claimed, refuted):
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


def test_without_mean_maps_only_what_changes_from_question_to_question_is_compared(claimed):
    found = placeless(claimed.folder).set_index(["signal", "layers", "sample_id"])["placeless_spearman"].sort_index()
    target = stacked(claimed, "response", "0-2")
    for key in (("cls sum", "1-2"), ("prompt", "1"), ("evidence", "")):
        mine = stacked(claimed, *key)
        pairs = zip(mine - mine.mean(0), target - target.mean(0), strict=True)
        expected = [stats.spearmanr(a, b)[0] for a, b in pairs]
        assert found.loc[key].to_numpy() == pytest.approx(np.array(expected), abs=0.01)
        row = claimed.row(*key)
        assert row["place_part"] == pytest.approx(row["spearman_response"] - np.mean(expected), abs=0.01)
    assert np.isnan(claimed.row("random", "")["placeless_spearman"])


def test_a_map_that_never_changes_has_nothing_left(tmp_path):
    ids = {"sample_id": [f"q{i}" for i in range(4)], "image_id": ["p0", "p0", "p1", "p1"]}
    rng = np.random.default_rng(0)
    rows = [
        pd.DataFrame(ids).assign(signal="response", layers="0-2", map=list(rng.random((4, 9)))),
        pd.DataFrame(ids).assign(signal="prompt", layers="0", map=[np.arange(1.0, 10.0) / 7] * 4),
    ]
    folder = TableFolder(tmp_path)
    with folder.lock({}):
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
    with folder.lock({"grid": [1, 9]}):
        folder.append({"maps": pa.Table.from_pandas(pd.concat(rows)), "samples": pa.table(ids)})
    evidence = next(one for one in mean_maps(folder) if one.signal == "evidence")
    expected = (known[0] / known[0].sum() + known[3] / known[3].sum()) / 2
    assert (evidence.signal, evidence.n, evidence.values.ravel()) == ("evidence", 2, pytest.approx(expected))
    found = placeless(folder)
    assert set(found.loc[found["signal"] == "evidence", "sample_id"]) == {"q0", "q3"}


def test_heads_have_their_own_means(claimed):
    heads = heads_data(claimed.folder)
    rows = claimed.tables["signals"]
    expected = rows[rows["head"] >= 0].groupby(["signal", "layers", "head"])["spearman_response"].mean()
    got = heads.set_index(["signal", "layers", "head"])
    assert got["spearman_response"].sort_index().to_numpy() == pytest.approx(expected.sort_index().to_numpy())
    assert (set(heads["head"]), set(heads["n"])) == (set(range(HEADS)), {60})


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


def test_the_answer_confirms_what_was_planted_as_the_paper_has_it(claimed):
    text = bias_answer(claimed.summary, claimed.contrasts, claimed.unnoticed)
    assert text.count("by Spearman, it is nearer to the response than prompt attention of every block") == 2
    assert text.count("it is a better guide than prompt attention of every block") == 2
    assert "by row correlation: lower in the picture at block 0, 1, 2" in text
    assert "smaller, but still there" in text
    assert "The two share rows by construction" in text
    assert "finds more of what the answer hangs on than chance" in text
    rows = claimed.contrasts[claimed.contrasts["measure"] == "evidence_recall"]
    rows = rows[(rows["signal_a"] == "cls sum") & (rows["layers_a"] == "1-2") & (rows["signal_b"] == "prompt")]
    for _, row in rows.sort_values("difference").iloc[[0, -1]].iterrows():
        numbers = [f"{100 * row[name]:+.1f}" for name in ("difference", "low", "high")]
        assert f"{numbers[0]} [{numbers[1]}, {numbers[2]}] at {row['layers_b']}" in text
    assert "n = 60 questions about 20 images" in text
    assert "n = 45" in text
    assert f"over the {len(claimed.contrasts)} contrasts" in text
    assert "Prompt attention against the evidence, by row correlation: lower in the picture at block 0, 1, 2" in text
    assert "The response against the evidence, by row correlation: not shown to differ at blocks 0-2" in text
    share, low, high = (f"{100 * value:.1f}" for value in claimed.unnoticed[:3])
    assert f"{share} % [{low}, {high}] (n = 60) cost the answer less than 0.01 nats" in text
    acquitted = text.split("is no rarity")[1].split(": that acquits")[0]
    assert "evidence" in acquitted and "prompt" not in acquitted


def test_the_answer_refutes_what_was_planted_the_other_way_round(refuted):
    text = bias_answer(refuted.summary, refuted.contrasts, refuted.unnoticed)
    assert text.count("by Spearman, it is farther from the response than prompt attention of every block") == 2
    assert text.count("it is a worse guide than prompt attention of every block") == 2
    assert "by row correlation: higher in the picture at block 0, 1, 2" in text
    assert "not shown to find what the answer hangs on" in text
    assert "nearer to the response than" not in text
    assert "better guide than" not in text


def test_the_answer_claims_nothing_where_nothing_was_planted(claimed):
    text = bias_answer(claimed.summary, claimed.contrasts.assign(p_holm=0.3), claimed.unnoticed)
    assert "shown to be neither nearer to the response than prompt attention nor farther" in text
    assert "neither a better guide than prompt attention nor a worse guide" in text
    assert "place has nothing to explain" in text
    assert "not shown to find what the answer hangs on" in text
    assert not any(f": {word} at" in text for word in ("nearer", "farther", "better", "worse", "lower in the picture"))


def test_the_answer_counts_blocks_where_they_differ(claimed):
    table = claimed.contrasts.copy()
    one = (table["layers_b"] == "1") & (table["signal_a"] == "cls sum") & (table["measure"] == "spearman_response")
    table.loc[one, ["difference", "low", "high"]] *= -1
    table.loc[one, ["low", "high"]] = table.loc[one, ["high", "low"]].to_numpy()
    table.loc[(table["layers_b"] == "2") & (table["signal_b"] == "prompt"), "p_holm"] = 0.2
    text = bias_answer(claimed.summary, table, claimed.unnoticed)
    counted = "nearer to the response than 1, farther from the response than 1, not shown to differ from 1, of 3 blocks"
    assert text.count(counted) == 2


def test_a_difference_is_shown_by_the_corrected_p_alone():
    row = pd.Series({"p_holm": 0.01, "difference": 0.15, "low": -0.1, "high": 0.2})
    assert side(row) == 1
    assert side(row * [1, -1, 1, 1]) == -1
    assert [side(row + shift) for shift in ([0.05, 0, 0, 0], [np.nan, 0, 0, 0])] == [0, 0]


def test_numbers_are_written_in_the_unit_of_their_measure():
    assert number(0.4567, "causal_mass") == "45.7"
    assert number(-0.0001, "causal_mass", True) == "+0.0"
    assert number(0.4567, "spearman_response", True) == "+0.46"
    assert number(0.4567, "insertion_area") == "0.457"
    row = pd.Series(
        {"n": 60, "entropy": 2.0, "entropy_low": np.nan, "entropy_high": np.nan, "entropy_n": 50}, dtype=object
    )
    assert told(row, "entropy") == "2.00 [no interval] (n = 50)"


def test_lines_by_layer_are_those_of_the_table(claimed):
    ax = Figure().subplots()
    draw_layers(claimed.summary, "causal_mass", ("prompt", "question"), ax)
    lines = {tuple(np.round(line.get_ydata(), 9)) for line in ax.get_lines()}
    assert tuple(np.round([claimed.row("prompt", str(i))["causal_mass"] for i in range(3)], 9)) in lines
    whole = claimed.row("question", "0-2")["causal_mass"]
    assert tuple(np.round([whole] * 2, 9)) in lines
    assert tuple(np.round([claimed.row("random", "")["causal_mass"]] * 2, 9)) in lines
    assert not draw_layers(claimed.summary, "spearman_response", ("response",), Figure().subplots()).get_lines()[1:-2]


def test_pictures_show_the_data(claimed):
    square = pairs_data(pair_matrix(claimed.folder), most=2)
    assert list(square.index[:4]) == ["cls 0", "cls 2", "cls sum 0-2", "cls sum 1-2"]
    drawn = draw_pairs(square, "spearman", Figure().subplots()).collections[0].get_array()
    assert np.asarray(drawn).ravel() == pytest.approx(square.to_numpy().ravel())
    one = mean_maps(claimed.folder)[0]
    shown = draw_map(one, Figure().subplots()).get_images()[0].get_array()
    assert 2 ** np.asarray(shown) / (ROWS * COLUMNS) == pytest.approx(one.values)
    heads = heads_data(claimed.folder)
    dots = draw_heads(heads, "spearman_response", ("cls",), Figure().subplots()).collections
    heights = np.sort(np.concatenate([np.asarray(some.get_offsets())[:, 1] for some in dots]))
    assert heights == pytest.approx(np.sort(heads.loc[heads["signal"] == "cls", "spearman_response"]))


def test_names_below_a_small_square_end_above_the_caption():
    keys = [*(("cls", str(layer)) for layer in range(6)), ("cls sum", "0-5"), ("cls sum", "2-4")]
    index = pd.MultiIndex.from_tuples(keys)
    square = pd.DataFrame(np.eye(8), index, index)
    figure = pairs_figure({"spearman": square}, 504, 42)
    FigureCanvasAgg(figure).draw()
    lowest = min(name.get_window_extent().y0 for name in figure.axes[0].get_xticklabels())
    (caption,) = (text for text in figure.texts if text.get_text().startswith("n = 504"))
    assert caption.get_window_extent().y1 < lowest


def test_curves_are_drawn_for_what_can_be_told_apart(claimed):
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
    """Figures are kept instead of drawn pixel by pixel, which takes most of a report's time."""
    figures: dict[str, Figure] = {}
    monkeypatch.setattr(bias_report, "save_figure", lambda figure, path: figures.update({path.name: figure}))
    return figures


def test_the_report_writes_tables_and_figures(claimed, saved, tmp_path):
    text = report(claimed.folder, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"table.csv", "table.md", "contrasts.csv"}
    assert set(saved) == {"layers.png", "pairs.png", "maps.png", "curves.png", "heads.png"}
    assert all("n = 60" in figure.get_supxlabel() for figure in saved.values())
    assert all(ax.has_data() for figure in saved.values() for ax in figure.axes)
    table = pd.read_csv(tmp_path / "table.csv", keep_default_na=False, dtype={"layers": str})
    assert table["layers"].tolist() == claimed.summary["layers"].tolist()
    assert len(pd.read_csv(tmp_path / "contrasts.csv")) == len(claimed.contrasts)
    written = (tmp_path / "table.md").read_text(encoding="utf-8")
    row = claimed.row("prompt", "1")
    cells = [told(row, measure).replace(" %", "") for measure in ("overlap_response", "spearman_response")]
    assert f"| last prompt token | 1 | {' | '.join(cells)} |" in text
    assert "| response | 0-2 | is the response | is the response |" in text
    assert written.count("| question tokens |") == 2
    assert "question tokens" not in text.split("\n\n")[0]
    assert bias_answer(claimed.summary, claimed.contrasts, claimed.unnoticed) in text
    assert "| prompt" not in text and "| 0.002 |" in text and "A large p acquits" in written


def test_answers_of_several_tokens_are_told_apart(claimed, saved, tmp_path):
    samples, rows = (claimed.folder.read(name).to_pandas() for name in ("samples", "signals"))
    ids = samples.loc[samples["answer_tokens"] > 1, "sample_id"]
    part = rows[rows["sample_id"].isin(ids) & (rows["head"] == -1) & (rows["signal"] == "prompt")]
    mean = part.loc[part["layers"] == "1", "overlap_response"].mean()
    told_apart = report(claimed.folder, tmp_path).split(
        f"Only the {len(ids)} questions whose answer has several tokens"
    )[1]
    assert f"| last prompt token | 1 | {100 * mean:.1f} [" in told_apart
    rows = rows[rows["sample_id"].isin(ids) & (rows["head"] == -1)]
    wide = rows.pivot(index="sample_id", columns=["signal", "layers"], values="spearman_response")
    delta = (wide["cls sum", "0-2"] - wide["prompt", "1"]).mean()
    assert f"[CLS] 0-2 less prompt block 1: {delta:+.2f} [" in told_apart


def test_a_report_needs_no_heads_and_no_evidence(saved, tmp_path):
    few = {("cls sum", "0-2"), ("prompt", "1"), ("response", "0-2"), ("random", "0"), ("uniform", "")}
    tables, folder = tables_of({key: CLAIMED[key] for key in few}, 3, False), TableFolder(tmp_path / "data")
    tables["signals"]["evidence_recall"] = np.nan
    with folder.lock(CONFIG):
        folder.append({name: pa.Table.from_pandas(table, preserve_index=False) for name, table in tables.items()})
    text = report(folder, tmp_path)
    assert "heads.png" not in saved
    assert "evidence in the top" not in text
    assert "nan" not in text
