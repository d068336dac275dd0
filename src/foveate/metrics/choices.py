"""Extraction of yes, no or the letter of an option from an answer, as by the official script of each benchmark.

Unicode is not normalised, as in these scripts: a full-width letter is not a letter, and a precomposed accented letter
differs from a letter followed by a combining accent.
"""

import re
from collections.abc import Sequence
from string import ascii_uppercase

_REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)
_FIVE = ascii_uppercase[:5]


def pope_answer(prediction: str) -> str:
    """Returns "no" if the first sentence contains the word No, no or not, otherwise "yes".

    The first sentence ends before the first full stop, commas are removed, and words are separated by single spaces. So
    "NO", "Not really" and "No" before a line break give "yes".

    Source: the evaluation script of POPE (Li et al. 2023, arXiv 2305.10355v3), which LLaVA's is based on.
    """
    words = prediction.split(".")[0].replace(",", "").split(" ")
    return "no" if {"No", "not", "no"} & set(words) else "yes"


def yes_or_no(prediction: str) -> str:
    """Returns "yes" or "no" if the first four characters of the answer contain it, else "other".

    Source: the evaluation of MME (Fu et al. 2023, arXiv 2306.13394v4).
    """
    text = prediction.lower().strip().replace(".", "")
    if text in ("y", "n"):
        return {"y": "yes", "n": "no"}[text]
    return "yes" if "yes" in text[:4] else "no" if "no" in text[:4] else "other"


def scienceqa_letter(prediction: str) -> str:
    """Returns the letter that LLaVA's evaluation of ScienceQA extracts; empty if it finds none.

    The answer must be a letter from A to E, begin with such a letter, a full stop and a space, or contain "The answer
    is " with a capital letter and one more character exactly once.

    Source: LLaVA's evaluation of ScienceQA.
    """
    if prediction in tuple(_FIVE) or (prediction[:1] in tuple(_FIVE) and prediction[1:3] == ". "):
        return prediction[0]
    stated = re.findall("The answer is ([A-Z]).", prediction)
    return stated[0] if len(stated) == 1 else ""


def mmbench_letter(prediction: str, options: Sequence[str]) -> str:
    """Returns the letter that MMBench's evaluation infers without a language model; empty if it infers none.

    Punctuation marks become spaces. If exactly one option's letter is a word of the answer, it is returned. A refusal,
    or an answer with the word Z and no option's letter, gives none. Otherwise an option is inferred if its text is the
    only one that the answer contains, ignoring case. The official evaluation passes the remaining answers to a language
    model; here they count as wrong.

    Source: `can_infer` of VLMEvalKit of December 2024 with its default settings, the evaluation of MMBench (Liu et al.
    2023, arXiv 2307.06281v5); later versions also use the position of the letter and the length of the answer.

    Args:
        prediction: The answer.
        options: Texts of the options, in the order of their letters.
    """
    if any(refusal in prediction for refusal in _REFUSALS):
        return ""
    words = prediction.translate(str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))).split()
    letters = ascii_uppercase[: len(options)]
    named = [letter for letter in letters if letter in words]
    if len(named) == 1:
        return named[0]
    if not named and "Z" in words:
        return ""
    lowered = prediction.lower()
    found = [letter for letter, text in zip(letters, options, strict=True) if text.lower() in lowered]
    return found[0] if len(found) == 1 else ""


def pope_match(prediction: str, references: Sequence[str]) -> float:
    """Returns 1 if `pope_answer` is correct."""
    return float(pope_answer(prediction) in references)


def yes_no_match(prediction: str, references: Sequence[str]) -> float:
    """Returns 1 if `yes_or_no` is correct."""
    return float(yes_or_no(prediction) in references)


def scienceqa_match(prediction: str, references: Sequence[str]) -> float:
    """Returns 1 if `scienceqa_letter` is the correct letter, the first reference."""
    return float(scienceqa_letter(prediction) == references[0])


def seed_match(prediction: str, references: Sequence[str]) -> float:
    """Returns 1 if the answer is exactly the correct letter, the first reference.

    Source: LLaVA's evaluation of SEED-Bench.
    """
    return float(prediction == references[0])
