"""Reading yes, no, and the letter of an option out of an answer, each as the official script of the benchmark does.

None of these scripts normalises Unicode, so nothing here does: a full-width letter is no letter, and a letter with an
accent is another one than the letter and an accent.
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
    """Returns "no" if one of the words No, no and not stands in the first sentence, otherwise "yes".

    The first sentence ends before the first full stop, commas are removed, and words are what stands between single
    spaces. So "NO", "Not really" and "No" before a line break are a yes. Source: the evaluation script of POPE (Li et
    al. 2023, arXiv 2305.10355v3), which LLaVA's is taken from.
    """
    words = prediction.split(".")[0].replace(",", "").split(" ")
    return "no" if {"No", "not", "no"} & set(words) else "yes"


def yes_or_no(prediction: str) -> str:
    """Returns yes or no if the answer starts with one, else "other", which is neither.

    Source: the evaluation of MME (Fu et al. 2023, arXiv 2306.13394v4), which looks at the first four letters.
    """
    text = prediction.lower().strip().replace(".", "")
    if text in ("y", "n"):
        return {"y": "yes", "n": "no"}[text]
    return "yes" if "yes" in text[:4] else "no" if "no" in text[:4] else "other"


def scienceqa_letter(prediction: str) -> str:
    """Returns the letter that LLaVA's evaluation of ScienceQA reads; empty if it reads none.

    The answer is a letter from A to E, or begins with one, a full stop and a space; otherwise "The answer is ", a
    capital letter and one more character stand in it exactly once. Source: LLaVA's evaluation of ScienceQA.
    """
    if prediction in tuple(_FIVE) or (prediction[:1] in tuple(_FIVE) and prediction[1:3] == ". "):
        return prediction[0]
    said = re.findall("The answer is ([A-Z]).", prediction)
    return said[0] if len(said) == 1 else ""


def mmbench_letter(prediction: str, options: Sequence[str]) -> str:
    """Returns the letter that MMBench's evaluation infers without a language model; empty if it infers none.

    Marks become spaces. If exactly one letter of an option is a word, that is meant; an answer without any that has the
    word Z, or one that refuses, means none. Otherwise an option is meant if its text, in any case, is the only one that
    stands in the answer. Source: `can_infer` of VLMEvalKit as it was in December 2024 with its default settings, the
    evaluation of MMBench (Liu et al. 2023, arXiv 2307.06281v5); later versions also look at where the letter stands and
    how long the answer is. What is not inferred, that evaluation asks a language model about; here it is wrong.

    Args:
        prediction: The answer.
        options: In the order of their letters.
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
    said = prediction.lower()
    found = [letter for letter, text in zip(letters, options, strict=True) if text.lower() in said]
    return found[0] if len(found) == 1 else ""


def pope_match(prediction: str, references: Sequence[str]) -> float:
    """Returns 1 if the answer, read as POPE reads it, is right."""
    return float(pope_answer(prediction) in references)


def yes_no_match(prediction: str, references: Sequence[str]) -> float:
    """Returns 1 if the answer, read as MME reads it, is right."""
    return float(yes_or_no(prediction) in references)


def scienceqa_match(prediction: str, references: Sequence[str]) -> float:
    """Returns 1 if the answer names the right letter, the first reference; see `scienceqa_letter`."""
    return float(scienceqa_letter(prediction) == references[0])


def seed_match(prediction: str, references: Sequence[str]) -> float:
    """Returns 1 if the answer is the right letter, the first reference, and nothing else.

    Source: LLaVA's evaluation of SEED-Bench.
    """
    return float(prediction == references[0])
