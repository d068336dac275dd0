"""The measurement of perception bias as a user runs it, on a tiny random model with a few questions."""

import signal
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from foveate.analysis.bias.data import contrasts, headline, signal_frame, summary_table
from foveate.analysis.bias.measurement import row_nulls
from foveate.bias.tables import TableFolder
from tests.scripts import run, start, wait_for
from tests.tiers import extended

QUICK = ("--limit", "21", "--batch-size", "7", "--side", "6", "--shares", "0.1", "0.5")
TABLES = ("contrasts", "judges", "kinds", "tokens", "heads", "cross", "corrections")
WRITTEN = ("table.csv", "table.md", *(f"{name}.csv" for name in TABLES))
FIGURES = ("layers.png", "pairs.png", "maps.png", "curves.png", "heads.png", "tokens.png", "cross.png")


def parts(folder: Path) -> list[Path]:
    return sorted(folder.glob("runs/bias/*/part-*"))


@pytest.fixture(scope="module")
def finished(tiny, tmp_path_factory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("measure_bias")
    result = run("measure_bias", "--model", tiny, *QUICK, folder=folder)
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    assert "21 questions of scenes, 7 per batch; all signals of the uncompressed model\n" in result.stderr
    assert "sequence" not in result.stderr and "Predicting" not in result.stdout  # bars are for terminals
    return folder, result.stdout


def test_the_measurement_writes_what_its_help_promises(finished):
    folder, printed = finished
    assert len(parts(folder)) == 3
    table = pd.read_csv(folder / "runs/measure_bias/table.csv", dtype={"layers": str}, keep_default_na=False)
    assert {"cls", "cls sum", "received", "prompt", "response", "evidence", "occlusion", "random"} <= set(
        table["signal"]
    )
    assert (table["n"] == 21).all()
    for name in FIGURES:
        with Image.open(folder / "runs/measure_bias" / name) as image:
            assert image.width > 800
    assert {path.name for path in (folder / "runs/measure_bias").iterdir()} == {*WRITTEN, *FIGURES, "measurement.json"}
    assert "### Worth to the answer" in printed
    assert "### Corrected attention\n\n11.0 % of the patches kept" in printed
    assert "Tables and figures: runs/measure_bias" in printed


def test_the_printed_tables_are_those_of_the_measured_rows(finished):
    folder, _ = finished
    (measured,) = (folder / "runs/bias").iterdir()
    folder_of_it = TableFolder(measured)
    frame = headline(signal_frame(folder_of_it))
    summary = summary_table(frame, row_nulls(folder_of_it))
    for name, expected in (("table.csv", summary), ("contrasts.csv", contrasts(frame))):
        numbers = expected.select_dtypes("number").columns
        found = pd.read_csv(folder / "runs/measure_bias" / name)
        pd.testing.assert_frame_equal(found[numbers], expected[numbers], atol=1e-6, check_dtype=False)


@extended("every")
def test_a_second_run_measures_nothing_and_changes_no_byte(finished, tiny):
    folder, printed = finished
    before = {path: path.stat().st_mtime_ns for path in folder.glob("runs/bias/*/**/*")}
    written = {name: (folder / "runs/measure_bias" / name).read_bytes() for name in WRITTEN}
    encodings = (folder / "runs/encodings").rename(folder / "encodings")  # without which nothing can be measured
    try:
        again = run("measure_bias", "--model", tiny, *QUICK, folder=folder)
        assert again.returncode == 0, again.stderr
        assert "per batch" not in again.stderr
        assert not (folder / "runs/encodings").exists()
    finally:
        encodings.rename(folder / "runs/encodings")
    assert again.stdout == printed
    assert {path: path.stat().st_mtime_ns for path in folder.glob("runs/bias/*/**/*")} == before
    assert {name: (folder / "runs/measure_bias" / name).read_bytes() for name in WRITTEN} == written


@extended("moments")
def test_a_killed_measurement_ends_in_the_same_bytes(finished, tiny, tmp_path):
    process = start("measure_bias", "--model", tiny, *QUICK, folder=tmp_path)
    wait_for(process, lambda: parts(tmp_path))
    process.send_signal(signal.SIGKILL)
    process.wait()
    begun = {part: part.stat().st_mtime_ns for part in parts(tmp_path)}
    assert len(begun) < 3
    assert not list(tmp_path.glob("runs/bias/*/DONE"))
    result = run("measure_bias", "--model", tiny, *QUICK, folder=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout == finished[1]
    assert {part: part.stat().st_mtime_ns for part in begun} == begun
    for name in WRITTEN:
        found, expected = (folder / "runs/measure_bias" / name for folder in (tmp_path, finished[0]))
        assert found.read_bytes() == expected.read_bytes()
    for found, expected in zip(parts(tmp_path), parts(finished[0]), strict=True):
        for table in ("samples", "signals", "pairs", "curves", "tokens", "maps"):
            rows, wanted = (pd.read_parquet(part / f"{table}.parquet") for part in (found, expected))
            pd.testing.assert_frame_equal(rows, wanted)  # unknown values equal each other here


def test_the_report_of_another_configuration_goes_to_a_folder_of_its_own(finished, tiny):
    folder, _ = finished
    written = {name: (folder / "runs/measure_bias" / name).read_bytes() for name in WRITTEN}
    other = run("measure_bias", "--model", tiny, *QUICK, "--no-corrections", "--keep", "9", folder=folder)
    assert other.returncode == 0, other.stderr
    (beside,) = (path for path in (folder / "runs").iterdir() if path.name.startswith("measure_bias-"))
    assert f"Tables and figures: runs/{beside.name}" in other.stdout
    assert "the report of the default name has another configuration" in other.stderr and "plan:" in other.stderr
    assert {name: (folder / "runs/measure_bias" / name).read_bytes() for name in WRITTEN} == written
    named = run("measure_bias", "--model", tiny, *QUICK, "--study", "measure_bias", "--keep", "9", folder=folder)
    assert named.returncode == 2
    assert "has the report of another configuration" in named.stderr and "Give another --study" in named.stderr


def test_help_explains_every_option():
    result = run("measure_bias", "--help")
    assert result.returncode == 0
    own = "keep side blocks orders shares tokens head-rows corrections mean-split"
    for option in f"{own} study model data split limit seed batch-size device out".split():
        assert f"--{option}" in result.stdout
    text = " ".join(result.stdout.replace("│", " ").split())
    assert "Maximum number of blocks, which are larger than `side`" in text
    assert "The same command resumes a run that was stopped" in text
