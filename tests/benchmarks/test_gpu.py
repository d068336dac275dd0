"""`make bench-gpu` on a tiny model: what it measures, that it goes on, and that the core dependencies suffice."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from benchmarks import gpu, gpu_table, shapes, towers
from benchmarks.gpu_file import COLUMNS, Results, read
from foveate.core.errors import FoveateError
from foveate.models.loading.load import load
from foveate.profiling.rows import FULL
from foveate.profiling.speed import Batch
from foveate.testing.checkpoints import save_family
from tests.benchmarks.tiny_shape import tiny

ROOT = Path(__file__).parents[2]
BLOCKED = (
    "optuna sqlalchemy datasets tyro pandas pyarrow scipy statsmodels matplotlib seaborn pytorch_lightning "
    "lightning_fabric torchmetrics torchvision pytest pytest_benchmark"
)
RUN = f"""
import sys
sys.modules.update(dict.fromkeys("{BLOCKED}".split()))  # importing them fails
from benchmarks import gpu, shapes
from tests.benchmarks.tiny_shape import tiny
shapes.SHAPES["tiny"] = tiny()
gpu.main(sys.argv[1:])
"""
METHODS = ("vtc_cls", "fastv", "evidence")
ARGUMENTS = "--device cpu --dtype float32 --models tiny --layers 4 --rounds 2 --minutes 3".split()


@pytest.fixture(autouse=True)
def tiny_is_a_shape(monkeypatch):
    monkeypatch.setitem(shapes.SHAPES, "tiny", tiny())


def run(folder, *more, methods=METHODS, batches=("1", "2")):
    gpu.main([*ARGUMENTS, "--out", str(folder), "--methods", *methods, "--batches", *batches, *more])
    return next(Path(folder).glob("*.csv"))


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> Path:
    """Returns the file of a run in a process that cannot import what the package does not require."""
    folder = tmp_path_factory.mktemp("gpu")
    given = [*ARGUMENTS, "--out", str(folder), "--methods", *METHODS, "--batches", "1", "2"]
    process = subprocess.run([sys.executable, "-c", RUN, *given], cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    return next(folder.glob("*.csv"))


def test_a_run_needs_the_core_dependencies_alone_and_measures_every_method(measured):
    rows = read(measured)
    assert list(rows[0]) == list(COLUMNS)
    for batch in ("1", "2"):
        own = [row for row in rows if row["batch"] == batch]
        timed = [row["method"] for row in own if not row["why"]]
        assert {name: timed.count(name) for name in set(timed)} == dict.fromkeys(
            (FULL, "vtc_cls", "fastv", *towers.SIDES), 2
        )
        (left,) = (row for row in own if row["why"])
        assert left["method"] == "evidence" and "EvidenceShare" in left["why"]
    full, kept = (next(row for row in rows if row["method"] == name) for name in (FULL, "vtc_cls"))
    assert float(full["equivalent_tokens"]) == 36 and float(kept["equivalent_tokens"]) == 4
    parts = [f"{part}_ms" for part in ("vision", "scoring", "projector", "prefill", "decode")]
    assert sum(float(kept[part]) for part in parts) == pytest.approx(float(kept["total_ms"]), rel=1e-3)


def test_the_same_command_measures_what_is_missing_alone(measured, tmp_path):
    path = tmp_path / measured.name
    path.write_bytes(measured.read_bytes())
    assert run(tmp_path).read_bytes() == measured.read_bytes()
    before = read(path)
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]) + "AMD,flo")  # killed in a line
    run(tmp_path, methods=(*METHODS, "random"), batches=("1",))
    new = read(path)[len(before) - 1 :]
    assert {row["method"] for row in new} == {FULL, "random"}
    assert {row["round"] for row in new} == {"2", "3"}


def test_no_time_means_no_measurement_and_nothing_that_is_half_measured(tmp_path, capsys):
    gpu.main([*ARGUMENTS, "--out", str(tmp_path), "--minutes", "0"])
    assert not list(tmp_path.iterdir()) and "the same command measures the rest" in capsys.readouterr().out


def test_rows_of_other_versions_are_not_mixed(measured, tmp_path):
    path = tmp_path / measured.name
    path.write_text(measured.read_text().replace(read(measured)[0]["transformers"], "4.0.0"))
    with pytest.raises(FoveateError, match=r"was measured with transformers 4\.0\.0, and now there is.*give another"):
        Results.of(tmp_path, "cpu", "float32")


@pytest.mark.parametrize(
    ("options", "message"),
    [(["--device", "cpu"], "no GPU was found.*--layers 2"), (["--layers", "2", "--rounds", "1"], "at least 2 rounds")],
)
def test_wrong_options_are_refused(options, message, capsys):
    with pytest.raises(SystemExit):
        gpu.main(options)
    assert pd.Series([capsys.readouterr().err]).str.contains(message).all()


def rounds() -> pd.DataFrame:
    """Returns two rounds without compression and with a method that has a quarter of the operations."""
    rows = [
        {"method": name, "round": number, "gflops_language model": gflops, "scoring_ms": scoring}
        | {"projector_ms": 0.0, "prefill_ms": prefill * (1 + number), "decode_ms": 0.0}
        for name, gflops, prefill, scoring in ((FULL, 4.0, 40.0, 0.0), ("vtc_cls", 1.0, 20.0, 2.0))
        for number in (0, 1)
    ]
    return pd.DataFrame(rows)


def test_shares_are_those_of_the_formulas():
    reached = gpu_table.prefill_share(rounds(), "vtc_cls")
    assert reached.value == pytest.approx(50) and reached.n == 2  # 2 of 4 times
    assert gpu_table.choosing_share(rounds(), "vtc_cls").value == pytest.approx((2 / 20 + 2 / 40) / 2 * 100)
    slower = rounds().assign(prefill_ms=[10.0, 10.0, 20.0, 20.0])
    assert gpu_table.choosing_share(slower, "vtc_cls") is None


def test_columns_of_a_gpu_are_empty_without_a_file_of_one(measured):
    frame = gpu_table.table(measured.parent).assign(model="LLaVA-1.5-7B")
    page = gpu_table.rendered(frame)
    assert "reduced depth" in page and "evidence, LLaVA-1.5-7B" in page
    (line,) = (line for line in page.splitlines() if line.startswith("| sdpa | 1 | vtc_cls |"))
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert len(cells) == 3 + 2 * 10 and all(cells[3:10]) and cells[12] and not any(cells[13:])
    whole = frame.assign(layers="all", machine="H")
    assert "(GPU)" not in gpu_table.rendered(pd.concat([frame, whole]))


def test_the_page_of_the_docs_is_made_of_the_files():
    page = gpu_table.PAGE.read_text(encoding="utf-8")
    assert gpu_table.rendered(gpu_table.table()) in page


@pytest.mark.parametrize("family", ["LLaVA-1.5", "LLaVA-NeXT"])
def test_rows_of_the_tap_are_compared_with_the_eager_rows_of_the_same_tokens(family, tmp_path):
    image = Image.radial_gradient("L").convert("RGB").resize((48, 48))
    batch = Batch.of(load(save_family(family, tmp_path / "model")), [image, image], ["What is this?"] * 2)
    assert towers.difference(batch) < 1e-5
