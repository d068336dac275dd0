"""Small parquet files with the columns and types of the benchmarks of charts, documents, hallucination and exams."""

import json
from pathlib import Path

from datasets import Features, Image, List, Value

from foveate.data.benchmarks.captions import write_chair_table
from tests.data.tables import TEXT, TEXTS, encoded_image, write

CHARTQA = {"type": TEXT, "question": TEXT, "answer": TEXT, "image": Image()}


def chartqa(path: Path) -> Path:
    """Writes two questions about one chart and one about another, as `human_test` and `augmented_test`."""
    rows = [
        {
            "type": "human_test" if number < 2 else "augmented_test",
            "question": f"What is the value of bar {number}?",
            "answer": "40%" if number else "12.5",
            "image": encoded_image(number // 2),
        }
        for number in range(3)
    ]
    return write(path, rows, CHARTQA)


DOCVQA = {
    "questionId": TEXT,
    "question": TEXT,
    "question_types": TEXTS,
    "image": Image(),
    "docId": Value("int64"),
    "ucsf_document_id": TEXT,
    "ucsf_document_page_no": TEXT,
    "answers": TEXTS,
    "data_split": TEXT,
}


def docvqa(path: Path, answered: bool = True) -> Path:
    """Writes two questions about page 7 of a document, and one about its page 8."""
    rows = [
        {
            "questionId": f"{49153 + number}",
            "question": "What is the date in the letter?",
            "question_types": ["handwritten", "form"] if answered else None,
            "image": encoded_image(number // 2),
            "docId": 14465,
            "ucsf_document_id": "pybv0228",
            "ucsf_document_page_no": str(7 + number // 2),
            "answers": ["1/8/93", "Jan 8"] if answered else None,
            "data_split": "val",
        }
        for number in range(3)
    ]
    return write(path, rows, DOCVQA)


INFOGRAPHICVQA = {
    "questionId": TEXT,
    "question": TEXT,
    "answers": TEXTS,
    "answer_type": TEXTS,
    "image": Image(),
    "image_url": TEXT,
    "operation/reasoning": TEXTS,
    "ocr": TEXT,
    "data_split": TEXT,
}


def infographicvqa(path: Path) -> Path:
    """Writes two questions about an infographic with an address that is too long for the name of a file."""
    rows = [
        {
            "questionId": f"{98313 + number}",
            "question": "How many stars are shown?",
            "answers": ["four", "4"],
            "answer_type": ["single span", "non-extractive"][: 1 + number],
            "image": encoded_image(3),
            "image_url": "https://example.org/" + "a/" * 150 + "b.jpg",
            "operation/reasoning": ["counting"],
            "ocr": "[]",
            "data_split": "val",
        }
        for number in range(2)
    ]
    return write(path, rows, INFOGRAPHICVQA)


OCRBENCH = {"dataset": TEXT, "question": TEXT, "question_type": TEXT, "answer": TEXTS, "image": Image()}


def ocrbench(path: Path) -> Path:
    rows = [
        {
            "dataset": "IIIT5K",
            "question": "what is written in the image?",
            "question_type": "Regular Text Recognition",
            "answer": ["CENTRE"],
            "image": encoded_image(1),
        },
        {
            "dataset": "HME100k",
            "question": "Please write out the expression of the formula in the image using LaTeX format.",
            "question_type": "Handwritten Mathematical Expression Recognition",
            "answer": ["x ^ { 2 } = A"],
            "image": encoded_image(2),
        },
    ]
    return write(path, rows, OCRBENCH)


AI2D = {"question": TEXT, "options": TEXTS, "answer": TEXT, "image": Image()}


def ai2d(path: Path) -> Path:
    rows = [
        {
            "question": "What eats the star?",
            "options": ["ring", "cross", "moon", "sun"],
            "answer": f"{2 + number}",
            "image": encoded_image(0),
        }
        for number in range(2)
    ]
    return write(path, rows, AI2D)


MMSTAR = {
    "index": Value("int64"),
    "question": TEXT,
    "image": Image(),
    "answer": TEXT,
    "category": TEXT,
    "l2_category": TEXT,
    "meta_info": {"source": TEXT, "split": TEXT, "image_path": TEXT},
}


def mmstar(path: Path) -> Path:
    rows = [
        {
            "index": number,
            "question": "Which shape is red?\nOptions: A: star, B: ring, C: cross, D: moon",
            "image": encoded_image(number),
            "answer": "AB"[number],
            "category": "math",
            "l2_category": "geometry",
            "meta_info": {"source": "made", "split": "val", "image_path": "a.png"},
        }
        for number in range(2)
    ]
    return write(path, rows, MMSTAR)


REALWORLDQA = {"image": Image(), "image_path": TEXT, "question": TEXT, "answer": TEXT}


def realworldqa(path: Path) -> Path:
    chosen = (
        "Where is the star?\n\nA. Left\nB. Right\nPlease answer directly with only the letter of the correct option."
    )
    counted = "How many stars are there? Please answer directly with a single word or number."
    rows = [
        {"image": encoded_image(n), "image_path": f"{n}.webp", "question": question, "answer": answer}
        for n, (question, answer) in enumerate(((chosen, "B"), (counted, "2")))
    ]
    return write(path, rows, REALWORLDQA)


HALLUSIONBENCH = {
    name: TEXT
    for name in (
        *("category", "subcategory", "visual_input", "set_id", "figure_id", "sample_note", "question_id", "question"),
        *("gt_answer_details", "gt_answer", "filename"),
    )
} | {"image": Image()}


def hallusionbench(path: Path) -> Path:
    """Writes two questions about each of the two figures of a set; edited, the figure has the opposite answers."""
    rows = [
        {
            "category": "VD",
            "subcategory": "illusion",
            "visual_input": "1",
            "set_id": "0",
            "figure_id": str(figure),
            "sample_note": "circle",
            "question_id": str(question),
            "question": ("Is the star larger?", "Are both of one size?")[question],
            "gt_answer_details": "",
            "gt_answer": str((figure + question) % 2),
            "filename": f"./hallusion_bench/VD/illusion/0_{figure}.png",
            "image": encoded_image(figure),
        }
        for figure in range(2)
        for question in range(2)
    ]
    return write(path, rows, HALLUSIONBENCH)


def coco(folder: Path) -> tuple[Path, Path, Path]:
    """Writes annotation files of COCO about a dog with a ball, and about nothing; returns them and the images."""
    names = [f"COCO_val2014_{number:012d}.jpg" for number in (139, 285)]
    images = folder / "val2014"
    images.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        (images / name).write_bytes(encoded_image(number, form="JPEG")["bytes"])
    listed = [{"id": number, "file_name": name} for number, name in zip((139, 285), names, strict=True)]
    classes = [{"id": 18, "name": "dog", "supercategory": "animal"}, {"id": 37, "name": "sports ball"}]
    boxes = [{"image_id": 139, "category_id": 18, "id": 1}, {"image_id": 139, "category_id": 37, "id": 2}]
    texts = [
        {"image_id": 139, "id": 3, "caption": "A man throws a ball."},
        {"image_id": 285, "id": 4, "caption": "Sky."},
    ]
    instances, captions = folder / "instances_val2014.json", folder / "captions_val2014.json"
    instances.write_text(json.dumps({"images": listed, "annotations": boxes, "categories": classes}))
    captions.write_text(json.dumps({"images": listed, "annotations": texts}))
    return instances, captions, images


def chair(path: Path) -> Path:
    return write_chair_table(*coco(path.parent / "coco"), path)


MMMU = (
    {name: TEXT for name in ("id", "question", "options", "explanation")}
    | {f"image_{number}": Image() for number in range(1, 8)}
    | {name: TEXT for name in ("img_type", "answer", "topic_difficulty", "question_type", "subfield")}
)


def mmmu(path: Path) -> Path:
    """Writes a question about an image, one about two of its three images, and one with an open answer."""
    questions = [
        ("Art_1", "Which star is in <image 1>?", "['red', 'blue', \"the king's\"]", "C", "multiple-choice", 1),
        ("Art_Theory_2", "Compare <image 2> with <image 1>.", "['<image 2>', 'none']", "A", "multiple-choice", 3),
        ("Math_3", "How long is x in <image 1>?", "[]", "['24/7', '3.429']", "open", 1),
    ]
    rows = []
    for number, (name, question, options, answer, kind, images) in enumerate(questions):
        shown = {f"image_{n}": encoded_image(10 * number + n) if n <= images else None for n in range(1, 8)}
        texts = {
            "id": f"validation_{name}",
            "question": question,
            "options": options,
            "explanation": "",
            "answer": answer,
        }
        rest = {"img_type": "['Plots']", "topic_difficulty": "Easy", "question_type": kind, "subfield": "Made"}
        rows.append(texts | shown | rest)
    return write(path, rows, MMMU)


MATHVISTA = {
    **{name: TEXT for name in ("pid", "question", "image")},
    "decoded_image": Image(),
    "choices": TEXTS,
    "unit": TEXT,
    "precision": Value("float64"),
    **{name: TEXT for name in ("answer", "question_type", "answer_type")},
    "metadata": Features(task=TEXT, source=TEXT, skills=List(TEXT)),
    "query": TEXT,
}


def mathvista(path: Path) -> Path:
    """Writes a question with choices and one without, which is left out."""
    rows = [
        {
            "pid": f"{number}",
            "question": "How long is AB?",
            "image": f"images/{number}.jpg",
            "decoded_image": encoded_image(number),
            "choices": None if number else ["12", "13"],
            "unit": "$" if not number else None,
            "precision": None,
            "answer": "13",
            "question_type": "free_form" if number else "multi_choice",
            "answer_type": "integer" if number else "text",
            "metadata": {"task": "geometry problem solving", "source": "made", "skills": ["geometry reasoning"]},
            "query": "",
        }
        for number in range(2)
    ]
    return write(path, rows, MATHVISTA)
