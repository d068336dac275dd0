"""Scores of answers in words, after the normalisation that each benchmark prescribes.

Sources: VQA accuracy and its normalisation: Antol et al. 2015 (arXiv 1505.00468v7, section 4) and the evaluation page
of VQA v2; the variant of the TextVQA and VizWiz challenges takes commas, question marks and the possessive s off first.
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
    word[:place] + word[place + 1 :]: word for word in _CONTRACTED for place, letter in enumerate(word) if letter == "'"
} | {"somebody'd": "somebodyd"}
"""From a contraction that lacks one apostrophe; the last one is how the challenge has it."""


def vqa_normalised(text: str) -> str:
    """Returns an answer as VQA compares it: punctuation, articles, number words and contractions are unified."""
    text = text.replace("\n", " ").replace("\t", " ").strip()
    between_digits = re.search(r"(?<=\d),+(?=\d)", text)
    plain = text
    for mark in _PUNCTUATION:
        at_a_word = f"{mark} " in text or f" {mark}" in text
        plain = plain.replace(mark, "" if at_a_word or between_digits else " ")
    plain = re.sub(r"\.(?!\d)", "", plain)
    words = [_NUMBERS.get(word, word) for word in plain.lower().split()]
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def textvqa_normalised(text: str) -> str:
    """As `vqa_normalised`, after commas and question marks are taken off and the possessive s is set apart."""
    return vqa_normalised(text.lower().replace(",", "").replace("?", "").replace("'s", " 's"))


def vqa_accuracy(prediction: str, references: Sequence[str]) -> float:
    """Returns the mean over annotators of min(1, how many of the others gave this answer / 3).

    Answers are normalised also where all annotators agree, as the evaluation server does.
    """
    return _leave_one_out(vqa_normalised(prediction), [vqa_normalised(reference) for reference in references])


def textvqa_accuracy(prediction: str, references: Sequence[str]) -> float:
    """`vqa_accuracy` with the normalisation of the TextVQA and VizWiz challenges."""
    return _leave_one_out(textvqa_normalised(prediction), [textvqa_normalised(reference) for reference in references])


def gqa_match(prediction: str, references: Sequence[str]) -> float:
    """Returns 1 if the answer is one of the references, apart from case, punctuation and blanks.

    Source: GQA's evaluation compares answers as they are written; those of language models are brought to its form.
    """
    return float(_bare(prediction) in {_bare(reference) for reference in references})


def mentions(prediction: str, references: Sequence[str]) -> float:
    """Returns the share of the parts between `<AND>` that the answer mentions, best over alternatives between `<OR>`.

    This is not the grade of MM-Vet, which GPT-4 gives, but what can be told without it; and an underestimate where a
    reference is a sentence.
    """
    said = _bare(prediction)
    alternatives = [one for reference in references for one in reference.split("<OR>")]
    return max((_mentioned(said, [_bare(part) for part in one.split("<AND>")]) for one in alternatives), default=0.0)


def _leave_one_out(answer: str, references: Sequence[str]) -> float:
    others = [sum(answer == other for other in references) - (answer == own) for own in references]
    return sum(min(1.0, count / 3) for count in others) / len(references)


def _mentioned(said: str, parts: Sequence[str]) -> float:
    return sum(f" {part} " in f" {said} " for part in parts) / len(parts)


def _bare(text: str) -> str:
    return " ".join(text.lower().translate(str.maketrans("", "", string.punctuation)).split())
