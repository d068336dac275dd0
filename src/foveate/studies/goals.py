"""What a study optimises, measured on records; and paired comparisons of two runs, image by image."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa

from foveate.studies.plan import Goal

DIRECTIONS: dict[Goal, Literal["maximize", "minimize"]] = {
    "quality": "maximize",
    "accuracy": "maximize",
    "tokens": "minimize",
    "latency": "minimize",
}
_PER_QUESTION: dict[Goal, Callable[[pa.Table], np.ndarray]] = {
    "quality": lambda records: records["log_probability"].to_numpy(),
    "accuracy": lambda records: records["score"].to_numpy(),
    "tokens": lambda records: np.array([np.mean(blocks) for blocks in records["tokens_per_block"].to_pylist()]),
}


def mean_of(records: pa.Table, goal: Goal) -> float:
    """The goal on these records."""
    return float(_PER_QUESTION[goal](records).mean())


def by_image(records: pa.Table, goal: Goal) -> dict[str, float]:
    """The mean over the questions of each image."""
    values = pa.table({"image": records["image_id"], "value": _PER_QUESTION[goal](records)})
    means = values.group_by("image").aggregate([("value", "mean")])
    return dict(zip(means["image"].to_pylist(), means["value_mean"].to_pylist(), strict=True))


class Gain(NamedTuple):
    """What a run gains over another one on the questions that it has answered; negative where it loses.

    Attributes:
        mean: Over the questions, in the unit of the goal, positive towards the goal's direction.
        images: Mean over the questions of each image.
    """

    mean: float
    images: np.ndarray


def gain(records: pa.Table, other: pa.Table, goal: Goal) -> Gain:
    """Paired by question.

    Args:
        records: Of a run, perhaps unfinished.
        other: Of a run on at least the same questions.
        goal: Not latency, which is no matter of single questions.
    """
    theirs = dict(zip(other["sample_id"].to_pylist(), _PER_QUESTION[goal](other).tolist(), strict=True))
    before = np.array([theirs[sample] for sample in records["sample_id"].to_pylist()])
    sign = 1 if DIRECTIONS[goal] == "maximize" else -1
    gained = sign * (_PER_QUESTION[goal](records) - before)
    _, index = np.unique(records["image_id"].to_numpy(zero_copy_only=False), return_inverse=True)
    return Gain(float(gained.mean()), np.bincount(index, gained) / np.bincount(index))
