"""The command-line options that all experiments share."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Protocol, runtime_checkable

import tyro

import foveate.evaluation
from foveate.core.errors import DataError, OptionError, UnsupportedModel, shown
from foveate.data.names import FRAMES, GENERATED, SCENES, FramesAs, check_limit, parsed, table_of
from foveate.evaluation.names import REUSABLE, Existing, LoggerName, Reuse, check_loggers, check_numbers
from foveate.evaluation.ranks import started_elsewhere
from foveate.models.loading.names import AUTO, REFERENCE, Dtype, check_model


@runtime_checkable
class Checked(Protocol):
    """Arguments of a command that check their own values, which is done before anything else."""

    def check(self) -> None:
        """Raises `FoveateError` if a value is invalid."""
        ...


@dataclass(frozen=True)
class Options:
    """Options of all experiments.

    Attributes:
        study: Name of the study and of its folder. Default is the name of the experiment; a study with another
            configuration then goes to a folder of its own beside the first.
        fresh: Rename the existing study of this name to <study>.old-<n>, and start anew.
        model: "reference" (shipped), a checkpoint folder or a hub ID; `ablate` and `compare` take several.
        data: Data sets: scenes; clips, which are videos; a benchmark, read from the hub or, as in pope:LOCATION, from a
            parquet file, a folder or another hub ID; or a table of your own, PATH or PATH:METRIC. Benchmarks:
            https://github.com/foveate/foveate/blob/main/docs/how_to/benchmarks.md Tables:
            https://github.com/foveate/foveate/blob/main/docs/how_to/own_data.md
        split: Split of the data set; None means the one that results are usually reported on.
        limit: Number of questions; None means all of a benchmark, and of scenes or clips the experiment's own number.
        seed: Seed of generated data.
        frames: Frames that are shown of each video.
        frames_as: "video" gives them to the model as a video, "images" as images, which models without videos take too.
        batch_size: Questions per batch; "auto" is what fits the model and the memory. A batch for which memory does not
            suffice is answered in halves.
        device: Device of the model, such as cpu or cuda; "auto" is cuda if there is one, else mps, else cpu.
        dtype: Type of weights and activations; "auto" is float32 on a CPU, and elsewhere that of the checkpoint.
        workers: Processes on this machine that share the work. Process i uses device i (modulo their number); on a CPU
            they share its cores. With torchrun or srun, leave it out: every process that they start shares the work.
        storage: Database URL for several machines, such as postgresql+psycopg://user:password@host/database; they run
            the same command and share `out`. Default is a SQLite file in the study's folder.
        logger: Loggers of every evaluation's metrics: csv, tensorboard, wandb, mlflow, or none. Files lie in
            `<out>/logs`.
        out: Folder of all results.
        on_error: "stop" ends the run at a question that cannot be asked, "skip" records it as failed.
        max_new_tokens: Longest answer; None means the data set's own.
        reuse: Results that are computed once and reused, which changes no answer in float32; those that are not named
            are computed every time.
    """

    default_study: tyro.conf.Suppress[str]
    scenes: tyro.conf.Suppress[int | None] = None  # number of questions about scenes or clips without a limit
    study: str | None = None
    fresh: bool = False
    model: tuple[str, ...] = (REFERENCE,)
    data: tuple[str, ...] = (SCENES,)
    split: str | None = None
    limit: int | None = None
    seed: int = 0
    frames: int = FRAMES
    frames_as: FramesAs = "video"
    batch_size: int | Literal["auto"] = AUTO
    device: str = AUTO
    dtype: Dtype | Literal["auto"] = AUTO
    workers: Annotated[int, tyro.conf.arg(aliases=["--devices"])] = 1
    storage: str | None = None
    logger: tuple[LoggerName, ...] = ("csv",)
    out: Path = Path("runs")
    on_error: Literal["stop", "skip"] = "stop"
    max_new_tokens: int | None = None
    reuse: tuple[Reuse, ...] = REUSABLE

    @property
    def name(self) -> str:
        """Name of the study."""
        return self.default_study if self.study is None else self.study

    @property
    def existing(self) -> Existing:
        """Treatment of an existing study of that name."""
        return "aside" if self.fresh else "beside" if self.study is None else "refuse"

    def check(self) -> None:
        """Checks the values that would otherwise be noticed late or not at all.

        Raises:
            OptionError: The study's name cannot be a folder's, or a value is out of range.
            MissingPackage: A logger is not installed.
            DataError: A data set is unknown, a table does not exist, or `limit` is below 1.
            UnsupportedModel: No model is given, two have the same name, or a folder does not exist.
        """
        if not re.fullmatch(r"(?!\.)[\w.+ -]{1,100}", self.name):
            raise OptionError(
                f"study {shown(self.name)}: it names a folder in --out; expected up to 100 letters, digits, spaces "
                "and any of _ . + -, the first no dot"
            )
        if "\0" in str(self.out):
            raise OptionError(f"out {shown(str(self.out))}: expected the name of a folder")
        if self.storage == "":
            raise OptionError("storage '': expected the URL of a database; leave it out for a file in --out")
        if self.workers < 1:
            raise OptionError(f"workers={self.workers}: at least one is needed")
        check_numbers(self.seed, self.batch_size, self.max_new_tokens, self.frames)
        for data in self.data:
            parsed(data)
            if table := table_of(data):
                _ = table.location
        _ = self.models
        for model in self.model:
            check_model(model)
        check_limit(self.limit)
        check_loggers(self.logger)
        if self.fresh and (started_elsewhere() or (self.workers > 1 and len(self.model) * len(self.data) > 1)):
            raise OptionError(
                "--fresh with several processes: they could not tell the old study from the new one; run the command "
                "once without them, for one model and one data set, and then again without --fresh"
            )

    def without_storage(self) -> None:
        """Checks the options of a command that keeps no study.

        Raises:
            OptionError: A database is given.
        """
        if self.storage is not None:
            raise OptionError("this command keeps no study, so it needs no database: leave --storage out")

    @property
    def models(self) -> dict[str, str]:
        """Returns the models by a short name: the folder's, or the hub ID without its owner.

        Raises:
            UnsupportedModel: No model is given, or two have the same name.
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
        """The evaluation, without its compressor.

        Raises:
            DataError: Several data sets are given.
        """
        if len(self.data) != 1:
            raise DataError(f"data {' '.join(self.data)}: this experiment takes one data set")
        return self._on(self.data[0], self.checkpoint)

    @property
    def each(self) -> tuple[tuple[str, "foveate.evaluation.EvalConfig"], ...]:
        """Returns the name of the study and the evaluation of every data set and model.

        The name of a study of scenes is the user's; a benchmark or table, a split that is not the usual one and, if
        there are several, the model are appended.

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
            raise DataError(
                f"data {' '.join(self.data)}: the same data set twice, or two tables of one name, would be one study; "
                "run each by itself with another --study, or rename a table"
            )
        return tuple(zip(names, configs, strict=True))

    @property
    def by_model(self) -> tuple[tuple[str, "foveate.evaluation.EvalConfig"], ...]:
        """Returns what `each` returns, the data sets of a model in a row, so that every model is loaded once."""
        return tuple(sorted(self.each, key=lambda pair: self.model.index(pair[1].model)))

    def study_name(self, config: "foveate.evaluation.EvalConfig") -> str:
        """Returns the name of the study of a data set, without the model's."""
        from foveate.data.load import default_split

        data, _ = parsed(config.data)
        if data == SCENES:
            return self.name
        table = table_of(config.data)
        split = f"_{config.split}" if config.split != default_split(config.data) else ""
        return f"{self.name}_{table.label if table else data}{split}"

    def _on(self, data: str, model: str) -> "foveate.evaluation.EvalConfig":
        from foveate.compressors import Identity
        from foveate.data.load import answer_tokens
        from foveate.evaluation import EvalConfig

        return EvalConfig(
            Identity(),
            model,
            data,
            self.split or "",
            self.scenes if self.limit is None and parsed(data)[0] in GENERATED else self.limit,
            self.seed,
            self.frames,
            self.frames_as,
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
