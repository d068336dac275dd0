"""The tables of the four studies on the reference model are those of before: the same rows and the same numbers."""

import pytest

from tests.golden_tables import GOLDEN_TABLES, SETTINGS, SHOWN, differences, golden_tables, new_tables
from tests.tiers import extended

OLD = {"table": [["signal", "layers", "accuracy", "p"], ["cls", "0", "0.5", ""], ["prompt", "1", "12", "0.25"]]}


@extended("every")
@pytest.mark.parametrize("experiment", SETTINGS)
def test_the_tables_of_a_study_are_the_golden_ones(experiment, tmp_path):
    found = differences(golden_tables(experiment), new_tables(experiment, tmp_path))
    first = "".join(f"\n  {experiment}, {line}" for line in found[:SHOWN])
    assert not found, f"{len(found)} differences, the first of them:{first}"


def test_every_study_has_small_golden_tables():
    assert {folder.name for folder in GOLDEN_TABLES.iterdir()} == set(SETTINGS)
    for experiment in SETTINGS:
        assert "table" in golden_tables(experiment)
    assert [file for file in GOLDEN_TABLES.glob("*/*") if file.stat().st_size >= 120_000] == []


@pytest.mark.parametrize(
    ("row", "cell", "expected"),
    [
        (1, (2, "0.500001"), []),
        (2, (2, "12.00001"), []),
        (1, (2, "0.500002"), ["row 1 (cls, 0, 0.5, ), column accuracy: old '0.5', new '0.500002'"]),
        (1, (3, "0.0"), ["row 1 (cls, 0, 0.5, ), column p: old '', new '0.0'"]),
        (2, (3, ""), ["row 2 (prompt, 1, 12, 0.25), column p: old '0.25', new ''"]),
        (2, (3, "nan"), ["row 2 (prompt, 1, 12, 0.25), column p: old '0.25', new 'nan'"]),
        (2, (0, "question"), ["row 2 (prompt, 1, 12, 0.25), column signal: old 'prompt', new 'question'"]),
        (0, (3, "q"), ["columns: lost ['p'], added ['q']"]),
    ],
    ids=str,
)
def test_a_changed_cell_is_named(row, cell, expected):
    new = [list(cells) for cells in OLD["table"]]
    new[row][cell[0]] = cell[1]
    assert differences(OLD, {"table": new}) == [f"table table, {line}" for line in expected]


def test_lost_tables_rows_and_orders_are_named():
    header, first, second = OLD["table"]
    assert differences(OLD, {"heads": []}) == ["table table: only in the old ones", "table heads: only in the new ones"]
    assert differences(OLD, {"table": [header, first]}) == ["table table, rows: old 2, new 1"]
    swapped = differences(OLD, {"table": [header, second, first]})
    assert swapped[0] == "table table, row 1 (cls, 0, 0.5, ), column signal: old 'cls', new 'prompt'"
    assert len(swapped) == 2 * len(header)
