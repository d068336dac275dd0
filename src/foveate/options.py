"""What every study is told on the command line."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Protocol, runtime_checkable

import tyro

import foveate.evaluation
from foveate.core.errors import DataError, DeviceError, OptionError, UnsupportedModel, shown
from foveate.data.names import SCENES, check_limit, parsed
from foveate.evaluation.devices import check_counts
from foveate.evaluation.names import REUSED, Existing, LoggerName, Reuse, check_loggers, check_numbers
from foveate.models.loading.names import REFERENCE, Dtype


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
        model: "reference" (shipped), a checkpoint folder, or a hub id; several are taken as trainings of one recipe.
        data: Data sets: scenes, or a benchmark (docs/benchmarks.md), read from the hub or, as in pope:PLACE, from a
            parquet file, a folder or another hub id.
        split: Split of the data set; None means the one that results are usually given for.
        limit: Number of questions; None means all of a benchmark, and of scenes as many as the experiment says.
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
        reuse: What is computed once and used again, without changing an answer in float32; what is not named is
            switched off. Only "answers" is off by default.
    """

    default_study: tyro.conf.Suppress[str]
    scenes: tyro.conf.Suppress[int | None] = None  # questions about scenes where no limit is given
    study: str | None = None
    fresh: bool = False
    model: tuple[str, ...] = (REFERENCE,)
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
    reuse: tuple[Reuse, ...] = REUSED

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
            UnsupportedModel: No model is given, or two have one name.
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
        _ = self.models
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
    def models(self) -> dict[str, str]:
        """Returns the models by a short name: that of the folder, or the hub id without its owner.

        Raises:
            UnsupportedModel: None is given, or two have the same name.
        """
        named = {re.sub(r"[^\w.+-]", "_", Path(model).name or model): model for model in self.model}
        if len(named) != len(self.model) or not named:
            raise UnsupportedModel(
                f"model {' '.join(self.model) or '(none)'}: expected one or several models whose folders or hub ids "
                "differ in their last part, which names their studies"
            )
        return named

    @property
    def checkpoint(self) -> str:
        """Returns the model of an experiment that takes one.

        Raises:
            UnsupportedModel: Several are given.
        """
        if len(self.model) != 1:
            raise UnsupportedModel(f"model {' '.join(self.model)}: this experiment takes one model")
        return self.model[0]

    @property
    def config(self) -> "foveate.evaluation.EvalConfig":
        """The evaluation, its compressor still to be chosen.

        Raises:
            DataError: Several data sets are given.
        """
        if len(self.data) != 1:
            raise DataError(f"data {' '.join(self.data)}: this experiment takes one data set")
        return self._on(self.data[0], self.checkpoint)

    @property
    def each(self) -> tuple[tuple[str, "foveate.evaluation.EvalConfig"], ...]:
        """Returns the name of the study and the evaluation of every data set and model.

        A study of scenes is called as the user says; that of a benchmark, or of another than its usual split, says so.
        With several models each study's name says which.

        Raises:
            DataError: None is given, one is unknown, or one is given twice.
        """
        if not self.data:
            raise DataError("no data set is given")
        pairs = [(data, model) for data in self.data for model in self.model]
        configs = [self._on(*pair) for pair in pairs]
        labels = {model: f"_{label}" if len(self.model) > 1 else "" for label, model in self.models.items()}
        names = [self.study_name(config) + labels[config.model] for config in configs]
        if len(set(names)) < len(names):
            raise DataError(f"data {' '.join(self.data)}: the same data set twice; give each run another --study")
        return tuple(zip(names, configs, strict=True))

    def study_name(self, config: "foveate.evaluation.EvalConfig") -> str:
        """Returns the name of the study of a data set, without the model's."""
        from foveate.data.load import default_split

        data, _ = parsed(config.data)
        if data == SCENES:
            return self.name
        return f"{self.name}_{data}" + (f"_{config.split}" if config.split != default_split(data) else "")

    def _on(self, data: str, model: str) -> "foveate.evaluation.EvalConfig":
        from foveate.compressors import Identity
        from foveate.data.load import answer_tokens
        from foveate.evaluation import EvalConfig

        return EvalConfig(
            Identity(),
            model,
            data,
            self.split or "",
            self.scenes if self.limit is None and parsed(data)[0] == SCENES else self.limit,
            self.seed,
            dtype=self.dtype,
            batch_size=self.batch_size,
            device=self.device,
            out=self.out,
            on_error=self.on_error,
            max_new_tokens=answer_tokens(data) if self.max_new_tokens is None else self.max_new_tokens,
            loggers=self.logger,
            project=self.name,
            reuse=self.reuse,
        )


Flat = Annotated[Options, tyro.conf.arg(name="")]
"""Options without a prefix."""
