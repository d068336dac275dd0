"""Prompts of each model family, with the wording of its authors' evaluations.

Sources: LLaVA-1.5's evaluation files and docs/Evaluation.md; for Qwen-VL and InternVL the prompts that their authors
contributed to VLMEvalKit. LLaVA's prompt is used where the authors have none for a form of question.
"""

import re
from typing import NamedTuple

from foveate.core.errors import DataError
from foveate.data.sample import Form, VQASample

LETTERS = "ABCDEFGH"
"""Letters of the options, in order; options beyond them can be neither prompted for nor recognised in an answer."""


class Phrase(NamedTuple):
    """A template of a prompt, and the template of the hint that replaces `{hint}` in it if the question has one."""

    text: str
    hint: str = ""


_PLACEHOLDER = re.compile(r"\{question\}|\{hint\}|\{options\}")
_SHORT = "Answer the question using a single word or phrase."
_LETTER = "{hint}{question}\n{options}\nAnswer with the option's letter from the given choices directly."
_OCR = "\nReference OCR token: {hint}"
_BOX = "Please provide the bounding box coordinate of the region this sentence describes: {question}"
_UNSURE = "When the provided information is insufficient, respond with 'Unanswerable'."

LLAVA: dict[Form, Phrase] = {
    "plain": Phrase("{question}"),
    "short": Phrase("{question}{hint}\n" + _SHORT, _OCR),
    "unanswerable": Phrase("{question}\n" + _UNSURE + "\n" + _SHORT),
    "yes_no": Phrase("{question}\n" + _SHORT),
    "letter": Phrase(_LETTER, "{hint}\n"),
    "letter_context": Phrase(_LETTER, "Context: {hint}\n"),
    "letter_cn": Phrase("{hint}{question}\n{options}\n请直接回答选项字母。", "{hint}\n"),
    "free": Phrase("{question}"),
    "box": Phrase(_BOX),
}
_CHOICE = "{hint}Question: {question}\nOptions:\n{options}\n"
_BRIEFLY = "Please try to answer the question with short words or phrases if possible."
QWEN: dict[Form, Phrase] = {
    **LLAVA,
    "short": Phrase("{question}{hint}\n" + _BRIEFLY, _OCR),
    "unanswerable": Phrase("{question}\n" + _UNSURE + "\n" + _BRIEFLY),
    "yes_no": Phrase("{question} Please answer yes or no."),
    "letter": Phrase(_CHOICE + "Please select the correct answer from the options above.", "Hint: {hint}\n"),
    "letter_context": Phrase(_CHOICE + "Please select the correct answer from the options above.", "Hint: {hint}\n"),
    "letter_cn": Phrase(_CHOICE + "请直接回答选项字母。", "Hint: {hint}\n"),
}
INTERNVL: dict[Form, Phrase] = {
    **LLAVA,
    "letter_context": Phrase(_LETTER, "{hint}\n"),
    "box": Phrase(_BOX.replace("{question}", "<ref>{question}</ref>")),
}
FAMILIES = {
    "qwen2_vl": QWEN,
    "qwen2_5_vl": QWEN,
    "qwen3_vl": QWEN,
    "qwen3_vl_moe": QWEN,
    "internvl": INTERNVL,
}
"""Prompts by the `model_type` of a checkpoint; all others use LLaVA's."""


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
    options = "\n".join(f"{letter}. {text}" for letter, text in zip(LETTERS, sample.options, strict=False))
    parts = {"{question}": sample.question, "{hint}": hint, "{options}": options}
    return _filled(text, parts)


def _without_instruction(text: str) -> str:
    """Returns a template with its placeholders only; a hint brings its own line break."""
    return "".join(_PLACEHOLDER.findall(text)).replace("{options}", "\n{options}")


def _filled(text: str, parts: dict[str, str]) -> str:
    """Fills the first placeholder, then the rest of the text, so that braces within a question stay unchanged."""
    found = [(text.find(name), name) for name in parts if name in text]
    if not found:
        return text
    start, name = min(found)
    return text[:start] + parts[name] + _filled(text[start + len(name) :], parts)
