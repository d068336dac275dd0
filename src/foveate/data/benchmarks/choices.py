"""Benchmarks of questions that are answered by the letter of an option.

References are the letter and the text of the right option.
"""

from collections.abc import Iterator
from dataclasses import replace
from string import ascii_uppercase

from foveate.core.errors import DataError, shown
from foveate.data.benchmark import Benchmark, Row, RowQuestion, id_of, missing, option_of, optional, text_of
from foveate.data.sample import Form, Scoring
from foveate.data.stored import Part

ROTATIONS = 1_000_000
"""MMBench's questions whose `index` is the same modulo this number are one, with its options in another order."""


def _scienceqa(row: Row) -> Iterator[RowQuestion]:
    options = tuple(option_of(choice) for choice in row["choices"])
    if not 0 <= int(row["answer"]) < len(options):
        raise DataError(f"its answer is {shown(row['answer'])}, expected a number below {len(options)}")
    letter = ascii_uppercase[int(row["answer"])]
    yield replace(_chosen(row, options, letter, "letter_context", "scienceqa"), kind=optional(row, "subject"))


def _mmbench(row: Row, form: Form = "letter") -> Iterator[RowQuestion]:
    given = ["" if missing(row.get(letter)) else option_of(row[letter]) for letter in "ABCDE"]
    options = tuple(filter(None, given))
    if any(given[len(options) :]):
        raise DataError(f"its options are {shown(given)}, expected none to be left out between two")
    asked = _chosen(row, options, optional(row, "answer"), form, "mmbench")
    yield replace(asked, id=id_of(row, "index"), kind=optional(row, "category"))


def _mmbench_cn(row: Row) -> Iterator[RowQuestion]:
    yield from _mmbench(row, "letter_cn")


def _seed(row: Row) -> Iterator[RowQuestion]:
    options = tuple(option_of(row[f"choice_{letter}"]) for letter in "abcd")
    asked = _chosen(row, options, text_of(row, "answer"), "letter", "seed")
    yield replace(asked, id=id_of(row, "question_id"), kind=id_of(row, "question_type_id"))


def _chosen(row: Row, options: tuple[str, ...], letter: str, form: Form, scoring: Scoring) -> RowQuestion:
    """Returns a question with options, which has no name and kind yet; an empty letter means no answer."""
    if len(options) < 2:
        raise DataError(f"its options are {shown(list(options))}, expected at least two")
    if letter and (len(letter) != 1 or letter not in ascii_uppercase[: len(options)]):
        raise DataError(f"its answer is {shown(letter)}, expected one of {', '.join(ascii_uppercase[: len(options)])}")
    references = (letter, options[ascii_uppercase.index(letter)]) if letter else ()
    question, hint = text_of(row, "question"), optional(row, "hint")
    return RowQuestion("", "", question, references, scoring, form, options, hint)


SCIENCEQA = Benchmark(
    name="scienceqa",
    repo="lmms-lab/ScienceQA",
    parts={split: Part(split, "ScienceQA-FULL") for split in ("test", "validation", "train")},
    split="test",
    columns=("question", "choices", "answer", "hint"),
    ask=_scienceqa,
    text_only=True,
)
"""School questions, about half of them about text alone. Source: Lu et al. 2022, arXiv 2209.09513v2."""

MMBENCH = Benchmark(
    name="mmbench",
    repo="lmms-lab/MMBench",
    parts={"dev": Part("dev", "en"), "test": Part("test", "en", answered=False)},
    split="dev",
    columns=("index", "question", "hint", "answer", "A", "B"),
    ask=_mmbench,
    image_id="index",
    image_id_of=lambda index: str(int(index) % ROTATIONS),
)
"""Each question is asked with its options in every rotation. Source: Liu et al. 2023, arXiv 2307.06281v5."""

MMBENCH_CN = replace(
    MMBENCH,
    name="mmbench_cn",
    parts={"dev": Part("dev", "cn"), "test": Part("test", "cn", answered=False)},
    ask=_mmbench_cn,
)
"""The same in Chinese."""

SEEDBENCH = Benchmark(
    name="seedbench",
    repo="lmms-lab/SEED-Bench",
    parts={"test": Part("test", only=("data_type", "image"))},
    split="test",
    columns=("question_id", "question", "answer", "choice_a", "choice_b", "choice_c", "choice_d", "data_type"),
    ask=_seed,
)
"""The questions about images, not those about videos. Source: Li et al. 2023, arXiv 2307.16125v2."""
