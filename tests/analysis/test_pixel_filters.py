"""Who beats the best filter of pixels: against a recomputation of choice, difference and test on drawn records."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from analysis.ablation.data import PIXEL_FILTERS, Cell
from analysis.held_out import choosing_half
from analysis.pixel_filters import against_filters, filters_first

IMAGES = 60
QUALITY = {"saturation": 0.6, "contrast": 0.5, "edges": 0.4, "cls[0]": 0.2, "cls[1]": 0.6, "cls[2]": 0.95}


def frame_of(seed, quality, images=IMAGES):
    scores = (np.random.default_rng(seed).random(2 * images) < quality).astype(float)
    names = [f"i{number // 2:03d}" for number in range(2 * images)]
    return pd.DataFrame({"image_id": names, "score": scores, "seeds": 1, "runs": list(scores[:, None])})


def frames_of(images=IMAGES, names=tuple(QUALITY), keeps=(36, 7)):
    frames = {Cell("full", "full", "", 144, "full"): frame_of(99, 0.98, images)}
    for keep in keeps:
        for number, name in enumerate(names):
            family = name if name in PIXEL_FILTERS else "single"
            frames[Cell(name, family, "", keep, "")] = frame_of([keep, number], QUALITY[name], images)
    return frames


def layers(frames):
    return [cell for cell in frames if cell.family == "single"]


def test_the_filter_is_chosen_on_one_half_and_everything_else_is_of_the_other():
    frames = frames_of()
    table = against_filters(frames, layers(frames))
    half = choosing_half(next(iter(frames.values()))["image_id"])
    assert sorted(table["budget"].unique()) == [7, 36]
    p_values = []
    for keep in (36, 7):
        here = {cell.scorer: frame for cell, frame in frames.items() if cell.keep == keep}
        best = max(PIXEL_FILTERS, key=lambda name: here[name].loc[half, "score"].mean())
        rows = table[table["budget"] == keep].set_index("chosen")
        assert set(rows.index) == {"cls[0]", "cls[1]", "cls[2]", best}
        assert rows.loc[best, "accuracy"] == pytest.approx(here[best].loc[~half, "score"].mean())
        assert pd.isna(rows.loc[best, "rival"])
        for layer in ("cls[0]", "cls[1]", "cls[2]"):
            gains = (here[layer]["score"] - here[best]["score"])[~half]
            assert rows.loc[layer, "rival_chosen"] == best
            assert rows.loc[layer, "difference"] == pytest.approx(gains.mean())
            sums = gains.groupby(here[best].loc[~half, "image_id"]).sum().to_numpy()
            test = stats.permutation_test((sums,), np.sum, permutation_type="samples", n_resamples=20_000, rng=0)
            assert rows.loc[layer, "p"] == pytest.approx(test.pvalue, abs=0.02)
        p_values += [rows.loc[layer, "p"] for layer in ("cls[0]", "cls[1]", "cls[2]")]
    found = table.loc[table["rival"].notna()].sort_values(["budget", "chosen"], ascending=[False, True])["p_holm"]
    np.testing.assert_allclose(found, multipletests(p_values, method="holm")[1])


def test_the_paragraph_says_at_every_budget_who_beats_the_filter():
    frames = frames_of()
    text = filters_first(against_filters(frames, layers(frames)))
    assert text.startswith("A method that does not beat the best filter of pixels (saturation, contrast, edges;")
    assert "chosen on 60 questions; n = 60 others about 30 images" in text
    for part in text.split(" At ")[1:]:
        assert "better 1 of 3 (cls[2] +" in part
        assert "not shown to differ 1 of 3 (cls[1] " in part
        assert "worse 1 of 3 (cls[0] -" in part
    assert text.count(" At 36 tokens, against ") == text.count(" At 7 tokens, against ") == 1


def test_only_the_three_best_of_a_verdict_are_named():
    many = {f"cls[{number}]": 0.9 for number in range(5)} | {"saturation": 0.1}
    frames = {
        Cell(name, name if name == "saturation" else "single", "", 7, ""): frame_of([7, number], quality)
        for number, (name, quality) in enumerate(many.items())
    }
    table = against_filters(frames, layers(frames))
    text = filters_first(table)
    named = text[text.index("better 5 of 5 (") : text.index("), not shown")]
    best = table.dropna(subset="rival").sort_values("difference", ascending=False, kind="stable")["chosen"].iloc[0]
    assert named.count("cls[") == 3 and named.endswith(", ...")
    assert named.startswith(f"better 5 of 5 ({best} +")
    assert "not shown to differ 0 of 5, worse 0 of 5." in text


def test_where_no_verdict_is_possible_there_is_none():
    few = frames_of(images=4)
    for text in (
        filters_first(against_filters(few, layers(few)), verdicts=False),
        filters_first(against_filters(frames_of(), layers(frames_of())), verdicts=False),
    ):
        assert "differences " in text and " to " in text
        assert not any(word in text for word in ("better", "worse", "not shown"))


def test_without_a_filter_nothing_is_said():
    frames = frames_of(names=("cls[0]", "cls[2]"))
    assert against_filters(frames, layers(frames)).empty
    assert filters_first(against_filters(frames, layers(frames))) == ""
    assert filters_first(against_filters({}, [])) == ""
    one = frames_of(images=1)  # which has no halves
    assert filters_first(against_filters(one, layers(one))) == ""
