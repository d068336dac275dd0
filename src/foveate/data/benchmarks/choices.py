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
)
"""School questions, about half of them text-only. Source: Lu et al. 2022, arXiv 2209.09513v2."""

MMBENCH = Benchmark(
    name="mmbench",
    repo="lmms-lab/MMBench",
    parts={"dev": Part("dev", "en"), "test": Part("test", "en", answered=False)},
    split="dev",
    columns=("index", "question", "hint", "answer", "A", "B"),
    parse_row=_parse_mmbench,
    image_id="index",
    image_id_of=lambda index: str(int(index) % ROTATIONS),
)
"""General questions, each repeated with every rotation of its options. Source: Liu et al. 2023, arXiv 2307.06281v5."""

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
)
"""The questions of SEED-Bench about images, without those about videos. Source: Li et al. 2023, arXiv 2307.16125v2."""
