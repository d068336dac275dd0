import numpy as np
import pandas as pd
import pytest

from foveate.analysis.ablation.data import ablation_table
from foveate.analysis.ablation.report import markdown
from foveate.analysis.cells import read_cells
from foveate.analysis.tables import accuracy, against_random, p_value, percent, points, write_table
from foveate.analysis.worst_kinds import WorstKinds

ONE_KIND = WorstKinds(pd.DataFrame())


def test_the_same_study_writes_the_same_bytes(tmp_path, study):
    write_table(study.table, tmp_path / "one", markdown(study.table, ONE_KIND))
    again = ablation_table(read_cells(study.cells[::-1], study.out))
    write_table(again, tmp_path / "two", markdown(again, ONE_KIND))
    for name in ("table.csv", "table.md"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert sorted(file.name for file in (tmp_path / "one").iterdir()) == ["table.csv", "table.md"]


def test_csv_gives_the_table_back_to_six_decimals(tmp_path, study):
    write_table(study.table, tmp_path, "")
    read = pd.read_csv(tmp_path / "table.csv", dtype={"layers": str}, keep_default_na=True)
    read["layers"] = read["layers"].fillna("")
    pd.testing.assert_frame_equal(read, study.table, atol=5.1e-7, rtol=0, check_dtype=False)


def test_csv_has_no_negative_zero(tmp_path, study):
    write_table(study.table.head(1).assign(delta_vs_full=-1e-9), tmp_path, "")
    assert "-0.000000" not in (tmp_path / "table.csv").read_text()


def test_markdown_has_a_section_per_budget_with_n_and_intervals(study):
    text = markdown(study.table, ONE_KIND)
    assert text.startswith("n = 440 questions about 40 images;")
    assert "## Patches kept: 16 of 144 (11.1 %)" in text
    row = study.table[(study.table["scorer"] == "cls[2]") & (study.table["keep"] == 16)].iloc[0]
    numbers = [f"{100 * row[name]:.1f}" for name in ("accuracy", "ci_low", "ci_high")]
    assert f"| cls[2] | {numbers[0]} [{numbers[1]}, {numbers[2]}] |" in text
    assert "| random (5 seeds) |" in text


def test_verdicts_follow_the_corrected_p_alone_and_go_with_a_caveat(study):
    text = markdown(study.table, ONE_KIND)
    for _, row in study.table[study.table["p_vs_random_holm"].notna()].iterrows():
        word = {1: "better", -1: "worse"}.get(
            np.sign(row["delta_vs_random"]) * (row["p_vs_random_holm"] < 0.05), "not significant"
        )
        assert f"| {against_random(row)} | {p_value(row['p_vs_random_holm'])} {word} |" in text
    assert not any(
        f" {word} |" in markdown(study.table, ONE_KIND, "Too few.") for word in ("better", "worse", "not significant")
    )
    assert "\n\nToo few.\n\n## " in markdown(study.table, ONE_KIND, "Too few.")


def test_numbers_read_as_a_reader_expects():
    row = pd.Series({"accuracy": 0.8123, "ci_low": 0.795, "ci_high": 0.828})
    assert accuracy(row) == "81.2 [79.5, 82.8]"
    assert accuracy(row, " %") == "81.2 % [79.5, 82.8]"
    assert [percent(0.25), percent(-0.0001), percent(np.nan)] == ["25.0", "0.0", "-"]
    assert [points(0.012), points(-0.012), points(-0.0001)] == ["+1.2", "-1.2", "+0.0"]
    assert [p_value(0.0004), p_value(0.0312), p_value(np.nan)] == ["<0.001", "0.031", "-"]


@pytest.mark.parametrize("form", [against_random])
def test_a_missing_control_is_a_dash(form):
    names = ("delta_vs_random", "delta_vs_random_low", "delta_vs_random_high")
    assert form(pd.Series(dict.fromkeys(names, np.nan))) == "-"
