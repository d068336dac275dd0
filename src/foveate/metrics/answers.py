"""How right an answer is.

Answers and references are compared as they are encoded: no official script normalises Unicode, and neither is it done
here.
"""

import math
from collections.abc import Callable, Iterable, Sequence

from foveate.data.sample import Scoring, VQASample
from foveate.metrics.boxes import box_hit
from foveate.metrics.choices import mmbench_letter, pope_match, scienceqa_match, seed_match, yes_no_match
from foveate.metrics.open_answers import gqa_match, mentions, textvqa_accuracy, vqa_accuracy


def exact_match(prediction: str, references: Sequence[str]) -> float:
    """Returns 1 if the answer is one of the references, apart from case, blanks around words and a final full stop."""
    return float(_plain(prediction) in {_plain(reference) for reference in references})


def set_f1(prediction: str, references: Sequence[str]) -> float:
    """Returns the harmonic mean of precision and recall of the items between commas, best over the references.

    Order does not count; an item named twice counts once.
    """
    return max(_f1(_items(prediction), _items(reference)) for reference in references)


def agreement(predictions: Iterable[str], others: Iterable[str]) -> list[float]:
    """Returns 1 where two models give the same answer, as `exact_match` compares."""
    return [exact_match(one, (other,)) for one, other in zip(predictions, others, strict=True)]


def _plain(text: str) -> str:
    return " ".join(text.lower().split()).rstrip(" .")


def _items(text: str) -> set[str]:
    return {_plain(item) for item in text.split(",")} - {""}


def _f1(found: set[str], true: set[str]) -> float:
    return 2 * len(found & true) / (len(found) + len(true)) if found or true else 1.0


def unknown(prediction: str, references: Sequence[str]) -> float:
    """Returns NaN: the split has no answers."""
    return math.nan


def score_of(prediction: str, sample: VQASample) -> float:
    """Returns the score in [0, 1] of an answer to a question, by the question's `scoring`; NaN without answers."""
    if sample.scoring == "mmbench":
        return float(mmbench_letter(prediction, sample.options) == sample.references[0])
    return SCORINGS[sample.scoring](prediction, sample.references)


SCORINGS: dict[Scoring, Callable[[str, Sequence[str]], float]] = {
    "exact": exact_match,
    "set_f1": set_f1,
    "vqa": vqa_accuracy,
    "textvqa": textvqa_accuracy,
    "gqa": gqa_match,
    "pope": pope_match,
    "yes_no": yes_no_match,
    "scienceqa": scienceqa_match,
    "seed": seed_match,
    "mentions": mentions,
    "box": box_hit,
    "none": unknown,
}
"""Scores in [0, 1] from an answer and its references; MMBench's, which needs the options, is in `score_of` alone."""
