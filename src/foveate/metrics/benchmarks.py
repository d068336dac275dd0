"""The numbers that benchmarks are reported in, where they are more than the mean score of all questions.

Each is a function of sums over questions, so that one matrix product gives it for any weighting of the images, such as
those of a bootstrap.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from foveate.data.benchmarks.yes_no import PERCEPTION
from foveate.metrics.boxes import box_overlap
from foveate.metrics.choices import pope_answer

POPE_SETS = ("random", "popular", "adversarial")
Columns = Mapping[str, np.ndarray]
"""Columns of records, as `Record` names them; questions about one image need not follow each other."""


class Measure(NamedTuple):
    """One number of a benchmark.

    Attributes:
        name: Of the number.
        unit: Its largest value: 1 for shares, 2000 for MME's perception.
        parts: From records to (question, part) numbers, which are summed over questions.
        of: From (..., part) sums to (...) values; NaN where it is not defined.
        stratum: Column within which a bootstrap draws images; empty means all together.
        only: Column of truth values, of the questions that the number is about; empty means all.
    """

    name: str
    unit: float
    parts: Callable[[Columns], np.ndarray]
    of: Callable[[np.ndarray], np.ndarray]
    stratum: str = ""
    only: str = ""

    @property
    def is_mean(self) -> bool:
        """Whether the number is a mean of values in [0, 1]; then the parts are the values and which of them count."""
        return self.of is _MEAN

    def about(self, records: Columns) -> np.ndarray:
        """Returns which questions the number is about."""
        return np.asarray(records[self.only], bool) if self.only else np.ones(len(records["score"]), bool)


def measured(measure: Measure, records: Columns) -> float:
    """Returns the number on these records."""
    rows = measure.about(records)
    return float(measure.of(measure.parts({name: column[rows] for name, column in records.items()}).sum(0)))


def confusion(records: Columns) -> np.ndarray:
    """Returns (question, 4): true positive, false positive, false negative, true negative; yes is positive."""
    said = np.array([pope_answer(text) == "yes" for text in records["prediction"]])
    true = np.array([text == "yes" for text in records["reference"]])
    return np.stack([said & true, said & ~true, ~said & true, ~said & ~true], 1).astype(float)


def confusion_by_set(records: Columns) -> np.ndarray:
    """Returns (question, 4 x set): `confusion` in the columns of the question's set, 0 in those of the others."""
    found, kinds = confusion(records), np.asarray(records["kind"])
    return np.concatenate([found * (kinds == name)[:, None] for name in POPE_SETS], 1)


def _mean_f1(sums: np.ndarray) -> np.ndarray:
    """Returns the mean F1 of the sets that were asked; NaN where the F1 of one of them is undefined."""
    each = sums.reshape(*sums.shape[:-1], -1, 4)
    scores, asked = _F1(each), each.sum(-1) > 0
    return np.asarray(np.divide(np.where(asked, scores, 0).sum(-1), asked.sum(-1)))


def _share(over: Callable[[np.ndarray], np.ndarray], under: Callable[[np.ndarray], np.ndarray]) -> Callable:
    def of(sums: np.ndarray) -> np.ndarray:
        top, bottom = over(sums), under(sums)
        return np.divide(top, bottom, out=np.full(np.shape(bottom), np.nan), where=bottom > 0)

    return of


def _counted(records: Columns, values: np.ndarray) -> np.ndarray:
    return np.stack([values, np.ones(len(values))], 1)


def _scores(records: Columns) -> np.ndarray:
    return _counted(records, np.asarray(records["score"], float))


def _overlaps(records: Columns) -> np.ndarray:
    pairs = zip(records["prediction"], records["reference"], strict=True)
    return _counted(records, np.array([box_overlap(said, true.split(" | ")) for said, true in pairs]))


def _all_right(records: Columns) -> np.ndarray:
    """Returns (question, 2): at the last question about an image if all about it are right, and 1; elsewhere 0."""
    right: dict[str, float] = {}
    last: dict[str, int] = {}
    for row, (image, score) in enumerate(zip(records["image_id"], records["score"], strict=True)):
        right[image] = min(right.get(image, 1.0), float(score == 1))
        last[image] = row
    parts = np.zeros((len(records["score"]), 2))
    for image, row in last.items():
        parts[row] = right[image], 1
    return parts


def _mme(subtasks: Sequence[str]) -> Callable[[Columns], np.ndarray]:
    """Returns parts (question, 4 x subtask): right answers, questions, images with both right, images."""

    def parts(records: Columns) -> np.ndarray:
        kinds = np.asarray(records["kind"])
        both = np.concatenate([_scores(records), _all_right(records)], 1)
        return np.concatenate([both * (kinds == subtask)[:, None] for subtask in subtasks], 1)

    return parts


def _mme_score(sums: np.ndarray) -> np.ndarray:
    """Returns the sum over the asked subtasks of accuracy in % and the share of images with both right in %."""
    right, asked, both, images = np.moveaxis(sums.reshape(*sums.shape[:-1], -1, 4), -1, 0)
    with np.errstate(invalid="ignore"):
        scores = 100 * right / asked + 100 * both / images
    return np.asarray(np.where(asked > 0, scores, 0.0).sum(-1))


_MEAN = _share(lambda s: s[..., 0], lambda s: s[..., 1])
_F1 = _share(lambda s: 2 * s[..., 0], lambda s: 2 * s[..., 0] + s[..., 1] + s[..., 2])
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
MEASURES: dict[str, tuple[Measure, ...]] = {
    "pope": (
        Measure("mean F1 of the sets", 1, confusion_by_set, _mean_f1),
        Measure("pooled F1", 1, confusion, _F1),
        Measure("accuracy", 1, confusion, _share(lambda s: s[..., 0] + s[..., 3], lambda s: s.sum(-1))),
        Measure("precision", 1, confusion, _share(lambda s: s[..., 0], lambda s: s[..., 0] + s[..., 1])),
        Measure("recall", 1, confusion, _share(lambda s: s[..., 0], lambda s: s[..., 0] + s[..., 2])),
        Measure("yes ratio", 1, confusion, _share(lambda s: s[..., 0] + s[..., 1], lambda s: s.sum(-1))),
    ),
    "mme": (
        Measure("perception", 200 * len(PERCEPTION), _mme(PERCEPTION), _mme_score, "kind"),
        Measure("cognition", 200 * len(COGNITION), _mme(COGNITION), _mme_score, "kind"),
        *(Measure(task, 200, _mme((task,)), _mme_score, "kind") for task in (*PERCEPTION, *COGNITION)),
    ),
    **{
        name: (
            Measure("circular accuracy", 1, _all_right, _MEAN),
            Measure("accuracy of all rotations", 1, _scores, _MEAN),
        )
        for name in ("mmbench", "mmbench_cn")
    },
    **{
        name: (Measure("accuracy at 0.5", 1, _scores, _MEAN), Measure("mean overlap", 1, _overlaps, _MEAN))
        for name in ("refcoco", "refcoco+", "refcocog")
    },
    "scienceqa": (
        Measure("accuracy", 1, _scores, _MEAN),
        Measure("accuracy with an image", 1, _scores, _MEAN, only="has_image"),
    ),
    "mmvet": (Measure("mentions the reference (not the GPT-4 grade)", 1, _scores, _MEAN),),
}
"""By data set, the one that it is known by first; of data sets that are not here it is the mean score."""

ACCURACY = Measure("accuracy", 1, _scores, _MEAN)


def measures_of(name: str) -> tuple[Measure, ...]:
    """Returns the numbers of a data set."""
    return MEASURES.get(name, (ACCURACY,))
