"""Extraction of yes, no or the letter of an option from an answer, as by the official script of each benchmark.

Unicode is not normalised, as in these scripts: a full-width letter is not a letter, and a precomposed accented letter
differs from a letter followed by a combining accent.
"""

import re
from collections.abc import Sequence
from string import ascii_uppercase

from foveate.metrics.open_answers import without_punctuation
from foveate.metrics.similarity import edit_distance

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
    letters, words = ascii_uppercase[: len(options)], _words(prediction)
    if letter := named_letter(prediction, letters):
        return letter
    if "Z" in words and not set(letters) & set(words):
        return ""
    lowered = prediction.lower()
    found = [letter for letter, text in zip(letters, options, strict=True) if text.lower() in lowered]
    return found[0] if len(found) == 1 else ""


def named_letter(prediction: str, letters: str = "ABCD") -> str:
    """Returns the only letter among the words of an answer; empty if there is none or several.

    It is the first step of `mmbench_letter`, and all of it for questions whose options stand in their text.
    """
    named = set(letters) & set(_words(prediction))
    return named.pop() if len(named) == 1 else ""


def _words(prediction: str) -> list[str]:
    return prediction.translate(str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))).split()


def mathvista_letter(prediction: str, options: Sequence[str]) -> str:
    """Returns the letter of the option that an answer means by MathVista's evaluation without its language model.

    An answer that is the text of an option names that option. Otherwise a part of the answer is extracted: the quoted
    text of 'The answer is "red".', else the letter that `mmbench_letter` infers in place of the language model, else
    the whole answer. It names the option of its first letter in brackets, or of the letter that it is; otherwise the
    option with the smallest edit distance, the first of equal ones.

    Source: the evaluation of MathVista (Lu et al. 2023, arXiv 2310.02255); VLMEvalKit for the letter that is inferred.

    Args:
        prediction: The answer.
        options: Texts of the options, in the order of their letters.
    """
    text = prediction.strip()
    if text in options:
        return ascii_uppercase[options.index(text)]
    quoted = re.search(r'The answer is "(.*)"\.', text)
    text = (quoted[1] if quoted else mmbench_letter(text, options) or text).strip()
    bracketed = re.findall(r"\(([a-zA-Z])\)", text)
    text = bracketed[0].upper() if bracketed else text
    if text in tuple(ascii_uppercase[: len(options)]):
        return text
    distances = [edit_distance(text, option) for option in options]
    return ascii_uppercase[distances.index(min(distances))]


def yes_or_no_word(prediction: str) -> str:
    """Returns "yes" or "no" if exactly one of them is a word of the answer, else "other".

    Source: VLMEvalKit's evaluation of HallusionBench, whose authors ask GPT-4 instead.
    """
    found = {"yes", "no"} & set(without_punctuation(prediction.lower()).split())
    return found.pop() if len(found) == 1 else "other"


def yes_or_no_match(prediction: str, references: Sequence[str]) -> float:
    """Returns 1 if `yes_or_no_word` is correct."""
    return float(yes_or_no_word(prediction) in references)


def letter_match(prediction: str, references: Sequence[str]) -> float:
    """Returns 1 if `named_letter` is the correct letter, the first reference."""
    return float(named_letter(prediction) == references[0])


def mmstar_match(prediction: str, references: Sequence[str]) -> float:
    """Returns 1 if the answer begins with the correct letter in either case.

    A bracket, "option " or "the answer is " may stand before it. What follows it does not matter, so that "Because"
    counts as B.

    Source: the evaluation of MMStar (Chen et al. 2024, arXiv 2403.20330).
    """
    text, letter = prediction.lower().strip(), references[0].lower()
    return float(any(text.startswith(f"{start}{letter}") for start in ("", "(", "option ", "the answer is ")))


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
