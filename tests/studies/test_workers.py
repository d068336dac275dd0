"""Studies that several processes share and that some of them do not survive."""

import os
import shutil
import signal
import subprocess
import time
from collections import Counter
from dataclasses import replace
from multiprocessing import get_context

import numpy as np
import optuna
import psutil
import pytest
from optuna.trial import TrialState

from foveate.compressors import Identity
from foveate.core.errors import OutputError
from foveate.evaluation import EvalConfig
from foveate.evaluation.records import RecordFolder
from foveate.studies.ablation import ablate, named_choices
from foveate.studies.objective import Objective
from foveate.studies.opening import open_study
from foveate.studies.space import Budget, LayerSpace, Planned
from foveate.studies.study import enqueue, run_trials
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
    return Counter((trial.params["scorer"], trial.params.get("keep")) for trial in done)


def check_whole(study, out, cells_wanted):
    """Every planned cell is complete exactly once, nothing waits or runs, and its records are whole."""
    assert complete_cells(study) == dict.fromkeys(cells_wanted, 1)
    assert not study.get_trials(states=(TrialState.RUNNING, TrialState.WAITING))
    for trial in study.get_trials(states=(TrialState.COMPLETE,)):
        folder = RecordFolder(out / "records" / trial.user_attrs["run_id"])
        assert folder.complete
        assert folder.read().num_rows == 33  # reading refuses a question that stands twice


def work_on(folder, objective, delay=0.0):
    """A process of its own that runs trials."""
    if delay:
        slow = EvalConfig.identity

        def identity(self, *args):
            time.sleep(delay)
            return slow(self, *args)

        EvalConfig.identity = identity
    study = optuna.load_study(study_name=folder.name, storage=folder.open())
    run_trials(folder, study, objective)


def test_ctrl_c_ends_the_trial_and_the_next_run_repeats_it(config, monkeypatch):
    folder = StudyFolder("s", config.out)
    study, objective = planned(folder, config)
    evaluated = []

    def stopped(self, trial, started):
        evaluated.append(trial.number)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Objective, "__call__", stopped)
        with pytest.raises(KeyboardInterrupt):
            run_trials(folder, study, objective)
    assert evaluated == [0]
    enqueue(folder, study, ())
    run_trials(folder, study, objective)
    check_whole(study, config.out, WANTED)


SCORERS = {
    *("cls[0]", "cls[1]", "cls[2]", "full", "blind", "evidence", "uniform", "saturation", "contrast", "edges"),
    *(f"random[{i}]" for i in range(5)),
}
ONCE = {"full", "blind"}
WANTED = {(scorer, keep) for scorer in SCORERS - ONCE for keep in (36, 7)} | {(scorer, None) for scorer in ONCE}


def planned(folder, config, tiny_cells=cells):
    from foveate.evaluation.run import cached_load
    from foveate.studies.ablation import ChoiceGrid

    tower = cached_load(config.model).adapter.tower
    grid = ChoiceGrid(tuple(tiny_cells(tower)), (36, 7))
    objective = Objective(config, grid)
    _, study = open_study(folder, objective, {"test": 1}, {})
    enqueue(folder, study, grid.cells)
    return study, objective


@extended("moments")
def test_a_study_that_is_killed_again_and_again_ends_as_if_it_had_not_been(config):
    """Twenty processes are killed, each at a random moment after it has started a trial."""
    folder = StudyFolder("s", config.out)
    study, objective = planned(folder, config)
    rng = np.random.default_rng(0)
    for _ in range(20):
        enqueue(folder, study, ())
        worker = FORK.Process(target=work_on, args=(folder, objective, 0.1))
        worker.start()
        wait_until(lambda worker=worker: running(study) or not worker.is_alive(), 60, "a trial to be started")
        time.sleep(rng.uniform(0, 0.15))
        worker.kill()
        worker.join()
    enqueue(folder, study, ())
    lost = study.get_trials(states=(TrialState.FAIL,))
    assert len(lost) >= 5
    run_trials(folder, study, objective)
    check_whole(study, config.out, WANTED)
    assert {trial.state for trial in study.trials if trial.number in {t.number for t in lost}} == {TrialState.FAIL}


def test_the_trial_of_a_killed_process_is_retried_and_no_other(config, postgresql_url):
    folder = StudyFolder("s", config.out, postgresql_url, heartbeat_s=1, grace_s=3)
    study, objective = planned(folder, config)
    doomed = FORK.Process(target=work_on, args=(folder, objective, 60))  # sleeps in its first trial until it is killed
    doomed.start()
    wait_until(lambda: running(study), 60, "a trial to be started")
    time.sleep(1.2)  # until its first heartbeat
    (taken,) = running(study)
    others = [FORK.Process(target=work_on, args=(folder, objective, 0.05)) for _ in range(2)]
    for other in others:
        other.start()
    doomed.kill()
    for other in others:
        other.join(120)
        assert other.exitcode == 0
    check_whole(study, config.out, WANTED)
    failed = {trial.number for trial in study.get_trials(states=(TrialState.FAIL,))}
    assert failed == {taken.number}


def test_a_trial_of_a_running_process_is_not_taken_for_lost(config):
    folder = StudyFolder("s", config.out)
    study, objective = planned(folder, config)
    busy = FORK.Process(target=work_on, args=(folder, objective, 0.5))
    busy.start()
    wait_until(lambda: running(study), 60, "a trial to be started")
    enqueue(folder, study, ())
    assert not study.get_trials(states=(TrialState.FAIL,))
    assert len(folder.workers) == 1
    with pytest.raises(OutputError, match="study 's' is running, by worker"):
        folder.move_aside()
    run_trials(folder, study, objective)  # beside it
    busy.join(60)
    check_whole(study, config.out, WANTED)
    assert folder.workers == []


def running(study):
    return study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))


@extended("moments")
def test_a_search_that_is_killed_suggests_what_it_would_have_suggested(config):
    """Also where TPE has begun to learn, and where a kill comes in the middle of a suggestion."""
    space = LayerSpace(4, 4, 4, 144, Budget(9, 9), ("weights",))

    def searched(name, kills):
        folder = StudyFolder(name, config.out)
        objective = Objective(config, space, ("quality",))
        _, study = open_study(folder, objective, {}, {"samples": 33})
        enqueue(folder, study, [Planned({f"weight_{i}": 0.5 for i in range(4)}, source="ensemble")])
        for number in kills:
            worker = FORK.Process(target=search_on, args=(folder, objective, number))
            worker.start()
            worker.join(120)
            assert worker.exitcode == -signal.SIGKILL
        enqueue(folder, study, ())
        run_trials(folder, study, objective, 13, "tpe", seed=3)
        done = study.get_trials(states=(TrialState.COMPLETE,))
        assert len(done) == 13
        assert len(study.get_trials(states=(TrialState.FAIL,))) == len(kills)
        return {tuple(trial.params.items()) for trial in done}

    assert searched("calm", ()) == searched("stormy", (2, 7, 20, 30))


def search_on(folder, objective, suggestions):
    """A worker that is killed after so many values have been suggested to it."""
    suggest, left = optuna.Trial.suggest_float, [suggestions]

    def counted(*args, **options):
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        return suggest(*args, **options)

    optuna.Trial.suggest_float = counted
    study = optuna.load_study(study_name=folder.name, storage=folder.open())
    enqueue(folder, study, ())
    run_trials(folder, study, objective, 13, "tpe", seed=3)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("nosql://here", "nosql://here.*Expected the URL of a running"),
        ("not a url", "not a url.*Expected the URL"),
        ("postgresql+psycopg://u:hidden@127.0.0.1:1/d", r"u:\*\*\*@127.0.0.1:1/d.*(refused|failed).*reachable"),
        ("sqlite:////no/such/folder/s.db", "unable to open database file"),
    ],
)
def test_a_storage_that_cannot_be_used_is_named_without_its_password(config, url, says):
    with pytest.raises(OutputError, match=says) as error:
        ablate(StudyFolder("s", config.out, url), config, cells, (7,))
    assert "hidden" not in str(error.value)


def few(tower):
    return cells(tower)[:4]


FEW = {*((scorer, 7) for scorer in ("cls[0]", "cls[1]", "cls[2]")), ("full", None)}


@parametrize("free", [0, 30_000, 150_000, 220_000, 300_000, 400_000], fast=(150_000,), reason="moments")
def test_a_disk_that_runs_full_is_named_and_the_study_goes_on_later(config, small_disk, free):
    """What does not fit differs: the study, the encodings, records, artifacts; nothing is lost or read half-written."""
    config = replace(config, out=small_disk)
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(shutil.disk_usage(small_disk).free - free))
    with pytest.raises(OutputError, match=r"No space left on device|disk is full|disk I/O error"):
        ablate(StudyFolder("s", config.out), config, few, (7,))
    ballast.unlink()
    study = ablate(StudyFolder("s", config.out), config, few, (7,))
    check_whole(study, small_disk, FEW)


def test_records_that_cannot_be_written_fail_the_trial_with_the_cause(config, small_disk, capfd):
    (config.out / "records").symlink_to(small_disk)
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(OutputError, match="Read-only file system"):
        ablate(StudyFolder("s", config.out), config, few, (7,))
    study = optuna.load_study(study_name="s", storage=f"sqlite:///{config.out / 's' / 'study.db'}")
    assert "Traceback" not in capfd.readouterr().err
    (failed,) = study.get_trials(states=(TrialState.FAIL,))
    assert "Read-only file system" in failed.user_attrs["failed"]
    subprocess.run(["mount", "-o", "remount,rw", small_disk], check=True)
    check_whole(ablate(StudyFolder("s", config.out), config, few, (7,)), config.out, FEW)


def test_a_folder_that_cannot_be_written_is_refused(config, small_disk):
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(OutputError, match=r"cannot be written: Read-only file system; choose another --out"):
        ablate(StudyFolder("s", small_disk), replace(config, out=small_disk), few, (7,))


@extended("moments")
def test_the_whole_command_survives_sigkill(tiny, tmp_path):
    """The real command line with two processes, killed in the middle; the second one ends by itself."""
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
