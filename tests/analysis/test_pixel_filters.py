"""Differences from the best pixel filter, against a recomputation of choice, difference and test."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests

from foveate.analysis.cells import PIXEL_FILTERS, Cell
from foveate.analysis.held_out import BEST_FILTER, against_filters, choosing_half, filters_markdown, held_out

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


def test_the_table_has_the_verdict_of_every_scorer_at_every_budget():
    frames = frames_of()
    table = against_filters(frames, layers(frames))
    lines = filters_markdown(table).splitlines()
    assert lines[0] == "| scorer | 36 tokens | 7 tokens |"
    assert lines[2].startswith(f"| {BEST_FILTER} | saturation: ")
    words = {"cls[0]": "worse", "cls[1]": "not significant", "cls[2]": "better"}
    for line, (scorer, word) in zip(lines[3:], words.items(), strict=True):
        assert line.startswith(f"| {scorer} | ") and line.count(f"] {word} |") == 2


def test_a_scorer_that_a_budget_lacks_has_an_empty_cell():
    frames = {cell: frame for cell, frame in frames_of().items() if (cell.scorer, cell.keep) != ("cls[0]", 7)}
    (line,) = [
        line for line in filters_markdown(against_filters(frames, layers(frames))).splitlines() if "cls[0]" in line
    ]
    assert line.endswith("] worse |  |")


def test_without_verdicts_there_are_differences_only():
    text = filters_markdown(against_filters(frames_of(), layers(frames_of())), verdicts=False)
    assert not any(word in text for word in ("better", "worse", "not significant"))


def test_without_a_filter_there_is_no_table():
    frames = frames_of(names=("cls[0]", "cls[2]"))
    assert against_filters(frames, layers(frames)).empty
    assert against_filters({}, []).empty
    one = frames_of(images=1)  # which has no halves
    assert against_filters(one, layers(one)).empty


def test_pairs_with_filters_and_pairs_of_groups_are_corrected_together():
    frames = frames_of()
    found = held_out(frames, pd.DataFrame({"images": [IMAGES], "seeds": [1]}), {})
    assert found.filters["p_holm"].notna().sum() == 6 and found.chosen.empty
