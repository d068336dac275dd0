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


def _parse_hallusionbench(row: Row) -> Iterator[RowQuestion]:
    """Yields the question; its id ends in the numbers of its set, its figure and its question."""
    if (answer := id_of(row, "gt_answer")) not in ("0", "1"):
        raise DataError(f"gt_answer is {shown(row['gt_answer'])}, expected 0 (no) or 1 (yes)")
    kind = "_".join(text_of(row, column) for column in ("category", "subcategory"))
    numbers = [id_of(row, column) for column in ("set_id", "figure_id", "question_id")]
    if not all(number.isdecimal() for number in numbers):
        raise DataError(f"its set, figure and question are {shown(numbers)}, expected three numbers")
    name, question = "_".join([kind, *numbers]), text_of(row, "question")
    yield RowQuestion(name, kind, question, (("no", "yes")[int(answer)],), "yes_or_no", "yes_no_bare")


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
    source="Li et al. 2023, arXiv 2305.10355v3",
)
"""Questions about the presence of objects, half of them absent."""

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
    source="Fu et al. 2023, arXiv 2306.13394v4",
)
"""Two questions per image, one of them with the answer yes."""

HALLUSIONBENCH = Benchmark(
    name="hallusionbench",
    repo="lmms-lab/HallusionBench",
    parts={"image": Part("image")},
    split="image",
    columns=("category", "subcategory", "set_id", "figure_id", "question_id", "question", "gt_answer", "filename"),
    parse_row=_parse_hallusionbench,
    image_id="filename",
    source="Guan et al. 2023, arXiv 2310.14566",
)
"""Questions about illusions and edited figures, asked about the original and the edited figure."""
