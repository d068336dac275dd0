"""Evaluations that two processes share, started by Lightning, torchrun and SLURM."""

import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import optuna
import psutil
import pytest
from optuna.trial import TrialState

from foveate import cli
from foveate.compressors import Identity
from foveate.core.errors import DeviceError
from foveate.evaluation import EvalConfig, evaluate
from foveate.evaluation.devices import Team, _help, lead
from foveate.evaluation.records import RecordFolder
from foveate.options import Flat, Options
from tests.evaluation.shared_evaluations import evaluations
from tests.scripts import start, wait_for
from tests.services import free_port, hears_ctrl_c, wait_until
from tests.tiers import extended

SCRIPT = str(Path(__file__).with_name("shared_evaluations.py"))
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
SLURM = {
    "SLURM_JOB_ID": "4321",
    "SLURM_JOB_NAME": "evaluate",
    "SLURM_NTASKS": "2",
    "SLURM_NTASKS_PER_NODE": "2",
    "SLURM_NNODES": "1",
    "SLURM_NODEID": "0",
    "SLURM_NODELIST": "127.0.0.1",
}


def started(*arguments, group=False, **variables):
    environment = {**os.environ, **variables}
    pipe = subprocess.PIPE
    heard = {"start_new_session": True, "preexec_fn": hears_ctrl_c} if group else {}
    return subprocess.Popen([sys.executable, *arguments], env=environment, stdout=pipe, stderr=pipe, text=True, **heard)


def launched(launcher, *arguments):
    match launcher:
        case "lightning":
            return [started(*arguments)]
        case "torchrun":
            return [started(*TORCHRUN, *arguments)]
        case "slurm":  # as srun starts them; there is no SLURM here
            port = str(free_port())
            tasks = ({"SLURM_PROCID": str(i), "SLURM_LOCALID": str(i), "MASTER_PORT": port} for i in range(2))
            return [started(*arguments, **SLURM, **task) for task in tasks]


@pytest.fixture(scope="module")
def alone(tiny, tmp_path_factory):
    """The records of one process."""
    config = EvalConfig(Identity(), model=tiny, out=tmp_path_factory.mktemp("alone"))
    return [evaluate(config) for config in evaluations(config)]


def parts(folder: Path) -> int:
    return len(list(folder.glob("part-*.parquet")))


@extended("devices")
@pytest.mark.parametrize("launcher", ["lightning", "torchrun", "slurm"])
def test_two_processes_leave_the_records_of_one(launcher, alone, tiny, tmp_path):
    processes = launched(launcher, SCRIPT, "--model", tiny, "--devices", "2", "--out", str(tmp_path))
    said = [process.communicate(timeout=900) for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), said
    for expected in alone:
        shared = RecordFolder(tmp_path / "records" / expected.folder.name)  # the run id is the same too
        assert shared.complete
        assert shared.read().equals(expected.read())  # reading refuses a question that stands twice
    assert parts(tmp_path / "records" / alone[1].folder.name) == parts(alone[1].folder)
    assert len(list(tmp_path.glob("encodings/*/state.json"))) == 2  # one per set of images, 66 questions and 11
    (resumed,) = tmp_path.glob("resumed/records/*")
    whole = [RecordFolder(folder).read().drop("log_probability") for folder in (resumed, alone[0].folder)]
    assert whole[0].equals(whole[1])  # all but the last digit, which the batch decides
    (stopped,) = tmp_path.glob("stopped/records/*")
    assert not (stopped / "DONE").exists()
    assert parts(stopped) == 6  # batches of 4 or fewer: three turns of both processes, 24 questions at most
    assert 17 <= RecordFolder(stopped).read().num_rows <= 24
    assert "".join(out for out, _ in said).strip() == "bias is measured by one process: leave --devices and --nodes out"


@extended("devices")
@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
@pytest.mark.parametrize(("doomed", "sign"), [("leader", "SIGKILL"), ("helper", "SIGKILL"), ("leader", "SIGTERM")])
def test_a_process_that_is_killed_ends_the_others_and_leaves_a_run_that_goes_on(doomed, sign, tiny, tmp_path):
    leader, helper = long_run(tiny, tmp_path)
    (leader if doomed == "leader" else helper).send_signal(getattr(signal, sign))
    said = leader.communicate(timeout=300)
    assert leader.returncode != 0, said
    assert not psutil.wait_procs([helper], 120)[1]
    goes_on(tiny, tmp_path)


@extended("devices")
@pytest.mark.skipif(os.name != "posix", reason="process groups")
def test_ctrl_c_ends_all_processes_after_their_batches(tiny, tmp_path):
    leader, helper = long_run(tiny, tmp_path)
    os.killpg(leader.pid, signal.SIGINT)  # as a terminal does
    out, error = leader.communicate(timeout=300)
    assert leader.returncode == 130, error
    assert out == ""
    stopped = f"stopped: what is finished is kept in {tmp_path}/, and the same command goes on"
    assert stopped in error.splitlines(), error
    assert "Traceback" not in error, error
    assert "Forcefully" not in error, error
    assert not psutil.wait_procs([helper], 120)[1]
    goes_on(tiny, tmp_path)


def long_run(tiny, tmp_path):
    """An evaluation under way on two devices: its processes."""
    code = tmp_path / "long.py"
    code.write_text(
        "from dataclasses import replace\n"
        "from foveate.cli import run\n"
        "from foveate.options import Flat, Options\n"
        "from foveate.evaluation import evaluate\n"
        "def main(options: Flat = Options('long')) -> None:\n"
        "    evaluate(options.config)\n"
        "if __name__ == '__main__':\n"
        "    run(main)\n"
    )
    options = ("--model", tiny, "--limit", "132", "--batch-size", "2", "--out", str(tmp_path))
    leader = started(str(code), *options, "--devices", "2", group=True)
    wait_until(lambda: len(list(tmp_path.glob("records/*/part-*"))) > 4 or leader.poll() is not None, 300, "records")
    (helper,) = psutil.Process(leader.pid).children()
    return leader, helper


def goes_on(tiny, tmp_path):
    """What is left of it is half a run, which comes to the same records."""
    (folder,) = tmp_path.glob("records/*")
    assert not (folder / "DONE").exists()
    assert 0 < parts(folder) < 66
    config = EvalConfig(Identity(), model=tiny, limit=132, batch_size=66, out=tmp_path)
    resumed = evaluate(config).read()
    fresh = evaluate(replace(config, out=tmp_path / "fresh")).read()
    assert resumed.drop("log_probability").equals(
        fresh.drop("log_probability")
    )  # which batches change in the 5th digit


def test_no_run_begins_before_an_orphan_of_the_last_one_has_ended(tmp_path):
    code = (
        "import time; from pathlib import Path; from foveate.evaluation.records import RecordFolder\n"
        f"folder = RecordFolder(Path({str(tmp_path)!r}))\n"
        "with folder.hand(1):\n    print('held', flush=True)\n    time.sleep(1.5)\n"
        "    (folder.folder / 'ended').touch()"
    )
    orphan = start("-c", code)
    wait_for(orphan, lambda: orphan.stdout == "held\n")
    with RecordFolder(tmp_path).lock({}):
        assert (tmp_path / "ended").exists()
    orphan.communicate()


@extended("devices")
def test_a_search_over_two_devices_asks_every_trial_once(tiny, tmp_path):
    """The limit of lost accuracy makes every trial ask for the uncompressed model, which is evaluated before."""
    command = ["experiments/search_weights.py", "--model", tiny, "--limit", "66", "--batch-size", "4", "--keep", "7"]
    command += ["--trials", "8", "--proxy", "none", "--max-loss", "0", "--out", str(tmp_path), "--devices", "2"]
    process = started(*command)
    _, error = process.communicate(timeout=900)
    assert process.returncode == 0, error
    storage = f"sqlite:///{tmp_path}/search_weights/study.db"
    trials = optuna.load_study(study_name="search_weights", storage=storage).trials
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 8  # and none is asked for by the helper


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"devices": 0}, "devices=0"),
        ({"devices": 2, "device": "cuda:1"}, r"'cuda:1' is one device: give its kind, 'cuda'"),
        ({"devices": 99, "device": "cuda"}, "devices=99: torch sees .* of 'cuda'"),
        ({"devices": 2, "workers": 2}, r"--workers 2 with --devices 2 --nodes 1.*leave one of them out"),
    ],
)
def test_what_cannot_be_together_is_refused_before_anything_starts(options, says, capsys, monkeypatch):
    def main(options: Flat = Options("none")) -> None:
        raise AssertionError("is not reached")

    arguments = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    monkeypatch.setattr(sys, "argv", ["command", *arguments])
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)  # which `run` sets for a whole process
    with pytest.raises(SystemExit, match="2"):
        cli.run(main)
    assert re.search(says, capsys.readouterr().err)


@pytest.mark.parametrize(
    ("devices", "variables", "says"),
    [
        (3, SLURM | {"SLURM_PROCID": "0", "SLURM_LOCALID": "0"}, r"devices=3, nodes=1: .*--ntasks-per-node=2"),
        (1, {"TORCHELASTIC_RUN_ID": "1", "WORLD_SIZE": "2"}, "devices=1, nodes=1: torchrun has started 2 processes"),
    ],
)
def test_other_numbers_of_processes_than_were_started_are_refused(devices, variables, says, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(DeviceError, match=says):
        lead(lambda: None, devices=devices)


class Stopped(Team):
    """A process in which a library answers Ctrl-C with an error of its own."""

    met = 0

    def work(self):
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            raise RuntimeError("while it was at work") from None

    def help(self):
        self._finished(self.work)

    def meet(self):
        self.met += 1


def test_ctrl_c_that_a_library_answers_with_an_error_ends_a_helper_after_it_has_met_the_others():
    team = Stopped()
    _help(team)  # raises nothing, else Lightning would kill the leader
    assert team.met == 1


def test_a_worker_that_slurm_started_is_on_its_own(tiny, tmp_path, monkeypatch):
    for name, value in (SLURM | {"SLURM_PROCID": "1", "SLURM_LOCALID": "1"}).items():
        monkeypatch.setenv(name, value)
    assert evaluate(EvalConfig(Identity(), model=tiny, limit=11, out=tmp_path)).complete
