"""Metrics of benchmarks that differ from the mean score of all questions.

Each is a function of sums over questions, so that one matrix product computes it for any weights of the images, such as
those of a bootstrap.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from foveate.data.benchmarks.captions import NOTHING
from foveate.data.benchmarks.videos import (
    DOMAINS,
    DURATIONS,
    LENGTHS,
    MLVU_TASKS,
    MVBENCH_TASKS,
    REFERRALS,
    VIDEO_TASKS,
)
from foveate.data.benchmarks.yes_no import PERCEPTION
from foveate.data.coco import mentioned_objects
from foveate.metrics.boxes import box_overlap
from foveate.metrics.choices import pope_answer
from foveate.metrics.videos import egoschema_letter, longvideobench_letter, options_in

POPE_SETS = ("random", "popular", "adversarial")
Columns = Mapping[str, np.ndarray]
"""Columns of records, named as in `Record`; questions about one image need not follow each other."""


def _image_ids(records: Columns) -> np.ndarray:
    return np.asarray(records["image_id"])


class Measure(NamedTuple):
    """One metric of a benchmark.

    Attributes:
        name: Name of the metric.
        unit: Largest value: 1 for shares, 2000 for MME's perception.
        parts: Function from records to summands, (question, part).
        from_sums: Function from the sums over questions, (..., part), to values, (...); NaN where undefined.
        stratum: Column within whose values a bootstrap draws images; empty means one stratum.
        only: Boolean column that selects the questions of the metric; empty means all.
        kinds: Kinds of the questions that the metric counts; empty means all.
        cluster: Function from records to the name of the independent unit of each question, which a bootstrap draws.
        lower_is_better: Whether smaller values are better.
    """

    name: str
    unit: float
    parts: Callable[[Columns], np.ndarray]
    from_sums: Callable[[np.ndarray], np.ndarray]
    stratum: str = ""
    only: str = ""
    kinds: tuple[str, ...] = ()
    cluster: Callable[[Columns], np.ndarray] = _image_ids
    lower_is_better: bool = False

    @property
    def is_mean(self) -> bool:
        """Returns whether the metric is a mean of values in [0, 1], with the values and weights of 0 or 1 as parts."""
        return self.from_sums is _MEAN

    def selected(self, records: Columns) -> np.ndarray:
        """Returns the mask of the questions that the metric counts."""
        rows = np.asarray(records[self.only], bool) if self.only else np.ones(len(records["score"]), bool)
        return rows & _of_kinds(records, self.kinds) if self.kinds else rows


def _of_kinds(records: Columns, kinds: tuple[str, ...]) -> np.ndarray:
    """Returns the mask of the questions of some kinds; the cell of a question of several kinds has commas between."""
    names = np.asarray(records["kind"], str)
    several = [name for name in np.unique(names) if {name, *name.split(",")} & set(kinds)]
    return np.isin(names, several)


def compute_measure(measure: Measure, records: Columns) -> float:
    """Returns the value of a metric on records."""
    rows = measure.selected(records)
    return float(measure.from_sums(measure.parts({name: column[rows] for name, column in records.items()}).sum(0)))


def confusion(records: Columns) -> np.ndarray:
    """Returns true positive, false positive, false negative and true negative, (question, 4); yes is positive."""
    found = np.array([pope_answer(text) == "yes" for text in records["prediction"]])
    true = np.array([text == "yes" for text in records["reference"]])
    return np.stack([found & true, found & ~true, ~found & true, ~found & ~true], 1).astype(float)


def confusion_by_set(records: Columns) -> np.ndarray:
    """Returns `confusion` in the columns of the question's set and 0 in those of the others, (question, 4 x set)."""
    found, kinds = confusion(records), np.asarray(records["kind"])
    return np.concatenate([found * (kinds == name)[:, None] for name in POPE_SETS], 1)


def _mean_f1(sums: np.ndarray) -> np.ndarray:
    """Returns the mean F1 of the sets that have questions; NaN where the F1 of one of them is undefined."""
    each = sums.reshape(*sums.shape[:-1], -1, 4)
    scores, present = _F1(each), each.sum(-1) > 0
    return np.asarray(np.divide(np.where(present, scores, 0).sum(-1), present.sum(-1)))


def _ratio(numerator: Callable[[np.ndarray], np.ndarray], denominator: Callable[[np.ndarray], np.ndarray]) -> Callable:
    """Returns a function from sums to a ratio, which is NaN where the denominator is 0."""

    def ratio(sums: np.ndarray) -> np.ndarray:
        top, bottom = numerator(sums), denominator(sums)
        return np.divide(top, bottom, out=np.full(np.shape(bottom), np.nan), where=bottom > 0)

    return ratio


def _with_count(values: np.ndarray) -> np.ndarray:
    """Returns values beside a column of ones, whose sum is their count."""
    return np.stack([values, np.ones(len(values))], 1)


def _scores(records: Columns) -> np.ndarray:
    return _with_count(np.asarray(records["score"], float))


def _overlaps(records: Columns) -> np.ndarray:
    pairs = zip(records["prediction"], records["reference"], strict=True)
    return _with_count(np.array([box_overlap(answer, references.split(" | ")) for answer, references in pairs]))


def _all_right(names: Callable[[Columns], np.ndarray]) -> Callable[[Columns], np.ndarray]:
    """Returns parts: whether all questions of a group are correct, and 1, at its last question, else 0, (question, 2).

    Args:
        names: Function from records to the group of each question.
    """

    def parts(records: Columns) -> np.ndarray:
        right: dict[str, float] = {}
        last: dict[str, int] = {}
        for row, (group, score) in enumerate(zip(names(records), records["score"], strict=True)):
            right[group] = min(right.get(group, 1.0), float(score == 1))
            last[group] = row
        found = np.zeros((len(records["score"]), 2))
        for group, row in last.items():
            found[row] = right[group], 1
        return found

    return parts


def _illusion(*numbers: int) -> Callable[[Columns], np.ndarray]:
    """Returns a function from records of HallusionBench to groups of questions.

    Args:
        numbers: Which numbers of an id the questions of a group share: that of the set is 0, of the figure 1, and of
            the question 2.
    """

    def groups(records: Columns) -> np.ndarray:
        names = [str(name).split("#")[0].rsplit("_", 3) for name in records["sample_id"]]
        return np.array(["_".join([kind, *(rest[number] for number in numbers)]) for kind, *rest in names])

    return groups


def _caption_counts(records: Columns) -> np.ndarray:
    """Returns mentions of absent objects, mentions, objects that are mentioned, and objects, (caption, 4)."""
    rows = []
    for caption, reference in zip(records["prediction"], records["reference"], strict=True):
        found, objects = mentioned_objects(caption), set(reference.split(" | ")) - {NOTHING}
        rows.append([sum(name not in objects for name in found), len(found), len(objects & set(found)), len(objects)])
    return np.array(rows, float)


def _wrong_captions(records: Columns) -> np.ndarray:
    return _with_count(1 - np.asarray(records["score"], float))


def _mme(subtasks: Sequence[str]) -> Callable[[Columns], np.ndarray]:
    """Returns parts of each subtask: correct answers, questions, images with both correct, images."""
    pairs = _all_right(_image_ids)

    def parts(records: Columns) -> np.ndarray:
        kinds = np.asarray(records["kind"])
        both = np.concatenate([_scores(records), pairs(records)], 1)
        return np.concatenate([both * (kinds == subtask)[:, None] for subtask in subtasks], 1)

    return parts


def _mme_score(sums: np.ndarray) -> np.ndarray:
    """Returns the sum over subtasks of the accuracy in % and the share of images with both answers correct in %."""
    right, questions, both, images = np.moveaxis(sums.reshape(*sums.shape[:-1], -1, 4), -1, 0)
    with np.errstate(invalid="ignore"):
        scores = 100 * right / questions + 100 * both / images
    return np.asarray(np.where(questions > 0, scores, 0.0).sum(-1))


def _answered(records: Columns) -> np.ndarray:
    """Returns scores and 1; 0 and 0 where the answer is empty, (question, 2)."""
    given = np.array([text != "" for text in records["prediction"]], float)
    return _scores(records) * given[:, None]


def _of_each(parts: Callable[[Columns], np.ndarray], kinds: tuple[str, ...]) -> Callable[[Columns], np.ndarray]:
    """Returns the parts in the columns of a question's kind and 0 in those of the others, (question, 2 x kind)."""

    def of_each(records: Columns) -> np.ndarray:
        found = parts(records)
        return np.concatenate([found * _of_kinds(records, (kind,))[:, None] for kind in kinds], 1)

    return of_each


def _mean_of_kinds(sums: np.ndarray) -> np.ndarray:
    """Returns the mean over the kinds that have questions of the mean score of each; NaN if none has."""
    right, questions = np.moveaxis(sums.reshape(*sums.shape[:-1], -1, 2), -1, 0)
    means = np.divide(right, questions, out=np.zeros_like(right), where=questions > 0)
    present = (questions > 0).sum(-1)
    return np.divide(means.sum(-1), present, out=np.full(np.shape(present), np.nan), where=present > 0)


def _drawn(reader: Callable[[str, Sequence[str]], str]) -> Callable[[Columns], np.ndarray]:
    """Returns parts: whether a letter is drawn because the reader finds none, and 1, (question, 2)."""

    def parts(records: Columns) -> np.ndarray:
        pairs = zip(records["prediction"], records["question"], strict=True)
        return _with_count(np.array([reader(answer, options_in(prompt)) == "" for answer, prompt in pairs], float))

    return parts


_MEAN = _ratio(lambda s: s[..., 0], lambda s: s[..., 1])
_F1 = _ratio(lambda s: 2 * s[..., 0], lambda s: 2 * s[..., 0] + s[..., 1] + s[..., 2])
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
DISCIPLINES = {
    "art and design": ("Art", "Art_Theory", "Design", "Music"),
    "business": ("Accounting", "Economics", "Finance", "Manage", "Marketing"),
    "science": ("Biology", "Chemistry", "Geography", "Math", "Physics"),
    "health and medicine": (
        *("Basic_Medical_Science", "Clinical_Medicine", "Diagnostics_and_Laboratory_Medicine", "Pharmacy"),
        "Public_Health",
    ),
    "humanities and social science": ("History", "Literature", "Psychology", "Sociology"),
    "tech and engineering": (
        *("Agriculture", "Architecture_and_Engineering", "Computer_Science", "Electronics", "Energy_and_Power"),
        *("Materials", "Mechanical_Engineering"),
    ),
}
"""Subjects of MMMU by discipline."""
OCR_TASKS = {
    "text recognition": (
        *("Regular Text Recognition", "Irregular Text Recognition", "Artistic Text Recognition"),
        *("Handwriting Recognition", "Digit String Recognition", "Non-Semantic Text Recognition"),
    ),
    "scene text-centric VQA": ("Scene Text-centric VQA",),
    "document-oriented VQA": ("Doc-oriented VQA",),
    "key information extraction": ("Key Information Extraction",),
    "handwritten mathematical expressions": ("Handwritten Mathematical Expression Recognition",),
}
"""Question types of OCRBench by the task that its score reports."""
STAR_CATEGORIES = (
    *("coarse perception", "fine-grained perception", "instance reasoning", "logical reasoning"),
    *("science & technology", "math"),
)
MATH_TASKS = (
    *("figure question answering", "geometry problem solving", "math word problem"),
    *("textbook question answering", "visual question answering"),
)

SUB_CATEGORIES = tuple(name for names in DOMAINS.values() for name in names)
VIDEO_GROUPS = {name: (name,) for name in (*DURATIONS, *DOMAINS, *SUB_CATEGORIES, *VIDEO_TASKS)}
"""Lengths, domains, sub-categories and tasks of VideoMME; one domain is its only sub-category."""
LONG_GROUPS = {f"{seconds} s": (seconds,) for seconds in LENGTHS} | {name: (name,) for name in REFERRALS}


def _means(first: str, groups: Mapping[str, tuple[str, ...]]) -> tuple[Measure, ...]:
    """Returns the mean score of all questions, and that of each group of kinds.

    Args:
        first: Name of the mean of all.
        groups: Kinds of each group, by its name.
    """
    parts = (Measure(name, 1, _scores, _MEAN, kinds=kinds) for name, kinds in groups.items())
    return (Measure(first, 1, _scores, _MEAN), *parts)


def _mean_of_tasks(first: str, tasks: tuple[str, ...], parts: Callable[[Columns], np.ndarray]) -> tuple[Measure, ...]:
    """Returns the mean of the accuracies of tasks, and that of each.

    Args:
        first: Name of the mean.
        tasks: Kinds of questions.
        parts: Function from records to their scores and weights.
    """
    each = (Measure(task, 1, parts, _MEAN, kinds=(task,)) for task in tasks)
    return (Measure(first, 1, _of_each(parts, tasks), _mean_of_kinds), *each)


def _drawn_share(reader: Callable[[str, Sequence[str]], str]) -> Measure:
    return Measure("answers drawn at random", 1, _drawn(reader), _MEAN, lower_is_better=True)


MEASURES: dict[str, tuple[Measure, ...]] = {
    "pope": (
        Measure("mean F1 of the sets", 1, confusion_by_set, _mean_f1),
        Measure("pooled F1", 1, confusion, _F1),
        Measure("accuracy", 1, confusion, _ratio(lambda s: s[..., 0] + s[..., 3], lambda s: s.sum(-1))),
        Measure("precision", 1, confusion, _ratio(lambda s: s[..., 0], lambda s: s[..., 0] + s[..., 1])),
        Measure("recall", 1, confusion, _ratio(lambda s: s[..., 0], lambda s: s[..., 0] + s[..., 2])),
        Measure("yes ratio", 1, confusion, _ratio(lambda s: s[..., 0] + s[..., 1], lambda s: s.sum(-1))),
    ),
    "mme": (
        Measure("perception", 200 * len(PERCEPTION), _mme(PERCEPTION), _mme_score, "kind"),
        Measure("cognition", 200 * len(COGNITION), _mme(COGNITION), _mme_score, "kind"),
        *(Measure(task, 200, _mme((task,)), _mme_score, "kind") for task in (*PERCEPTION, *COGNITION)),
    ),
    **{
        name: (
            Measure("circular accuracy", 1, _all_right(_image_ids), _MEAN),
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
    "chartqa": _means("relaxed accuracy", {kind: (kind,) for kind in ("human", "augmented")}),
    **{name: (Measure("ANLS", 1, _scores, _MEAN),) for name in ("docvqa", "infographicvqa")},
    "ocrbench": _means("score / 10", OCR_TASKS),
    "mmstar": _means("accuracy", {kind: (kind,) for kind in STAR_CATEGORIES}),
    "mathvista": _means("accuracy of the choice part", {kind: (kind,) for kind in MATH_TASKS}),
    "mmmu": _means("accuracy", DISCIPLINES),
    "hallusionbench": (
        Measure("aAcc", 1, _scores, _MEAN, cluster=_illusion(0)),
        Measure("qAcc", 1, _all_right(_illusion(0, 2)), _MEAN, cluster=_illusion(0)),
        Measure("fAcc", 1, _all_right(_illusion(0, 1)), _MEAN, cluster=_illusion(0)),
    ),
    "chair": (
        Measure("CHAIR_s", 1, _wrong_captions, _MEAN, lower_is_better=True),
        Measure("CHAIR_i", 1, _caption_counts, _ratio(lambda s: s[..., 0], lambda s: s[..., 1]), lower_is_better=True),
        Measure("share of the objects named", 1, _caption_counts, _ratio(lambda s: s[..., 2], lambda s: s[..., 3])),
    ),
    **{name: _means("accuracy", VIDEO_GROUPS) for name in ("videomme", "videomme_subtitles")},
    "mvbench": _mean_of_tasks("mean of the tasks", tuple(MVBENCH_TASKS), _answered),
    "longvideobench": (*_means("accuracy", LONG_GROUPS), _drawn_share(longvideobench_letter)),
    "mlvu": _mean_of_tasks("M-Avg", MLVU_TASKS, _scores),
    "egoschema": (Measure("accuracy", 1, _scores, _MEAN), _drawn_share(egoschema_letter)),
    "mmvet": (Measure("mentions the reference (not the GPT-4 grade)", 1, _scores, _MEAN),),
}
"""Metrics by data set, the main one first; for other data sets it is the mean score."""

ACCURACY = Measure("accuracy", 1, _scores, _MEAN)


def measures_of(name: str) -> tuple[Measure, ...]:
    """Returns the metrics of a data set."""
    return MEASURES.get(name, (ACCURACY,))
