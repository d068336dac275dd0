"""Reading of answers to questions about videos, as by lmms-eval of the version that papers on video compression use."""

import re
from collections.abc import Sequence
from random import Random
from string import ascii_uppercase

from foveate.metrics.open_answers import without_punctuation

_LONG = 5  # words of an answer that may name an option by its text
_MARKS = ",.!?;:'"
_OPTION = re.compile(r"^\(?([A-J])[.)] (.*)$", re.MULTILINE)


def videomme_letter(prediction: str, options: Sequence[str]) -> str:
    """Returns the first of the characters A to D anywhere in an answer; empty if there is none.

    So "Answer: B" gives A, and "Best option: C" gives B. The official script first removes phrases such as "The best
    answer is", which hold none of these characters; two that do, "Best answer:" and "Best option:", are one text in it
    that no answer contains.

    Source: the evaluation of VideoMME (Fu et al. 2024, arXiv 2405.21075) in lmms-eval.
    """
    return _first(prediction, "ABCD")


def longvideobench_letter(prediction: str, options: Sequence[str]) -> str:
    """Returns the first of the characters A to E anywhere in an answer; empty if there is none.

    Source: the evaluation of LongVideoBench (Wu et al. 2024, arXiv 2407.15754) in lmms-eval.
    """
    return _first(prediction, "ABCDE")


def _first(prediction: str, letters: str) -> str:
    found = re.search(f"[{letters}]", prediction)
    return found[0] if found else ""


def mvbench_letter(prediction: str, options: Sequence[str]) -> str:
    """Returns the letter from A to E, in either case, that an answer names; empty if it names none.

    It is the letter before the full stop with which the answer begins, if a text follows on the line, which is the
    last one. Otherwise it is the first letter that stands by itself once the punctuation is removed, so that "It is a
    cat" gives A.

    Source: the evaluation of MVBench (Li et al. 2023, arXiv 2311.17005) in lmms-eval.
    """
    if found := re.match(r"([A-E])\.\s*(.+)$", prediction.strip(), re.IGNORECASE):
        return found[1].upper()
    plain = without_punctuation(prediction.replace("\n", " ").replace("\t", " ").strip())
    found = re.search(r"\b([A-E])\b", plain, re.IGNORECASE)
    return found[1].upper() if found else ""


def mlvu_letter(prediction: str, options: Sequence[str]) -> str:
    """Returns the character before the first closing bracket; without a bracket the answer without blanks around it.

    Source: the evaluation of the tasks mlvu_dev and mlvu_test of MLVU (Zhou et al. 2024, arXiv 2406.04264) in
    lmms-eval.
    """
    text = prediction.strip()
    end = text.find(")")
    return text if end < 0 else text[max(end - 1, 0) : end]


def egoschema_letter(prediction: str, options: Sequence[str]) -> str:
    """Returns the letter of the option that an answer names; empty if it names none.

    Forms that count are a letter in brackets, one before a blank, and one before a full stop, even at the end of a
    word. Each counts where it stands last in the answer, and the first of them is returned. An answer of more than five
    words without them names the option whose text it contains, the first of several.

    Source: the evaluation of EgoSchema (Mangalam et al. 2023, arXiv 2308.09126) in lmms-eval.

    Args:
        prediction: The answer.
        options: Texts of the options, in the order of their letters.
    """
    for mark in _MARKS:
        prediction = prediction.strip(mark)
    answer = f" {prediction} "
    letters = ascii_uppercase[: len(options)]
    forms = [(form.format(letter), letter) for form in ("({})", "{} ", "{}.") for letter in letters]
    if places := [(answer.rfind(text), letter) for text, letter in forms if text in answer]:
        return min(places, key=lambda place: place[0])[1]
    if len(answer.split()) <= _LONG:
        return ""
    lowered = answer.lower()
    texts = [(lowered.rfind(text.lower()), letter) for text, letter in zip(options, letters, strict=True)]
    return min([place for place in texts if place[0] >= 0], key=lambda place: place[0], default=(0, ""))[1]


def drawn_letter(sample_id: str, options: int) -> str:
    """Returns the letter of an option drawn at random, always the same for a question.

    LongVideoBench and EgoSchema answer so where they find no letter. The draw depends on nothing else, so that all
    methods get the same.

    Args:
        sample_id: Id of the question, the seed.
        options: Number of options.
    """
    return Random(sample_id).choice(ascii_uppercase[:options])


def options_in(prompt: str) -> list[str]:
    """Returns the texts of the options in a prompt: the last lines that begin with A, B and so on."""
    found = _OPTION.findall(prompt)
    starts = [place for place, (letter, _) in enumerate(found) if letter == "A"]
    listed = found[starts[-1] :] if starts else []
    return [text for letter, (own, text) in zip(ascii_uppercase, listed, strict=False) if letter == own]
