"""What all experiments are told on the command line, and how they run."""

import errno
import logging
import os
import re
import signal
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass, replace
from functools import partial, wraps
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, Protocol, runtime_checkable

import tyro

import foveate.evaluation
from foveate.core.errors import DataError, DeviceError, FoveateError, OptionError, behind, interrupted, shown
from foveate.core.finished import RESULTS, Copied, command_of, remember, remembered
from foveate.data.names import SCENES, check_limit, parsed
from foveate.evaluation.devices import check_counts, lead
from foveate.evaluation.interruption import hear_nothing_more, leave_first, overhear_nothing
from foveate.evaluation.names import SHARED, Existing, LoggerName, Sharing, check_loggers, check_numbers
from foveate.models.names import REFERENCE, Dtype

_LIGHTNING = "accelerators callbacks core loggers loops plugins profilers strategies trainer tuner utilities".split()
_CHATTER = {  # below the loggers `lightning_fabric` and `pytorch_lightning`, whose levels their import sets
    **dict.fromkeys((f"lightning_fabric.{part}" for part in _LIGHTNING), logging.WARNING),
    **dict.fromkeys((f"pytorch_lightning.{part}" for part in _LIGHTNING), logging.WARNING),
    "lightning_fabric.strategies.launchers": logging.INFO,  # says who died
    "pytorch_lightning.utilities.rank_zero": logging.WARNING,
    "pytorch_lightning.loggers.mlflow": logging.ERROR,  # warns of what it creates
    "mlflow.store": logging.WARNING,
}
_NOISE = (
    ".*does not have many workers",  # prediction does not wait for data here
    "Couldn't infer the batch indices",  # records carry the ids of their samples
    ".*LeafSpec",  # between Lightning and torch
    ".*is experimental",
    ".*is an experimental feature",
)
_REFUSED = {getattr(errno, name) for name in "EACCES EPERM EROFS ENOSPC EDQUOT EFBIG EIO EPIPE".split()}


@runtime_checkable
class Checked(Protocol):
    """Arguments of a command that say themselves what they cannot be; they are asked before anything else is done."""

    def check(self) -> None:
        """Raises `FoveateError` if something in it cannot be."""
        ...


@dataclass(frozen=True)
class Options:
    """What every study is told.

    Attributes:
        study: Name of the study and of its folder. Without it the study has the name of the experiment, and one with
            another configuration goes to a folder of its own beside the first.
        fresh: Moves the study of this name aside, to <study>.old-<n>, and starts anew.
        model: "reference" (shipped), a checkpoint folder, or a hub id of a LLaVA.
        data: Data sets: scenes, or a benchmark (docs/benchmarks.md), read from the hub or, as in pope:PLACE, from a
            parquet file, a folder or another hub id.
        split: Split of the data set; None means the one that results are usually given for.
        limit: Number of questions; None means all.
        seed: Of the generated data.
        batch_size: Questions per batch; lower it for large models.
        device: Where the model runs, such as cpu or cuda.
        dtype: Of weights and activations.
        devices: Devices on each machine that share every evaluation, each with a model of its own; torchrun and SLURM
            must have started as many processes, without them they are started.
        nodes: Machines that share every evaluation; they run the same command and share `out`.
        workers: Processes on this machine that share the work, each with evaluations of its own.
        storage: Database URL for several machines, such as postgresql+psycopg://user:password@host/database; they
            run the same command and must share `out`. Default is a SQLite file in the study's folder.
        logger: Where the course of every evaluation is told: csv, tensorboard, wandb, mlflow, or nothing at all. Files
            lie in `<out>/logs`.
        out: Folder of all results.
        on_error: What becomes of a question that cannot be asked: stop the run, or skip it, to be recorded as failed.
        max_new_tokens: Longest answer; None means what the data set calls for.
        sharing: What is computed once and used again, without changing an answer in float32; what is not named is
            switched off. Only "answers" is off by default.
    """

    default_study: tyro.conf.Suppress[str]
    study: str | None = None
    fresh: bool = False
    model: str = REFERENCE
    data: tuple[str, ...] = (SCENES,)
    split: str | None = None
    limit: int | None = None
    seed: int = 0
    batch_size: int = 256
    device: str = "cpu"
    dtype: Dtype = "float32"
    devices: int = 1
    nodes: int = 1
    workers: int = 1
    storage: str | None = None
    logger: tuple[LoggerName, ...] = ("csv",)
    out: Path = Path("runs")
    on_error: Literal["stop", "skip"] = "stop"
    max_new_tokens: int | None = None
    sharing: tuple[Sharing, ...] = SHARED

    @property
    def name(self) -> str:
        """Name of the study."""
        return self.default_study if self.study is None else self.study

    @property
    def existing(self) -> Existing:
        """How an existing study of that name is treated."""
        return "aside" if self.fresh else "beside" if self.study is None else "refuse"

    def check(self) -> None:
        """Refuses what would be noticed late, or not at all.

        Raises:
            OptionError: The study's name is none for a folder, or a value is out of range.
            MissingPackage: A logger is not installed.
            DeviceError: Workers and devices are asked for, or there would be none.
            DataError: A data set is unknown, or no question is asked for.
        """
        if not re.fullmatch(r"(?!\.)[\w.+ -]{1,100}", self.name):
            raise OptionError(
                f"study {shown(self.name)}: it names a folder in --out; expected up to 100 letters, digits, spaces "
                "and any of _ . + -, the first no dot"
            )
        if "\0" in str(self.out):
            raise OptionError(f"out {shown(str(self.out))}: no folder can be called so")
        if self.storage == "":
            raise OptionError("storage '': expected the URL of a database; leave it out for a file in --out")
        if self.workers < 1:
            raise OptionError(f"workers={self.workers}: at least one is needed")
        check_numbers(self.seed, self.batch_size, self.max_new_tokens)
        for data in self.data:
            parsed(data)
        check_limit(self.limit)
        check_loggers(self.logger)
        check_counts(self.devices, self.nodes)
        if self.workers > 1 and self.devices * self.nodes > 1:
            raise DeviceError(
                f"--workers {self.workers} with --devices {self.devices} --nodes {self.nodes}: either workers share "
                "the evaluations of a study, or devices share every evaluation; leave one of them out"
            )

    def alone(self) -> None:
        """Refuses what only studies have.

        Raises:
            OptionError: Workers or a database are given.
        """
        if self.workers != 1 or self.storage is not None:
            raise OptionError("this is one process without a database: leave --workers and --storage out")
        if self.fresh:
            raise OptionError("this command keeps no study that could be moved aside: leave --fresh out")

    @property
    def config(self) -> "foveate.evaluation.EvalConfig":
        """The evaluation, its compressor still to be chosen.

        Raises:
            DataError: Several data sets are given.
        """
        if len(self.data) != 1:
            raise DataError(f"data {' '.join(self.data)}: this experiment takes one data set")
        return self._on(self.data[0])

    @property
    def each(self) -> tuple[tuple[str, "foveate.evaluation.EvalConfig"], ...]:
        """Of every data set the name of its study and the evaluation.

        A study of scenes is called as the user says; that of a benchmark, or of another than its usual split, says so.

        Raises:
            DataError: None is given, one is unknown, or one is given twice.
        """
        if not self.data:
            raise DataError("no data set is given")
        configs = [self._on(data) for data in self.data]
        names = [self._name(config) for config in configs]
        if len(set(names)) < len(names):
            raise DataError(f"data {' '.join(self.data)}: the same data set twice; give each run another --study")
        return tuple(zip(names, configs, strict=True))

    def _name(self, config: "foveate.evaluation.EvalConfig") -> str:
        from foveate.data.load import default_split

        data, _ = parsed(config.data)
        if data == SCENES:
            return self.name
        return f"{self.name}_{data}" + (f"_{config.split}" if config.split != default_split(data) else "")

    def _on(self, data: str) -> "foveate.evaluation.EvalConfig":
        from foveate.compression import Identity
        from foveate.data.load import answer_tokens
        from foveate.evaluation import EvalConfig

        return EvalConfig(
            Identity(),
            self.model,
            data,
            self.split or "",
            self.limit,
            self.seed,
            dtype=self.dtype,
            batch_size=self.batch_size,
            device=self.device,
            out=self.out,
            on_error=self.on_error,
            max_new_tokens=answer_tokens(data) if self.max_new_tokens is None else self.max_new_tokens,
            loggers=self.logger,
            project=self.name,
            sharing=self.sharing,
        )


Flat = Annotated[Options, tyro.conf.arg(name="")]
"""Options without a prefix."""


def run(main: Callable[..., None]) -> None:
    """Parses the command line into the arguments of `main`; what a user can mend is said in one line, exit status 2.

    Ctrl-C is said in one line as well, exit status 130.
    """
    for name, level in _CHATTER.items():
        logging.getLogger(name).setLevel(level)
    for message in _NOISE:
        warnings.filterwarnings("ignore", message=message)
    overhear_nothing()
    try:
        tyro.cli(_led(main))
    except (KeyboardInterrupt, Exception) as error:
        if interrupted(error):
            _stopped("")
        if isinstance(error, FoveateError):
            what = str(error)
        elif refused := _refused(error):
            what = f"{refused}. What is finished is kept: mend that and run the same command again"
        else:
            raise
        print(f"error: {what}", file=sys.stderr)
        sys.exit(2)
    finally:
        leave_first()  # what was imported meanwhile may have registered something


def _refused(error: BaseException) -> str:
    """What disk or database said when they did not take what was written, if that is behind an error."""
    from sqlalchemy.exc import OperationalError

    def refused(one: BaseException) -> bool:
        return isinstance(one, OperationalError) or (isinstance(one, OSError) and one.errno in _REFUSED)

    found = behind(error, refused)
    return str(found).splitlines()[0] if found else ""


def _led(main: Callable[..., None]) -> Callable[..., None]:
    """`main` in the first of the processes that its options ask for."""

    @wraps(main)
    def led(**arguments: object) -> None:
        for value in arguments.values():
            if isinstance(value, Checked):
                value.check()
        options = next((value for value in arguments.values() if isinstance(value, Options)), None)
        if options is None:
            return main(**arguments)
        inputs = _inputs(options)
        command = command_of({**arguments, "options": replace(options, fresh=False)})
        folder = options.out / options.name
        if inputs and not options.fresh and (printed := remembered(folder, command)) is not None:
            print(printed, end="")
            print("Nothing was left to do: this command has finished, and no file has changed since.", file=sys.stderr)
            return None
        begun = time.time()
        heard: Any = Copied(sys.stdout)
        with redirect_stdout(heard):
            task = partial(_said_how_to_go_on, main, arguments, options.out)
            lead(task, options.device, options.devices, options.nodes)
        if inputs and RESULTS:
            _remember(folder, command, heard.text, inputs, begun)

    return led


def _inputs(options: Options) -> list[Path]:
    """Returns files and folders that a command's results depend on besides its code; none if it is not remembered.

    It is not with a database or checkpoint elsewhere, nor for several devices, each of which would print the report.
    """
    model = Path(str(files("foveate.reference"))) if options.model == REFERENCE else Path(options.model)
    data = [Path(place) for _, place in map(parsed, options.data) if place]
    try:
        alone = options.storage is None and options.devices * options.nodes == 1
        there = alone and all(path.exists() for path in (model, *data))
    except (OSError, ValueError):  # no file can have such a name
        there = False
    return [model, *data] if there else []


def _remember(folder: Path, command: str, printed: str, inputs: Sequence[Path], begun: float) -> None:
    from foveate.evaluation.source import is_own

    loaded = [(name, getattr(module, "__file__", None)) for name, module in sys.modules.items()]
    code = [Path(path) for name, path in loaded if path and (is_own(name) or name.partition(".")[0] == "foveate")]
    found = [path for results in RESULTS.values() for path in results()]
    remember(folder, command, printed, [*inputs, *code], found, begun)


def _said_how_to_go_on(main: Callable[..., None], arguments: Mapping[str, object], out: Path) -> None:
    if sys.stderr.isatty():
        print(f"Results go to {out}/. Ctrl-C ends the run after a batch; the same command goes on.", file=sys.stderr)
    try:
        main(**arguments)
    except (KeyboardInterrupt, Exception) as error:
        if not interrupted(error):
            raise
        _stopped(f": what is finished is kept in {out}/, and the same command goes on")


def _stopped(how_to_go_on: str) -> NoReturn:
    """Says so, if anybody is left who reads it: what a pipe leads to has heard Ctrl-C as well."""
    hear_nothing_more()
    with suppress(OSError):
        print(f"\nstopped{how_to_go_on}", file=sys.stderr, flush=True)
    try:
        sys.stdout.flush()
    except OSError:  # else Python tries once more and changes the status
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # once more stops at once, whatever is still tidied up
    sys.exit(130)
