import numpy as np
import optuna
import pandas as pd
import pytest
from optuna.distributions import CategoricalDistribution
from optuna.trial import TrialState, create_trial
from statsmodels.stats.multitest import multipletests

from foveate.analysis.ablation.data import ablation_table, per_kind_table
from foveate.analysis.cells import Cell, best_scorer, caveat, cells_of, load_study, read_cells, reference_budget
from foveate.analysis.records import read_records
from foveate.analysis.verdicts import paired_p
from foveate.core.errors import DataError

COLUMNS = [
    *("scorer", "family", "layers", "keep", "seeds", "n", "images", "accuracy", "ci_low", "ci_high"),
    *("delta_vs_full", "delta_ci_low", "delta_ci_high"),
    *("delta_vs_random", "delta_vs_random_low", "delta_vs_random_high", "p_vs_random_holm"),
    *("evidence_recall", "things_kept", "agreement_with_full"),
]


def row(table: pd.DataFrame, scorer: str, keep: int) -> pd.Series:
    return table[(table["scorer"] == scorer) & (table["keep"] == keep)].iloc[0]


def add_trial(study: optuna.Study, scorer: str, keep: int, state=TrialState.COMPLETE, **notes) -> None:
    notes = {"run_id": f"{scorer}-{keep}", "layers": "", "family": scorer} | notes
    params = {"scorer": scorer, "keep": keep}
    distributions = {"scorer": CategoricalDistribution(("full", "uniform", "cls[2:]", "cls[3]"))}
    distributions["keep"] = CategoricalDistribution((36, 16))
    value = 0.5 if state == TrialState.COMPLETE else None
    study.add_trial(
        create_trial(params=params, distributions=distributions, value=value, user_attrs=notes, state=state)
    )


def fill(study: optuna.Study) -> None:
    study.set_user_attr("patches", 144)
    add_trial(study, "uniform", 16)
    add_trial(study, "full", 16, run_id="all")
    add_trial(study, "full", 36, run_id="all")
    add_trial(study, "cls[2:]", 36, family="suffix", layers="2-4", run_id="old")
    add_trial(study, "cls[2:]", 36, family="suffix", layers="2-4", run_id="new")
    add_trial(study, "cls[3]", 36, state=TrialState.FAIL)


EXPECTED = [
    Cell("full", "full", "", 144, "all"),
    Cell("cls[2:]", "suffix", "2-4", 36, "new"),
    Cell("uniform", "uniform", "", 16, "uniform-16"),
]


def test_cells_are_the_complete_trials_with_full_once_and_the_latest_run_of_each():
    study = optuna.create_study()
    fill(study)
    assert cells_of(study) == EXPECTED


def test_a_study_is_loaded_from_a_file_or_a_url(tmp_path):
    url = f"sqlite:///{tmp_path / 'study.db'}"
    fill(optuna.create_study(study_name="layers", storage=url))
    assert cells_of(load_study(tmp_path / "study.db", "layers")) == cells_of(load_study(url, "layers")) == EXPECTED


def test_a_missing_study_file_is_named_and_not_created(tmp_path):
    with pytest.raises(DataError, match=r"no study in .*study\.db"):
        load_study(tmp_path / "study.db", "layers")
    assert not (tmp_path / "study.db").exists()


def test_rows_stand_by_falling_budget_then_family_then_layer(study):
    assert study.table.columns.tolist() == COLUMNS
    singles, sums = [f"cls[{layer}]" for layer in range(6)], [f"cls[{layer}:]" for layer in range(4)]
    per_budget = ["evidence", *singles, *sums, "cls[all]", "uniform", "random"]
    assert study.table["scorer"].tolist() == ["full", *per_budget * 3]
    assert study.table["keep"].tolist() == [144, *[36] * 14, *[16] * 14, *[7] * 14]


def test_numbers_of_a_row_are_those_of_its_records(study):
    read = {cell.run_id: read_records(study.out, cell.run_id) for cell in study.cells}
    random = np.mean([read[f"random[{seed}]-16"]["score"] for seed in range(5)], axis=0)
    frame, full, got = read["cls[2]-16"], read["full-144"], row(study.table, "cls[2]", 16)
    assert (got["n"], got["images"], got["seeds"]) == (440, 40, 1)
    assert got["accuracy"] == pytest.approx(frame["score"].mean())
    assert got["delta_vs_full"] == pytest.approx(frame["score"].mean() - full["score"].mean())
    assert got["delta_vs_random"] == pytest.approx(frame["score"].mean() - random.mean())
    assert got["delta_vs_random_low"] < got["delta_vs_random"] < got["delta_vs_random_high"]
    assert got["evidence_recall"] == pytest.approx(frame["evidence_recall"].mean())
    assert got["agreement_with_full"] == pytest.approx(np.mean(frame["prediction"] == full["prediction"]))


def test_random_seeds_are_one_row_with_the_mean_of_every_question(study):
    got = row(study.table, "random", 16)
    scores = [read_records(study.out, f"random[{seed}]-16")["score"] for seed in range(5)]
    assert got["seeds"] == 5
    assert got["accuracy"] == pytest.approx(np.mean(scores))
    (frame,) = read_cells(
        [cell for cell in study.cells if cell.family == "random" and cell.keep == 16], study.out
    ).values()
    assert frame["score"].tolist() == pytest.approx(np.mean(scores, axis=0).tolist())


def test_a_row_is_not_compared_with_itself(study):
    deltas = ["delta_vs_full", "delta_ci_low", "delta_ci_high"]
    assert row(study.table, "full", 144)[deltas].isna().all()
    assert row(study.table, "random", 16)[["delta_vs_random", "p_vs_random_holm"]].isna().all()
    assert row(study.table, "full", 144)["agreement_with_full"] == 1


def test_p_values_are_corrected_over_the_whole_table(study):
    tested = study.table["p_vs_random_holm"].notna()
    assert tested.sum() == 39
    raw = []
    for _, one in study.table[tested].iterrows():
        frame = read_records(study.out, f"{one['scorer']}-{one['keep']}")
        runs = [read_records(study.out, f"random[{seed}]-{one['keep']}")["score"] for seed in range(5)]
        raw.append(paired_p(frame["score"], np.stack(runs, 1), frame["image_id"]))
    assert study.table.loc[tested, "p_vs_random_holm"].tolist() == pytest.approx(multipletests(raw, method="holm")[1])


def test_missing_controls_leave_gaps(study):
    table = ablation_table(read_cells([cell for cell in study.cells if cell.family == "single"], study.out))
    gaps = ["delta_vs_full", "delta_vs_random", "p_vs_random_holm", "agreement_with_full"]
    assert table[gaps].isna().all(axis=None)
    assert table["accuracy"].notna().all()


def test_agreement_ignores_surrounding_space(tmp_path, records, write_run):
    write_run(tmp_path, "full", records([1, 1], [" red", "red"]))
    write_run(tmp_path, "one", records([1, 0], ["red ", "blue"]))
    cells = [Cell("full", "full", "", 4, "full"), Cell("cls[0]", "single", "0", 2, "one")]
    assert ablation_table(read_cells(cells, tmp_path))["agreement_with_full"].tolist() == [1.0, 0.5]


@pytest.mark.parametrize("fewer", [2, 4])
def test_cells_with_other_questions_are_refused(tmp_path, records, write_run, fewer):
    write_run(tmp_path, "one", records([1, 0, 1, 0]))
    other = records([1, 0, 1, 0]).head(fewer)
    write_run(tmp_path, "other", other.assign(sample_id="x" + other["sample_id"]))
    cells = [Cell("cls[0]", "single", "0", 2, "one"), Cell("cls[1]", "single", "1", 2, "other")]
    with pytest.raises(DataError, match="not the same ones"):
        ablation_table(read_cells(cells, tmp_path))


def test_the_order_of_the_cells_does_not_matter(study):
    some = [cell for cell in study.cells if cell.keep in (144, 16) and cell.family in ("full", "single", "random")]
    one, other = (ablation_table(read_cells(order, study.out)) for order in (some, some[::-1]))
    pd.testing.assert_frame_equal(one, other)


def test_kinds_of_question_partition_the_accuracy(study):
    cells = [cell for cell in study.cells if cell.scorer in ("full", "cls[2]") and cell.keep in (144, 16)]
    table = per_kind_table(cells, study.out)
    assert table.columns.tolist() == ["scorer", "keep", "kind", "n", "images", "accuracy", "ci_low", "ci_high"]
    assert len(table) == 2 * 11
    part = table[table["scorer"] == "cls[2]"]
    assert np.average(part["accuracy"], weights=part["n"]) == pytest.approx(row(study.table, "cls[2]", 16)["accuracy"])
    assert (part["ci_low"] <= part["accuracy"]).all()


def test_best_scorer_has_the_highest_mean_over_budgets_and_of_equals_the_first():
    table = pd.DataFrame(
        [("b", "single", 0.5), ("a", "single", 0.5), ("b", "single", 0.7), ("a", "single", 0.7), ("c", "suffix", 0.9)],
        columns=["scorer", "family", "accuracy"],
    )
    assert best_scorer(table, "single") == "b"
    assert best_scorer(table, "all") is None


def test_the_answer_is_about_the_second_smallest_budget(study):
    assert reference_budget(study.table) == 16
    assert reference_budget(study.table[study.table["keep"] != 16]) == 36
    with pytest.raises(DataError, match="no row but `full`"):
        reference_budget(study.table[study.table["family"] == "full"])


@pytest.mark.parametrize(
    ("reached", "without", "says"), [(0.9, 0.2, ""), (0.3, 0.3, "is not significantly better"), (0.0, 0.0, "(0.0 %)")]
)
def test_a_model_that_does_not_need_the_image_allows_no_verdicts(tmp_path, records, write_run, reached, without, says):
    rng = np.random.default_rng(0)
    for name, share in (("full", reached), ("blind", without), ("cls", reached), ("random", without)):
        write_run(tmp_path, name, records((rng.random(80) < share).astype(float).tolist()))
    cells = [Cell("full", "full", "", 4, "full"), Cell("blind", "blind", "", 0, "blind")]
    cells += [Cell("cls[0]", "single", "0", 2, "cls"), Cell("random[0]", "random", "", 2, "random")]
    frames = read_cells(cells, tmp_path)
    found = caveat(frames, ablation_table(frames))
    assert says in found and bool(found) == bool(says)
    assert found.startswith("No verdicts: ") == bool(says)


def test_too_few_images_are_the_first_caveat(tmp_path, records, write_run):
    for name in ("cls", "random"):
        write_run(tmp_path, name, records([1, 0, 1, 0, 0, 1]))
    cells = [Cell("cls[0]", "single", "0", 2, "cls"), Cell("random[0]", "random", "", 2, "random")]
    frames = read_cells(cells, tmp_path)
    assert caveat(frames, ablation_table(frames)) == "Too few images for any test (n = 3)."
