"""Mean ranks, shares retained and worst tasks, against numbers computed by hand and a plain bootstrap."""

import numpy as np
import pandas as pd
import pytest

from foveate.analysis.cells import Cell
from foveate.analysis.comparison.summary import (
    EVERY,
    budgets_on,
    not_in_all,
    resampled,
    shared,
    summary_table,
    task_of,
    tasks_table,
)
from foveate.analysis.comparison.summary_figures import draw_ranks, draw_retained, summary_data, summary_figure
from foveate.analysis.comparison.summary_report import markdown
from foveate.analysis.held_out import choosing_half

ROLES = {
    "full": "control",
    "blind": "control",
    "random": "control",
    "a": "vision",
    "b": "decoder",
    "evidence": "oracle",
}
KEEP = (0.5, 4)


def frame(scores, images):
    names = [f"q{number:03d}" for number in range(len(scores))]
    return pd.DataFrame({"sample_id": names, "image_id": images, "score": scores, "runs": [[s] for s in scores]})


def cells_with(shares, images=40, each=3, seed=0, patches=16):
    """Returns frames whose accuracies are about these shares, by method, and by budget for those that have one."""
    rng = np.random.default_rng(seed)
    names = np.repeat([f"i{number:03d}" for number in range(images)], each)
    frames = {}
    for name, share in shares.items():
        for keep in (8, 4) if isinstance(share, tuple) else (patches,):
            wanted = share[keep == 4] if isinstance(share, tuple) else share
            scores = (rng.random(len(names)) < wanted).astype(float)
            frames[Cell(name, name, "", keep, f"{name}{keep}")] = frame(scores, names)
    return frames


SHARES = {"full": 0.9, "blind": 0.2, "random": (0.5, 0.3), "a": (0.8, 0.6), "b": (0.7, 0.7), "evidence": (0.9, 0.9)}


def tasks(shares=SHARES, models=("m",), data=("d1", "d2", "d3")):
    return [
        task_of(cells_with(shares, seed=seed), ROLES, (one, model), budgets_on(KEEP, 16))
        for model in models
        for seed, one in enumerate(data)
    ]


def test_ranks_and_shares_are_means_over_the_tasks_of_what_each_table_says():
    found = tasks()
    table = summary_table(found).set_index(["budget", "method"])
    for budget in ("50 %", "4"):
        ranks, shares = [], []
        for task in found:
            own = pd.Series({name: task.sums[name, budget].sum() for name in ("random", "a", "b")})
            ranks.append(own.rank(ascending=False))
            shares.append(own / task.sums["full", ""].sum())
        for name in ("random", "a", "b"):
            row = table.loc[(budget, name)]
            assert row["mean_rank"] == pytest.approx(np.mean([some[name] for some in ranks]))
            assert row["retained"] == pytest.approx(np.mean([some[name] for some in shares]))
            assert row["retained_low"] < row["retained"] < row["retained_high"]
            assert (row["tasks"], row["n"], row["images"], row["ranked"]) == (3, 360, 120, 3)
    assert "evidence" not in table.index.get_level_values("method")


def test_budgets_that_are_shares_are_one_row_on_models_with_other_grids():
    small = task_of(cells_with(SHARES), ROLES, ("d", "small"), budgets_on((0.5,), 16))
    doubled = {
        cell._replace(keep=2 * cell.keep): found for cell, found in cells_with(SHARES, seed=1, patches=32).items()
    }
    large = task_of(doubled, ROLES, ("d", "large"), budgets_on((0.5,), 32))
    assert [budget for budget, _ in shared([small, large])] == ["50 %"]
    table = summary_table([small, large])
    assert table["model"].unique().tolist() == [EVERY, "small", "large"]
    assert set(table.loc[table["model"] == EVERY, "n"]) == {120}  # the same questions


def test_the_interval_over_one_data_set_is_that_of_a_plain_bootstrap_over_images():
    (task,) = tasks(data=("d1",))
    _, kept = resampled([task], ["random", "a", "b"], "50 %")
    own, full = (task.sums[cell].to_numpy() for cell in (("a", "50 %"), ("full", "")))
    drawn = np.random.default_rng(1).integers(0, len(own), (4000, len(own)))
    low, high = np.quantile(own[drawn].sum(1) / full[drawn].sum(1), [0.025, 0.975])
    assert kept[1, 1:] == pytest.approx([low, high], abs=0.012)


def test_the_interval_over_data_sets_is_wider_where_they_differ():
    good, bad = (SHARES | {"a": (share, share)} for share in (0.85, 0.1))
    alike = tasks(good)
    differing = [*tasks(good, data=("d1", "d2")), *tasks(bad, data=("d3",))]
    width = [np.ptp(resampled(some, ["random", "a", "b"], "50 %")[1][1, 1:]) for some in (alike, differing)]
    assert width[1] > 2 * width[0]


def test_models_see_the_same_draws():
    one, two = tasks(), tasks(models=("m", "again"))
    for left, right in zip(resampled(one, ["a", "b"], "4"), resampled(two, ["a", "b"], "4"), strict=True):
        assert left == pytest.approx(right)


def test_the_worst_task_is_chosen_on_one_half_and_reported_on_the_other():
    found = [*tasks(data=("d1", "d2")), *tasks(SHARES | {"a": (0.2, 0.2)}, data=("d3",))]
    row = summary_table(found).set_index(["budget", "method"]).loc[("50 %", "a")]
    worst = found[2]
    half = choosing_half(worst.counts.index)
    own, full = (worst.sums[cell].to_numpy()[~half].sum() for cell in (("a", "50 %"), ("full", "")))
    assert (row["worst_data"], row["worst_n"]) == ("d3", int(worst.counts[~half].sum()))
    assert row["worst_retained"] == pytest.approx(own / full)
    assert row["worst_low"] < row["worst_retained"] < row["worst_high"]


def test_a_method_that_a_task_lacks_is_named_and_not_ranked():
    found = [*tasks(data=("d1", "d2")), *tasks({k: v for k, v in SHARES.items() if k != "b"}, data=("d3",))]
    assert not_in_all(found) == {"b": 2}
    table = summary_table(found)
    assert set(table["method"]) == {"random", "a"} and set(table["ranked"]) == {2}
    assert "Not in all tasks, and so not ranked: b (2 of 3 tasks)" in markdown(table, found)


def test_a_task_that_the_uncompressed_model_fails_leaves_no_share_but_ranks():
    found = [*tasks(data=("d1", "d2")), *tasks(SHARES | {"full": 0.0, "blind": 0.0}, data=("d3",))]
    table = summary_table(found)
    assert table[["mean_rank", "retained", "retained_low", "retained_high"]].notna().all().all()
    assert tasks_table(found)["full"].tolist()[2] == 0
    text = markdown(table, found)
    assert "because without compression no answer is right: d3, m" in text
    assert "d3, m: No verdicts: the uncompressed model (0.0 %) is not significantly better" in text


def test_equal_accuracies_share_a_rank():
    frames = cells_with(SHARES)
    frames = {cell: frames[Cell("a", "a", "", 8, "a8")] if cell.keep == 8 else some for cell, some in frames.items()}
    table = summary_table([task_of(frames, ROLES, ("d", "m"), budgets_on(KEEP, 16))])
    equal = table[table["budget"] == "50 %"]
    assert set(equal["mean_rank"]) == {2.0} and equal["rank_low"].isna().all()


def test_the_figure_has_every_method_with_its_interval_and_its_worst_task():
    table = summary_table(tasks())
    panels = summary_data(table)
    figure = summary_figure(panels)
    assert [ax.get_title("left") for ax in figure.axes[::2]] == ["Equivalent tokens: 50 %", "Equivalent tokens: 4"]
    ranks, retained = draw_ranks(panels[0], figure.axes[0]), draw_retained(panels[0], figure.axes[1])
    assert [label.get_text() for label in ranks.get_yticklabels()] == panels[0].rows["method"].tolist()
    rings = [line for line in retained.lines if line.get_markerfacecolor() == "none" and line.get_marker() == "o"]
    assert np.allclose(rings[-1].get_xdata(), panels[0].rows["worst_retained"])
