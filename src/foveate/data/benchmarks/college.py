"""A benchmark of college exams, whose questions may be about several images."""

import ast
import re
from collections.abc import Iterator, Sequence
from string import ascii_uppercase
from typing import Any

from foveate.core.errors import DataError, shown
from foveate.data.benchmark import Benchmark, Row, RowQuestion, id_of, option_of, text_of
from foveate.data.stored import Part

_MENTION = re.compile(r"<image ([1-7])>")
_LONGEST_LIST = 10_000  # characters
_COLUMNS = tuple(f"image_{number}" for number in range(1, 8))


def _parse_mmmu(row: Row) -> Iterator[RowQuestion]:
    """Yields the question, whose text and options mention its images as <image 1>, <image 2> ..."""
    name, question, answer = id_of(row, "id"), text_of(row, "question"), text_of(row, "answer")
    kind = "_".join(name.split("_")[1:-1])  # validation_Art_Theory_3
    if row["question_type"] != "multiple-choice":
        references = tuple(map(option_of, _list(answer))) if answer.startswith("[") else (answer,)
        yield RowQuestion(name, kind, question, references, "mmmu_open", "short_mmmu")
        return
    options = tuple(map(option_of, _list(text_of(row, "options"))))
    letters = ascii_uppercase[: len(options)]
    if answer not in tuple(letters):
        raise DataError(f"its answer is {shown(answer)}, expected one of {', '.join(letters)}")
    references = (answer, options[letters.index(answer)])
    yield RowQuestion(name, kind, question, references, "mmmu", "letter_mmmu", options)


def _list(text: str) -> list[Any]:
    """Returns the list that a text holds as Python writes it, the form in which the table has lists."""
    try:
        found = ast.literal_eval(text) if len(text) <= _LONGEST_LIST else None
    except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
        raise DataError(f"{shown(text)} is no list of texts") from error
    if not isinstance(found, list):
        raise DataError(f"{shown(text)} is no list of texts")
    return found


def _mentioned(row: Row) -> Sequence[str]:
    """Returns the columns of the images that the question and its options mention, by number; the first if none.

    Other images of the row belong to the explanation of the answer.
    """
    numbers = {int(number) for name in ("question", "options") for number in _MENTION.findall(str(row.get(name)))}
    return tuple(_COLUMNS[number - 1] for number in sorted(numbers)) or _COLUMNS[:1]


MMMU = Benchmark(
    name="mmmu",
    repo="lmms-lab/MMMU",
    parts={"validation": Part("validation"), "dev": Part("dev")},
    split="validation",
    columns=("id", "question", "options", "answer", "question_type"),
    parse_row=_parse_mmmu,
    image=_COLUMNS[0],
    more_images=_COLUMNS[1:],
    images_of_row=_mentioned,
    answer_tokens=128,
    source="Yue et al. 2023, arXiv 2311.16502",
)
"""Questions of college exams in 30 subjects, some of them about several images."""
