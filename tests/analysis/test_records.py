import pytest

from foveate.analysis.records import read_records
from foveate.core.errors import DataError


def test_parts_become_one_frame_sorted_by_sample(tmp_path, records, write_run):
    frame = records([1, 0, 0.5, 1, 1])
    write_run(tmp_path, "run", frame.iloc[::-1], parts=3)
    read = read_records(tmp_path, "run")
    assert read["sample_id"].tolist() == frame["sample_id"].tolist()
    assert read["score"].tolist() == frame["score"].tolist()
    assert read.index.tolist() == list(range(5))


def test_missing_records_are_an_error_with_their_folder(tmp_path):
    with pytest.raises(DataError, match=r"no records in .*absent.*evaluate"):
        read_records(tmp_path, "absent")


def test_a_question_with_two_records_is_an_error(tmp_path, records, write_run):
    frame = records([1, 0, 0])
    write_run(tmp_path, "run", frame.iloc[[0, 1, 2, 1]], parts=2)
    with pytest.raises(DataError, match=r"1 questions have two records.*'001'"):
        read_records(tmp_path, "run")
