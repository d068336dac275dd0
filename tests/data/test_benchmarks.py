import tracemalloc
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from datasets import Dataset
from PIL import Image

from foveate.core.errors import DataError
from foveate.data.benchmark import id_of, is_missing, option_of, optional_text, text_of
from foveate.data.benchmarks import BENCHMARKS
from foveate.data.load import data_hash, default_split, load_samples
from foveate.data.prompts import LETTERS, format_prompt
from foveate.data.sample import media_of
from foveate.data.stored import StoredImage
from foveate.metrics.answers import score_of
from foveate.metrics.choices import mmbench_letter
from tests.data import detail_tables, tables, video_tables
from tests.tiers import extended


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


FILES = {
    "pope": tables.pope,
    "mme": tables.mme,
    "textvqa": tables.textvqa,
    "textvqa_ocr": tables.textvqa,
    "vqav2": tables.vqav2,
    "vizwiz": tables.vizwiz,
    "scienceqa": tables.scienceqa,
    "mmbench": tables.mmbench,
    "mmbench_cn": tables.mmbench,
    "seedbench": tables.seedbench,
    "mmvet": tables.mmvet,
    "refcoco": tables.refcoco,
    "refcoco+": tables.refcoco,
    "refcocog": tables.refcoco,
    "gqa": tables.gqa,
    "chartqa": detail_tables.chartqa,
    "docvqa": detail_tables.docvqa,
    "infographicvqa": detail_tables.infographicvqa,
    "ocrbench": detail_tables.ocrbench,
    "ai2d": detail_tables.ai2d,
    "mmstar": detail_tables.mmstar,
    "realworldqa": detail_tables.realworldqa,
    "hallusionbench": detail_tables.hallusionbench,
    "chair": detail_tables.chair,
    "mmmu": detail_tables.mmmu,
    "mathvista": detail_tables.mathvista,
}
WRONG = {
    "chair": "A giraffe.",
    "hallusionbench": "Yes.",
    "mathvista": "(A) 12",
}  # wrong answers to questions to which the usual wrong answer is right
# numbers of questions and images; references, kind and LLaVA's prompt of the first question
SHORT = "\nAnswer the question using a single word or phrase."
LETTER = "\nAnswer with the option's letter from the given choices directly."
EXPECTED = {
    "pope": (18, 3, ("yes",), "random", "Is there a star in the image?" + SHORT),
    "mme": (8, 4, ("yes",), "existence", "Is this a star?" + SHORT),
    "textvqa": (4, 2, ("nokia",) * 7 + ("the nokia", "phone", "Nokia."), "", "what is number 0?" + SHORT),
    "textvqa_ocr": (
        4,
        2,
        ("nokia",) * 7 + ("the nokia", "phone", "Nokia."),
        "",
        "what is number 0?\nReference OCR token: NOKIA, 3310" + SHORT,
    ),
    "vqav2": (2, 2, ("yes",) * 9 + ("no",), "yes/no", "is there any red star?" + SHORT),
    "vizwiz": (
        2,
        2,
        ("unanswerable",) * 6 + ("beige", "brown", "tan", "tan"),
        "unanswerable",
        "Ok. There is another image I hope it is a better one.\n"
        "When the provided information is insufficient, respond with 'Unanswerable'." + SHORT,
    ),
    "scienceqa": (3, 2, ("A", "the star"), "natural science", "Which is red?\nA. the star\nB. the ring" + LETTER),
    "mmbench": (
        4,
        2,
        ("A", "red"),
        "attribute",
        "There is one star.\nWhat color is the star?\nA. red\nB. blue" + LETTER,
    ),
    "mmbench_cn": (
        4,
        2,
        ("A", "red"),
        "attribute",
        "There is one star.\nWhat color is the star?\nA. red\nB. blue\n请直接回答选项字母。",
    ),
    "seedbench": (
        2,
        2,
        ("C", "Three"),
        "5",
        "How many shapes are there?\nA. One\nB. Two\nC. Three\nD. Four" + LETTER,
    ),
    "mmvet": (2, 2, ("-1<AND>-5",), "ocr,math", "What is x in the equation?"),
    "gqa": (4, 2, ("red",), "query", "What color is the star?" + SHORT),
    "chartqa": (
        3,
        2,
        ("12.5",),
        "human",
        "What is the value of bar 0?\nAnswer the question with a single word.",
    ),
    "docvqa": (3, 2, ("1/8/93", "Jan 8"), "handwritten,form", "What is the date in the letter?" + SHORT),
    "infographicvqa": (2, 1, ("four", "4"), "single span", "How many stars are shown?" + SHORT),
    "ocrbench": (2, 2, ("CENTRE",), "Regular Text Recognition", "what is written in the image?"),
    "ai2d": (2, 1, ("C", "moon"), "", "What eats the star?\nA. ring\nB. cross\nC. moon\nD. sun" + LETTER),
    "mmstar": (
        2,
        2,
        ("A",),
        "math",
        "Which shape is red?\nOptions: A: star, B: ring, C: cross, D: moon" + LETTER.removesuffix("."),
    ),
    "realworldqa": (
        2,
        2,
        ("B",),
        "choice",
        "Where is the star?\n\nA. Left\nB. Right\nPlease answer directly with only the letter of the correct option.",
    ),
    "hallusionbench": (4, 2, ("no",), "VD_illusion", "Is the star larger?"),
    "chair": (2, 2, ("dog", "person", "sports ball"), "", "Please describe this image in detail."),
    "mmmu": (
        3,
        3,
        ("C", "the king's"),
        "Art",
        "Which star is in <image 1>?\nA. red\nB. blue\nC. the king's\n" + LETTER,
    ),
    "mathvista": (
        1,
        1,
        ("B", "13"),
        "geometry problem solving",
        "How long is AB? (Unit: $)\nA. 12\nB. 13" + LETTER,
    ),
} | {
    name: (
        3,
        1,
        ("[0.50, 0.00, 0.75, 0.50]", "[0.500000, 0.000000, 0.750000, 0.500000]"),
        "",
        "Please provide the bounding box coordinate of the region this sentence describes: red star",
    )
    for name in ("refcoco", "refcoco+", "refcocog")
}


def test_every_benchmark_is_tested_here():
    assert set(BENCHMARKS) == {*FILES, *video_tables.FILES} and set(FILES) == set(EXPECTED)


@pytest.mark.parametrize("name", FILES)
def test_a_table_with_the_hubs_columns_becomes_questions(name, tmp_path):
    table = FILES[name](tmp_path / ("gqa" if name == "gqa" else "questions.parquet"))
    samples = load_samples(f"{name}:{table}", default_split(name))
    questions, images, references, kind, prompt = EXPECTED[name]
    assert [sample.problem for sample in samples] == [""] * questions
    assert len({sample.id for sample in samples}) == questions
    found = [sample.image_id for sample in samples if sample.sources]
    assert len(set(found)) == images == 1 + sum(a != b for a, b in pairwise(found))
    first = samples[0]
    assert (first.references, first.kind, format_prompt(first, "llava")) == (references, kind, prompt)
    assert first.image.size == ((160, 80) if name.startswith("refcoco") else (96, 96))
    assert score_of(references[0].replace("<AND>", " and "), first) == 1
    assert score_of(WRONG.get(name, "no, 7, 7, 7, 7"), first) < 1


def test_rows_of_scienceqa_without_an_image_are_text_only_questions(tmp_path):
    table = tables.scienceqa(tmp_path / "scienceqa.parquet")
    samples = load_samples(f"scienceqa:{table}", "test")
    assert [not sample.sources for sample in samples] == [False, True, False]
    assert len({sample.image_id for sample in samples}) == 3
    text_only = samples[1]
    assert (text_only.problem, text_only.evidence.shape[0]) == ("", 0)
    assert format_prompt(text_only, "llava") == (
        "Context: Look at the shapes.\nWhich is red?\nA. the star\nB. the ring\nC. the cross" + LETTER
    )
    with pytest.raises(DataError, match="question 'test-000001' has no image"):
        _ = text_only.image
    assert set(media_of(samples)) == {samples[0].image_id, samples[2].image_id}
    shown = replace(text_only, sources=samples[0].sources)
    assert data_hash(samples) != data_hash([samples[0], shown, samples[2]])


def test_a_row_of_another_benchmark_without_an_image_has_a_missing_image(tmp_path):
    rows = [tables.pope_rows(1)[0] | {"image": None}]
    sample = load_samples(f"pope:{tables.write(tmp_path / 'pope.parquet', rows, tables.POPE)}", "test")[0]
    assert isinstance(sample.sources[0], StoredImage)
    with pytest.raises(DataError, match="is missing: its cell holds neither bytes nor a path"):
        _ = sample.image


NOTHING = (None, "", "  ", "nan", " NaN ", float("nan"))


@pytest.mark.parametrize("value", NOTHING, ids=repr)
def test_null_blank_and_nan_are_missing_in_every_column(value):
    row = {"column": value}
    assert is_missing(value) and optional_text(row, "column") == id_of(row, "column") == ""
    for read in (lambda: text_of(row, "column"), lambda: option_of(value)):
        with pytest.raises(DataError, match="expected a text"):
            read()


def test_surrounding_blanks_of_values_are_removed():
    row = {"text": " a nan \n", "number": 7, "share": 0.5}
    assert text_of(row, "text") == optional_text(row, "text") == option_of(row["text"]) == id_of(row, "text") == "a nan"
    assert (id_of(row, "number"), option_of(7), option_of(0.5)) == ("7", "7", "0.5")
    assert id_of(row, "absent") == optional_text(row, "absent") == optional_text(row, "number") == ""
    for refused_value in (True, b"x", ["x"]):
        with pytest.raises(DataError, match="an option is"):
            option_of(refused_value)


def test_ids_are_unique_for_any_names_of_rows(tmp_path):
    rows = [row for row in tables.pope_rows() if row["category"] == "random"]
    for row, name in zip(rows, ["a", "a", "a#2", "a", "a#2", "b"], strict=True):
        row["question_id"] = name
    table = tables.write(tmp_path / "pope.parquet", rows, tables.POPE)
    names = [sample.id.removeprefix("random-") for sample in load_samples(f"pope:{table}", "test")]
    assert names == ["a", "a#2", "a#2#2", "a#3", "a#2#3", "b"]


def test_a_question_with_more_options_than_letters_is_refused(tmp_path):
    sample = load_samples(f"mmbench:{tables.mmbench(tmp_path / 'questions.parquet')}", default_split("mmbench"))[0]
    most = format_prompt(replace(sample, options=tuple("abcdefghij")), "llava")
    assert "J. j" in most
    for letter in LETTERS:
        assert mmbench_letter(letter, tuple("abcdefghij")) == letter
    with pytest.raises(DataError, match="it has 11 options: expected at most 10, A to J"):
        format_prompt(replace(sample, options=tuple("abcdefghijk")), "llava")


def test_the_pixels_are_those_of_the_file(tmp_path):
    table = tables.pope(tmp_path / "pope.parquet")
    for sample in load_samples(f"pope:{table}", "test"):
        number = int(sample.image_id[-1])
        blocks = np.random.default_rng(number).integers(0, 256, (12, 12, 3), np.uint8)
        np.testing.assert_array_equal(np.asarray(sample.image), np.kron(blocks, np.ones((8, 8, 1), np.uint8)))


def test_splits_of_pope_are_its_categories_and_their_union(tmp_path):
    table = tables.pope(tmp_path / "pope.parquet")
    parts = {kind: load_samples(f"pope:{table}", kind) for kind in tables.POPE_KINDS}
    assert all({sample.kind for sample in samples} == {kind} for kind, samples in parts.items())
    together = {sample.id for samples in parts.values() for sample in samples}
    assert together == {sample.id for sample in load_samples(f"pope:{table}", "test")}


def test_an_unknown_split_lists_the_known_ones(tmp_path):
    table = tables.pope(tmp_path / "pope.parquet")
    with pytest.raises(DataError, match="'hard' of 'pope' is unknown; known: test, random, popular, adversarial"):
        load_samples(f"pope:{table}", "hard")


@pytest.mark.parametrize("limit", [1, 4, 7])
def test_a_limited_split_is_a_prefix_of_the_split(limit, tmp_path):
    table = tables.pope(tmp_path / "pope.parquet")
    whole = load_samples(f"pope:{table}", "test")
    some = load_samples(f"pope:{table}", "test", limit)
    assert [sample.id for sample in some] == [sample.id for sample in whole[:limit]]
    assert data_hash(some) == data_hash(whole[:limit]) != data_hash(whole)


def test_folders_of_the_hubs_layout_and_of_save_to_disk_give_the_same_questions(tmp_path):
    file = tables.pope(tmp_path / "one.parquet")
    rows = tables.pope_rows()
    tables.write(tmp_path / "hub/data/test-00000-of-00002.parquet", rows[:7], tables.POPE)
    tables.write(tmp_path / "hub/data/test-00001-of-00002.parquet", rows[7:], tables.POPE)
    tables.write(tmp_path / "hub/data/other-00000-of-00001.parquet", rows[:1], tables.POPE)
    Dataset.from_parquet(str(file)).save_to_disk(tmp_path / "saved")
    hashes = {data_hash(load_samples(f"pope:{tmp_path / table}", "test")) for table in ("one.parquet", "hub", "saved")}
    assert len(hashes) == 1


def test_an_image_may_be_a_path_in_the_folder_of_the_table(tmp_path):
    rows = tables.pope_rows(1)[:2]
    (tmp_path / "star.png").write_bytes(rows[0]["image"]["bytes"])
    images = [{"bytes": None, "path": "star.png"}] * 2
    stored = tables.write(
        tmp_path / "pope.parquet",
        [row | {"image": image} for row, image in zip(rows, images, strict=True)],
        tables.POPE | {"image": {"bytes": tables.Value("binary"), "path": tables.TEXT}},
    )
    assert load_samples(f"pope:{stored}", "test")[0].image.size == (96, 96)


def test_an_orientation_in_exif_is_applied(tmp_path):
    path = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (96, 48)).save(path, exif=exif)
    rows = [tables.pope_rows(1)[0] | {"image": {"bytes": path.read_bytes(), "path": None}}]
    table = tables.write(tmp_path / "pope.parquet", rows, tables.POPE)
    sample = load_samples(f"pope:{table}", "test")[0]
    assert sample.image.size == sample.sources[0].size == (48, 96)


def test_the_hash_depends_on_images_and_answers(tmp_path):
    rows = tables.pope_rows(1)
    other = [rows[0] | {"image": tables.encoded_image(99)}, *rows[1:]]
    wrong = [rows[0] | {"answer": "no"}, *rows[1:]]
    hashes = {
        data_hash(load_samples(f"pope:{tables.write(tmp_path / f'{n}.parquet', some, tables.POPE)}", "test"))
        for n, some in enumerate((rows, other, wrong))
    }
    assert len(hashes) == 3
    assert data_hash(load_samples(f"pope:{tmp_path / '0.parquet'}", "test")) in hashes


def test_images_are_decoded_on_demand_only(tmp_path, monkeypatch):
    table = tables.pope(tmp_path / "pope.parquet")
    opened = []
    monkeypatch.setattr(Image, "open", lambda data: opened.append(data))
    samples = load_samples(f"pope:{table}", "test")
    data_hash(samples)
    assert opened == [] and len(samples) == 18


def test_splits_without_answers_have_no_references(tmp_path):
    table = tables.vqav2(tmp_path / "vqav2.parquet", answered=False)
    assert [(s.references, s.scoring, s.problem) for s in load_samples(f"vqav2:{table}", "test")] == [
        ((), "none", "")
    ] * 2


def test_a_box_is_the_evidence(tmp_path):
    table = tables.refcoco(tmp_path / "refcoco.parquet")
    (mask,) = load_samples(f"refcoco:{table}", "val")[0].evidence
    expected = np.zeros((80, 160), bool)
    expected[:40, 80:120] = True
    np.testing.assert_array_equal(mask, expected)


@pytest.mark.parametrize("family", ["llava", "qwen2_vl", "internvl", "unknown"])
def test_every_family_has_a_prompt_for_every_form_with_question_hint_and_options(family, tmp_path):
    samples = [
        load_samples(f"{name}:{make(tmp_path / (name if name == 'gqa' else f'{name}.parquet'))}", default_split(name))[
            -1
        ]
        for name, make in FILES.items()
    ]
    for sample in samples:
        text = format_prompt(replace(sample, question="what {hint} is {options}?"), family)
        assert text.count("what {hint} is {options}?") == 1  # braces in a question are not placeholders
        assert sample.hint in text
        lines = [
            (f"{letter}. {text}", f"({letter}) {text}") for letter, text in zip(LETTERS, sample.options, strict=False)
        ]
        assert all(plain in text or in_brackets in text for plain, in_brackets in lines)


BROKEN = {
    "no bytes": ({"image": {"bytes": None, "path": None}}, "neither bytes nor a path"),
    "noise": ({"image": {"bytes": b"noise", "path": None}}, "cannot be decoded"),
    "cut": ({"image": {"bytes": tables.encoded_image(1)["bytes"][:60], "path": None}}, "cannot be decoded"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_image_is_named_with_its_question(kind, tmp_path):
    change, cause = BROKEN[kind]
    rows = tables.pope_rows(1)
    types = tables.POPE | {"image": {"bytes": tables.Value("binary"), "path": tables.TEXT}}
    table = tables.write(tmp_path / "pope.parquet", [row | change for row in rows], types)
    sample = load_samples(f"pope:{table}", "test")[0]
    with pytest.raises(DataError, match=rf"question 'random-1': image 'COCO_val2014_000000000000'.*{cause}"):
        _ = sample.image


def test_opening_an_image_that_is_in_no_table_names_the_question(tmp_path):
    table = tables.gqa(tmp_path / "gqa")
    (file,) = (table / "testdev_balanced_images").iterdir()
    tables.write(file, [{"id": "n0", "image": tables.encoded_image(0)}], {"id": tables.TEXT, "image": tables.Image()})
    samples = load_samples(f"gqa:{table}", "testdev")
    assert len(data_hash(samples)) == 16 and samples[0].image.size == (96, 96)
    with pytest.raises(DataError, match="question '201': image 'n1' is not in the table of images"):
        _ = next(sample for sample in samples if sample.id == "201").image


def test_an_image_beyond_pillows_limit_is_refused(tmp_path, monkeypatch):
    table = tables.pope(tmp_path / "pope.parquet")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(DataError, match="exceeds limit of 2000 pixels"):
        _ = load_samples(f"pope:{table}", "test")[0].image


ROWS = {
    "answers": (tables.textvqa_rows, tables.TEXTVQA, {"answers": []}, "textvqa", "validation", "list of answers is []"),
    "answer": (tables.pope_rows, tables.POPE, {"answer": "maybe"}, "pope", "test", "'maybe', expected yes or no"),
    "question": (tables.pope_rows, tables.POPE, {"question": " "}, "pope", "test", "question is ' ', expected a text"),
}


@pytest.mark.parametrize("column", ROWS)
def test_a_malformed_row_gives_a_question_with_a_problem_and_leaves_the_others(column, tmp_path):
    make, types, change, name, split, problem = ROWS[column]
    rows = make()
    table = tables.write(tmp_path / "rows.parquet", [rows[0] | change, *rows[1:]], types)
    samples = load_samples(f"{name}:{table}", split)
    assert len(samples) == len(rows)
    assert [problem in sample.problem for sample in samples if sample.problem] == [True]


def refused(data: str, split: str = "test") -> str:
    with pytest.raises(DataError) as caught:
        load_samples(data, split)
    return str(caught.value)


def test_errors_explain_unreadable_tables(tmp_path):
    rows = [{name: row[name] for name in ("question", "image", "category")} for row in tables.pope_rows()]
    lacking = tables.write(tmp_path / "lacking.parquet", rows, tables.POPE)
    assert "lacks the columns question_id, answer, image_source; found: " in refused(f"pope:{lacking}")
    some = [row for row in tables.pope_rows() if row["category"] == "random"]
    table = tables.write(tmp_path / "random.parquet", some, tables.POPE)
    assert "has no rows with category 'popular'" in refused(f"pope:{table}", "popular")
    (tmp_path / "noise.parquet").write_text("noise")
    assert "cannot be read as parquet" in refused(f"pope:{tmp_path / 'noise.parquet'}")
    assert "there is no file or folder" in refused(f"pope:{tmp_path / 'nothing'}")
    (tmp_path / "empty").mkdir()
    assert "holds no parquet files of split 'test'" in refused(f"pope:{tmp_path / 'empty'}")
    assert "--data pope:PATH" in refused("pope")  # no hub is reachable in tests
    assert "data 'pop' is unknown; known: scenes, clips, ai2d, chair" in refused("pop")
    assert "scenes are generated, not read: leave out :here" in refused("scenes:here")
    assert "expected a path or hub ID after the colon" in refused("pope:")


@extended("memory")
def test_a_table_of_many_questions_stays_small_in_memory(tmp_path):
    """Measures the memory of a split of 5,000 questions with images of 20 kB each."""
    data = np.random.default_rng(0).bytes(20_000)
    row = tables.pope_rows(1)[0] | {"image": {"bytes": data, "path": None}}
    types = tables.POPE | {"image": {"bytes": tables.Value("binary"), "path": tables.TEXT}}
    rows = [row | {"image_source": f"i{n}", "question_id": str(n)} for n in range(5000)]
    table = tables.write(tmp_path / "pope.parquet", rows, types)
    del rows
    tracemalloc.start()
    try:
        samples = load_samples(f"pope:{table}", "test")
        data_hash(samples)
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(samples) == 5000
    assert kept < 5000 * 4_000 and peak < 5000 * 5_000  # a fifth of the images
