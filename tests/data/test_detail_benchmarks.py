"""Benchmarks of charts, documents, hallucination and exams: their prompts, images and rows."""

import json

import pytest

from foveate.core.errors import DataError
from foveate.data.benchmarks.captions import NOTHING, write_chair_table
from foveate.data.load import default_split, load_samples
from foveate.data.prompts import format_prompt
from tests.data import detail_tables, tables
from tests.data.test_benchmarks import FILES


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


BRIEFLY = "\nPlease try to answer the question with short words or phrases if possible."
SHORT = "\nAnswer the question using a single word or phrase."
SELECT = "\nPlease select the correct answer from the options above."
LETTER = "\nAnswer with the option's letter from the given choices directly."
HINT = "Hint: Please answer the question and provide the correct option letter, e.g., A, B, C, D, at the end.\n"
BAR, SIZE, SHAPE = "What is the value of bar 0?", "Is the star larger?", "Which shape is red?"
STATED = f"{SHAPE}\nOptions: A: star, B: ring, C: cross, D: moon"
MATH = "Question: How long is AB? (Unit: $)\nChoices:\n(A) 12\n(B) 13"
STAR = "Which star is in <image 1>?"
# the prompts of the authors' evaluations, which VLMEvalKit has for Qwen-VL and InternVL: of the first question
PROMPTS = {
    "chartqa": (BAR + BRIEFLY, BAR + SHORT),
    "docvqa": ("What is the date in the letter?" + BRIEFLY, "What is the date in the letter?" + SHORT),
    "ocrbench": ("what is written in the image?" + BRIEFLY, "what is written in the image?" + SHORT),
    "hallusionbench": (f"{SIZE} Please answer yes or no.", f"{SIZE} Please answer yes or no. {SHORT[1:]}"),
    "mmstar": (f"Question: {STATED}{SELECT}", STATED + LETTER),
    "mathvista": (HINT + MATH + BRIEFLY, HINT + MATH),
    "mmmu": (
        f"Question: {STAR}\nOptions:\nA. red\nB. blue\nC. the king's{SELECT}",
        f"{STAR}\nA. red\nB. blue\nC. the king's{LETTER}",
    ),
}


def samples(name, folder, split):
    return load_samples(f"{name}:{FILES[name](folder / f'{name}.parquet')}", split)


@pytest.mark.parametrize("name", PROMPTS)
def test_prompts_are_those_of_each_familys_authors(name, tmp_path):
    first = samples(name, tmp_path, default_split(name))[0]
    assert (format_prompt(first, "qwen2_5_vl"), format_prompt(first, "internvl")) == PROMPTS[name]


def test_splits_of_chartqa_are_its_human_and_its_augmented_questions(tmp_path):
    human, augmented = (samples("chartqa", tmp_path, split) for split in ("human", "augmented"))
    assert [sample.kind for sample in human + augmented] == ["human", "human", "augmented"]


def test_questions_share_an_image_if_its_encoded_bytes_are_the_same(tmp_path):
    first, second, other = samples("chartqa", tmp_path, "test")
    assert first.image_id == second.image_id != other.image_id
    rows = [tables.encoded_image(seed) for seed in (5, 5, 6)]
    files = [{"bytes": None, "path": path} for path in ("a.png", "a.png", "b.png")]
    for images in (rows, files):
        made = [dict(zip(("question", "answer", "image"), ("Where?", "A", image), strict=True)) for image in images]
        types = detail_tables.REALWORLDQA | {"image": {"bytes": tables.Value("binary"), "path": tables.TEXT}}
        table = tables.write(tmp_path / "realworldqa.parquet", made, types)
        found = [sample.image_id for sample in load_samples(f"realworldqa:{table}", "test")]
        assert found[0] == found[1] != found[2]


def test_a_page_of_docvqa_is_a_document_with_the_number_of_the_page(tmp_path):
    found = [sample.image_id for sample in samples("docvqa", tmp_path, "validation")]
    assert found == ["pybv0228_7", "pybv0228_7", "pybv0228_8"]


def test_the_test_split_of_docvqa_has_no_answers(tmp_path):
    table = detail_tables.docvqa(tmp_path / "docvqa.parquet", answered=False)
    found = load_samples(f"docvqa:{table}", "test")
    assert [(sample.references, sample.scoring, sample.kind, sample.problem) for sample in found] == [
        ((), "none", "", "")
    ] * 3


def test_formulas_of_ocrbench_have_a_rule_of_their_own(tmp_path):
    assert [sample.scoring for sample in samples("ocrbench", tmp_path, "test")] == ["ocr", "ocr_formula"]


def test_questions_of_realworldqa_are_choices_or_words(tmp_path):
    found = [(sample.kind, sample.scoring, sample.references) for sample in samples("realworldqa", tmp_path, "test")]
    assert found == [("choice", "letter", ("B",)), ("word or number", "exact", ("2",))]


def test_a_question_of_mmmu_has_the_images_that_it_mentions_by_number(tmp_path):
    one, two, open_answer = samples("mmmu", tmp_path, "validation")
    assert [len(sample.sources) for sample in (one, two, open_answer)] == [1, 2, 1]  # the third explains the answer
    shown = [source.content() for source in two.sources]
    assert shown == [tables.encoded_image(10 + number)["bytes"] for number in (1, 2)]
    assert two.question == "Compare <image 2> with <image 1>." and two.kind == "Art_Theory"
    assert (open_answer.references, open_answer.scoring) == (("24/7", "3.429"), "mmmu_open")
    assert format_prompt(open_answer, "llava") == "How long is x in <image 1>?\n" + SHORT
    assert format_prompt(open_answer, "qwen2_vl") == "Question: How long is x in <image 1>?"
    assert format_prompt(open_answer, "internvl") == "How long is x in <image 1>?\nAnswer the question directly."


def test_internvl_numbers_the_images_of_a_question_about_several(tmp_path):
    two = samples("mmmu", tmp_path, "validation")[1]
    start = "Image-1: <image>\nImage-2: <image>\nCompare <image 2> with <image 1>.\nA. <image 2>"
    assert format_prompt(two, "internvl").startswith(start)
    assert "Image-" not in format_prompt(two, "llava") + format_prompt(two, "internvl", instruct=False)


@pytest.mark.parametrize("options", ["['a'", "7", "['a', 1, []]", "(" * 20_000, "__import__('os')"])
def test_options_of_mmmu_that_are_no_list_of_texts_are_a_named_problem(options, tmp_path):
    row = dict.fromkeys(detail_tables.MMMU) | {"id": "validation_Art_1", "question": "Which?", "answer": "A"}
    row |= {"options": options, "question_type": "multiple-choice", "image_1": tables.encoded_image(0)}
    (sample,) = load_samples(f"mmmu:{tables.write(tmp_path / 'mmmu.parquet', [row], detail_tables.MMMU)}", "validation")
    assert "no list of texts" in sample.problem or "an option is []" in sample.problem


def test_the_table_of_captions_has_the_objects_of_annotations_and_captions(tmp_path):
    table = detail_tables.chair(tmp_path / "chair.parquet")
    for file in (tmp_path / "coco/val2014").iterdir():
        file.unlink()  # the table holds the images
    first, second = load_samples(f"chair:{table}", "val")
    assert first.id == "COCO_val2014_000000000139"
    assert first.references == ("dog", "person", "sports ball")  # the man of the caption has no annotation
    assert (second.references, second.image.size) == ((NOTHING,), (96, 96))


def test_the_table_of_captions_can_have_chosen_images(tmp_path):
    files = detail_tables.coco(tmp_path)
    name = "COCO_val2014_000000000285.jpg"
    found = load_samples(f"chair:{write_chair_table(*files, tmp_path / 'one.parquet', [name])}", "val")
    assert [sample.image_id for sample in found] == [name]
    for wrong, why in (
        ("a.jpg", "no image 'a.jpg' has captions: expected names such as 'COCO_val"),
        (name, "there is no"),
    ):
        (files[2] / name).unlink(missing_ok=True)
        with pytest.raises(DataError, match=why):
            write_chair_table(*files, tmp_path / "two.parquet", [wrong])
    (tmp_path / "list.json").write_text(json.dumps([]))
    for path in ("list.json", "nothing.json"):
        with pytest.raises(DataError, match="cannot be read as annotations of COCO"):
            write_chair_table(tmp_path / path, *files[1:], tmp_path / "two.parquet")


def test_captions_without_annotated_objects_name_the_missing_column(tmp_path):
    rows = [{"question_id": "a.jpg", "answer": ["a dog"], "image": tables.encoded_image(0)}]
    types = {"question_id": tables.TEXT, "answer": tables.TEXTS, "image": tables.Image()}
    with pytest.raises(DataError, match="data 'chair' lacks the columns instance"):
        load_samples(f"chair:{tables.write(tmp_path / 'chair.parquet', rows, types)}", "val")
