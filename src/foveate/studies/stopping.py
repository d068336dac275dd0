"""Early stopping of trials by Optuna's `WilcoxonPruner`.

A search with one goal that is measured on answers, quality or accuracy, stops a trial whose answers are worse than
those of the best trial so far, paired by image, at a level of `P` and after `STARTUP` images. Optuna's pruners accept
neither several goals nor constraints, so searches for several goals are not stopped early, and no trial is stopped for
exceeding a limit on lost accuracy.

A stopped trial is a complete one. Its values are those of the trial that it lost to, plus the mean paired difference:
an estimate that does not depend on how hard the answered questions were. A trial is stopped only if that difference is
negative, so no best trial is a stopped one.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from hashlib import sha256
from typing import Any

import numpy as np
import pyarrow as pa
from optuna import Trial

from foveate.compressors import Compressor
from foveate.evaluation.config import EvalConfig
from foveate.evaluation.records import RecordFolder
from foveate.evaluation.run import data_of
from foveate.studies.plan import Goal

P = 0.01
STARTUP = 32  # images
NEVER_STOPPED = ("default", "ensemble", "single", "spaced")  # sources of trials that the report needs in full
PER_QUESTION: dict[Goal, Callable[[pa.Table], np.ndarray]] = {
    "accuracy": lambda records: records["score"].to_numpy(),
    "quality": lambda records: records["log_probability"].to_numpy(),
    "tokens": lambda records: np.array([np.mean(blocks) for blocks in records["tokens_per_block"].to_pylist()]),
}
"""Functions from records to one value per question. Latency is not among them: it is measured per batch."""


def by_image(records: pa.Table, goal: Goal) -> dict[str, float]:
    """Returns the mean of a goal over the questions about each image."""
    values = pa.table({"image": records["image_id"], "value": PER_QUESTION[goal](records)})
    means = values.group_by("image").aggregate([("value", "mean")])
    return dict(zip(means["image"].to_pylist(), means["value_mean"].to_pylist(), strict=True))


def order_of(compressor: Compressor) -> int:
    """Returns a seed for the order of the images that depends on the compressor alone."""
    without_address = re.sub(r" at 0x[0-9a-f]+", "", repr(compressor))  # a plug-in may have no repr of its own
    return int(sha256(without_address.encode()).hexdigest()[:8], 16)


def paired_difference(records: pa.Table, other: pa.Table, goal: Goal) -> float:
    """Returns the mean difference of a goal between two runs, paired by question.

    Args:
        records: Records of a run, which may be unfinished.
        other: Records of another run, which has all questions of the first.
        goal: Any goal but latency.
    """
    values = dict(zip(other["sample_id"].to_pylist(), PER_QUESTION[goal](other).tolist(), strict=True))
    paired = np.array([values[sample] for sample in records["sample_id"].to_pylist()])
    return float((PER_QUESTION[goal](records) - paired).mean())


class Stopping(ABC):
    """The decision whether a running trial is stopped, and which of its records count."""

    @property
    @abstractmethod
    def order(self) -> int | None:
        """Seed by which the images are shuffled; None keeps their order."""

    @property
    @abstractmethod
    def enough(self) -> Callable[[pa.Table], bool] | None:
        """Function from the records so far to whether the trial is stopped; None never stops it."""

    @abstractmethod
    def counted(self, records: pa.Table) -> pa.Table:
        """Returns the records that are measured, of all that the trial has when it ends."""

    @property
    @abstractmethod
    def found(self) -> dict[str, Any]:
        """Attributes of the trial, after `counted`: `stopped`, the reason or an empty string, `rows`, and others."""


class Never(Stopping):
    """The decision to answer all questions."""

    @property
    def order(self) -> None:
        return None

    @property
    def enough(self) -> None:
        return None

    @property
    def found(self) -> dict[str, Any]:
        return {"stopped": ""}

    def counted(self, records: pa.Table) -> pa.Table:
        return records


class EarlyStopping(Stopping):
    """The decision to stop a trial that is worse than the best one.

    Args:
        trial: The trial.
        config: Its evaluation.
        goal: The study's goal.

    Attributes:
        reason: Why the trial was stopped; empty if it was not.
        estimates: What a stopped trial would have measured on all questions, by goal.
    """

    def __init__(self, trial: Trial, config: EvalConfig, goal: Goal) -> None:
        self.trial, self.records, self._compressor = trial, config.out / "records", config.compressor
        self.goal: Goal = goal
        self.reason = ""
        self.estimates: dict[str, float] = {}
        self._reported: set[str] = set()
        samples, _ = data_of(config)
        images = dict.fromkeys(sample.image_id for sample in samples)
        self._steps = {image: step for step, image in enumerate(images)}  # the same in every trial
        self._stoppable = trial.user_attrs.get("source") not in NEVER_STOPPED
        self._questions = len(samples)
        self._rows = 0

    @property
    def order(self) -> int:
        return order_of(self._compressor)

    @property
    def enough(self) -> Callable[[pa.Table], bool]:
        return self.is_enough

    def counted(self, records: pa.Table) -> pa.Table:
        self.report(records)  # of a compressor that an earlier trial has evaluated
        self._rows = records.num_rows
        return records

    @property
    def found(self) -> dict[str, Any]:
        return {"stopped": self.reason, "rows": self._rows, **self.estimates}

    def report(self, records: pa.Table) -> None:
        """Reports the images that the pruner does not know yet."""
        for image, value in by_image(records, self.goal).items():
            if image not in self._reported:
                self.trial.report(value, self._steps[image])
                self._reported.add(image)

    def is_enough(self, records: pa.Table) -> bool:
        """Reports the records so far; returns whether the trial is stopped."""
        self.report(records)
        if not self._stoppable or records.num_rows >= self._questions or not self.trial.should_prune():
            return False
        best = self.trial.study.best_trial
        other = RecordFolder(self.records / best.user_attrs["run_id"]).read()
        differences = {goal: paired_difference(records, other, goal) for goal in PER_QUESTION}
        if differences[self.goal] >= 0:
            return False
        images = len(records["image_id"].unique())
        self.reason = f"WilcoxonPruner against trial {best.number} after {images} images"
        self.estimates = {goal: best.user_attrs[goal] + change for goal, change in differences.items()}
        return True
