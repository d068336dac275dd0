import pytest

from foveate.core.files import replacing


def test_a_file_appears_when_the_block_ends(tmp_path):
    with replacing(tmp_path / "new" / "table.csv") as path:
        path.write_text("whole")
        assert not (tmp_path / "new" / "table.csv").exists()
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["table.csv"]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "table.csv"
    target.write_text("old")
    with pytest.raises(RuntimeError), replacing(target) as path:
        path.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]
