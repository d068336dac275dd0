"""Scores of open answers, after the normalisation that each benchmark prescribes.

Sources: VQA accuracy and its normalisation: Antol et al. 2015 (arXiv 1505.00468v7, section 4) and the evaluation page
of VQA v2. The TextVQA and VizWiz challenges first remove commas and question marks and separate the possessive s.
"""

import re
import string
from collections.abc import Sequence

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_ARTICLES = frozenset({"a", "an", "the"})
_NUMBERS = {
    word: str(number) for number, word in enumerate("zero one two three four five six seven eight nine ten".split())
} | {"none": "0"}
_CONTRACTED = (
    "ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd "
    "he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've "
    "needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've "
    "somebody'll somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll "
    "that's there'd there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've "
    "weren't what'll what're what's what've when's where'd where's where've who'd who'd've who'll who's who've "
    "why'll why're why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're "
    "you've"
).split()
_CONTRACTIONS = {
    word[:index] + word[index + 1 :]: word for word in _CONTRACTED for index, letter in enumerate(word) if letter == "'"
} | {"somebody'd": "somebodyd"}
"""Contraction by its spelling without one apostrophe; the last entry reproduces an exception of the challenge."""


def vqa_normalised(text: str) -> str:
    """Returns an answer with punctuation, articles, number words and contractions normalised as in VQA."""
    plain = without_punctuation(text.replace("\n", " ").replace("\t", " ").strip())
    words = [_NUMBERS.get(word, word) for word in plain.lower().split()]
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def without_punctuation(text: str) -> str:
    """Returns a text without the punctuation marks that VQA ignores; some become blanks."""
    between_digits = re.search(r"(?<=\d),+(?=\d)", text)
    plain = text
    for mark in _PUNCTUATION:
        at_a_word = f"{mark} " in text or f" {mark}" in text
        plain = plain.replace(mark, "" if at_a_word or between_digits else " ")
    return re.sub(r"\.(?!\d)", "", plain)


def textvqa_normalised(text: str) -> str:
    """Removes commas and question marks, separates the possessive s, and applies `vqa_normalised`."""
    return vqa_normalised(text.lower().replace(",", "").replace("?", "").replace("'s", " 's"))


def vqa_accuracy(prediction: str, references: Sequence[str]) -> float:
    """Returns the mean over annotators of min(1, number of other annotators with this answer / 3).

    Answers are normalised even if all annotators agree, as on the evaluation server.
    """
    return _leave_one_out(vqa_normalised(prediction), [vqa_normalised(reference) for reference in references])


def textvqa_accuracy(prediction: str, references: Sequence[str]) -> float:
    """Returns `vqa_accuracy` with the normalisation of the TextVQA and VizWiz challenges."""
    return _leave_one_out(textvqa_normalised(prediction), [textvqa_normalised(reference) for reference in references])


def gqa_match(prediction: str, references: Sequence[str]) -> float:
    """Returns 1 if the answer is one of the references, ignoring case, punctuation and blanks.

    GQA's evaluation compares answers exactly; those of language models are normalised to its format first.
    """
    return float(_bare(prediction) in {_bare(reference) for reference in references})


def ocr_match(prediction: str, references: Sequence[str]) -> float:
    """Returns 1 if the answer contains a reference, ignoring case; a line break counts as a blank.

    Source: the evaluation of OCRBench (Liu et al. 2023, arXiv 2305.07895).
    """
    answer = _one_line(prediction).lower()
    return float(any(_one_line(reference).lower() in answer for reference in references))


def ocr_formula_match(prediction: str, references: Sequence[str]) -> float:
    """Returns 1 if the answer contains a reference, both without blanks; case counts, as in LaTeX."""
    answer = _one_line(prediction).replace(" ", "")
    return float(any(_one_line(reference).replace(" ", "") in answer for reference in references))


def _one_line(text: str) -> str:
    return text.strip().replace("\n", " ")


def mentions(prediction: str, references: Sequence[str]) -> float:
    """Returns the share of `<AND>`-separated parts that the answer mentions, the best of `<OR>`-separated alternatives.

    This approximates the grade of MM-Vet without GPT-4, and underestimates it where a reference is a sentence.
    """
    answer = _bare(prediction)
    alternatives = [text for reference in references for text in reference.split("<OR>")]
    return max(
        (_share_mentioned(answer, [_bare(part) for part in text.split("<AND>")]) for text in alternatives), default=0.0
    )


def _leave_one_out(answer: str, references: Sequence[str]) -> float:
    others = [sum(answer == other for other in references) - (answer == own) for own in references]
    return sum(min(1.0, count / 3) for count in others) / len(references)


def _share_mentioned(answer: str, parts: Sequence[str]) -> float:
    return sum(f" {part} " in f" {answer} " for part in parts) / len(parts)


def _bare(text: str) -> str:
    return " ".join(text.lower().translate(str.maketrans("", "", string.punctuation)).split())
