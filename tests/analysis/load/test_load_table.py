"""The table of a load test, from requests with known times."""

import pandas as pd
import pytest

from foveate.analysis.load.data import load_table, request_rows


def requests(seconds, error=""):
    """Four requests of one client in a row, each of so many seconds, of which the first half passes before a token."""
    return [
        {"began": i * seconds, "first": (i + 0.5) * seconds, "last": (i + 1) * seconds, "tokens": 6}
        | {"ended": (i + 1) * seconds, "error": error if i == 3 else ""}
        for i in range(4)
    ]


def table(own, full=(0.1, 0.11, 0.1), error=""):
    rows = []
    for number, (seconds, stock) in enumerate(zip(own, full, strict=True)):
        rows += request_rows(2, "full", number, requests(stock))
        rows += request_rows(2, "mine", number, requests(seconds, error))
    return load_table(pd.DataFrame(rows)).set_index("method")


@pytest.mark.parametrize(
    ("own", "verdict"),
    [
        ((0.05, 0.055, 0.05), "faster"),
        ((0.2, 0.221, 0.2), "slower"),
        ((0.2, 0.05, 0.1), "not significant"),
    ],
)
@pytest.mark.guards("verdicts of the load test: the ratio of `load_table` is turned round")
def test_the_verdict_is_on_requests_per_second_by_round(own, verdict):
    assert table(own)["verdict"].to_dict() == {"full": "baseline", "mine": verdict}


def test_the_speedup_is_the_ratio_of_the_rates():
    assert table((0.05, 0.055, 0.05)).loc["mine", "speedup"] == pytest.approx(2)


def test_times_are_quantiles_over_requests():
    row = table((0.2, 0.21, 0.2)).loc["mine"]
    assert row["n"] == 12 and row["requests_per_s"] == pytest.approx((5 + 1 / 0.21 + 5) / 3)
    assert row[["latency_ms_p50", "first_token_ms_p95", "token_ms_p50"]].tolist() == pytest.approx([200, 105, 20])


def test_failed_requests_are_counted_apart():
    row = table((0.2, 0.21, 0.2), error="APIError: no").loc["mine"]
    assert (row["failed"], row["n"]) == (3, 9)
    assert row["requests_per_s"] == pytest.approx(0.75 * (5 + 1 / 0.21 + 5) / 3)


def test_one_round_has_no_verdict():
    one = table((0.05,), (0.1,))
    assert one.loc["mine", "verdict"] == "not significant"
