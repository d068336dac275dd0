"""A study's database that was damaged, written to since, or left behind."""

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

from foveate.studies.database import NAME, check, seal


@pytest.fixture
def database(tmp_path):
    """A sealed study of forty trials."""
    path = tmp_path / NAME
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(storage=f"sqlite:///{path}", study_name="s")
    x = FloatDistribution(0, 1)
    study.add_trials([create_trial(params={"x": i / 40}, distributions={"x": x}, value=i) for i in range(40)])
    seal(path)
    return path


def checked_without_a_word(path):
    content = path.read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check(path)
    assert path.read_bytes() == content


def spoilt(content, rng):
    """One bit turned over, or cut short."""
    place, bit = int(rng.integers(len(content))), int(rng.integers(8))
    return rng.choice([content[:place], content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :]])


def test_whatever_bit_is_turned_over_and_wherever_it_is_cut_it_is_set_aside_as_it_is(database):
    content, rng = database.read_bytes(), np.random.default_rng(0)
    header = [content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :] for place in range(100)]
    bits = [content[:place] for place in range(0, 200, 10)] + header
    for damaged in bits + [spoilt(content, rng) for _ in range(100)]:
        seal_of_it = database.with_suffix(".seal")
        kept = seal_of_it.read_bytes()
        database.write_bytes(damaged)
        with pytest.warns(UserWarning, match=r"damaged: .*study.db"):
            check(database)
        assert not database.exists() and not seal_of_it.exists()
        (aside,) = database.parent.glob("study.db.damaged-*")
        assert aside.read_bytes() == damaged
        aside.unlink()
        database.write_bytes(content)
        seal_of_it.write_bytes(kept)
    checked_without_a_word(database)


def test_work_on_it_since_it_was_sealed_is_no_damage(database):
    study = optuna.load_study(storage=f"sqlite:///{database}", study_name="s")
    study.set_user_attr("since", 1)
    checked_without_a_word(database)


def test_one_that_was_never_sealed_is_checked_for_its_structure(database):
    database.with_suffix(".seal").unlink()
    checked_without_a_word(database)
    database.write_bytes(database.read_bytes()[: -3 * 4096])
    with pytest.warns(UserWarning, match="damaged: .*study.db"):
        check(database)


def test_the_seal_of_one_that_was_removed_says_nothing_about_the_next(database):
    database.unlink()
    check(database)
    optuna.create_study(storage=f"sqlite:///{database}", study_name="s")
    checked_without_a_word(database)


def test_what_a_process_had_begun_to_write_when_it_was_killed_is_taken_back(database):
    """Its journal is there, and pages of the unfinished change are in the file."""
    before, content = trials(database), database.read_bytes()
    code = f"""
import os, signal, sqlite3
database = sqlite3.connect({str(database)!r}, isolation_level=None)
database.execute("pragma cache_size = 1")  # so that it writes before the change is finished
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


def test_one_that_another_process_is_writing_to_is_not_taken_for_damaged(database, monkeypatch):
    monkeypatch.setattr("foveate.studies.database._PATIENCE", 0.1)
    with sqlite3.connect(database, isolation_level=None) as other:
        other.execute("begin exclusive")
        checked_without_a_word(database)
