import re
from typing import NamedTuple

import numpy as np
import optuna
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from foveate.analysis.cells import Cell
from foveate.analysis.comparison.data import (
    Comparison,
    budgets_of,
    comparison_of,
    comparison_table,
    groups_of,
    methods_at,
    read_comparison,
    shared_budget,
)
from foveate.analysis.comparison.figures import (
    draw_frontier,
    draw_ranking,
    frontiers_data,
    ranking_figure,
    rankings_data,
)
from foveate.analysis.comparison.pairs import pairs_table
from foveate.analysis.comparison.report import example_cells, markdown, write_report
from foveate.analysis.held_out import held_out_table
from foveate.analysis.kept_patches import Setting
from foveate.analysis.records import read_records
from foveate.analysis.verdicts import paired_p
from foveate.analysis.worst_kinds import WorstKinds
from foveate.core.errors import UnknownMethod
from foveate.methods.registry import pairs_of
from foveate.profiling.flops import prefill_flops
from foveate.profiling.shapes import DecoderShape
from tests.tiers import extended

SHAPE = DecoderShape(4, 128, 320, 4, 4, 32)
QUESTIONS = 120
# share of right answers, and visual tokens of the four blocks, at budgets 72 and 16
METHODS = {
    "random[0]": ("random", "control", 0.6, {72: [72] * 4, 16: [16] * 4}),
    "random[1]": ("random", "control", 0.6, {72: [72] * 4, 16: [16] * 4}),
    "random_inside[0]": ("random_inside", "control", 0.5, {72: [144, 48, 48, 48]}),
    "pool": ("pool", "control", 0.93, {72: [72] * 4, 16: [16] * 4}),
    "evidence": ("evidence", "oracle", 0.95, {72: [72] * 4, 16: [16] * 4}),
    "good": ("good", "vision", 0.95, {72: [72] * 4, 16: [16] * 4}),
    "bad": ("bad", "vision", 0.1, {72: [72] * 4, 16: [17] * 4}),
    "same": ("same", "vision", 0.6, {72: [72] * 4, 16: [16] * 4}),
    "cut": ("cut", "decoder", 0.5, {72: [144, 48, 48, 48]}),
    "twice": ("twice", "both", 0.7, {72: [100, 100, 44, 44]}),
}


class Written(NamedTuple):
    comparison: Comparison
    out: object
    frames: dict[Cell, pd.DataFrame]
    table: pd.DataFrame


def drawn(seed: int, quality: float, blocks: list[int]) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    right = rng.random(QUESTIONS) < quality
    names = [f"{number:03d}" for number in range(QUESTIONS)]
    return pd.DataFrame(
        {
            "sample_id": names,
            "image_id": [f"i{n // 2}" for n in range(QUESTIONS)],
            "kind": [("color", "count", "list")[n % 3] for n in range(QUESTIONS)],
            "question": "what color is it?",
            "reference": "red",
            "prediction": np.where(right, "red", "blue"),
            "score": right.astype(float),
            "kept": [list(range(blocks[-1]))] * QUESTIONS,
            "tokens": blocks[0],
            "tokens_per_block": [blocks] * QUESTIONS,
            "text_tokens": rng.integers(10, 30, QUESTIONS),
            "evidence_recall": quality,
            "things_kept": quality,
        }
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory, write_run) -> Written:
    out = tmp_path_factory.mktemp("comparison")
    cells = [Cell("full", "full", "", 144, "full"), Cell("blind", "blind", "", 0, "blind")]
    write_run(out, "full", drawn(0, 0.98, [144] * 4))
    write_run(out, "blind", drawn(1, 0.05, [0] * 4))
    for seed, (label, (family, _, quality, budgets)) in enumerate(METHODS.items()):
        for budget, blocks in budgets.items():
            cells.append(Cell(label, family, "", budget, f"{label}-{budget}"))
            write_run(out, f"{label}-{budget}", drawn(seed + 2, quality, blocks))
    roles = {"full": "control", "blind": "control"} | {family: role for family, role, _, _ in METHODS.values()}
    left_out = {name: {"16": f"{name} cannot"} for name in ("random_inside", "cut", "twice")}
    comparison = Comparison(cells, roles, SHAPE, 144, left_out, {"texts": "no companion"})
    frames = read_comparison(comparison, out)
    return Written(comparison, out, frames, comparison_table(frames, roles))


def row(table: pd.DataFrame, method: str, budget: int) -> pd.Series:
    return table[(table["method"] == method) & (table["budget"] == budget)].iloc[0]


def test_rows_stand_by_falling_budget_then_role(written):
    expected = ["random", "random_inside", "pool", "evidence", "good", "bad", "same", "cut", "twice"]
    smaller = [name for name in expected if name not in ("random_inside", "cut", "twice")]
    assert written.table["method"].tolist() == ["full", *expected, *smaller, "blind"]
    assert budgets_of(written.table) == [72, 16]
    assert shared_budget(written.table) == 72


def test_costs_are_means_over_the_records(written):
    got, records = row(written.table, "cut", 72), read_records(written.out, "cut-72")
    assert (got["equivalent_tokens"], got["tokens_given"], got["tokens_left"]) == (72, 144, 48)
    blocks = np.stack(records["tokens_per_block"].tolist())
    flops = prefill_flops(blocks, records["text_tokens"].to_numpy(), SHAPE)
    assert got["prefill_gflops"] == pytest.approx(flops.mean() / 1e9)
    assert row(written.table, "bad", 16)["equivalent_tokens"] == 17


def test_seeds_are_one_row_with_the_mean_of_every_question(written):
    got = row(written.table, "random", 16)
    scores = [read_records(written.out, f"random[{seed}]-16")["score"] for seed in range(2)]
    assert got["seeds"] == 2
    assert got["accuracy"] == pytest.approx(np.mean(scores))
    assert got["sd_over_seeds"] == pytest.approx(abs(scores[0].mean() - scores[1].mean()) / 2**0.5)
    assert row(written.table, "random_inside", 72)["seeds"] == 1
    assert np.isnan(row(written.table, "random_inside", 72)["sd_over_seeds"])


def test_differences_are_paired_with_both_references_and_corrected(written):
    got, full = row(written.table, "good", 16), read_records(written.out, "full")
    good = read_records(written.out, "good-16")
    assert got["delta_vs_full"] == pytest.approx((good["score"] - full["score"]).mean())
    assert got["agreement_with_full"] == pytest.approx((good["prediction"] == full["prediction"]).mean())
    tests = written.table[["p_vs_random_holm", "p_vs_full_holm"]].notna().sum()
    assert tests.tolist() == [13, 16]  # not random itself, nor those without a budget; not full itself
    random = np.stack([read_records(written.out, f"random[{seed}]-16")["score"] for seed in range(2)], 1)
    assert got["p_vs_random_holm"] <= 13 * paired_p(good["score"], random, good["image_id"]) + 1e-12 < 1e-4
    assert row(written.table, "same", 16)["p_vs_random_holm"] > 0.05


def test_the_markdown_table_has_costs_and_reasons_for_missing_cells(written):
    text = markdown(written.table, written.comparison, WorstKinds(pd.DataFrame()))
    assert text.startswith("n = 120 questions about 60 images;")
    assert "over the 4 blocks" in text
    assert "## Without a budget" in text and "## 16 equivalent tokens of 144 (11.1 %)" in text
    assert "| random (2 seeds) | control |" in text
    assert "| 72.0 | 144.0 | 48.0 |" in text
    assert "- cut at 16: cut cannot" in text
    assert "- texts: no companion" in text


def test_methods_stand_best_first(written):
    assert methods_at(written.table, 16)["method"].tolist()[0] == "good"
    assert set(methods_at(written.table, 72, ("control",))["method"]) == {"random", "random_inside", "pool"}


def test_the_best_is_chosen_on_one_half_and_compared_with_every_control_on_the_other(written):
    table = held_out_table(written.frames, groups_of(written.frames, written.comparison.roles))
    here = table[(table["budget"] == 72) & (table["group"] == "best before the language model")]
    assert set(here["chosen"]) == {"good"}
    assert here["rival"].tolist() == ["random", "pool", "evidence", "full"]
    inside = table[(table["budget"] == 72) & (table["group"] == "best inside the language model")]
    assert inside["rival"].tolist() == ["random", "pool", "random_inside", "full"]
    assert "best inside the language model" not in table.loc[table["budget"] == 16, "group"].tolist()


def sign_flip_p(differences) -> float:
    """The exact test that flips the sign of every image's sum, by enumeration of all sums."""
    possible = {0.0: 1.0}
    for one in differences:
        sums: dict[float, float] = {}
        for total, share in possible.items():
            for flipped in (total + one, total - one):
                sums[flipped] = sums.get(flipped, 0) + share / 2
        possible = sums
    observed = sum(differences)
    tails = [sum(p for total, p in possible.items() if sign * total >= sign * observed) for sign in (1, -1)]
    return min(1.0, 2 * min(tails))


def test_differences_of_named_methods_are_those_of_the_records_with_corrected_exact_p_values(written):
    table = pairs_table(written.frames, [("pool", "good"), ("same", "bad"), ("cut", "full")])
    assert table["budget"].tolist() == [72] * 3 + [16] * 3
    ps = []
    for _, one in table[table["p"].notna()].iterrows():
        runs = ["full" if name == "full" else f"{name}-{one['budget']}" for name in one[["method", "other"]]]
        first, second = (read_records(written.out, run) for run in runs)
        difference = first["score"] - second["score"]
        assert (one["n"], one["images"]) == (120, 60)
        assert one["difference"] == pytest.approx(difference.mean())
        assert one["low"] < one["difference"] < one["high"]
        ps.append(sign_flip_p(difference.groupby(first["image_id"]).sum().tolist()))
        assert one["p"] == pytest.approx(ps[-1])
    order, steps = np.argsort(ps), np.arange(len(ps), 0, -1)
    expected = np.empty(len(ps))
    expected[order] = np.minimum(1, np.maximum.accumulate(np.array(ps)[order] * steps))
    np.testing.assert_allclose(table["p_holm"].dropna(), expected)
    assert table.iloc[-1][["method", "budget"]].tolist() == ["cut", 16] and np.isnan(table.iloc[-1]["difference"])


def test_the_report_writes_the_named_pairs_and_says_where_there_is_no_cell(written, tmp_path):
    setting = Setting(4, 6, (12, 12), {}, {})
    answer = write_report(written.comparison, written.out, tmp_path, setting, [("good", "random"), ("cut", "full")])
    text = (tmp_path / "pairs.md").read_text(encoding="utf-8")
    assert text.strip() in answer.finding
    assert re.search(r"\| good \| random \| 16 \| \+\d+\.\d \[.*\] \| <0.001 better \|", text)
    assert "| cut | full | 16 | one of them has no cell here | - |" in text
    assert len(pd.read_csv(tmp_path / "pairs.csv")) == 4


def test_a_pair_names_two_different_known_methods():
    assert pairs_of(["mine:fastv"], ["own:mine"]) == (("mine", "fastv"),)
    for text in ("fastv", "fastv:fastv", "a:b:c", ":fastv"):
        with pytest.raises(UnknownMethod, match="expected two different methods"):
            pairs_of([text], ())
    with pytest.raises(UnknownMethod, match="'fastvv' is unknown; did you mean fastv"):
        pairs_of(["fastvv:vtc_cls"], ())


def test_a_pair_in_both_directions_is_refused_because_it_would_be_corrected_for_twice():
    with pytest.raises(UnknownMethod, match="fastv:vtc_cls is the same comparison"):
        pairs_of(["fastv:vtc_cls", "vtc_cls:fastv"], ())


def test_the_report_has_one_verdict_per_pair_and_the_methods_that_cannot_run(written, tmp_path):
    answer = write_report(written.comparison, written.out, tmp_path, Setting(4, 6, (12, 12), {}, {})).text
    assert "| best before the language model (good) | " in answer
    assert re.search(r"\| \+\d+\.\d \[[^]]+\] better \|", answer)
    text = (tmp_path / "table.md").read_text()
    assert text.index("## 16 equivalent") < text.index("## Best, chosen on one half of the images")
    assert "- texts: no companion" in text


def test_with_too_few_images_there_are_differences_and_no_verdicts(written, tmp_path, monkeypatch):
    few = {cell: frame.head(4) for cell, frame in written.frames.items()}
    monkeypatch.setattr("foveate.analysis.comparison.report.read_comparison", lambda *_: few)
    answer = write_report(written.comparison, written.out, tmp_path, Setting(4, 6, (12, 12), {}, {})).text
    text = (tmp_path / "table.md").read_text()
    for shown in (answer, text):
        assert "oo few images for any test (n = 2)." in shown
        assert not re.search(r"(\]|\d) (better|worse|not significant)", shown)


def test_a_panel_shows_only_methods_that_drop_where_its_title_says(written):
    before, inside = frontiers_data(written.table)
    assert [curve.method for curve in before.methods] == ["good", "bad", "same"]
    assert [curve.method for curve in inside.methods] == ["cut", "twice"]
    assert {curve.method for curve in before.references} == {"random", "pool", "evidence"}
    assert {curve.method for curve in inside.references} == {"random", "random_inside", "pool", "evidence"}
    bad = next(curve for curve in before.methods if curve.method == "bad")
    assert bad.points["equivalent_tokens"].tolist() == [17, 72]


def test_frontier_names_every_line(written):
    inside = frontiers_data(written.table)[1]
    ax = draw_frontier(inside, Figure().subplots())
    names = {text.get_text() for text in ax.texts}
    assert names == {"cut", "twice (before and inside)", "random", "random_inside", "pool", "evidence"}
    assert len(ax.lines) == len(names) + 1
    left, right = ax.get_xlim()
    assert left > 72 > 16 > right


def test_rankings_share_their_rows_and_mark_impossible_budgets(written):
    panels = rankings_data(written.table)
    assert [panel.budget for panel in panels] == [72, 16]
    assert panels[0].rows.index.tolist() == panels[1].rows.index.tolist()
    assert panels[0].rows["role"].tolist() == [*["vision"] * 3, "decoder", "both", "oracle", *["control"] * 3]
    ax = draw_ranking(panels[1], Figure().subplots())
    assert [text.get_text() for text in ax.texts] == ["not possible"] * 3
    assert len(ranking_figure(panels).axes) == 2


def test_figures_show_the_best_of_every_role_and_the_controls(written):
    shown = example_cells(written.table, written.comparison.cells)
    assert [cell.scorer for cell in shown][:2] == ["full", "good"]
    assert [cell.scorer for cell in shown][3:] == ["bad", "cut", "twice", "random[0]", "evidence"]
    assert {cell.keep for cell in shown[1:]} == {72}


@extended("every")
def test_report_is_complete_and_the_same_when_written_again(written, tmp_path):
    images = {f"i{number}": Image.new("RGB", (96, 96), (number, 90, 90)) for number in range(60)}
    setting = Setting(4, 6, (12, 12), images, {})
    answers = [write_report(written.comparison, written.out, tmp_path / name, setting).text for name in ("one", "two")]
    assert answers[0] == answers[1]
    names = ["frontier.png", "kept_patches.png", "ranking.png", "table.csv", "table.md", "worst_kinds.csv"]
    assert sorted(file.name for file in (tmp_path / "one").iterdir()) == names
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_controls_alone_are_a_table_without_a_verdict(written, tmp_path):
    cells = [cell for cell in written.comparison.cells if cell.family in ("full", "random", "pool")]
    comparison = written.comparison._replace(cells=cells, left_out={}, not_applicable={})
    answer = write_report(comparison, written.out, tmp_path, Setting(4, 6, (12, 12), {}, {})).text
    assert "best before" not in answer
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        *("ranking.png", "table.csv", "table.md", "worst_kinds.csv")
    ]


def test_a_study_gives_its_facts_back_in_table_order():
    study = optuna.create_study()
    facts = {"roles": {"b": "vision", "random": "control", "a": "vision"}, "patches": 144, "left_out": {}}
    facts |= {"decoder": SHAPE.__dict__, "not_applicable": {}, "fallbacks": []}
    for name, value in facts.items():
        study.set_user_attr(name, value)
    comparison = comparison_of(study)
    assert list(comparison.roles) == ["random", "b", "a"]
    assert comparison.decoder == SHAPE
