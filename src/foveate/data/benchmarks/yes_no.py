"""Benchmarks of questions that are answered by yes or no."""

from collections.abc import Iterator

from foveate.core.errors import DataError, shown
from foveate.data.benchmark import Benchmark, Row, RowQuestion, id_of, text_of
from foveate.data.stored import Part

_ADDED = "Please answer yes or no."  # to every question of MME; how to say it is the prompt's business


def _pope(row: Row) -> Iterator[RowQuestion]:
    kind, name = text_of(row, "category"), id_of(row, "question_id")
    yield RowQuestion(
        f"{kind}-{name}" if name else "", kind, text_of(row, "question"), (_truth(row),), "pope", "yes_no"
    )


def _mme(row: Row) -> Iterator[RowQuestion]:
    question = text_of(row, "question").removesuffix(_ADDED).strip()
    yield RowQuestion(
        text_of(row, "question_id"), text_of(row, "category"), question, (_truth(row),), "yes_no", "yes_no"
    )


def _truth(row: Row) -> str:
    answer = text_of(row, "answer").lower().rstrip(".")
    if answer not in ("yes", "no"):
        raise DataError(f"answer is {shown(row['answer'])}, expected yes or no")
    return answer


POPE = Benchmark(
    name="pope",
    repo="lmms-lab/POPE",
    parts={
        "test": Part("test"),
        "random": Part("test", only=("category", "random")),
        "popular": Part("test", only=("category", "popular")),
        "adversarial": Part("test", only=("category", "adversarial")),
    },
    split="test",
    columns=("question_id", "question", "answer", "image_source", "category"),
    ask=_pope,
    image_id="image_source",
)
"""Whether objects are in an image that are not. Source: Li et al. 2023, arXiv 2305.10355v3."""

PERCEPTION = (
    "existence",
    "count",
    "position",
    "color",
    "posters",
    "celebrity",
    "scene",
    "landmark",
    "artwork",
    "OCR",
)
"""The subtasks of MME whose scores make up its perception score; the others are its cognition."""

MME = Benchmark(
    name="mme",
    repo="lmms-lab/MME",
    parts={"test": Part("test")},
    split="test",
    columns=("question_id", "question", "answer", "category"),
    ask=_mme,
    image_id="question_id",  # names the image: its two questions share it
)
"""Two questions per image, one of which is to be affirmed. Source: Fu et al. 2023, arXiv 2306.13394v4."""
