import os

import pytest

from foveate.core.storage import atomic_write, checksum, checksummed, intact, quarantine


def test_a_file_appears_when_the_block_ends(tmp_path):
    with atomic_write(tmp_path / "new" / "table.csv") as path:
        path.write_text("whole")
        assert not (tmp_path / "new" / "table.csv").exists()
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["table.csv"]


@pytest.mark.guards("atomic rename: atomic_write writes in place")
def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "table.csv"
    target.write_text("old")
    with pytest.raises(RuntimeError), atomic_write(target) as path:
        path.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def write(path, content=b"whole"):
    path.mkdir()
    (path / "one.parquet").write_bytes(content)
    (path / "two").mkdir()
    (path / "two" / "empty").touch()


@pytest.mark.guards("atomic rename: checksummed writes under a name that is read")
def test_what_is_stamped_appears_with_its_checksum_when_the_block_ends(tmp_path):
    with checksummed(tmp_path, "part-a.b", ".parquet") as path:
        path.write_text("whole")
        assert not list(tmp_path.glob("part-*"))
    with checksummed(tmp_path, "folder") as path:
        write(path)
        assert not list(tmp_path.glob("folder*"))
    file, folder = sorted(tmp_path.iterdir(), reverse=True)
    assert file.name == f"part-a.b.{checksum(file)}.parquet"
    assert folder.name == f"folder.{checksum(folder)}"
    assert intact(file) and intact(folder)


@pytest.mark.guards("atomic rename: checksummed renames after an error as well")
@pytest.mark.parametrize("suffix", ["", ".parquet"])
def test_an_error_leaves_nothing_that_could_be_read(tmp_path, suffix):
    with pytest.raises(RuntimeError), checksummed(tmp_path, "part", suffix) as path:
        path.write_text("half") if suffix else write(path)
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.guards("checksum: core/storage.py takes everything for intact")
def test_any_bit_that_is_turned_over_and_any_byte_that_is_missing_is_noticed(tmp_path):
    with checksummed(tmp_path, "part") as path:
        path.write_bytes(b"0123456789")
    (file,) = tmp_path.iterdir()
    content = file.read_bytes()
    spoilt = [content[:length] for length in range(len(content))]
    for place in range(len(content)):
        spoilt += [content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :] for bit in range(8)]
    for number, other in enumerate(spoilt):
        file.write_bytes(other)
        os.utime(file, ns=(number, number))  # the clock of a file system may not tell writes of one moment apart
        assert not intact(file)
    file.write_bytes(content)
    os.utime(file, ns=(-1, -1))
    assert intact(file)


def test_a_folder_is_what_lies_in_it_and_under_which_name(tmp_path):
    with checksummed(tmp_path, "folder") as path:
        write(path)
    (folder,) = tmp_path.iterdir()
    (folder / "two" / "empty").rename(folder / "two" / "other")
    assert not intact(folder)
    (folder / "two" / "other").rename(folder / "two" / "empty")
    assert intact(folder)
    (folder / "one.parquet").unlink()
    assert not intact(folder)


def test_what_is_damaged_is_renamed_and_named_and_never_overwrites_what_was_so_before(tmp_path):
    for number in (1, 2):
        (tmp_path / "part").write_text(f"damaged {number}")
        with pytest.warns(UserWarning, match=rf"damaged: .*part \(cut short\).*quarantined as part.damaged-{number}"):
            quarantine(tmp_path / "part", "cut short")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "part.damaged-1": "damaged 1",
        "part.damaged-2": "damaged 2",
    }
