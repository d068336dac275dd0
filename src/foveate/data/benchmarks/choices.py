"""Multiple-choice benchmarks, answered by the letter of an option.

The references are the letter and the text of the correct option.
"""

from collections.abc import Iterator
from dataclasses import replace
from string import ascii_uppercase

from foveate.core.errors import DataError, shown
from foveate.data.benchmark import Benchmark, Row, RowQuestion, id_of, is_missing, option_of, optional_text, text_of
from foveate.data.sample import Form, Scoring
from foveate.data.stored import Part

ROTATIONS = 1_000_000
"""Rows of MMBench whose `index` is equal modulo this number are one question with its options in another order."""
_YES_OR_NO = " Please answer yes or no."  # removed from questions of MMStar, as by lmms-eval


def _parse_scienceqa(row: Row) -> Iterator[RowQuestion]:
    options = tuple(option_of(choice) for choice in row["choices"])
    if not 0 <= int(row["answer"]) < len(options):
        raise DataError(f"its answer is {shown(row['answer'])}, expected a number below {len(options)}")
    letter = ascii_uppercase[int(row["answer"])]
    yield replace(_question(row, options, letter, "letter_context", "scienceqa"), kind=optional_text(row, "subject"))


def _parse_mmbench(row: Row, form: Form = "letter") -> Iterator[RowQuestion]:
    cells = ["" if is_missing(row.get(letter)) else option_of(row[letter]) for letter in "ABCDE"]
    options = tuple(filter(None, cells))
    if any(cells[len(options) :]):
        raise DataError(f"its options are {shown(cells)}, expected no gap between two options")
    question = _question(row, options, optional_text(row, "answer"), form, "mmbench")
    yield replace(question, id=id_of(row, "index"), kind=optional_text(row, "category"))


def _parse_mmbench_cn(row: Row) -> Iterator[RowQuestion]:
    yield from _parse_mmbench(row, "letter_cn")


def _parse_seed(row: Row) -> Iterator[RowQuestion]:
    options = tuple(option_of(row[f"choice_{letter}"]) for letter in "abcd")
    question = _question(row, options, text_of(row, "answer"), "letter", "seed")
    yield replace(question, id=id_of(row, "question_id"), kind=id_of(row, "question_type_id"))


def _parse_ai2d(row: Row) -> Iterator[RowQuestion]:
    options = tuple(option_of(option) for option in row["options"])
    number = id_of(row, "answer")
    if not number.isdecimal() or not int(number) < len(options):
        raise DataError(f"its answer is {shown(row['answer'])}, expected the number of an option, from 0")
    yield _question(row, options, ascii_uppercase[int(number)], "letter", "choice")


def _parse_mmstar(row: Row) -> Iterator[RowQuestion]:
    """Yields the question, whose text holds its options."""
    question, letter = text_of(row, "question").replace(_YES_OR_NO, ""), text_of(row, "answer").upper()
    if letter not in tuple("ABCD"):
        raise DataError(f"its answer is {shown(row['answer'])}, expected one of A, B, C, D")
    kind = text_of(row, "category")
    yield RowQuestion(id_of(row, "index"), kind, question, (letter,), "mmstar", "letter_stated")


def _parse_realworldqa(row: Row) -> Iterator[RowQuestion]:
    """Yields the question, whose text holds its options, if it has any, and says how to answer it."""
    question, answer = text_of(row, "question"), text_of(row, "answer")
    if answer.upper() in tuple("ABCD"):
        yield RowQuestion("", "choice", question, (answer.upper(),), "letter", "free")
    else:
        yield RowQuestion("", "word or number", question, (answer,), "exact", "free")


def _parse_mathvista(row: Row) -> Iterator[RowQuestion]:
    options, answer = tuple(option_of(choice) for choice in row["choices"]), text_of(row, "answer")
    if answer not in options:
        raise DataError(f"its answer is {shown(answer)}, expected one of its choices {shown(list(options))}")
    letter, unit = ascii_uppercase[options.index(answer)], optional_text(row, "unit")
    question = _question(row, options, letter, "letter_math", "mathvista")
    text = question.question + (f" (Unit: {unit})" if unit else "")
    kind = optional_text(row.get("metadata") or {}, "task")
    yield replace(question, id=id_of(row, "pid"), kind=kind, question=text)


def _question(row: Row, options: tuple[str, ...], letter: str, form: Form, scoring: Scoring) -> RowQuestion:
    """Returns a question with options but without id and kind; an empty letter means that the answer is unknown."""
    if len(options) < 2:
        raise DataError(f"its options are {shown(list(options))}, expected at least two")
    if letter and (len(letter) != 1 or letter not in ascii_uppercase[: len(options)]):
        raise DataError(f"its answer is {shown(letter)}, expected one of {', '.join(ascii_uppercase[: len(options)])}")
    references = (letter, options[ascii_uppercase.index(letter)]) if letter else ()
    question, hint = text_of(row, "question"), optional_text(row, "hint")
    return RowQuestion("", "", question, references, scoring, form, options, hint)


SCIENCEQA = Benchmark(
    name="scienceqa",
    repo="lmms-lab/ScienceQA",
    parts={split: Part(split, "ScienceQA-FULL") for split in ("test", "validation", "train")},
    split="test",
    columns=("question", "choices", "answer", "hint"),
    parse_row=_parse_scienceqa,
    text_only=True,
    source="Lu et al. 2022, arXiv 2209.09513v2",
)
"""School questions, about half of them text-only."""

MMBENCH = Benchmark(
    name="mmbench",
    repo="lmms-lab/MMBench",
    parts={"dev": Part("dev", "en"), "test": Part("test", "en", answered=False)},
    split="dev",
    columns=("index", "question", "hint", "answer", "A", "B"),
    parse_row=_parse_mmbench,
    image_id="index",
    image_id_of=lambda index: str(int(index) % ROTATIONS),
    source="Liu et al. 2023, arXiv 2307.06281v5",
)
"""General questions, each repeated with every rotation of its options."""

MMBENCH_CN = replace(
    MMBENCH,
    name="mmbench_cn",
    parts={"dev": Part("dev", "cn"), "test": Part("test", "cn", answered=False)},
    parse_row=_parse_mmbench_cn,
)
"""MMBench in Chinese."""

SEEDBENCH = Benchmark(
    name="seedbench",
    repo="lmms-lab/SEED-Bench",
    parts={"test": Part("test", only=("data_type", "image"))},
    split="test",
    columns=("question_id", "question", "answer", "choice_a", "choice_b", "choice_c", "choice_d", "data_type"),
    parse_row=_parse_seed,
    source="Li et al. 2023, arXiv 2307.16125v2",
)
"""The questions of SEED-Bench about images, without those about videos."""

AI2D = Benchmark(
    name="ai2d",
    repo="lmms-lab/ai2d",
    parts={"test": Part("test")},
    split="test",
    columns=("question", "options", "answer"),
    parse_row=_parse_ai2d,
    by_content=True,
    source="Kembhavi et al. 2016, arXiv 1603.07396",
)
"""Questions about diagrams of school books."""

MMSTAR = Benchmark(
    name="mmstar",
    repo="Lin-Chen/MMStar",
    parts={"val": Part("val")},
    split="val",
    columns=("index", "question", "answer", "category"),
    parse_row=_parse_mmstar,
    by_content=True,
    source="Chen et al. 2024, arXiv 2403.20330",
)
"""Questions that cannot be answered without the image."""

REALWORLDQA = Benchmark(
    name="realworldqa",
    repo="lmms-lab/RealWorldQA",
    parts={"test": Part("test")},
    split="test",
    columns=("question", "answer"),
    parse_row=_parse_realworldqa,
    by_content=True,
    source="xAI 2024, Grok-1.5 Vision preview",
)
"""Questions about photographs, many of them taken from vehicles."""

MATHVISTA = Benchmark(
    name="mathvista",
    repo="AI4Math/MathVista",
    parts={"testmini": Part("testmini", only=("question_type", "multi_choice"))},
    split="testmini",
    columns=("pid", "question", "choices", "answer", "question_type"),
    parse_row=_parse_mathvista,
    by_content=True,
    image="decoded_image",
    source="Lu et al. 2023, arXiv 2310.02255",
)
"""Mathematical questions about figures: the multiple-choice part of testmini."""
