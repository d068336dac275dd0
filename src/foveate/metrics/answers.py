"""Scores of answers.

Answers and references are compared without Unicode normalisation, as by the official scripts.
"""

import math
from collections.abc import Callable, Iterable, Sequence

from foveate.data.sample import Scoring, VQASample
from foveate.metrics.boxes import box_hit
from foveate.metrics.captions import chair_match
from foveate.metrics.choices import (
    letter_match,
    mathvista_letter,
    mmbench_letter,
    mmstar_match,
    pope_match,
    scienceqa_match,
    seed_match,
    yes_no_match,
    yes_or_no_match,
)
from foveate.metrics.mmmu import mmmu_letter, mmmu_open_match
from foveate.metrics.open_answers import (
    gqa_match,
    mentions,
    ocr_formula_match,
    ocr_match,
    textvqa_accuracy,
    vqa_accuracy,
)
from foveate.metrics.similarity import anls, relaxed_accuracy, token_f1
from foveate.metrics.videos import (
    drawn_letter,
    egoschema_letter,
    longvideobench_letter,
    mlvu_letter,
    mvbench_letter,
    videomme_letter,
)


def exact_match(prediction: str, references: Sequence[str]) -> float:
    """Returns 1 if the answer is one of the references, ignoring case, extra blanks and a final full stop."""
    return float(_plain(prediction) in {_plain(reference) for reference in references})


def set_f1(prediction: str, references: Sequence[str]) -> float:
    """Returns the F1 of the comma-separated items, the maximum over the references.

    Order and repetition are ignored.
    """
    return max(_f1(_items(prediction), _items(reference)) for reference in references)


def agreement(predictions: Iterable[str], others: Iterable[str]) -> list[float]:
    """Returns 1 for each pair of equal answers, as `exact_match` compares them, else 0."""
    return [exact_match(answer, (other,)) for answer, other in zip(predictions, others, strict=True)]


def _plain(text: str) -> str:
    return " ".join(text.lower().split()).rstrip(" .")


def _items(text: str) -> set[str]:
    return {_plain(item) for item in text.split(",")} - {""}


def _f1(found: set[str], true: set[str]) -> float:
    return 2 * len(found & true) / (len(found) + len(true)) if found or true else 1.0


def unknown(prediction: str, references: Sequence[str]) -> float:
    """Returns NaN, the score of a question without reference answers."""
    return math.nan


def score_of(prediction: str, sample: VQASample) -> float:
    """Returns the score in [0, 1] of an answer by the question's `scoring`; NaN without reference answers."""
    if sample.scoring in LETTER_READERS:
        letter = LETTER_READERS[sample.scoring](prediction, sample.options)
        if not letter and sample.scoring in DRAWING:
            letter = drawn_letter(sample.id, len(sample.options))
        return float(letter == sample.references[0])
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
    "f1": token_f1,
    "anls": anls,
    "relaxed": relaxed_accuracy,
    "ocr": ocr_match,
    "ocr_formula": ocr_formula_match,
    "letter": letter_match,
    "mmstar": mmstar_match,
    "mmmu_open": mmmu_open_match,
    "yes_or_no": yes_or_no_match,
    "chair": chair_match,
    "none": unknown,
}
"""Score in [0, 1] of an answer and its references by scoring; those of `LETTER_READERS` need the options, too."""

LETTER_READERS: dict[Scoring, Callable[[str, Sequence[str]], str]] = {
    "mmbench": mmbench_letter,
    "choice": mmbench_letter,
    "mathvista": mathvista_letter,
    "mmmu": mmmu_letter,
    "videomme": videomme_letter,
    "mvbench": mvbench_letter,
    "longvideobench": longvideobench_letter,
    "mlvu": mlvu_letter,
    "egoschema": egoschema_letter,
}
"""Letter that an answer names, given the options, by scoring; the answer is right if it is the first reference."""

DRAWING: tuple[Scoring, ...] = ("longvideobench", "egoschema")
"""Scorings that draw a letter where the reader finds none, see `metrics.videos.drawn_letter`."""
