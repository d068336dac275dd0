"""Rows of any content through the loaders: a question, or a problem that is named; never a traceback from below."""

from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from hypothesis import example, given
from hypothesis import strategies as st

from foveate.core.errors import DataError
from foveate.data.benchmark import LONGEST_TEXT
from foveate.data.benchmarks import BENCHMARKS
from foveate.data.load import data_hash, load_samples
from tests.data.test_benchmarks import FILES
from tests.tiers import parametrize

LONG = "x" * 10_000_000
NAN = float("nan")
JUNK = {
    **{
        "nothing": None,
        "empty": "",
        "blank": " ",
        "the word nan": "nan",
        "10 MB": LONG,
        "NUL": "a\0b",
        "astral": "\U0001d535" * 80,
    },
    **{"int": 7, "negative": -1, "large": 2**62, "nan": NAN, "inf": float("inf"), "bool": True, "bytes": b"\xff\xd8"},
    **{"no list": [], "list of nothing": [None], "list with a gap": ["a", None], "numbers": [NAN, 0.0, -5.0, 1e300]},
    **{"four": [-9.0, -9.0, 1.0, 1.0], "struct": {"bytes": None, "path": 7}, "nested": [["a"]], "long list": [LONG]},
    **{
        "structs": [{"answer": None}],
        "path": {"bytes": None, "path": "a\0b"},
        "noise": {"bytes": b"noise", "path": None},
    },
}
NAMES = sorted(set(FILES) - {"gqa"})  # gqa has its images in a table of their own


def samples_of(name, row):
    with TemporaryDirectory() as folder:
        Dataset(pa.Table.from_pylist([row])).save_to_disk(folder)
        samples = load_samples(f"{name}:{folder}", BENCHMARKS[name].split)
        assert len(data_hash(samples)) == 16
        for sample in samples:
            sound(sample)
    return samples


def sound(sample):
    texts = (sample.id, sample.image_id, sample.kind, sample.question, sample.hint, *sample.references, *sample.options)
    assert all(isinstance(text, str) and len(text) <= LONGEST_TEXT for text in texts)
    assert len(sample.problem) < 1000
    assert sample.problem or (sample.question and any(map(str.strip, sample.references)))
    try:
        assert sample.image.size > (0, 0)
        assert sample.problem or sample.evidence.ndim == 3
    except DataError as error:
        assert len(str(error)) < 1000


@pytest.fixture(scope="module")
def first_rows(tmp_path_factory):
    rows = {}
    for name in NAMES:
        place = FILES[name](tmp_path_factory.mktemp(name) / "rows.parquet")
        rows[name] = pq.read_table(place).to_pylist()[0]
    return rows


@parametrize("name", NAMES, fast=("pope",))
@given(st.data())
@example(None)
def test_a_row_with_anything_in_one_column_is_a_question_or_a_named_problem(first_rows, name, data):
    row = dict(first_rows[name])
    if data is not None:
        column = data.draw(st.sampled_from(sorted(row)))
        row[column] = JUNK[data.draw(st.sampled_from(sorted(JUNK)))]
    try:
        samples = samples_of(name, row)
    except DataError as error:
        assert data is not None and len(str(error)) < 1000
    else:
        assert samples and (data is not None or not any(sample.problem for sample in samples))


@pytest.mark.parametrize("what", sorted(JUNK))
def test_any_question_and_any_image_of_pope(first_rows, what):
    for column in ("question", "question_id", "image_source", "image"):
        (sample,) = samples_of("pope", {**first_rows["pope"], column: JUNK[what]})
        if what in ("nothing", "10 MB") and column != "question_id":
            assert sample.problem or column == "image"


def test_rows_that_do_not_name_their_image_share_none(first_rows, tmp_path):
    rows = [{**first_rows["pope"], "image_source": None, "question_id": str(number)} for number in range(2)]
    Dataset(pa.Table.from_pylist(rows)).save_to_disk(str(tmp_path))
    samples = load_samples(f"pope:{tmp_path}", "test")
    assert len({sample.image_id for sample in samples}) == 2
    assert all("image_source is None, which names no image" in sample.problem for sample in samples)


def test_options_with_a_gap_are_not_moved_up(first_rows):
    (sample,) = samples_of("mmbench", {**first_rows["mmbench"], "B": "nan", "C": "blue", "answer": "C"})
    assert "expected no gap between two options" in sample.problem


def test_columns_that_nobody_reads_are_not_decoded(first_rows, tmp_path):
    from datasets import Image

    row = {**first_rows["pope"], "thumbnail": {"bytes": b"noise", "path": None}}
    table = Dataset(pa.Table.from_pylist([row])).cast_column("thumbnail", Image())
    table.save_to_disk(str(tmp_path))
    (sample,) = load_samples(f"pope:{tmp_path}", "test")
    assert not sample.problem and sample.image.size == (96, 96)


@pytest.mark.parametrize("damage", ["truncated", "no arrow", "noise"])
def test_a_damaged_folder_is_named(damage, first_rows, tmp_path):
    Dataset(pa.Table.from_pylist([first_rows["pope"]])).save_to_disk(str(tmp_path))
    (arrow,) = Path(tmp_path).glob("*.arrow")
    if damage == "no arrow":
        arrow.unlink()
    elif damage == "truncated":
        arrow.write_bytes(arrow.read_bytes()[:100])
    else:
        (tmp_path / "dataset_info.json").write_text("{")
    with pytest.raises(DataError, match="cannot be read as a folder of `save_to_disk`"):
        load_samples(f"pope:{tmp_path}", "test")
