"""Commands that several processes run together, started by the command itself, by torchrun and as by srun."""

import os
import re
import signal
import subprocess
import sys
from dataclasses import replace

import optuna
import psutil
import pytest
from optuna.trial import TrialState

from foveate import cli
from foveate.compressors import Identity
from foveate.core.errors import DeviceError
from foveate.data.load import load_samples
from foveate.evaluation import EvalConfig, evaluate, ranks
from foveate.evaluation.answering import Evaluation
from foveate.evaluation.records import RecordFolder
from foveate.evaluation.run import cached_load, data_of, loaded_samples
from foveate.methods import fastv, vtc_cls
from foveate.options import Flat, Options
from tests.scripts import ROOT
from tests.services import hears_ctrl_c, wait_until
from tests.tiers import extended, parametrize

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
LAUNCHERS = ("--workers", "--devices", "torchrun", "srun")


def started(*arguments, group=False, **variables):
    pipe = subprocess.PIPE
    heard = {"start_new_session": True, "preexec_fn": hears_ctrl_c} if group else {}
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"} | variables
    command = [sys.executable, *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True, **heard)


def launched(launcher, script, *options):
    """The processes that the test starts; `--workers` and torchrun start theirs themselves."""
    command = (ROOT / "experiments" / f"{script}.py", *options)
    match launcher:
        case "torchrun":
            return [started(*TORCHRUN, *command)]
        case "srun":  # sets these variables; there is no SLURM here
            tasks = ({"SLURM_NTASKS": "2", "SLURM_PROCID": str(i), "SLURM_LOCALID": str(i)} for i in range(2))
            return [started(*command, **task) for task in tasks]
    return [started(*command, launcher, "2")]


def finished(processes):
    outputs = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), outputs
    assert all("Traceback" not in error for _, error in outputs), outputs
    return "".join(out for out, _ in outputs)


@pytest.fixture
def config(tiny, tmp_path):
    return EvalConfig(Identity(), model=tiny, limit=66, max_new_tokens=3, out=tmp_path)


@parametrize("launcher", LAUNCHERS, fast=("--devices",), reason="devices")
def test_two_processes_leave_the_records_of_one(launcher, config, tmp_path):
    options = (
        "--model",
        config.model,
        "--limit",
        66,
        "--batch-size",
        4,
        "--max-new-tokens",
        3,
        "--out",
        tmp_path / "two",
    )
    printed = finished(launched(launcher, "answer_benchmark", *options))
    assert printed.count("n = 66 questions of scenes") == 1  # by rank 0
    (run,) = (tmp_path / "two" / "records").iterdir()
    one = evaluate(replace(config, batch_size=4, out=tmp_path / "one"))
    assert run.name == one.folder.name
    two = RecordFolder(run)
    assert two.complete
    assert two.read().equals(one.read())  # reading refuses a question that has two records
    assert [part.name for part in two.parts()] == [part.name for part in one.parts()]  # the same batches
    assert len(list(tmp_path.glob("two/encodings/*.arrow"))) == 1


@parametrize("launcher", LAUNCHERS, fast=("--workers",), reason="devices")
def test_two_processes_run_every_trial_of_a_study_once(launcher, config, tmp_path):
    options = ("--model", config.model, "--limit", 33, "--keep", 7, "--layers", 0, 1, "--max-new-tokens", 2)
    one = finished(launched("--workers", "ablate_layers", *options, "--out", tmp_path / "one")[:1])
    two = finished(launched(launcher, "ablate_layers", *options, "--out", tmp_path / "two"))
    assert two.replace("/two/", "/one/") == one
    tables = [tmp_path / name / "ablate_layers" / "table.csv" for name in ("one", "two")]
    assert tables[0].read_bytes() == tables[1].read_bytes()
    study = optuna.load_study(study_name="ablate_layers", storage=f"sqlite:///{tmp_path}/two/ablate_layers/study.db")
    assert {trial.state for trial in study.trials} == {TrialState.COMPLETE}
    assert len({str(trial.params) for trial in study.trials}) == len(study.trials) == 17


@extended("devices")
def test_a_search_and_a_measurement_of_bias_are_shared_too(tiny, tmp_path):
    common = ("--model", tiny, "--limit", 22, "--batch-size", 11, "--max-new-tokens", 2)
    commands = {
        "search_weights": (*common, "--keep", 7, "--trials", 8, "--proxy", "none", "--no-stops"),
        "measure_bias": (*common, "--side", 12, "--shares", 0.1, "--no-head-rows", "--no-corrections"),
    }
    for script, options in commands.items():
        finished(launched("--workers", script, *options, "--out", tmp_path / "two"))
        finished([started(ROOT / "experiments" / f"{script}.py", *options, "--out", tmp_path / "one")])
    bias = [(tmp_path / name / "measure_bias" / "table.csv").read_bytes() for name in ("one", "two")]
    assert bias[0] == bias[1]
    storage = f"sqlite:///{tmp_path}/two/search_weights/study.db"
    states = [trial.state for trial in optuna.load_study(study_name="search_weights", storage=storage).trials]
    assert states.count(TrialState.COMPLETE) == len(states)


def test_a_share_is_every_second_batch_whatever_is_left(config):
    loaded = cached_load(config.model)
    config = replace(config, batch_size=11)
    samples, questions = data_of(replace(config, limit=66))
    batches = [part.name for part in evaluate(replace(config, out=config.out / "whole")).parts()]
    folder = RecordFolder(config.out / "records" / "shares")
    evaluation = Evaluation(config, loaded, samples, questions, folder)
    everything = frozenset(sample.id for sample in samples)
    folder.begin({})
    assert evaluation.answer(everything, 1, 2, None)
    half = [part.name for part in folder.parts()]
    assert len(half) == len(batches) // 2 and set(half) < set(batches)
    assert evaluation.answer(everything - folder.done(), 0, 2, None)
    assert sorted(part.name for part in folder.parts()) == sorted(batches)


def test_a_process_takes_the_shares_of_those_that_never_come(config, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert ranks.shares() == [1, 2, 0]
    folder = evaluate(replace(config, compressor=vtc_cls(9, 1), batch_size=11), shared=True)
    assert folder.complete and folder.read().num_rows == 66


def test_failed_questions_are_recorded_once_by_several_processes(tiny, tmp_path, monkeypatch):
    samples = load_samples("scenes", "test", 22)
    broken = [replace(s, problem="it is broken") if i % 5 == 0 else s for i, s in enumerate(samples)]
    monkeypatch.setattr("foveate.evaluation.run.load_samples", lambda *_: broken)
    loaded_samples.cache_clear()
    monkeypatch.setenv("WORLD_SIZE", "2")
    config = EvalConfig(
        fastv(9, 2), model=tiny, limit=22, batch_size=4, max_new_tokens=2, on_error="skip", out=tmp_path
    )
    folder = evaluate(config, shared=True)
    loaded_samples.cache_clear()
    assert len(folder.failed()) == 5
    assert folder.read().num_rows == 17


def under_way(tiny, tmp_path, group=True):
    """A long evaluation by two processes, both of which have begun: the first, and the one that it has started."""
    options = ("--model", tiny, "--limit", 264, "--batch-size", 2, "--out", tmp_path, "--workers", 2)
    first = started(ROOT / "experiments" / "answer_benchmark.py", *options, group=group)
    enough = 12
    wait_until(
        lambda: len(list(tmp_path.glob("records/*/part-*"))) > enough or first.poll() is not None, 300, "records"
    )
    (second,) = psutil.Process(first.pid).children()
    return first, second


def resumes(tiny, tmp_path):
    """Part of a run is left, and resuming comes to the records of a run that was not disturbed."""
    (folder,) = tmp_path.glob("records/*")
    assert not (folder / "DONE").exists()
    config = EvalConfig(Identity(), model=tiny, limit=264, batch_size=2, out=tmp_path)
    assert evaluate(config).read().equals(evaluate(replace(config, out=tmp_path / "fresh")).read())


@extended("devices")
@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
@pytest.mark.parametrize("sign", ["SIGKILL", "SIGTERM"])
def test_the_process_that_is_killed_takes_those_that_it_started_with_it(sign, tiny, tmp_path):
    first, second = under_way(tiny, tmp_path)
    first.send_signal(getattr(signal, sign))
    first.communicate(timeout=120)
    assert first.returncode != 0
    assert not psutil.wait_procs([second], 60)[1]
    resumes(tiny, tmp_path)


@extended("devices")
@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_the_share_of_a_process_that_is_killed_is_done_by_the_others(tiny, tmp_path):
    first, second = under_way(tiny, tmp_path)
    second.send_signal(signal.SIGKILL)
    out, error = first.communicate(timeout=300)
    assert first.returncode == 0, error
    assert "1 of 2 processes failed (exit codes [-9]); the others did their work" in error
    assert "n = 264 questions" in out
    (folder,) = tmp_path.glob("records/*")
    assert RecordFolder(folder).read().num_rows == 264


@extended("devices")
@pytest.mark.skipif(os.name != "posix", reason="process groups")
def test_ctrl_c_ends_all_processes_with_one_line(tiny, tmp_path):
    first, second = under_way(tiny, tmp_path)
    os.killpg(first.pid, signal.SIGINT)  # as a terminal does
    out, error = first.communicate(timeout=120)
    assert (first.returncode, out) == (130, "")
    assert [line for line in error.splitlines() if line][-1] == "stopped; the same command resumes"
    assert error.count("stopped") == 1 and "Traceback" not in error
    assert not psutil.wait_procs([second], 60)[1]
    resumes(tiny, tmp_path)


@pytest.mark.parametrize(
    ("options", "variables", "says"),
    [
        (("--workers", "0"), {}, "workers=0"),
        (("--devices", "-1"), {}, "workers=-1"),
        (("--workers", "2", "--device", "cuda:1"), {}, r"'cuda:1' is one device for 2 processes: expected its kind"),
        (("--device", "cuda:1"), {"RANK": "1", "WORLD_SIZE": "2"}, r"'cuda:1' is one device for 2 processes"),
        (("--workers", "2", "--device", "cuda"), {}, r"'cuda': torch sees none here"),
        (("--fresh",), {"RANK": "0", "WORLD_SIZE": "2"}, "--fresh with several processes"),
        (("--fresh", "--workers", "2", "--model", "a", "b"), {}, "--fresh with several processes"),
    ],
)
def test_what_several_processes_cannot_do_is_refused_before_anything_starts(
    options, variables, says, capsys, monkeypatch
):
    def main(options: Flat = Options("none")) -> None:
        raise AssertionError("is not reached")

    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["command", *options])
    with pytest.raises(SystemExit, match="2"):
        cli.run(main)
    assert re.search(says, capsys.readouterr().err)
    assert {name: os.environ.get(name) for name in ("RANK", "WORLD_SIZE")} == {
        name: variables.get(name) for name in ("RANK", "WORLD_SIZE")
    }


def test_processes_take_devices_by_their_local_rank(monkeypatch):
    taken = []
    monkeypatch.setattr("torch.accelerator.device_count", lambda: 2)
    monkeypatch.setattr("torch.accelerator.set_device_index", taken.append)
    for local in range(4):
        for name, value in {"RANK": local, "WORLD_SIZE": 4, "LOCAL_RANK": local}.items():
            monkeypatch.setenv(name, str(value))
        with ranks.workers(1, "cuda"):
            pass
    assert taken == [0, 1, 0, 1]


def test_a_single_process_may_name_its_device():
    with ranks.workers(1, "cuda:1"):
        assert (ranks.rank(), ranks.world_size()) == (0, 1)
    with pytest.raises(DeviceError, match="'cuda:1'"), ranks.workers(2, "cuda:1"):
        pass
    assert ranks.world_size() == 1


def test_only_rank_0_prints_and_writes(config, tmp_path):
    options = ("--model", config.model, "--limit", 11, "--max-new-tokens", 2, "--out", tmp_path)
    script = ROOT / "experiments" / "answer_benchmark.py"
    assert finished([started(script, *options, RANK="1", WORLD_SIZE="2")]) == ""
    assert not list(tmp_path.glob("answers*"))
    assert len(list(tmp_path.glob("records/*/DONE"))) == 1
    for _ in range(2):  # the second time from the memory of finished commands
        assert "11 questions" in finished([started(script, *options, RANK="0", WORLD_SIZE="2")])
        assert finished([started(script, *options, RANK="1", WORLD_SIZE="2")]) == ""
