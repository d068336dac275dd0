"""Reading yes, no, and the letter of an option out of an answer."""

import re
from collections.abc import Sequence

from foveate.data.prompts import LETTERS


def pope_answer(prediction: str) -> str:
    """Everything that has neither "no" nor "not" in its first sentence is a yes.

    Source: the evaluation script of POPE (Li et al. 2023, arXiv 2305.10355v3).
    """
    words = prediction.split(".")[0].replace(",", "").lower().split()
    return "no" if {"no", "not"} & set(words) else "yes"


def yes_or_no(prediction: str) -> str:
    """The words yes or no if the answer starts with one, else "other", which is neither.

    Source: the evaluation of MME (Fu et al. 2023, arXiv 2306.13394v4), which looks at the first four letters.
    """
    text = prediction.lower().strip().replace(".", "")
    if text in ("y", "n"):
        return {"y": "yes", "n": "no"}[text]
    return "yes" if "yes" in text[:4] else "no" if "no" in text[:4] else "other"


def option_letter(prediction: str) -> str:
    """The letter of the option that an answer names, or nothing if it names none or several.

    These are tried in turn: the letter is the whole answer or stands before a mark, as in "B", "(b)", "B. red"; it
    follows "answer is" or "answer:"; it is the only capital letter that stands alone, where "A" in more than three
    words may be an article and does not count. Sources: the letter rules of ScienceQA's, SEED-Bench's and MMBench's
    evaluation, without the language model that MMBench asks where they fail.
    """
    text = prediction.strip()
    start = re.match(rf"\(?([{LETTERS}{LETTERS.lower()}])(?:[.):,]|\s*$)", text)
    if start:
        return start[1].upper()
    said = re.search(rf"(?i:answer(?:\s+is)?\s*:?\s*)\(?([{LETTERS}])\b", text)
    if said:
        return said[1]
    alone = set(re.findall(rf"(?<![\w'])([{LETTERS}])(?![\w'])", text))
    if len(text.split()) > 3:
        alone.discard("A")
    return alone.pop() if len(alone) == 1 else ""


def pope_match(prediction: str, references: Sequence[str]) -> float:
    """1 if the answer, read as POPE reads it, is right."""
    return float(pope_answer(prediction) in references)


def yes_no_match(prediction: str, references: Sequence[str]) -> float:
    """1 if the answer, read as MME reads it, is right."""
    return float(yes_or_no(prediction) in references)


def letter_match(prediction: str, references: Sequence[str]) -> float:
    """1 if the answer names the right letter, or no letter and is the text of the right option.

    Args:
        prediction: The answer.
        references: The letter, and perhaps the option's text.
    """
    letter = option_letter(prediction)
    if letter:
        return float(letter == references[0])
    said = " ".join(prediction.lower().split()).rstrip(" .")
    return float(said in {" ".join(text.lower().split()).rstrip(" .") for text in references[1:]})
