"""Data of a load test: requests, and the table of rates, times, speedups and verdicts."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from foveate.analysis.rounds import ratio
from foveate.analysis.speed.data import FULL, verdict
from foveate.analysis.verdicts import holm

TIMES = ("latency_ms", "first_token_ms", "token_ms")
_GROUP = ["concurrency", "method"]


def request_rows(
    concurrency: int, method: str, number: int, requests: Iterable[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Returns the rows of the requests of one load.

    Args:
        concurrency: Number of clients.
        method: Name of the server's method; `FULL` without compression.
        number: Number of the round.
        requests: See `foveate.serving.load.Clients.ask`.
    """
    return [{"concurrency": concurrency, "method": method, "round": number, **one} for one in requests]


def load_table(requests: pd.DataFrame) -> pd.DataFrame:
    """Returns one row per number of clients and method, in the order of measurement.

    Rates are means over rounds, times are quantiles over requests. `speedup` is the geometric mean over rounds of the
    requests per second over those of the uncompressed model with as many clients, with its 95 % interval and a p value,
    Holm-corrected over the table. Requests with an error count in `failed` alone.

    Args:
        requests: Rows of `request_rows`.
    """
    rates = {key: some.groupby("round").apply(_rate) for key, some in requests.groupby(_GROUP, sort=False)}
    rows = []
    for (concurrency, method), some in requests.groupby(_GROUP, sort=False):
        own, full = rates[concurrency, method], rates[concurrency, FULL]
        tested = ratio(own, full)[:4] if method != FULL and (own > 0).all() and (full > 0).all() else (np.nan,) * 4
        failed = int((some["error"] != "").sum())
        rows.append(
            {"concurrency": concurrency, "method": method, "rounds": len(own), "n": len(some) - failed}
            | {"failed": failed, "requests_per_s": own.mean()}
            | _quantiles(some[some["error"] == ""])
            | dict(zip(("speedup", "low", "high", "p_holm"), tested, strict=True))
        )
    table = pd.DataFrame(rows)
    table["p_holm"] = holm(table["p_holm"])
    return table.assign(verdict=[verdict(row) for _, row in table.iterrows()])


def _rate(some: pd.DataFrame) -> float:
    answered = some[some["error"] == ""]
    return len(answered) / (some["ended"].max() - some["began"].min())


def _quantiles(answered: pd.DataFrame) -> dict[str, float]:
    decoded = (answered["tokens"] - 1).where(answered["tokens"] > 1)
    times = {
        "latency_ms": answered["ended"] - answered["began"],
        "first_token_ms": answered["first"] - answered["began"],
        "token_ms": (answered["last"] - answered["first"]) / decoded,
    }
    return {f"{name}_p{q}": 1000 * times[name].quantile(q / 100) for name in TIMES for q in (50, 95)}
