import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from scipy import stats

from analysis import speed
from analysis.speed import (
    Speed,
    budgets_to_time,
    draw_speed,
    ratio_of,
    speed_answer,
    speed_data,
    speed_figure,
    timed_methods,
)
from foveate.compression import Identity
from foveate.evaluation import EvalConfig

TABLE = pd.DataFrame(
    [
        ("full", "control", 144, 0.99),
        ("random", "control", 72, 0.8),
        ("random", "control", 16, 0.6),
        ("fastv", "decoder", 72, 0.7),
        ("pyramiddrop", "decoder", 72, 0.75),
        ("vtc_cls", "vision", 72, 0.9),
        ("vtc_cls", "vision", 16, 0.8),
        ("hiprune", "vision", 72, 0.95),
        ("hiprune", "vision", 36, 0.8),
        ("hiprune", "vision", 16, 0.9),
        ("my_own", "vision", 72, 0.97),
    ],
    columns=["method", "role", "budget", "accuracy"],
)


@pytest.fixture
def timed() -> Speed:
    rows = [
        ("slow", 72, 30.0, 1.5, 1.2, 1.9, 0.01),
        ("quick", 16, 10.0, 0.5, 0.4, 0.6, 0.01),
        ("level", 16, 20.0, 1.2, 1.05, 1.4, 0.06),  # its interval leaves out 1, and is one of three
    ]
    table = pd.DataFrame(rows, columns=["method", "budget", "ms", "ratio", "low", "high", "p_holm"])
    return Speed(table, full_ms=20.0, n=8, rounds=3)


def test_timed_are_a_control_the_papers_pair_and_the_best_method():
    assert timed_methods(TABLE) == ["random", "fastv", "vtc_cls", "hiprune"]


def test_every_method_is_timed_at_its_largest_and_its_smallest_budget():
    found = budgets_to_time(TABLE, ["hiprune", "fastv", "missing"])
    assert found == {"hiprune": [72, 16], "fastv": [72]}


def test_ratios_are_those_of_the_same_round_and_every_other_round_runs_backwards(monkeypatch, tiny):
    times = iter([10.0, 5.0, 10.0, 40.0])  # without compression, with it, and the other way round

    def latency_ms(config: EvalConfig) -> float:
        asked.append(config.compressor)
        return next(times)

    asked = []
    monkeypatch.setattr(speed, "latency_ms", latency_ms)
    data = speed_data(EvalConfig(Identity(), model=tiny, limit=4), {"random": [16]}, rounds=2)
    (row,) = data.table.to_dict("records")
    assert row["ratio"] == pytest.approx((1 / 2 * 1 / 4) ** 0.5)
    assert (row["ms"], data.full_ms, data.n, data.rounds) == (7.5, 25.0, 4, 2)
    assert asked[0] == asked[3] == Identity()
    assert asked[1] == asked[2] and set(asked[1].plan(144, 4)) == {16}


def test_the_interval_is_students_of_the_logarithms():
    full, times = [10.0, 20.0, 10.0, 40.0], [8.0, 18.0, 7.0, 30.0]
    logs = np.log(np.array(times) / full)
    half = stats.t.ppf(0.975, 3) * logs.std(ddof=1) / 2
    found = ratio_of(times, full)
    assert found["ratio"] == pytest.approx(stats.gmean(np.array(times) / full))
    assert (found["low"], found["high"]) == pytest.approx((np.exp(logs.mean() - half), np.exp(logs.mean() + half)))
    assert found["p_holm"] < 0.05
    assert np.isnan(ratio_of([8.0], [10.0])["low"])


def test_rounds_that_differ_by_noise_alone_are_rarely_called_faster_or_slower():
    rng = np.random.default_rng(0)
    called = [ratio_of(*np.exp(rng.normal(0, 0.2, (2, 5))))["p_holm"] < 0.05 for _ in range(2000)]
    assert 0.035 < np.mean(called) < 0.065


def test_only_what_survives_holms_correction_is_called_slower_or_faster(timed):
    told = speed_answer(timed)
    assert "1 are slower than no compression, 1 are faster, 1 are not to be told from it" in told
    assert "slower than no compression: slow at 72 tokens (1.50 x [1.20, 1.90])" in told
    assert "faster: quick at 16 tokens (0.50 x [0.40, 0.60])" in told
    assert "n = 8" in told and " ms" not in told


def test_a_single_round_tells_nothing_apart(timed):
    alone = timed._replace(table=timed.table.assign(low=np.nan, high=np.nan, p_holm=np.nan), rounds=1)
    told = speed_answer(alone)
    assert "0 are slower than no compression, 0 are faster, 3 are not to be told" in told
    assert "A single round tells nothing apart" in told and "nan" not in told
    left, right = draw_speed(alone, {}, Figure().subplots()).get_xlim()
    assert left < 0.5 and right > 1.5


def test_a_method_has_its_colour_and_a_line_as_long_as_its_interval(timed):
    ax = draw_speed(timed, {"slow": "#ff0000"}, Figure().subplots())
    assert [tick.get_text() for tick in ax.get_yticklabels()][-1] == "slow, 72 tokens"
    assert ax.get_yticklabels()[-1].get_color() == "#ff0000"
    assert any(list(line.get_xdata()) == [1.2, 1.9] for line in ax.lines)
    assert "n = 8 questions" in speed_figure(timed, {}).get_supxlabel()
