"""Benchmarks of questions with open answers: a word, a phrase or a longer text."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from foveate.data.benchmark import Benchmark, Row, RowQuestion, id_of, optional_text, text_of, texts_of
from foveate.data.stored import Part


def _parse_vqav2(row: Row) -> Iterator[RowQuestion]:
    answers = tuple(entry["answer"] for entry in _entries(row.get("answers")))
    kind = optional_text(row, "answer_type")
    yield RowQuestion(id_of(row, "question_id"), kind, text_of(row, "question"), answers, "vqa", "short")


def _parse_textvqa(row: Row) -> Iterator[RowQuestion]:
    answers = texts_of(row, "answers")
    yield RowQuestion(id_of(row, "question_id"), "", text_of(row, "question"), answers, "textvqa", "short")


def _parse_textvqa_ocr(row: Row) -> Iterator[RowQuestion]:
    for question in _parse_textvqa(row):
        yield replace(question, hint=", ".join(texts_of(row, "ocr_tokens")))


def _parse_vizwiz(row: Row) -> Iterator[RowQuestion]:
    answers, kind = texts_of(row, "answers"), optional_text(row, "category")
    name = id_of(row, "question_id").removesuffix(".jpg")
    yield RowQuestion(name, kind, text_of(row, "question"), answers, "textvqa", "unanswerable")


def _parse_gqa(row: Row) -> Iterator[RowQuestion]:
    kind = (row.get("types") or {}).get("structural") or ""
    yield RowQuestion(id_of(row, "id"), kind, text_of(row, "question"), (text_of(row, "answer"),), "gqa", "short")


def _parse_mmvet(row: Row) -> Iterator[RowQuestion]:
    kind = row.get("capability")
    kind = ",".join(kind) if isinstance(kind, list) else kind or ""
    yield RowQuestion(
        text_of(row, "question_id"), kind, text_of(row, "question"), (text_of(row, "answer"),), "mentions", "free"
    )


def _entries(value: Any) -> list[dict[str, Any]]:  # noqa: ANN401 (as the table has it)
    """Returns a list of structs, also from a struct of lists, which older versions of `datasets` wrote."""
    if isinstance(value, dict):
        return [dict(zip(value, entry, strict=True)) for entry in zip(*value.values(), strict=True)]
    return list(value or ())


VQAV2 = Benchmark(
    name="vqav2",
    repo="lmms-lab/VQAv2",
    parts={
        "validation": Part("validation"),
        "testdev": Part("testdev", answered=False),
        "test": Part("test", answered=False),
    },
    split="validation",
    columns=("question_id", "question", "image_id"),
    parse_row=_parse_vqav2,
    image_id="image_id",
    source="Goyal et al. 2017, arXiv 1612.00837v3",
)

TEXTVQA = Benchmark(
    name="textvqa",
    repo="lmms-lab/textvqa",
    parts={"validation": Part("validation"), "train": Part("train"), "test": Part("test", answered=False)},
    split="validation",
    columns=("question_id", "question", "image_id"),
    parse_row=_parse_textvqa,
    image_id="image_id",
    source="Singh et al. 2019, arXiv 1904.08920v2",
)
"""Questions about text in images."""

TEXTVQA_OCR = replace(
    TEXTVQA, name="textvqa_ocr", columns=(*TEXTVQA.columns, "ocr_tokens"), parse_row=_parse_textvqa_ocr
)
"""TextVQA with the tokens of an OCR system in the prompt, as in LLaVA-1.5's own evaluation."""

VIZWIZ = Benchmark(
    name="vizwiz",
    repo="lmms-lab/VizWiz-VQA",
    parts={"val": Part("val"), "test": Part("test", answered=False)},
    split="val",
    columns=("question_id", "question"),
    parse_row=_parse_vizwiz,
    source="Gurari et al. 2018, arXiv 1802.08218v4",
)
"""Questions of blind people, many of them unanswerable."""

GQA = Benchmark(
    name="gqa",
    repo="lmms-lab/GQA",
    parts={"testdev": Part("testdev", "testdev_balanced_instructions")},
    split="testdev",
    columns=("id", "imageId", "question", "answer"),
    parse_row=_parse_gqa,
    image_id="imageId",
    images={"testdev": Part("testdev", "testdev_balanced_images")},
    source="Hudson and Manning 2019, arXiv 1902.09506v3",
)
"""Compositional questions about scenes."""

MMVET = Benchmark(
    name="mmvet",
    repo="lmms-lab/MMVet",
    parts={"test": Part("test")},
    split="test",
    columns=("question_id", "question", "answer"),
    parse_row=_parse_mmvet,
    answer_tokens=512,
    source="Yu et al. 2023, arXiv 2308.02490v4",
)
"""Questions with long answers, which the authors grade by GPT-4."""
