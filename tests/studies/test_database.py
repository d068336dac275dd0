"""A study's SQLite file that is damaged, unfinished, in use or lost."""

import os
import signal
import sqlite3
import subprocess
import sys
import warnings

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import create_trial

from foveate.studies import study_folder
from foveate.studies.study_folder import DATABASE, StudyFolder


@pytest.fixture
def database(tmp_path):
    """A study of forty trials."""
    path = tmp_path / "s" / DATABASE
    path.parent.mkdir()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(storage=f"sqlite:///{path}", study_name="s")
    x = FloatDistribution(0, 1)
    study.add_trials([create_trial(params={"x": i / 40}, distributions={"x": x}, value=i) for i in range(40)])
    return path


def check(path):
    study_folder._check_database(path)


def is_left_alone(path):
    content = path.read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check(path)
    assert path.read_bytes() == content


def test_a_file_that_sqlite_finds_malformed_is_quarantined_as_it_is_and_created_anew(database):
    content, rng = database.read_bytes(), np.random.default_rng(0)
    overwritten = bytearray(content)
    overwritten[4096 : 3 * 4096] = rng.bytes(2 * 4096)
    for damaged in (content[:5000], content[: -3 * 4096], b"x" + content[1:], bytes(overwritten)):
        database.write_bytes(damaged)
        with pytest.warns(UserWarning, match=r"damaged: .*study.db"):
            check(database)
        assert not database.exists()
        (quarantined,) = database.parent.glob("study.db.damaged-*")
        assert quarantined.read_bytes() == damaged
        quarantined.unlink()
    storage = StudyFolder("s", database.parents[1]).open()
    assert optuna.get_all_study_names(storage) == []
    database.write_bytes(content)
    is_left_alone(database)


def test_side_files_without_their_database_are_quarantined(database):
    journal = database.with_name(f"{DATABASE}-journal")
    journal.write_bytes(b"of the lost one")
    database.unlink()
    with pytest.warns(UserWarning, match="damaged: .*study.db-journal"):
        check(database)
    assert not journal.exists()


def test_what_a_killed_process_had_begun_to_write_is_rolled_back(database):
    """Its journal is there, and pages of the unfinished transaction are in the file."""
    before, content = trials(database), database.read_bytes()
    code = f"""
import os, signal, sqlite3
database = sqlite3.connect({str(database)!r}, isolation_level=None)
database.execute("pragma cache_size = 1")  # so that it writes before the transaction ends
database.execute("begin immediate")
for number in range(2000):
    database.execute("insert into trials(study_id, number, state) values (1, 7, 'FAIL')")
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL
    assert database.read_bytes() != content
    assert os.path.getsize(f"{database}-journal")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check(database)
    assert trials(database) == before


def trials(path):
    with sqlite3.connect(path) as database:
        return database.execute("select * from trials").fetchall()


def test_a_file_that_another_process_is_writing_to_is_not_taken_for_damaged(database, monkeypatch):
    monkeypatch.setattr(study_folder, "_TIMEOUT_S", 0.1)
    with sqlite3.connect(database, isolation_level=None) as other:
        other.execute("begin exclusive")
        is_left_alone(database)
