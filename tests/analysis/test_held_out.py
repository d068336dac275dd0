import numpy as np
import pandas as pd
import pytest
from statsmodels.stats.multitest import multipletests

from foveate.analysis.cells import Cell
from foveate.analysis.held_out import Group, choosing_half, corrected, held_out_table, markdown, too_few_held_out
from foveate.analysis.statistics import difference_interval, mean_interval
from foveate.analysis.verdicts import paired_p


def cell(name: str, family: str = "single") -> Cell:
    return Cell(name, family, "", 16, name)


def frame_of(scores: np.ndarray, per_image: int = 2) -> pd.DataFrame:
    """Returns records with these (question, run) scores."""
    ids = [f"{number:04d}" for number in range(len(scores))]
    images = [f"i{number // per_image:04d}" for number in range(len(scores))]
    frame = pd.DataFrame({"sample_id": ids, "image_id": images, "score": scores.mean(1), "seeds": scores.shape[1]})
    return frame.assign(runs=list(scores))


def drawn(seed: int, share: float, images: int = 80, runs: int = 1) -> pd.DataFrame:
    return frame_of((np.random.default_rng(seed).random((2 * images, runs)) < share).astype(float))


def test_halves_are_of_whole_images_and_do_not_depend_on_the_order_of_questions():
    images = np.repeat([f"i{n}" for n in range(11)], 3)
    half = choosing_half(images)
    assert half.reshape(11, 3).std(1).max() == 0
    assert half.sum() == 5 * 3
    order = np.random.default_rng(1).permutation(33)
    assert (choosing_half(images[order]) == half[order]).all()


def test_numbers_are_of_the_other_half_only():
    frames = {cell("a"): drawn(0, 0.7), cell("b"): drawn(1, 0.6), cell("random", "random"): drawn(2, 0.5, runs=3)}
    a, b, random = frames
    groups = {16: [Group("best", [a, b], ("random",)), Group("random", [random])]}
    table = held_out_table(frames, groups)
    half = choosing_half(frames[a]["image_id"])
    better = max((a, b), key=lambda one: frames[one]["score"][half].mean())
    rest, other = frames[better][~half], frames[random][~half]
    row = table[table["group"] == "best"].iloc[0]
    assert (row["chosen"], row["chosen_on"], row["n"], row["images"]) == (better.scorer, 80, 80, 40)
    assert row[["accuracy", "ci_low", "ci_high"]].tolist() == list(mean_interval(rest["score"], rest["image_id"])[:3])
    delta = difference_interval(rest["score"], other["score"], rest["image_id"])
    assert row[["difference", "low", "high"]].tolist() == list(delta[:3])
    assert row["p"] == paired_p(np.stack(rest["runs"]), np.stack(other["runs"]), rest["image_id"])
    assert row["p_holm"] == row["p"]  # the only test


def test_a_choice_among_equals_is_unbiased():
    """The best of 40 coins is far above one half on the questions it was chosen on, but not on the other half."""
    same, held = [], []
    for trial in range(30):
        frames = {cell(f"c{n}"): drawn(1000 * trial + n, 0.5, images=30) for n in range(40)}
        held.append(held_out_table(frames, {16: [Group("best", list(frames))]})["accuracy"].iloc[0])
        same.append(max(frame["score"].mean() for frame in frames.values()))
    error = np.std(held) / np.sqrt(len(held))
    assert abs(np.mean(held) - 0.5) < 3 * error
    assert np.mean(same) - 0.5 > 6 * error


def test_a_cell_is_not_compared_with_itself_and_missing_groups_are_left_out():
    frames = {cell("a"): drawn(0, 0.7)}
    only = cell("a")
    groups = {16: [Group("best", [only], ("same", "missing")), Group("same", [only]), Group("missing", [])]}
    table = held_out_table(frames, groups)
    assert table["group"].tolist() == ["best", "same"]
    assert table["rival"].isna().all() and table["p_holm"].isna().all()
    assert "minus" not in markdown(table)


def test_a_pair_in_two_tables_is_one_test_with_one_verdict():
    frames = {cell(name): drawn(seed, 0.5 + 0.08 * seed) for seed, name in enumerate("abcd")}
    a, b, c, d = frames
    first = held_out_table(frames, {16: [Group("x", [a], ("y", "z")), Group("y", [b]), Group("z", [c], ("y",))]})
    second = held_out_table(frames, {16: [Group("y", [b], ("x",)), Group("x", [a]), Group("w", [d], ("x",))]})
    one, two = corrected(first, second)
    p = {("a", "b"): 0, ("a", "c"): 0, ("b", "c"): 0, ("a", "d"): 0}
    for table in (one, two):
        for row in table[table["p"].notna()].itertuples():
            p[tuple(sorted((row.chosen, row.rival_chosen)))] = row.p
    expected = dict(zip(p, multipletests(list(p.values()), method="holm")[1], strict=True))
    for table in (one, two):
        for row in table[table["p"].notna()].itertuples():
            assert row.p_holm == pytest.approx(expected[tuple(sorted((row.chosen, row.rival_chosen)))])
        assert table.loc[table["p"].isna(), "p_holm"].isna().all()
    assert corrected(pd.DataFrame(), one)[0].empty


def test_a_single_image_has_no_halves():
    frames = {cell("a"): frame_of(np.ones((2, 1)))}
    table = held_out_table(frames, {16: [Group("best", list(frames))]})
    assert table.empty and too_few_held_out(table) == ""
    assert markdown(table) == "A single image has no halves: nothing was chosen."


@pytest.mark.parametrize(
    ("images", "few"), [(80, ""), (6, "On one half of the images: too few images for any test (n = 3).")]
)
def test_verdicts_are_shown_unless_there_are_too_few_images(images, few):
    frames = {cell("a"): drawn(0, 1.0, images), cell("random", "random"): drawn(2, 0.1, images)}
    a, random = frames
    table = held_out_table(frames, {16: [Group("best single layer", [a], ("random",)), Group("random", [random])]})
    assert too_few_held_out(table) == few
    assert ("] better" in markdown(table)) == (not few)
    assert "] better" not in markdown(table, verdicts=False)
    assert "| best single layer (a) | 100.0 [" in markdown(table)
