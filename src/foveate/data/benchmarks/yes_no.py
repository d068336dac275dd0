"""Benchmarks of yes-or-no questions."""

from collections.abc import Iterator

from foveate.core.errors import DataError, shown
from foveate.data.benchmark import Benchmark, Row, RowQuestion, id_of, text_of
from foveate.data.stored import Part

_SUFFIX = "Please answer yes or no."  # of every question of MME; removed because prompts have their own


def _parse_pope(row: Row) -> Iterator[RowQuestion]:
    kind, name = text_of(row, "category"), id_of(row, "question_id")
    yield RowQuestion(
        f"{kind}-{name}" if name else "", kind, text_of(row, "question"), (_truth(row),), "pope", "yes_no"
    )


def _parse_mme(row: Row) -> Iterator[RowQuestion]:
    question = text_of(row, "question").removesuffix(_SUFFIX).strip()
    yield RowQuestion(
        text_of(row, "question_id"), text_of(row, "category"), question, (_truth(row),), "yes_no", "yes_no"
    )


def _truth(row: Row) -> str:
    """Returns the reference answer, yes or no."""
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
    parse_row=_parse_pope,
    image_id="image_source",
)
"""Questions about the presence of objects, half of them absent. Source: Li et al. 2023, arXiv 2305.10355v3."""

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
"""Subtasks of MME whose scores add up to its perception score; the others make up its cognition score."""

MME = Benchmark(
    name="mme",
    repo="lmms-lab/MME",
    parts={"test": Part("test")},
    split="test",
    columns=("question_id", "question", "answer", "category"),
    parse_row=_parse_mme,
    image_id="question_id",  # the same for both questions about an image
)
"""Two questions per image, one of them with the answer yes. Source: Fu et al. 2023, arXiv 2306.13394v4."""
