import pandas as pd
import pytest
from matplotlib.figure import Figure

from analysis import speed
from analysis.speed import Speed, budgets_to_time, draw_speed, speed_answer, speed_data, speed_figure, timed_methods
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
    rows = [("slow", 72, 30.0, 1.5, 1.2, 1.9), ("quick", 16, 10.0, 0.5, 0.4, 0.6), ("level", 16, 20.0, 1.0, 0.9, 1.1)]
    table = pd.DataFrame(rows, columns=["method", "budget", "ms", "ratio", "low", "high"])
    return Speed(table, full_ms=20.0, n=8, rounds=3)


def test_timed_are_controls_the_papers_pair_and_the_best_of_every_role():
    assert timed_methods(TABLE) == ["random", "fastv", "vtc_cls", "hiprune", "pyramiddrop"]


def test_every_method_is_timed_at_its_largest_and_its_smallest_budget():
    found = budgets_to_time(TABLE, ["hiprune", "fastv", "missing"])
    assert found == {"hiprune": [72, 16], "fastv": [72]}


def test_ratios_are_those_of_the_same_round(monkeypatch, tiny):
    times = iter([10.0, 5.0, 40.0, 10.0])  # full and the method, twice

    def latency_ms(config: EvalConfig) -> float:
        asked.append(config.compressor)
        return next(times)

    asked = []
    monkeypatch.setattr(speed, "latency_ms", latency_ms)
    data = speed_data(EvalConfig(Identity(), model=tiny, limit=4), {"random": [16]}, rounds=2)
    (row,) = data.table.to_dict("records")
    assert (row["low"], row["ratio"], row["high"]) == (0.25, 0.375, 0.5)
    assert (row["ms"], data.full_ms, data.n, data.rounds) == (7.5, 25.0, 4, 2)
    assert asked[0] == asked[2] == Identity() != asked[1]
    assert set(asked[1].plan(144, 4)) == {16}


def test_only_what_holds_in_every_round_is_called_slower_or_faster(timed):
    told = speed_answer(timed)
    assert "1 slower than no compression, 1 faster, 1 not to be told from it" in told
    assert "slower than no compression: slow at 72 tokens (1.50 x)" in told
    assert "faster: quick at 16 tokens (0.50 x)" in told
    assert "n = 8" in told and " ms" not in told


def test_a_method_has_its_colour_and_a_line_from_fastest_to_slowest_round(timed):
    ax = draw_speed(timed, {"slow": "#ff0000"}, Figure().subplots())
    assert [tick.get_text() for tick in ax.get_yticklabels()][-1] == "slow, 72 tokens"
    assert ax.get_yticklabels()[-1].get_color() == "#ff0000"
    assert any(list(line.get_xdata()) == [1.2, 1.9] for line in ax.lines)
    assert "n = 8 questions" in speed_figure(timed, {}).get_supxlabel()
