"""Reading of answers as by the official script of MMMU (Yue et al. 2023, arXiv 2311.16502)."""

import re
from collections.abc import Sequence
from string import ascii_uppercase

_MARKS = ",.!?;:'"
_LONG = 5  # words of an answer that may name an option by its text, without the blanks around it
_KEYS = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
_NUMBERS = (
    r"-?\b\d{1,3}(?:,\d{3})+\b",  # with commas
    r"-?\d+(?:\.\d+)?[eE][+-]?\d+",  # scientific
    r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])",  # simple
)


def mmmu_letter(prediction: str, options: Sequence[str]) -> str:
    """Returns the letter of the option that an answer names; empty if it names none.

    A letter in brackets counts first, then one that stands by itself between blanks, then, in an answer of more than
    five words, the text of an option. Of several that the answer names so, the last one counts. Where the official
    script finds none, it draws a letter at random; here the answer is wrong.

    Args:
        prediction: The answer.
        options: Texts of the options, in the order of their letters.
    """
    for mark in _MARKS:
        prediction = prediction.strip(mark)
    answer = f" {prediction} "
    letters = ascii_uppercase[: len(options)]
    for form in ("({})", " {} "):
        if found := _last(answer, {letter: form.format(letter) for letter in letters}):
            return found
    if len(answer.split()) <= _LONG:
        return ""
    return _last(answer.lower(), {letter: text.lower() for letter, text in zip(letters, options, strict=True)})


def _last(answer: str, texts: dict[str, str]) -> str:
    """Returns the key of the text that stands last in an answer, the first of equal ones; empty if none does."""
    places = {key: answer.rfind(text) for key, text in texts.items() if text in answer}
    return max(places, key=places.__getitem__) if places else ""


def mmmu_open_match(prediction: str, references: Sequence[str]) -> float:
    """Returns 1 if the key parts of an answer contain a reference, or a number that equals it at two decimals.

    The key part of each line is the shortest text behind one of the words "is", "so", "thus" and the like, in the last
    line also behind "="; without any, it is the whole answer. All numbers in them are compared, too. A reference of one
    character must stand beside a blank.
    """
    found = _found(prediction)
    wanted = [value for reference in references for value in _normalised(reference)]
    return float(any(_equal(one, other) for one in wanted for other in found))


def _equal(wanted: str | float, found: str | float) -> bool:
    """Returns whether a number is the same, or whether a text contains the wanted one."""
    return wanted in found if isinstance(wanted, str) and isinstance(found, str) else wanted == found


def _found(prediction: str) -> list[str | float]:
    """Returns the key parts of an answer and the numbers in them, normalised."""
    keys = _key_parts(prediction)
    numbers = [number for key in keys for form in _NUMBERS for number in re.findall(form, key)]
    return [value for text in (*keys, *numbers) for value in _normalised(text)]


def _key_parts(prediction: str) -> list[str]:
    answer = prediction.strip().strip(".").lower()
    lines, found = answer.split("\n"), []
    for number, line in enumerate(lines, 1):
        keys = (*_KEYS, "=") if number == len(lines) else _KEYS
        shortest = ""
        for tail in (line.rsplit(key, 1)[1].strip() for key in keys if key in line):
            shortest = tail if not shortest or len(tail) < len(shortest) else shortest
        if shortest and shortest not in tuple(_MARKS):
            found.append(shortest)
    return found or [answer]


def _normalised(text: str) -> list[str | float]:
    """Returns a number at two decimals, or a text in lower case; one character with a blank on either side."""
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except (ValueError, OverflowError):
        text = text.lower()
    return [f" {text}", f"{text} "] if len(text) == 1 else [text]
