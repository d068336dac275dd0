"""Tells CSV files, TensorBoard, Weights & Biases or MLflow, through Lightning's loggers, how an evaluation goes.

What is told lies beside the records, in `<out>/logs/<logger>`, and is no part of them.

    after every batch   score (mean so far) and n (questions answered)
    at the end          accuracy, evidence_recall, seconds_per_question, tokens_per_second

Steps are numbers of questions, so a run that was killed goes on where it stopped, as another version of the same name.
Time is that of answering in this session; tokens are those of the prompts, visual and other ones.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pyarrow as pa
import pytorch_lightning as lightning
from filelock import FileLock
from pytorch_lightning.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from foveate.evaluation.config import EvalConfig
from foveate.evaluation.names import LoggerName
from foveate.evaluation.records import RecordFolder

_COLUMNS = ("score", "evidence_recall", "tokens", "text_tokens")


def _csv(folder: Path, project: str, run: str) -> Logger:
    return CSVLogger(folder, run, flush_logs_every_n_steps=1)


def _tensorboard(folder: Path, project: str, run: str) -> Logger:
    return TensorBoardLogger(folder, run, default_hp_metric=False)


def _wandb(folder: Path, project: str, run: str) -> Logger:
    import wandb  # type: ignore[import-not-found] (an extra)

    folder.mkdir(parents=True, exist_ok=True)
    return WandbLogger(name=run, id=run, project=project, save_dir=folder, settings=wandb.Settings(silent=True))


def _mlflow(folder: Path, project: str, run: str) -> Logger:
    folder.mkdir(parents=True, exist_ok=True)
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder.resolve() / 'mlflow.db'}"
    with FileLock(folder / ".lock"):  # one worker makes the tables and the experiment
        logger = MLFlowLogger(project, run, uri)
        _ = logger.experiment
    return logger


_LOGGERS: Mapping[LoggerName, Callable[[Path, str, str], Logger]] = {
    "csv": _csv,
    "tensorboard": _tensorboard,
    "wandb": _wandb,
    "mlflow": _mlflow,
}


class Course(lightning.Callback):
    """Tells loggers the mean so far after every batch, and what it came to.

    Args:
        folder: Of the records; those of all processes, and of earlier sessions, count.
        loggers: Who is told.
    """

    def __init__(self, folder: RecordFolder, loggers: Sequence[Logger]) -> None:
        self.folder, self.loggers = folder, loggers
        self._parts: dict[Path, pa.Table] = folder.since((), _COLUMNS)
        self._before, self._begun = frozenset(self._parts), perf_counter()

    def on_predict_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._begun = perf_counter()

    def on_predict_batch_end(self, *_: Any, **__: Any) -> None:  # noqa: ANN401 (what Lightning tells)
        self._parts |= self.folder.since(self._parts, _COLUMNS)
        score = self._column("score")
        self._tell({"score": float(score.mean()), "n": len(score)})

    def sum_up(self) -> None:
        """Tells what it came to."""
        seconds = perf_counter() - self._begun
        self._parts |= self.folder.since(self._parts, _COLUMNS)
        told, recall = {"accuracy": float(self._column("score").mean())}, self._column("evidence_recall")
        if not np.isnan(recall).all():
            told["evidence_recall"] = float(np.nanmean(recall))
        tokens = self._column("tokens", self._before) + self._column("text_tokens", self._before)
        told |= {"seconds_per_question": seconds / len(tokens), "tokens_per_second": float(tokens.sum()) / seconds}
        self._tell(told)

    def _column(self, name: str, without: frozenset[Path] = frozenset()) -> np.ndarray:
        return np.concatenate([table[name].to_numpy() for part, table in self._parts.items() if part not in without])

    def _tell(self, metrics: dict[str, float]) -> None:
        for logger in self.loggers:
            logger.log_metrics(metrics, sum(table.num_rows for table in self._parts.values()))


@contextmanager
def told(config: EvalConfig, folder: RecordFolder, identity: Mapping[str, Any]) -> Iterator[list[lightning.Callback]]:
    """The callbacks that tell the configuration's loggers of the evaluation in the block.

    Args:
        config: Is told as hyperparameters, and which loggers there are.
        folder: Its records; its name is that of the run.
        identity: More hyperparameters.
    """
    if not config.loggers:
        yield []
        return
    logs, run = config.out / "logs", folder.folder.name
    loggers = [_LOGGERS[name](logs / name, config.project, run) for name in dict.fromkeys(config.loggers)]
    status, course = "failed", Course(folder, loggers)
    settings = dict(identity) | {field.name: getattr(config, field.name) for field in fields(config)}
    for logger in loggers:
        logger.log_hyperparams({name: _plain(value) for name, value in settings.items()})
    try:
        yield [course]
        course.sum_up()
        status = "success"
    finally:
        for logger in loggers:
            logger.finalize(status)
            if isinstance(logger, WandbLogger):
                logger.experiment.finish()  # else the next evaluation would be told to the same run


def _plain(value: object) -> str | int | float | bool | None:
    return value if isinstance(value, str | int | float | bool | None) else str(value)
