"""Small parquet files with the columns and types of the hub's copies of the benchmarks."""

from io import BytesIO
from pathlib import Path

import numpy as np
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as PILImage

TEXT, TEXTS = Value("string"), List(Value("string"))


def encoded_image(seed: int, size: tuple[int, int] = (96, 96), form: str = "PNG") -> dict:
    """Returns an image as `datasets` stores it: encoded bytes and the name of a file that need not exist."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1] // 8, size[0] // 8, 3), np.uint8)
    data = BytesIO()
    PILImage.fromarray(pixels).resize(size, PILImage.Resampling.NEAREST).save(data, form)
    return {"bytes": data.getvalue(), "path": f"{seed}.{form.lower()}"}


def write(path: Path, rows: list[dict], types: dict) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    types = {name: kind for name, kind in types.items() if name in rows[0]}
    Dataset.from_list(rows, Features(types)).to_parquet(str(path))
    return path


POPE = {n: TEXT for n in ("id", "question_id", "question", "answer", "image_source", "category")} | {"image": Image()}
POPE_KINDS = ("random", "popular", "adversarial")


def pope_rows(images: int = 3) -> list[dict]:
    """Returns rows as on the hub: the categories follow each other and share their images."""
    return [
        {
            "id": f"{3 * image + number}",
            "question_id": f"{2 * image + number + 1}",
            "question": f"Is there a {thing} in the image?",
            "answer": "yes" if number == 0 else "no",
            "image_source": f"COCO_val2014_{image:012d}",
            "image": encoded_image(image),
            "category": kind,
        }
        for kind in POPE_KINDS
        for image in range(images)
        for number, thing in enumerate(("star", "ring"))
    ]


def pope(path: Path, images: int = 3) -> Path:
    return write(path, pope_rows(images), POPE)


TEXTVQA = {
    "image_id": TEXT,
    "question_id": Value("int32"),
    "question": TEXT,
    "question_tokens": TEXTS,
    "image": Image(),
    "image_width": Value("int32"),
    "image_height": Value("int32"),
    "answers": TEXTS,
    "image_classes": TEXTS,
    "set_name": TEXT,
    "ocr_tokens": TEXTS,
}


def textvqa_rows(images: int = 2) -> list[dict]:
    return [
        {
            "image_id": f"00{image}a",
            "question_id": 34602 + 2 * image + number,
            "question": f"what is number {number}?",
            "question_tokens": ["what", "is"],
            "image": encoded_image(image),
            "image_width": 96,
            "image_height": 96,
            "answers": ["nokia"] * 7 + ["the nokia", "phone", "Nokia."],
            "image_classes": [],
            "set_name": "val",
            "ocr_tokens": ["NOKIA", "3310"],
        }
        for image in range(images)
        for number in range(2)
    ]


def textvqa(path: Path) -> Path:
    return write(path, textvqa_rows(), TEXTVQA)


GQA = {
    "id": TEXT,
    "imageId": TEXT,
    "question": TEXT,
    "isBalanced": Value("bool"),
    "answer": TEXT,
    "fullAnswer": TEXT,
    "types": {"structural": TEXT, "semantic": TEXT, "detailed": TEXT},
}


def gqa(folder: Path) -> Path:
    rows = [
        {
            "id": f"20{number}",
            "imageId": f"n{number % 2}",
            "question": "What color is the star?",
            "isBalanced": True,
            "answer": "red",
            "fullAnswer": "The star is red.",
            "types": {"structural": "query", "semantic": "attr", "detailed": "color"},
        }
        for number in range(4)
    ]
    name = "testdev-00000-of-00001.parquet"
    write(folder / "testdev_balanced_instructions" / name, rows, GQA)
    images = [{"id": f"n{number}", "image": encoded_image(number)} for number in range(3)]
    write(folder / "testdev_balanced_images" / name, images, {"id": TEXT, "image": Image()})
    return folder


VQAV2 = {
    "question_type": TEXT,
    "multiple_choice_answer": TEXT,
    "answers": List({"answer": TEXT, "answer_confidence": TEXT, "answer_id": Value("int64")}),
    "image_id": Value("int64"),
    "answer_type": TEXT,
    "question_id": Value("int64"),
    "question": TEXT,
    "image": Image(),
}


def vqav2_rows(answered: bool = True) -> list[dict]:
    texts = ["yes"] * 9 + ["no"]
    answers = [{"answer": text, "answer_confidence": "yes", "answer_id": i + 1} for i, text in enumerate(texts)]
    return [
        {
            "question_type": "is the",
            "multiple_choice_answer": "yes" if answered else None,
            "answers": answers if answered else None,
            "image_id": 9000 + number,
            "answer_type": "yes/no" if answered else None,
            "question_id": 9000000 + number,
            "question": "is there any red star?",
            "image": encoded_image(number, form="JPEG"),
        }
        for number in range(2)
    ]


def vqav2(path: Path, answered: bool = True) -> Path:
    return write(path, vqav2_rows(answered), VQAV2)


VIZWIZ = {"question_id": TEXT, "image": Image(), "question": TEXT, "answers": TEXTS, "category": TEXT}


def vizwiz(path: Path) -> Path:
    rows = [
        {
            "question_id": f"VizWiz_val_0000000{number}",
            "image": encoded_image(number),
            "question": "Ok. There is another image I hope it is a better one.",
            "answers": ["unanswerable"] * 6 + ["beige", "brown", "tan", "tan"],
            "category": "unanswerable",
        }
        for number in range(2)
    ]
    return write(path, rows, VIZWIZ)


SCIENCEQA = {
    "image": Image(),
    "question": TEXT,
    "choices": TEXTS,
    "answer": Value("int8"),
    "hint": TEXT,
    "task": TEXT,
    "grade": TEXT,
    "subject": TEXT,
    "topic": TEXT,
    "category": TEXT,
    "skill": TEXT,
    "lecture": TEXT,
    "solution": TEXT,
}


def scienceqa_rows() -> list[dict]:
    """Returns three rows, the second of them without an image."""
    rest = dict.fromkeys(("task", "grade", "topic", "category", "skill", "lecture", "solution"), "")
    return [
        {
            "image": None if number == 1 else encoded_image(number),
            "question": "Which is red?",
            "choices": ["the star", "the ring", "the cross"][: 2 + number % 2],
            "answer": number % 2,
            "hint": "Look at the shapes." if number else "",
            "subject": "natural science",
            **rest,
        }
        for number in range(3)
    ]


def scienceqa(path: Path) -> Path:
    return write(path, scienceqa_rows(), SCIENCEQA)


MMBENCH = {
    n: TEXT for n in ("question", "hint", "answer", "A", "B", "C", "D", "category", "source", "L2-category", "comment")
} | {"index": Value("int64"), "image": Image(), "split": TEXT}


def mmbench(path: Path) -> Path:
    """Writes two questions of two options in both rotations, whose indices differ by a million."""
    rows = [
        {
            "index": 241 + number + turn * 1_000_000,
            "question": "What color is the star?",
            "hint": "nan" if number else "There is one star.",
            "answer": "AB"[(number + turn) % 2],
            "A": ("red", "blue")[turn],
            "B": ("blue", "red")[turn],
            "C": "nan",
            "D": "nan",
            "category": "attribute",
            "image": encoded_image(number),
            "source": "made",
            "L2-category": "perception",
            "comment": "nan",
            "split": "dev",
        }
        for turn in range(2)
        for number in range(2)
    ]
    return write(path, rows, MMBENCH)


SEED = {n: TEXT for n in ("answer", "choice_a", "choice_b", "choice_c", "choice_d", "data_id", "data_type")} | {
    "question": TEXT,
    "question_id": TEXT,
    "question_type_id": Value("int16"),
    "image": List(Image()),
    "segment": List(Value("int64")),
}


def seedbench(path: Path) -> Path:
    rows = [
        {
            "answer": "C",
            "choice_a": "One",
            "choice_b": "Two",
            "choice_c": "Three",
            "choice_d": "Four",
            "data_id": f"{number}",
            "data_type": "video" if number == 1 else "image",
            "question": "How many shapes are there?",
            "question_id": f"10{number}",
            "question_type_id": 5,
            "image": [encoded_image(number)] * (8 if number == 1 else 1),
            "segment": [0, 1] if number == 1 else [],
        }
        for number in range(3)
    ]
    return write(path, rows, SEED)


MMVET = {n: TEXT for n in ("question_id", "question", "answer", "image_source", "capability")} | {"image": Image()}


def mmvet(path: Path) -> Path:
    rows = [
        {
            "question_id": f"v1_{number}",
            "image": encoded_image(number),
            "question": "What is x in the equation?",
            "answer": "-1<AND>-5",
            "image_source": "https://",
            "capability": "ocr,math",
        }
        for number in range(2)
    ]
    return write(path, rows, MMVET)


MME = {n: TEXT for n in ("question_id", "question", "answer", "category")} | {"image": Image()}


def mme_rows() -> list[dict]:
    return [
        {
            "question_id": f"{task}/000{image}.png",
            "image": encoded_image(image),
            "question": f"Is this {thing}? Please answer yes or no.",
            "answer": answer,
            "category": task,
        }
        for task in ("existence", "code_reasoning")
        for image in range(2)
        for thing, answer in (("a star", "Yes"), ("a ring", "No"))
    ]


def mme(path: Path) -> Path:
    return write(path, mme_rows(), MME)


REFCOCO = {
    "question_id": TEXT,
    "image": Image(),
    "question": TEXT,
    "answer": TEXTS,
    "segmentation": List(Value("float32")),
    "bbox": List(Value("float32")),
    "iscrowd": Value("int8"),
    "file_name": TEXT,
}


def refcoco(path: Path, size: tuple[int, int] = (160, 80)) -> Path:
    rows = [
        {
            "question_id": f"{number}",
            "image": encoded_image(7, size),
            "question": "Please describe the region.",
            "answer": ["red star", "the star"][: 2 - number],
            "segmentation": [0.0] * 8,
            "bbox": [80.0, 0.0, 40.0, 40.0],
            "iscrowd": 0,
            "file_name": f"COCO_train2014_000000581857_{16 + number}.jpg",
        }
        for number in range(2)
    ]
    return write(path, rows, REFCOCO)
