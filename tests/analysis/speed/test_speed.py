import math

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from scipy import stats
from statsmodels.stats.multitest import multipletests

from foveate.analysis.rounds import ratio as ratio_of
from foveate.analysis.speed.data import (
    BASELINE,
    FASTER,
    SLOWER,
    Conditions,
    groups_of,
    read_rounds,
    speed_table,
    write_rounds,
)
from foveate.analysis.speed.figures import draw_parts, draw_speedups, parts_data, speed_figure
from foveate.analysis.speed.report import ROUNDS, markdown, report
from foveate.core.errors import DataError
from foveate.profiling.flops import CONVENTIONS
from foveate.profiling.rows import FULL, ONE_BY_ONE, Setting, round_row
from foveate.profiling.speed import PARTS, Footprint, Round

NEW, BATCH, ROUNDS_EACH = 11, 4, 12
CONDITIONS = Conditions(
    "a model", "a device", "sdpa", "float32", 2, NEW, "torch 3", "2026-01-02", {"fastv at 9 of 144 tokens": "too few"}
)
# ms of a batch by part, in the order of PARTS
PLANTED = {
    (FULL, 144): (40.0, 0.0, 4.0, 56.0, 100.0),
    ("quick", 16): (40.0, 2.0, 1.0, 17.0, 40.0),  # half the time
    ("slow", 16): (40.0, 90.0, 4.0, 66.0, 100.0),
    ("level", 72): (40.0, 1.0, 4.0, 55.0, 100.0),
}


def taken(budget: int) -> Footprint:
    counted = {name: 1e9 * budget * (number + 1) for number, name in enumerate(CONVENTIONS)}
    return Footprint(budget, budget, budget, 10.0, 1024.0 * budget, None if budget == 72 else 2**20 * budget, counted)


def planted(batch: int = BATCH, noise: float = 0.02, seed: int = 0) -> list[dict]:
    """Returns rounds in which the machine varies for all settings together, and each setting by little."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(ROUNDS_EACH):
        machine = math.exp(rng.normal(0, 0.5))
        for key, parts in PLANTED.items():
            own = machine * math.exp(rng.normal(0, noise))
            ms = {"inputs": 8.0 * own} | {part: own * x for part, x in zip(PARTS, parts, strict=True)}
            rows.append(round_row(Setting(96, 0, batch), NEW, Round(key, number, ms, taken(key[1]))))
        for budget in (144, 16, 72):
            rows.append(
                round_row(
                    Setting(96, 0, batch), NEW, Round((ONE_BY_ONE, budget), number, {"total": 832 * machine}, None)
                )
            )
    return rows


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return speed_table(pd.DataFrame(planted()))


def row(table: pd.DataFrame, method: str) -> pd.Series:
    return table[table["method"] == method].iloc[0]


def test_verdicts_are_those_that_were_planted(table):
    found = dict(zip(table["method"], table["verdict"], strict=True))
    assert found[FULL] == found[ONE_BY_ONE] == BASELINE
    assert [found[name] for name in ("quick", "slow", "level")] == [FASTER, SLOWER, "not significant"]


def test_times_are_per_question_and_decoding_is_per_token():
    quiet = pd.DataFrame(planted(noise=0))
    once = quiet[quiet["round"] == 0]
    found, machine = row(speed_table(once), "quick"), once.iloc[0]["vision_ms"] / 40
    assert found["vision_ms"] / machine == pytest.approx(10)
    assert found["decode_ms"] / machine == pytest.approx(40 / BATCH / (NEW - 1))
    assert found["total_ms"] / machine == pytest.approx(25)
    assert found["speedup"] == pytest.approx(2)


def test_quartiles_are_those_of_the_total():
    frame = pd.DataFrame(planted())
    of_full = frame.loc[frame["method"] == FULL, "total_ms"] / BATCH
    found = row(speed_table(frame), FULL)
    assert found["total_ms"] == pytest.approx(np.median(of_full))
    assert (found["total_q25_ms"], found["total_q75_ms"]) == pytest.approx(tuple(np.quantile(of_full, [0.25, 0.75])))


def test_rounds_are_paired_so_that_the_load_of_the_machine_cancels(table):
    found = row(table, "quick")
    assert found["low"] < 2 < found["high"] < 2.1
    shuffled = pd.DataFrame(planted()).sample(frac=1, random_state=0)
    assert row(speed_table(shuffled), "quick")["speedup"] == pytest.approx(found["speedup"])


def test_the_second_baseline_is_compared_with_the_time_for_tensors_on_both_sides(table):
    found = row(table, "quick")
    assert found["vs_low"] < 832 / (100 + 8) < found["vs_high"]
    assert row(table, FULL)["vs_one_by_one"] == pytest.approx(832 / 208, rel=0.02)
    assert math.isnan(row(table, ONE_BY_ONE)["vs_one_by_one"])


def test_without_a_second_baseline_there_is_nothing_to_compare_with():
    frame = pd.DataFrame(planted())
    alone = speed_table(frame[frame["method"] != ONE_BY_ONE])
    assert alone["vs_one_by_one"].isna().all()
    text = markdown(alone, CONDITIONS._replace(no_one_by_one="it is for others"))
    assert "No baseline one by one: it is for others." in text


def test_the_interval_is_students_of_the_logarithms():
    full, some = [10.0, 20.0, 10.0, 40.0], [8.0, 18.0, 7.0, 30.0]
    logs = np.log(np.array(full) / some)
    half = stats.t.ppf(0.975, 3) * logs.std(ddof=1) / 2
    ratio, low, high, p = ratio_of(full, some)[:4]
    assert ratio == pytest.approx(stats.gmean(np.array(full) / some))
    assert (low, high) == pytest.approx((np.exp(logs.mean() - half), np.exp(logs.mean() + half)))
    assert p == pytest.approx(stats.ttest_rel(np.log(full), np.log(some)).pvalue)


def test_rounds_that_differ_by_noise_alone_are_rarely_called_faster_or_slower():
    rng = np.random.default_rng(0)
    called = [ratio_of(*np.exp(rng.normal(0, 0.2, (2, 5)))).p < 0.05 for _ in range(2000)]
    assert 0.035 < np.mean(called) < 0.065


def test_p_values_are_corrected_over_all_sizes_and_batches():
    frame = pd.DataFrame(planted() + planted(batch=1, seed=1))
    table = speed_table(frame)
    assert list(dict(groups_of(table))) == [(96, 0, BATCH), (96, 0, 1)]
    raw = []
    for batch in (BATCH, 1):
        group = frame[frame["batch"] == batch].set_index(["method", "round"])["total_ms"]
        raw += [ratio_of(group[FULL], group[name]).p for name in ("quick", "slow", "level")]
    found = table[~table["method"].isin((FULL, ONE_BY_ONE))]["p_holm"]
    assert found.tolist() == pytest.approx(multipletests(raw, method="holm")[1].tolist())


def test_a_single_round_has_no_significant_difference():
    frame = pd.DataFrame(planted())
    alone = speed_table(frame[frame["round"] == 0])
    methods = alone[~alone["method"].isin((FULL, ONE_BY_ONE))]
    assert set(methods["verdict"]) == {"not significant"}
    assert "nan" not in markdown(alone, CONDITIONS)
    speed_figure(alone, CONDITIONS)


def test_the_table_for_readers_has_every_number_and_convention(table):
    text = markdown(table, CONDITIONS)
    assert "a model on a device (2 threads), attention kernel sdpa, float32, torch 3, 2026-01-02." in text
    assert f"n = {ROUNDS_EACH} rounds" in text
    (quick,) = [line for line in text.splitlines() if line.startswith("| quick |")]
    cells = [cell.strip() for cell in quick.strip("|").split("|")]
    assert cells[1:3] == ["16.0", "16"]
    assert cells[9:11] == ["16.0", "16"]  # MiB and KiB
    assert cells[12] == FASTER
    assert "not known" in next(line for line in text.splitlines() if line.startswith("| level |"))
    assert "- FastV: MACs, visual tokens, 2 FFN matrices, no vision" in text
    assert "| quick, 16 tokens | 16 | 32 | 48 | 64 |" in text
    assert "- fastv at 9 of 144 tokens: too few" in text


def test_rounds_are_read_as_they_were_written(tmp_path):
    rows = planted()
    write_rounds(rows, CONDITIONS, tmp_path / "made" / ROUNDS)
    frame, conditions = read_rounds(tmp_path / "made" / ROUNDS)
    assert conditions == CONDITIONS
    pd.testing.assert_frame_equal(frame, pd.DataFrame(rows), check_dtype=False)


def test_a_file_of_another_format_is_refused(tmp_path):
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "other.parquet")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    for name in ("missing", "other", "broken"):
        with pytest.raises(DataError, match=rf"no timed rounds in .*{name}.parquet .*: run `make speed` first"):
            read_rounds(tmp_path / f"{name}.parquet")


def test_the_report_is_written_beside_the_rounds(tmp_path):
    write_rounds(planted(), CONDITIONS, tmp_path / ROUNDS)
    text = report(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {ROUNDS, "table.csv", "table.md", "speed.png"}
    written = pd.read_csv(tmp_path / "table.csv")
    assert written["verdict"].tolist()[:2] == [BASELINE, FASTER]
    assert f"| {FASTER} |" in text and str(tmp_path) in text


def test_a_bar_is_as_long_as_the_total_and_begins_with_the_tower(table):
    data = parts_data(table, NEW)
    assert list(data.index) == ["no compression", "quick, 16 tokens", "slow, 16 tokens", "level, 72 tokens"]
    ax = draw_parts(data, Figure().subplots())
    bars = [container.patches for container in ax.containers]
    assert len(bars) == len(PARTS)
    assert bars[0][1].get_width() == data.loc["quick, 16 tokens", "vision"]
    ends = [bar.get_x() + bar.get_width() for bar in bars[-1]]
    assert ends == pytest.approx(data.sum(axis=1).tolist())
    assert data.loc["slow, 16 tokens", "decode"] == pytest.approx(row(table, "slow")["decode_ms"] * (NEW - 1))


def test_the_other_panel_has_a_line_as_long_as_each_interval_in_the_colour_of_its_verdict(table):
    ax = draw_speedups(table, Figure().subplots())
    quick, slow = row(table, "quick"), row(table, "slow")
    lines = {tuple(line.get_xdata()): line.get_color() for line in ax.lines}
    assert lines[quick["low"], quick["high"]] != lines[slow["low"], slow["high"]]
    assert len([line for line in ax.lines if line.get_marker() == "o"]) == 3  # none for the baselines


def test_no_group_is_cut_off_by_the_limits_of_another():
    rows = planted() + [
        row | {"total_ms": row["total_ms"] / (3 if row["method"] == "quick" else 1)} for row in planted(1)
    ]
    wide = speed_table(pd.DataFrame(rows))
    panels = speed_figure(wide, CONDITIONS).axes[1::2]
    assert len(panels) == 2
    for panel in panels:
        left, right = panel.get_xlim()
        assert left < wide["low"].min() and right > max(wide["high"].max(), wide["flops_ratio"].max())
