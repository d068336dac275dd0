import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from scipy import stats
from statsmodels.stats.multitest import multipletests

from foveate.analysis.bias.slices import sinks_data
from foveate.analysis.bias.slices_figures import draw_sinks, sinks_figure


def frame(shares: dict[tuple[str, str], list[float]]) -> pd.DataFrame:
    rows = [
        {"signal": signal, "layers": layers, "sample_id": number, "image_id": f"i{number}", "sink_share": share}
        for (signal, layers), values in shares.items()
        for number, share in enumerate(values)
    ]
    return pd.DataFrame(rows)


def test_sinks_have_an_interval_per_signal_and_layer():
    data = sinks_data(frame({("cls", "0"): [0.1, 0.3], ("random", ""): [0.1, 0.1], ("occlusion", ""): [np.nan] * 2}))
    assert list(data["signal"]) == ["cls", "random"]
    row = data.iloc[0]
    assert row["sink_share"] == pytest.approx(0.2)
    assert row["sink_share_low"] < 0.1 and row["sink_share_high"] > 0.3  # of two images nearly nothing is known
    assert (row["n"], row["images"]) == (2, 2)


def test_a_model_without_sinks_has_a_note():
    data = sinks_data(frame({("cls", "0"): [0.0, 0.0], ("random", ""): [0.0, 0.0]}))
    ax = draw_sinks(data, ("cls",), Figure().subplots())
    assert "Dashed" not in sinks_figure(data).get_supxlabel()  # there is nothing to explain
    assert [text.get_text() for text in ax.texts] == ["no patch is a sink"] and not ax.lines
    assert len(sinks_figure(data).axes) == 2


def test_layers_are_compared_with_random_patches_in_pairs():
    rng = np.random.default_rng(1)
    even = rng.random(60) * 0.4  # images differ more than layers do: only pairs tell these apart
    shares = {
        "0": even + 0.05 + rng.normal(0, 0.02, 60).clip(-0.05, 0.1),
        "1": even + rng.normal(0, 0.02, 60),
        "2": even * 0.8,
    }
    data = sinks_data(
        frame({("random", ""): list(even)} | {("cls", layer): list(some.clip(0, 1)) for layer, some in shares.items()})
    )
    rows = data[data["signal"] == "cls"]
    raw = []
    for _, row in rows.iterrows():
        delta = shares[row["layers"]].clip(0, 1) - even
        assert row["difference"] == pytest.approx(delta.mean())
        means = delta[np.random.default_rng(2).integers(0, 60, (4000, 60))].mean(1)
        low, high = np.quantile(means, [0.025, 0.975])
        assert (row["low"], row["high"]) == pytest.approx((low, high), abs=0.15 * (high - low))
        raw.append(stats.permutation_test((delta,), np.sum, permutation_type="samples", rng=0).pvalue)
    assert rows["p_holm"].to_numpy() == pytest.approx(multipletests(raw, method="holm")[1], abs=0.01)
    assert data.loc[data["signal"] == "random", "p_holm"].isna().all()
    assert len(sinks_figure(data).axes) == 2


def test_without_random_patches_no_layer_is_compared():
    assert sinks_data(frame({("received", "0"): [0.1, 0.3]}))["p_holm"].isna().all()
