"""Benchmarks of questions about charts, documents, infographics and text in images."""

from collections.abc import Iterator

from foveate.data.benchmark import Benchmark, Row, RowQuestion, id_of, optional_text, text_of, texts_of
from foveate.data.stored import Part, content_hash

_FORMULAS = "HME100k"  # the data set in OCRBench whose answers are compared without blanks and with case


def _parse_chartqa(row: Row) -> Iterator[RowQuestion]:
    kind = text_of(row, "type").removesuffix("_test")
    yield RowQuestion("", kind, text_of(row, "question"), (text_of(row, "answer"),), "relaxed", "word")


def _parse_docvqa(row: Row) -> Iterator[RowQuestion]:
    yield _document_question(row, "question_types")


def _parse_infographicvqa(row: Row) -> Iterator[RowQuestion]:
    yield _document_question(row, "answer_type")


def _document_question(row: Row, kinds: str) -> RowQuestion:
    """Returns a question whose kinds, of which it may have several, are in a column."""
    name, kind = id_of(row, "questionId"), ",".join(texts_of(row, kinds))
    return RowQuestion(name, kind, text_of(row, "question"), texts_of(row, "answers"), "anls", "short")


def _parse_ocrbench(row: Row) -> Iterator[RowQuestion]:
    scoring = "ocr_formula" if optional_text(row, "dataset") == _FORMULAS else "ocr"
    kind, answers = text_of(row, "question_type"), texts_of(row, "answer")
    yield RowQuestion("", kind, text_of(row, "question"), answers, scoring, "read")


def _hash(address: str) -> str:
    """Returns a name of an image by its address, which may be too long for the name of a file."""
    return content_hash(str(address).encode(errors="surrogatepass")) if str(address).strip() else ""


CHARTQA = Benchmark(
    name="chartqa",
    repo="lmms-lab/ChartQA",
    parts={
        "test": Part("test"),
        "human": Part("test", only=("type", "human_test")),
        "augmented": Part("test", only=("type", "augmented_test")),
    },
    split="test",
    columns=("type", "question", "answer"),
    parse_row=_parse_chartqa,
    by_content=True,
    source="Masry et al. 2022, arXiv 2203.10244v1",
)
"""Questions about charts, half of them written by people (human) and half generated from summaries (augmented)."""

DOCVQA = Benchmark(
    name="docvqa",
    repo="lmms-lab/DocVQA",
    parts={"validation": Part("validation", "DocVQA"), "test": Part("test", "DocVQA", answered=False)},
    split="validation",
    columns=("questionId", "question", "ucsf_document_id", "ucsf_document_page_no"),
    parse_row=_parse_docvqa,
    image_id=("ucsf_document_id", "ucsf_document_page_no"),
    source="Mathew et al. 2020, arXiv 2007.00398",
)
"""Questions about scanned pages."""

INFOGRAPHICVQA = Benchmark(
    name="infographicvqa",
    repo="lmms-lab/DocVQA",
    parts={"validation": Part("validation", "InfographicVQA"), "test": Part("test", "InfographicVQA", answered=False)},
    split="validation",
    columns=("questionId", "question", "image_url"),
    parse_row=_parse_infographicvqa,
    image_id="image_url",
    image_id_of=_hash,
    source="Mathew et al. 2021, arXiv 2104.12756",
)
"""Questions about infographics."""

OCRBENCH = Benchmark(
    name="ocrbench",
    repo="echo840/OCRBench",
    parts={"test": Part("test")},
    split="test",
    columns=("dataset", "question", "question_type", "answer"),
    parse_row=_parse_ocrbench,
    by_content=True,
    answer_tokens=128,
    source="Liu et al. 2023, arXiv 2305.07895",
)
"""Recognition of text, questions about it, and extraction of key information."""
