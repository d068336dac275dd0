"""Prompts of each model family, with the wording of its authors' evaluations.

Sources: LLaVA-1.5's evaluation files and docs/Evaluation.md, and lmms-eval, with which LLaVA's authors evaluate their
later models, for forms that LLaVA-1.5 was not evaluated on; for Qwen-VL and InternVL the prompts that their authors
contributed to VLMEvalKit; for benchmarks about videos lmms-eval, for all families. LLaVA's prompt is used where the
authors have none for a form of question.
"""

import re
from functools import cache
from typing import NamedTuple

from foveate.core.errors import DataError
from foveate.data.sample import PLACEHOLDER, Form, VQASample

LETTERS = "ABCDEFGHIJ"
"""Letters of the options, in order; options beyond them can be neither prompted for nor recognised in an answer."""


class Phrase(NamedTuple):
    """The templates of a prompt.

    Attributes:
        text: Template of the prompt.
        hint: Template of the hint that replaces `{hint}` in it if the question has one.
        option: Template of a line of `{options}`.
        image: Template of a line before the prompt for each image of a question about several that has no place for
            them.
    """

    text: str
    hint: str = ""
    option: str = "{letter}. {text}"
    image: str = ""


_PLACEHOLDER = re.compile(r"\{(?:question|hint|options|letter|text)\}")
_SHORT = "Answer the question using a single word or phrase."
_OCR = "\nReference OCR token: {hint}"
_DIRECTLY = "Answer with the option's letter from the given choices directly."
_LETTER = "{hint}{question}\n{options}\n" + _DIRECTLY
_HINTED = (
    "Hint: Please answer the question and provide the correct option letter, e.g., A, B, C, D, at the end.\n"
    "Question: {question}\nChoices:\n{options}"
)
_BRACKETS = "({letter}) {text}"
_OF_VIDEO = (
    "Select the best answer to the following multiple-choice question based on the video and the subtitles. Respond "
    "with only the letter (A, B, C, or D) of the correct option.\n{question}\n{options}\n"
)
_BEST = "Only give the best option."
_BOX = "Please provide the bounding box coordinate of the region this sentence describes: {question}"
_UNSURE = "When the provided information is insufficient, respond with 'Unanswerable'."

LLAVA: dict[Form, Phrase] = {
    "plain": Phrase("{question}"),
    "short": Phrase("{question}{hint}\n" + _SHORT, _OCR),
    "word": Phrase("{question}\nAnswer the question with a single word."),
    "read": Phrase("{question}"),
    "unanswerable": Phrase("{question}\n" + _UNSURE + "\n" + _SHORT),
    "yes_no": Phrase("{question}\n" + _SHORT),
    "yes_no_bare": Phrase("{question}"),
    "letter": Phrase(_LETTER, "{hint}\n"),
    "letter_context": Phrase(_LETTER, "Context: {hint}\n"),
    "letter_cn": Phrase("{hint}{question}\n{options}\n请直接回答选项字母。", "{hint}\n"),
    "letter_stated": Phrase("{question}\n" + _DIRECTLY.removesuffix(".")),
    "letter_math": Phrase(_LETTER, "{hint}\n"),
    "letter_mmmu": Phrase("{question}\n{options}\n\n" + _DIRECTLY),
    "letter_direct": Phrase("{question}\n{options}\n" + _DIRECTLY),
    "letter_video": Phrase(_OF_VIDEO + "\n" + _DIRECTLY),
    "letter_subtitles": Phrase(
        "{hint}" + _OF_VIDEO + "The best answer is:", "This video's subtitles are listed below: \n{hint}\n"
    ),
    "letter_mvbench": Phrase("Question:{question}\nOption:\n{options}\n" + _BEST, option=_BRACKETS),
    "letter_mlvu": Phrase("{question}\n" + _BEST + "\nBest option: ("),
    "short_mmmu": Phrase("{question}\n\n" + _SHORT),
    "free": Phrase("{question}"),
    "box": Phrase(_BOX),
}
_CHOICE = "{hint}Question: {question}\nOptions:\n{options}\n"
_SELECT = "Please select the correct answer from the options above."
_CHOSEN = Phrase(_CHOICE + _SELECT, "Hint: {hint}\n")
_BRIEFLY = "Please try to answer the question with short words or phrases if possible."
QWEN: dict[Form, Phrase] = {
    **LLAVA,
    "short": Phrase("{question}{hint}\n" + _BRIEFLY, _OCR),
    "word": Phrase("{question}\n" + _BRIEFLY),
    "read": Phrase("{question}\n" + _BRIEFLY),
    "unanswerable": Phrase("{question}\n" + _UNSURE + "\n" + _BRIEFLY),
    "yes_no": Phrase("{question} Please answer yes or no."),
    "yes_no_bare": Phrase("{question} Please answer yes or no."),
    "letter": _CHOSEN,
    "letter_context": _CHOSEN,
    "letter_stated": Phrase("Question: {question}\n" + _SELECT),
    "letter_math": Phrase(_HINTED + "\n" + _BRIEFLY, option=_BRACKETS),
    "letter_mmmu": _CHOSEN,
    "short_mmmu": Phrase("Question: {question}"),
    "letter_cn": Phrase(_CHOICE + "请直接回答选项字母。", "Hint: {hint}\n"),
}
_NUMBERED = "Image-{number}: " + PLACEHOLDER + "\n"
INTERNVL: dict[Form, Phrase] = {
    **LLAVA,
    "word": Phrase("{question}\n" + _SHORT),
    "read": Phrase("{question}\n" + _SHORT),
    "yes_no_bare": Phrase("{question} Please answer yes or no. " + _SHORT),
    "letter_context": Phrase(_LETTER, "{hint}\n"),
    "letter_stated": Phrase("{question}\n" + _DIRECTLY),
    "letter_math": Phrase(_HINTED, option=_BRACKETS),
    "letter_mmmu": Phrase("{question}\n{options}\n" + _DIRECTLY, image=_NUMBERED),
    "short_mmmu": Phrase("{question}\nAnswer the question directly.", image=_NUMBERED),
    "box": Phrase(_BOX.replace("{question}", "<ref>{question}</ref>")),
}
LLAVA_VIDEO: dict[Form, Phrase] = {**LLAVA, "letter_video": Phrase(_OF_VIDEO + "The best answer is:")}
FAMILIES = {
    "llava_next_video": LLAVA_VIDEO,
    "qwen2_vl": QWEN,
    "qwen2_5_vl": QWEN,
    "qwen3_vl": QWEN,
    "qwen3_vl_moe": QWEN,
    "internvl": INTERNVL,
}
"""Prompts by the `model_type` of a checkpoint; all others use LLaVA's."""


@cache
def instruction_of(form: Form, family: str) -> str:
    """Returns the words that the prompt of a model family puts around questions of a form; empty if there are none."""
    return " ".join(_PLACEHOLDER.sub(" ", FAMILIES.get(family, LLAVA)[form].text).split())


def format_prompt(sample: VQASample, family: str, instruct: bool = True) -> str:
    """Returns the prompt of a question for a model family.

    Args:
        sample: The question.
        family: The `model_type` of the checkpoint's configuration.
        instruct: Whether the words of `instruction_of` are part of it; without them it has the question, the hint and
            the options.

    Raises:
        DataError: The question has more options than there are letters.
    """
    if len(sample.options) > len(LETTERS):
        raise DataError(
            f"it has {len(sample.options)} options: expected at most {len(LETTERS)}, {LETTERS[0]} to {LETTERS[-1]}"
        )
    phrase = FAMILIES.get(family, LLAVA)[sample.form]
    text = phrase.text if instruct else _without_instruction(phrase.text)
    hint = phrase.hint.replace("{hint}", sample.hint) if sample.hint else ""
    lines = (
        _filled(phrase.option, {"{letter}": a, "{text}": b}) for a, b in zip(LETTERS, sample.options, strict=False)
    )
    filled = _filled(text, {"{question}": sample.question, "{hint}": hint, "{options}": "\n".join(lines)})
    return filled if PLACEHOLDER in filled or not (sample.several and instruct) else _images(phrase, sample) + filled


def _images(phrase: Phrase, sample: VQASample) -> str:
    """Returns a line for each image of a question; none if the family has no template of it."""
    return "".join(phrase.image.replace("{number}", str(number + 1)) for number in range(len(sample.sources)))


def _without_instruction(text: str) -> str:
    """Returns a template with its placeholders only; a hint brings its own line break."""
    return "".join(_PLACEHOLDER.findall(text)).replace("{options}", "\n{options}")


def _filled(text: str, parts: dict[str, str]) -> str:
    """Fills the placeholders of a template; braces within the parts stay unchanged."""
    return _PLACEHOLDER.sub(lambda found: parts[found[0]], text)
