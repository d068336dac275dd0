"""Scores of open answers that are partly right: token F1, edit distance, and numbers within a tolerance."""

import math
import re
import string
from collections import Counter
from collections.abc import Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_TOLERANCE = 0.05  # share of the reference
_LEAST_SIMILARITY = 0.5


def token_f1(prediction: str, references: Sequence[str]) -> float:
    """Returns the F1 of the answer's words and a reference's, the maximum over the references.

    Case, punctuation and articles are ignored; a repeated word counts as often as it stands in both. If one of the two
    has no words, the score is 1 if neither has.

    Source: the evaluation scripts of SQuAD 1.1 (Rajpurkar et al. 2016, arXiv 1606.05250v3) and, without words, 2.0.
    """
    return max(_f1(_words(prediction), _words(reference)) for reference in references)


def _words(text: str) -> list[str]:
    bare = text.lower().translate(str.maketrans("", "", string.punctuation))
    return _ARTICLES.sub(" ", bare).split()


def _f1(found: list[str], true: list[str]) -> float:
    if not found or not true:
        return float(found == true)
    return 2 * (Counter(found) & Counter(true)).total() / (len(found) + len(true))


def anls(prediction: str, references: Sequence[str]) -> float:
    """Returns the normalised Levenshtein similarity, the maximum over the references; 0 if it is below one half.

    Case and repeated blanks are ignored. The similarity is 1 - (edit distance) / (length of the longer text), where the
    length counts all blanks, as in the script of the DocVQA challenge. Exactly one half counts, as in that script, and
    against the formula of the paper.

    Source: Biten et al. 2019, arXiv 1907.00490 (ICDAR 2019, scene text VQA).
    """
    best = max(_similarity(prediction, reference) for reference in references)
    return best if best >= _LEAST_SIMILARITY else 0.0


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


def _similarity(one: str, other: str) -> float:
    longest = max(len(one.upper()), len(other.upper()))  # as in the script: in upper case some letters are two
    return 1 - edit_distance(_plain(one), _plain(other)) / longest if longest else 1.0


def edit_distance(one: str, other: str) -> int:
    """Returns the Levenshtein distance of two texts."""
    row = list(range(len(other) + 1))
    for i, letter in enumerate(one, 1):
        before, row = row, [i]
        for j, mark in enumerate(other, 1):
            row.append(min(before[j] + 1, row[-1] + 1, before[j - 1] + (letter != mark)))
    return row[-1]


def relaxed_accuracy(prediction: str, references: Sequence[str]) -> float:
    """Returns 1 if the answer is one of the references, or differs from a number among them by at most 5 %.

    A number may end in a per cent sign, which divides it by 100. Texts, and a reference of 0, are compared without
    case and surrounding blanks.

    Source: Masry et al. 2022, arXiv 2203.10244v1 (ChartQA); its evaluation as published with Pix2Struct.
    """
    return float(any(_close(prediction.strip(), reference.strip()) for reference in references))


def _close(found: str, true: str) -> bool:
    number, expected = _number(found), _number(true)
    if number is None or not expected:
        return found.lower() == true.lower()
    return abs(number - expected) / abs(expected) <= _TOLERANCE


def _number(text: str) -> float | None:
    try:
        number = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
