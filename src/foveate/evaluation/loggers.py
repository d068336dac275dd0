"""Metrics of a running evaluation for Lightning's loggers: CSV files, TensorBoard, Weights & Biases or MLflow.

Their files lie in `<out>/logs/<logger>`.

    after every batch   score (mean so far) and n (answered questions)
    at the end          accuracy, evidence_recall, seconds_per_question, tokens_per_second

The step is the number of answered questions, so a resumed run continues its curves, as another version of the same
name. Time is that of this process; tokens are the prompts' visual and text tokens.
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
    with FileLock(folder / ".lock"):  # one process creates the tables and the experiment
        logger = MLFlowLogger(project, run, uri)
        _ = logger.experiment
    return logger


_LOGGERS: Mapping[LoggerName, Callable[[Path, str, str], Logger]] = {
    "csv": _csv,
    "tensorboard": _tensorboard,
    "wandb": _wandb,
    "mlflow": _mlflow,
}


class MetricsCallback(lightning.Callback):
    """A callback that logs the mean score so far after every batch.

    Args:
        folder: The records; those of other processes and of earlier sessions count.
        loggers: Lightning's loggers.
    """

    def __init__(self, folder: RecordFolder, loggers: Sequence[Logger]) -> None:
        self.folder, self.loggers = folder, loggers
        self._parts: dict[Path, pa.Table] = folder.since((), _COLUMNS)
        self._before, self._begun = frozenset(self._parts), perf_counter()

    def on_predict_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._begun = perf_counter()

    def on_predict_batch_end(self, *_: Any, **__: Any) -> None:  # noqa: ANN401 (Lightning's arguments)
        self._parts |= self.folder.since(self._parts, _COLUMNS)
        score = self._column("score")
        self._log({"score": float(score.mean()), "n": len(score)})

    def log_totals(self) -> None:
        """Logs the metrics of the whole evaluation."""
        seconds = perf_counter() - self._begun
        self._parts |= self.folder.since(self._parts, _COLUMNS)
        metrics, recall = {"accuracy": float(self._column("score").mean())}, self._column("evidence_recall")
        if not np.isnan(recall).all():
            metrics["evidence_recall"] = float(np.nanmean(recall))
        tokens = self._column("tokens", self._before) + self._column("text_tokens", self._before)
        metrics |= {"seconds_per_question": seconds / len(tokens), "tokens_per_second": float(tokens.sum()) / seconds}
        self._log(metrics)

    def _column(self, name: str, without: frozenset[Path] = frozenset()) -> np.ndarray:
        return np.concatenate([table[name].to_numpy() for part, table in self._parts.items() if part not in without])

    def _log(self, metrics: dict[str, float]) -> None:
        for logger in self.loggers:
            logger.log_metrics(metrics, sum(table.num_rows for table in self._parts.values()))


@contextmanager
def logged(config: EvalConfig, folder: RecordFolder, share: int = 0) -> Iterator[list[lightning.Callback]]:
    """Yields the callbacks that log the evaluation in the block.

    Args:
        config: The evaluation; its fields are logged as hyperparameters.
        folder: Its records; the folder's name is the run's name.
        share: Number of the share of the batches; only share 0 is logged, with the records of all.
    """
    if not config.loggers or share:
        yield []
        return
    logs, run = config.out / "logs", folder.folder.name
    loggers = [_LOGGERS[name](logs / name, config.project, run) for name in dict.fromkeys(config.loggers)]
    status, metrics = "failed", MetricsCallback(folder, loggers)
    settings = folder.identity | {field.name: getattr(config, field.name) for field in fields(config)}
    for logger in loggers:
        logger.log_hyperparams({name: _plain(value) for name, value in settings.items()})
    try:
        yield [metrics]
        metrics.log_totals()
        status = "success"
    finally:
        for logger in loggers:
            logger.finalize(status)
            if isinstance(logger, WandbLogger):
                logger.experiment.finish()  # otherwise the next evaluation would be logged to the same run


def _plain(value: object) -> str | int | float | bool | None:
    return value if isinstance(value, str | int | float | bool | None) else str(value)
