"""Studies that several processes share and that some of them do not survive."""

import os
import shutil
import signal
import sqlite3
import subprocess
import time
from collections import Counter
from contextlib import closing
from dataclasses import replace
from multiprocessing import get_context
from threading import Thread

import numpy as np
import optuna
import psutil
import pytest
from optuna.trial import TrialState
from sqlalchemy.exc import SQLAlchemyError

from foveate.compressors import Identity
from foveate.core.errors import OutputError
from foveate.evaluation import EvalConfig
from foveate.evaluation.records import RecordFolder
from foveate.studies import study as studies
from foveate.studies.ablation import ablate
from foveate.studies.choices import named_choices
from foveate.studies.objective import Objective
from foveate.studies.opening import open_study
from foveate.studies.space import Budget, LayerSpace, Planned
from foveate.studies.study import queue, run_trials
from foveate.studies.study_folder import StudyFolder
from tests.scripts import run as run_script
from tests.scripts import start, wait_for
from tests.services import wait_until
from tests.tiers import extended, parametrize

FORK = get_context("fork")  # starts in no time what this process has loaded already


@pytest.fixture
def config(tiny, tmp_path):
    return EvalConfig(Identity(), model=tiny, limit=33, max_new_tokens=2, batch_size=11, out=tmp_path)


def cells(tower):
    return named_choices(tower, ("cls[0]", "cls[1]", "cls[2]"))


def complete_cells(study):
    done = study.get_trials(states=(TrialState.COMPLETE,))
    return Counter((trial.params["scorer"], trial.params["keep"]) for trial in done)


def check_whole(study, out, cells_wanted):
    """Every planned cell is complete exactly once, nothing waits or runs, and its records are whole."""
    assert complete_cells(study) == dict.fromkeys(cells_wanted, 1)
    assert not study.get_trials(states=(TrialState.RUNNING, TrialState.WAITING))
    for trial in study.get_trials(states=(TrialState.COMPLETE,)):
        folder = RecordFolder(out / "records" / trial.user_attrs["run_id"])
        assert folder.complete
        assert folder.read().num_rows == 33  # reading refuses a question that stands twice


def work_on(place, objective, delay=0.0):
    """A worker of its own, as on another machine if the place says so."""
    if delay:
        slow = EvalConfig.identity

        def identity(self, *args):
            time.sleep(delay)
            return slow(self, *args)

        EvalConfig.identity = identity
    study = optuna.load_study(study_name=place.name, storage=place.open())
    studies._work(place, study, objective, 0, "random", 0)


def test_a_heart_that_cannot_be_written_is_no_traceback_and_another_thread_that_fails_is(monkeypatch):
    told = []
    monkeypatch.setattr("threading.excepthook", lambda failed: told.append(failed.exc_type))

    def fails(error):
        def work():
            raise optuna.exceptions.StorageInternalError("not written") from error

        thread = Thread(target=work)
        thread.start()
        thread.join()

    with studies._quiet_hearts():
        fails(SQLAlchemyError("attempt to write a readonly database"))
        assert told == []
        fails(ValueError("of another kind"))
    fails(SQLAlchemyError("outside"))
    assert told == [optuna.exceptions.StorageInternalError] * 2


def test_ctrl_c_is_not_forgotten_where_the_trial_cannot_be_told_to_have_failed(config, monkeypatch):
    place = StudyFolder("s", config.out)
    study, objective = planned(place, config)

    def stopped(*_):
        with closing(sqlite3.connect(place.folder / "study.db")) as connection:
            connection.execute("DROP TABLE trials")
        raise KeyboardInterrupt

    monkeypatch.setattr(Objective, "__call__", stopped)
    with pytest.raises(KeyboardInterrupt):
        run_trials(place, study, objective)


def test_workers_are_dismissed_where_the_storage_answers_ctrl_c_with_an_error_of_its_own(config, monkeypatch):
    place = StudyFolder("s", config.out)
    study, objective = planned(place, config)
    dismissed = []

    def work(*_):
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            raise SQLAlchemyError("the session is in a prepared state") from None

    monkeypatch.setattr(studies, "_work", work)
    monkeypatch.setattr(studies, "_dismiss", dismissed.append)
    with pytest.raises(SQLAlchemyError):
        run_trials(place, study, objective)
    assert dismissed == [[]]


def test_a_study_is_sealed_when_it_has_run(config):
    place = StudyFolder("s", config.out)
    study, objective = planned(place, config)
    run_trials(place, study, objective)
    content = bytearray((place.folder / "study.db").read_bytes())
    content[-100] ^= 1
    (place.folder / "study.db").write_bytes(content)
    with pytest.warns(match="damaged: .*study.db"):
        place.open()


SCORERS = {
    *("cls[0]", "cls[1]", "cls[2]", "full", "blind", "evidence", "uniform", "saturation", "contrast", "edges"),
    *(f"random[{i}]" for i in range(5)),
}
WANTED = {(scorer, keep) for scorer in SCORERS for keep in (36, 7)}


@extended("devices")
def test_several_workers_share_a_study_and_leave_the_records_of_one(config, tmp_path):
    one = ablate("s", replace(config, out=tmp_path / "one"), cells, (36, 7))
    three = ablate("s", replace(config, out=tmp_path / "three"), cells, (36, 7), workers=3)
    check_whole(three, tmp_path / "three", WANTED)
    assert {t.user_attrs["worker"] for t in three.trials} > {three.trials[0].user_attrs["worker"]}
    values = [{(t.params["scorer"], t.params["keep"]): t.value for t in study.trials} for study in (one, three)]
    assert values[0] == values[1]


@extended("devices")
@pytest.mark.skipif(os.name != "posix", reason="process groups")
def test_ctrl_c_ends_all_workers_after_their_batches(tiny, tmp_path):
    command = ["ablate_layers", "--model", tiny, "--limit", "132", "--batch-size", "2"]
    command += ["--max-new-tokens", "2", "--keep", "36", "--workers", "2", "--out", str(tmp_path)]
    process = start(*command, group=True)

    def both_at_work():
        return len(list(tmp_path.glob("records/*/part-*"))) > 4 and len(list(tmp_path.glob("*/workers/*"))) == 2

    wait_for(process, both_at_work)
    others = psutil.Process(process.pid).children(recursive=True)
    assert len(others) >= 1
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    out, error = process.communicate(timeout=120)
    assert process.returncode == 130, error
    assert out == ""
    stopped = f"stopped: what is finished is kept in {tmp_path}/, and the same command goes on"
    assert stopped in error.splitlines(), error
    assert "Traceback" not in error
    assert error.count("stops when this batch is saved") <= 1
    assert not list(tmp_path.glob("records/*/.part-*"))
    assert not psutil.wait_procs(others, 60)[1]


def planned(place, config, tiny_cells=cells):
    from foveate.evaluation.run import cached_load
    from foveate.studies.choices import ChoiceGrid

    tower = cached_load(config.model).adapter.tower
    grid = ChoiceGrid(tuple(tiny_cells(tower)), (36, 7))
    objective = Objective(config, grid)
    _, study = open_study(place, objective, {"test": 1}, {})
    queue(place, study, grid.cells)
    return study, objective


@extended("moments")
def test_a_study_that_is_killed_again_and_again_ends_as_if_it_had_not_been(config):
    """Twenty workers are killed, each at a random moment after it has taken a trial."""
    place = StudyFolder("s", config.out)
    study, objective = planned(place, config)
    rng = np.random.default_rng(0)
    for _ in range(20):
        worker = FORK.Process(target=work_on, args=(place, objective, 0.1))
        worker.start()
        wait_until(lambda worker=worker: taken_by(worker, study) or not worker.is_alive(), 60, "a trial to be taken")
        time.sleep(rng.uniform(0, 0.15))
        worker.kill()
        worker.join()
    lost = study.get_trials(states=(TrialState.FAIL, TrialState.RUNNING))
    assert len(lost) >= 5
    run_trials(place, study, objective)
    check_whole(study, config.out, WANTED)
    assert {trial.state for trial in study.trials if trial.number in {t.number for t in lost}} == {TrialState.FAIL}


def taken_by(worker, study):
    return any(f"-{worker.pid}-" in t.user_attrs.get("worker", "") for t in running(study))


@parametrize("elsewhere", [False, True], ids=["on this machine", "on another machine"])
def test_a_worker_killed_over_postgresql_loses_nothing(config, postgresql_url, monkeypatch, elsewhere):
    place = StudyFolder("s", config.out, postgresql_url, heartbeat_s=1, grace_s=3)
    study, objective = planned(place, config)
    if elsewhere:
        monkeypatch.setattr(studies.platform, "node", lambda: "far-away")
    doomed = FORK.Process(target=work_on, args=(place, objective, 0.3))
    doomed.start()
    monkeypatch.undo()
    others = [FORK.Process(target=work_on, args=(place, objective, 0.05)) for _ in range(2)]
    for other in others:
        other.start()
    wait_until(lambda: taken_by(doomed, study), 60, "a trial to be taken")
    time.sleep(1.2 if elsewhere else 0)  # until its heart has been heard
    doomed.kill()
    for other in others:
        other.join(120)
        assert other.exitcode == 0
    check_whole(study, config.out, WANTED)


def running(study):
    return study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))


@extended("moments")
def test_a_search_that_is_killed_suggests_what_it_would_have_suggested(config):
    """Also where TPE has begun to learn, and where a kill comes in the middle of a suggestion."""
    space = LayerSpace(4, 4, 4, 144, Budget(9, 9), ("weights",))

    def searched(name, kills):
        place = StudyFolder(name, config.out)
        objective = Objective(config, space, ("quality",))
        _, study = open_study(place, objective, {}, {"samples": 33})
        queue(place, study, [Planned({f"weight_{i}": 0.5 for i in range(4)}, source="ensemble")])
        for number in kills:
            worker = FORK.Process(target=search_on, args=(place, objective, number))
            worker.start()
            worker.join(120)
            assert worker.exitcode == -signal.SIGKILL
        run_trials(place, study, objective, 13, "tpe", seed=3)
        done = study.get_trials(states=(TrialState.COMPLETE,))
        assert len(done) == 13
        assert len(study.get_trials(states=(TrialState.FAIL,))) == len(kills)
        return {tuple(trial.params.items()) for trial in done}

    assert searched("calm", ()) == searched("stormy", (2, 7, 20, 30))


def search_on(place, objective, suggestions):
    """A worker that is killed after so many values have been suggested to it."""
    suggest, left = optuna.Trial.suggest_float, [suggestions]

    def counted(*args, **options):
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        return suggest(*args, **options)

    optuna.Trial.suggest_float = counted
    study = optuna.load_study(study_name=place.name, storage=place.open())
    studies._work(place, study, objective, 13, "tpe", 3)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("nosql://here", "nosql://here.*Expected the URL of a database"),
        ("not a url", "not a url.*Expected the URL"),
        ("postgresql+psycopg://u:hidden@127.0.0.1:1/d", r"u:\*\*\*@127.0.0.1:1/d.*(refused|failed).*can be reached"),
        ("sqlite:////no/such/folder/s.db", "unable to open database file"),
    ],
)
def test_a_storage_that_cannot_be_used_is_named_without_its_password(config, url, says):
    with pytest.raises(OutputError, match=says) as error:
        ablate("s", config, cells, (7,), url)
    assert "hidden" not in str(error.value)


def few(tower):
    return cells(tower)[:4]


FEW = {(scorer, 7) for scorer in ("cls[0]", "cls[1]", "cls[2]", "full")}


@parametrize("free", [0, 30_000, 150_000, 220_000, 300_000, 400_000], fast=(150_000,), reason="moments")
def test_a_disk_that_runs_full_is_named_and_the_study_goes_on_later(config, small_disk, free):
    """What does not fit differs: the study, the encodings, records, artifacts; nothing is lost or read half-written."""
    config = replace(config, out=small_disk)
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(shutil.disk_usage(small_disk).free - free))
    with pytest.raises(OutputError, match=r"No space left on device|disk is full|disk I/O error"):
        ablate("s", config, few, (7,))
    ballast.unlink()
    study = ablate("s", config, few, (7,))
    check_whole(study, small_disk, FEW)


def test_records_that_cannot_be_written_fail_the_trial_with_the_cause(config, small_disk, capfd):
    (config.out / "records").symlink_to(small_disk)
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(OutputError, match="Read-only file system"):
        ablate("s", config, few, (7,))
    study = optuna.load_study(study_name="s", storage=f"sqlite:///{config.out / 's' / 'study.db'}")
    assert "Traceback" not in capfd.readouterr().err
    (failed,) = study.get_trials(states=(TrialState.FAIL,))
    assert "Read-only file system" in failed.user_attrs["failed"]
    subprocess.run(["mount", "-o", "remount,rw", small_disk], check=True)
    check_whole(ablate("s", config, few, (7,)), config.out, FEW)


def test_a_place_that_cannot_be_written_is_refused(config, small_disk):
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(OutputError, match=r"cannot be written: Read-only file system; choose another --out"):
        ablate("s", replace(config, out=small_disk), few, (7,))


def test_no_workers_are_refused(config):
    with pytest.raises(OutputError, match="workers=0"):
        ablate("s", config, cells, (7,), workers=0)


@extended("moments")
def test_the_whole_command_survives_sigkill(tiny, tmp_path):
    """The real command line with two workers, killed in the middle; its orphan ends by itself."""
    command = ["ablate_layers", "--model", tiny, "--limit", "22"]
    command += ["--out", str(tmp_path), "--keep", "7", "--workers", "2", "--layers", "0", "1"]
    first = start(*command)
    wait_for(first, lambda: list(tmp_path.glob("records/*/part-*")))
    children = psutil.Process(first.pid).children()
    first.send_signal(signal.SIGKILL)
    first.wait()
    _, alive = psutil.wait_procs(children, 30)
    assert not alive
    done = run_script(*command, timeout=300)
    assert done.returncode == 0, done.stderr
    study = optuna.load_study(study_name="ablate_layers", storage=f"sqlite:///{tmp_path}/ablate_layers/study.db")
    assert set(complete_cells(study).values()) == {1}
    assert len(complete_cells(study)) == 17
