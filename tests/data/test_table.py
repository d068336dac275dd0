"""Tables of the user's own: their format, their metrics, and what happens to rows that cannot be used."""

import csv
import json
import re
from io import BytesIO

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from PIL import Image

from foveate.core.errors import DataError, OutputError
from foveate.data import write_template
from foveate.data.load import answer_tokens, data_hash, default_split, load_samples
from foveate.data.names import TABLE, Table, parsed, shown_name, table_of
from foveate.data.table import files_of
from foveate.metrics.answers import score_of
from tests.data.tables import encoded_image
from tests.data.video_files import write_video

ROW = {"image": "a.png", "question": "what color is it?", "answer": "red"}
SIZE = (96, 48)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def folder(tmp_path):
    """A folder with two images."""
    made = tmp_path / "own"
    made.mkdir()
    for seed, name in enumerate(("a.png", "b.png")):
        (made / name).write_bytes(encoded_image(seed, SIZE)["bytes"])
    return made


def jsonl(folder, *rows, name="questions.jsonl"):
    path = folder / name
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def csv_table(folder, *rows, name="questions.csv"):
    path = folder / name
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def parquet(folder, *rows, name="questions.parquet", features=None):
    path = folder / name
    Dataset.from_list(list(rows), features).to_parquet(str(path))
    return path


def load(path, metric="", **more):
    return load_samples(f"{path}{metric}", "all", **more)


def problem(folder, row, metric=""):
    """The problem of one row, whose neighbour has none."""
    good, bad = sorted(load(jsonl(folder, ROW, row), metric), key=lambda sample: sample.id)
    assert good.problem == "" and bad.references == () and bad.scoring == "none"
    return bad.problem


def test_a_row_becomes_a_question_about_the_image_beside_the_table(folder):
    row = ROW | {"id": 7, "kind": "color", "evidence": [[24, 0, 48, 12], [90, 40, 100, 50]], "note": "not read"}
    (sample,) = load(jsonl(folder, row))
    assert (sample.id, sample.image_id, sample.kind, sample.question) == ("7", "a.png", "color", ROW["question"])
    assert (sample.references, sample.scoring, sample.form, sample.problem) == (("red",), "exact", "short", "")
    expected = np.zeros((2, SIZE[1], SIZE[0]), bool)
    expected[0, :12, 24:48] = expected[1, 40:, 90:] = True  # the second box ends at the edges of the image
    np.testing.assert_array_equal(sample.evidence, expected)
    pixels = np.asarray(Image.open(BytesIO((folder / "a.png").read_bytes())).convert("RGB"))
    np.testing.assert_array_equal(np.asarray(sample.image), pixels)


def test_all_formats_give_the_same_questions(folder):
    rows = [
        ROW | {"answer": ["red", "crimson"], "evidence": [[0, 0, 8, 8]]},
        ROW | {"image": "b.png", "answer": ["blue"], "evidence": []},
    ]
    cells = [row | {"answer": json.dumps(row["answer"]), "evidence": json.dumps(row["evidence"])} for row in rows]
    saved = folder / "saved"
    Dataset.from_list(rows).save_to_disk(saved)
    for name in ("a.png", "b.png"):
        (saved / name).write_bytes((folder / name).read_bytes())
    paths = [jsonl(folder, *rows), csv_table(folder, *cells), parquet(folder, *rows), saved]
    assert len({data_hash(load(path)) for path in paths}) == 1
    assert [sample.references for sample in load(paths[1])] == [("red", "crimson"), ("blue",)]


def test_bytes_and_the_structs_of_datasets_are_images_of_which_equal_ones_are_one(folder):
    data = (folder / "a.png").read_bytes()
    plain = load(parquet(folder, *[ROW | {"image": data}] * 2))
    structs = load(parquet(folder, ROW | {"image": {"bytes": data, "path": "x"}}, ROW | {"image": encoded_image(5)}))
    named = load(parquet(folder, ROW | {"image": {"bytes": None, "path": "./a.png"}}))
    assert plain[0].image_id == plain[1].image_id == structs[0].image_id != structs[1].image_id
    assert named[0].image_id == "a.png"
    assert {sample.image.size for sample in (*plain, structs[0], *named)} == {SIZE}


def test_questions_about_an_image_follow_each_other_and_a_limit_takes_the_first(folder):
    path = jsonl(folder, ROW, ROW | {"image": "b.png"}, ROW | {"image": "./a.png"})
    assert [sample.id for sample in load(path)] == ["row-000001", "row-000003", "row-000002"]
    assert [sample.image_id for sample in load(path, limit=2)] == ["a.png", "a.png"]


def test_repeated_ids_are_told_apart(folder):
    assert [sample.id for sample in load(jsonl(folder, *[ROW | {"id": "q"}] * 2))] == ["q", "q#2"]


def test_names_of_labels_are_the_answers_and_not_their_numbers(folder):
    features = Features(
        dict.fromkeys(("image", "question"), Value("string")) | {"answer": ClassLabel(names=["no", "yes"])}
    )
    assert load(parquet(folder, ROW | {"answer": 1}, features=features))[0].references == ("yes",)


@pytest.mark.parametrize(
    ("rows", "scoring"),
    [
        ([ROW], "exact"),
        ([ROW | {"answer": 3}], "exact"),
        ([ROW | {"answer": ["red", "crimson"]}], "exact"),
        ([ROW | {"answer": ["red", "red", "crimson"]}], "vqa"),
        ([ROW | {"choices": ["red", "blue"], "answer": "b"}], "choice"),
    ],
    ids=["a text", "a number", "several texts", "votes", "choices"],
)
def test_the_answers_choose_the_metric(rows, scoring, folder):
    assert [sample.scoring for sample in load(jsonl(folder, *rows))] == [scoring]


def test_a_suffix_names_the_metric(folder):
    path = jsonl(folder, ROW | {"answer": "the red cup"})
    for metric in ("exact", "f1", "anls", "relaxed"):
        assert [sample.scoring for sample in load(path, f":{metric}")] == [metric]
    assert score_of("red", load(path, ":f1")[0]) == pytest.approx(2 / 3)
    with pytest.raises(DataError, match=r"questions.jsonl:f2': metric 'f2' is unknown; known: exact, vqa, f1, choice"):
        parsed(f"{path}:f2")


def test_any_reference_counts_and_a_letter_names_a_choice(folder):
    (either,) = load(jsonl(folder, ROW | {"answer": ["red", "crimson"]}))
    assert [score_of(text, either) for text in ("red", "Crimson.", "blue")] == [1, 1, 0]
    (choice,) = load(jsonl(folder, ROW | {"choices": ["red", "blue"], "answer": "B"}))
    assert (choice.references, choice.options, choice.form) == (("B", "blue"), ("red", "blue"), "letter")
    assert [score_of(text, choice) for text in ("B", "blue", "A", "red")] == [1, 1, 0, 0]


BAD = {
    "no image": ({"image": None}, r"row 2, column 'image': it is empty: give the path of an image"),
    "lost": ({"image": "c.png"}, r"row 2, column 'image': image 'c.png': there is no file 'c.png' in the folder"),
    "outside": ({"image": "../own.png"}, r"row 2, column 'image': .* leads out of the folder of its table; move the"),
    "absolute": ({"image": "/etc/passwd"}, r"row 2, column 'image': .* leads out of the folder of its table"),
    "url": ({"image": "https://x.org/a.png"}, r"row 2, column 'image': .*: download the image into the table's folder"),
    "base64": ({"image": {"bytes": "abc"}}, r"row 2, column 'image': .*JSON has no bytes; give a path"),
    "image is 3": ({"image": 3}, r"row 2, column 'image': it is 3: expected the path"),
    "question": ({"question": " "}, r"row 2: column 'question' is empty: expected a text"),
    "question is 3": ({"question": 3}, r"row 2: question is 3, expected a text"),
    "answer": ({"answer": None}, r"row 2: column 'answer' is empty: expected a text, or a list of texts"),
    "no answers": ({"answer": []}, r"row 2: column 'answer' is empty"),
    "bool": ({"answer": True}, r"row 2: column 'answer' is True: expected a text, or a list"),
    "gap": ({"answer": ["red", None]}, r"row 2: column 'answer' is \['red', None\]: expected a text, or a list"),
    "choices": ({"choices": ["red"]}, r"row 2: column 'choices' is \['red'\]: expected a list of 2 to 10 texts"),
    "letter": ({"choices": ["red", "blue"]}, r"row 2: column 'answer' is 'red': expected the letter .* A, B"),
    "box": ({"evidence": [[9, 9, 3, 3]]}, r"row 2: column 'evidence' has the box \[9, 9, 3, 3\]: .* 96 x 48 pixels"),
    "far box": ({"evidence": [[96, 0, 99, 9]]}, r"row 2: column 'evidence' .* overlaps the image of 96 x 48 pixels"),
    "huge box": ({"evidence": [[0, 0, 10**400, 9]]}, r"row 2: column 'evidence' has the box"),
    "several": ({"image": ["a.png", "c.png"]}, r"row 2, column 'image': image 2 of 2: image 'c.png': there is no file"),
    "several boxes": (
        {"image": ["a.png", "b.png"], "evidence": [[0, 0, 8, 8]]},
        r"row 2: column 'evidence' has boxes, and the question is about 2 images: .* leave the cell empty",
    ),
    "placeholders": (
        {"image": ["a.png", "b.png"], "question": "is <image> red?"},
        r"row 2: column 'question' has <image> 1 times for 2 images: write it once for each image, in their order, or",
    ),
    "no box": ({"evidence": "left"}, r"row 2: column 'evidence' has the box 'left': expected \[left, top, right"),
    "long id": ({"id": "x" * 300}, r"row 2: its id .* is too long"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_row_is_named_with_its_column_and_the_other_rows_remain(kind, folder):
    change, message = BAD[kind]
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(problem(folder, ROW | change))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "row 2: it is not JSON in UTF-8"),
        ("3", "row 2: it is 3: expected an object"),
        ('{"question": "\\ud800"}', "row 2: it is not JSON in UTF-8"),
        ("[" * 100_000, "row 2: it is not JSON in UTF-8"),
    ],
    ids=["cut", "number", "half a character", "deep"],
)
def test_a_line_that_is_no_object_is_a_problem_of_its_row(line, message, folder):
    assert problem(folder, line).startswith(message)


def test_a_csv_row_with_too_many_cells_or_half_a_list_is_a_problem_of_its_row(folder):
    path = folder / "questions.csv"
    path.write_text('image,question,answer\na.png,which?,red\na.png,which,one?,red\na.png,which?,"[""red"', "utf-8-sig")
    problems = [sample.problem for sample in load(path)]
    assert problems[0] == ""
    assert problems[1].startswith("row 2: it has 4 cells, expected 3: put a cell with a comma into quotation marks")
    assert problems[2].startswith("row 3: column 'answer' begins with [ and is no list in JSON")


def test_metrics_that_the_answers_do_not_allow_are_refused_by_row(folder):
    assert "expected a list of the answers of several annotators" in load(jsonl(folder, ROW), ":vqa")[0].problem
    assert "because the metric is 'choice'" in load(jsonl(folder, ROW), ":choice")[0].problem
    choices = jsonl(folder, ROW | {"choices": ["red", "blue"], "answer": "A"})
    assert "use 'choice'" in load(choices, ":vqa")[0].problem


@pytest.mark.parametrize("make", [jsonl, csv_table, parquet])
def test_a_table_without_a_column_names_it_with_those_found(make, folder):
    with pytest.raises(DataError, match=r"no column 'answer'; found: image, question, reply; .* rename or add it"):
        load(make(folder, {"image": "a.png", "question": "which?", "reply": "red"}))
    with pytest.raises(DataError, match=r"no column 'image'; found: question, answer;"):
        load(make(folder, {"question": "which?", "answer": "red"}))


@pytest.mark.parametrize("make", [jsonl, csv_table, parquet])
def test_a_column_with_capitals_or_blanks_is_refused_with_its_right_name(make, folder):
    with pytest.raises(DataError, match=r"rename 'Choices' to 'choices', ' kind' to 'kind'$"):
        load(make(folder, ROW | {"Choices": "x", " kind": "y"}))
    assert load(make(folder, ROW | {"kind": "x", "Kind": "y", "Note": "z"}))[0].kind == "x"


def test_whole_numbers_are_the_same_answer_as_integers_and_floats(folder):
    rows = [ROW | {"answer": 3.0, "id": 7.0}, ROW | {"answer": [2.0, 2.5]}]
    rows += [ROW | {"choices": [1.0, 2], "answer": "a"}]
    found = load(jsonl(folder, *rows))
    assert [sample.references for sample in found] == [("3",), ("2", "2.5"), ("A", "1")]
    assert found[0].id == "7" and score_of("3", found[0]) == 1


@pytest.mark.parametrize("answers", [[2, 2, 3], [2, 2.0, "3"], ["a", "a "]], ids=["numbers", "mixed", "blanks"])
def test_votes_may_be_numbers_and_no_choices_may_be_an_empty_list(answers, folder):
    assert load(jsonl(folder, ROW | {"answer": answers, "choices": []}))[0].scoring == "vqa"


BOTH = ["./a.png", "b.png"]


def test_a_list_of_several_images_is_one_question_about_them_in_their_order(folder):
    rows = [ROW | {"image": images} for images in (BOTH, BOTH[::-1], BOTH)]
    found = load(jsonl(folder, ROW, *rows))
    assert [sample.image_id for sample in found] == ["a.png", *["a.png // b.png"] * 2, "b.png // a.png"]
    assert [len(sample.sources) for sample in found] == [1, 2, 2, 2] and not any(sample.problem for sample in found)
    contents = [[source.content() for source in sample.sources] for sample in found[1:]]
    assert contents[0] == contents[1] == contents[2][::-1] == [(folder / name).read_bytes() for name in BOTH]
    assert list(files_of(table_of(str(folder / "questions.jsonl")), "all"))[2:4] == [folder / "a.png", folder / "b.png"]


def test_all_formats_give_the_same_questions_about_several_images(folder):
    rows = [ROW | {"image": BOTH, "question": "is <image> as red as <image>?"}, ROW | {"image": ["a.png"]}]
    cells = [row | {"image": json.dumps(row["image"])} for row in rows]
    assert (
        len(
            {
                data_hash(load(path))
                for path in (jsonl(folder, *rows), csv_table(folder, *cells), parquet(folder, *rows))
            }
        )
        == 1
    )
    data = [(folder / name).read_bytes() for name in BOTH]
    plain = load(parquet(folder, ROW | {"image": data}))[0]
    structs = load(parquet(folder, ROW | {"image": [{"bytes": content, "path": "x"} for content in data]}))[0]
    assert plain.image_id == structs.image_id and plain.image_id.count(" // ") == 1
    assert [source.content() for source in plain.sources] == [source.content() for source in structs.sources] == data


def test_a_path_in_a_csv_file_may_begin_with_a_bracket(folder):
    for name in ("[1].png", "[1]"):
        (folder / name).write_bytes((folder / "a.png").read_bytes())
        (sample,) = load(csv_table(folder, ROW | {"image": name}))
        assert (sample.image_id, sample.problem) == (name, "")


def test_another_image_or_order_of_several_is_other_data(folder):
    hashes = [data_hash(load(jsonl(folder, ROW | {"image": images}))) for images in (BOTH, BOTH[::-1])]
    (folder / "b.png").write_bytes(encoded_image(9, SIZE)["bytes"])
    hashes.append(data_hash(load(jsonl(folder, ROW | {"image": BOTH}))))
    assert len(set(hashes)) == 3


def test_a_placeholder_may_stand_in_a_choice_and_is_text_in_a_question_about_one_image(folder):
    choices = ROW | {"image": BOTH, "choices": ["<image>", "<image>"], "answer": "B"}
    assert load(jsonl(folder, choices, ROW | {"question": "what is <image>?"}))[0].problem == ""
    assert not any(sample.problem for sample in load(jsonl(folder, ROW | {"question": "<image> or <image>?"})))


def test_names_of_many_images_are_shortened(folder):
    (sample,) = load(jsonl(folder, ROW | {"image": BOTH * 30}))
    assert len(sample.sources) == 60 and len(sample.image_id) == 16


def test_a_list_of_one_image_is_that_image_however_it_is_written(folder):
    found = load(jsonl(folder, *(ROW | {"image": image} for image in (["a.png"], [{"path": "a.png"}]))))
    assert [sample.image.size for sample in found] == [SIZE] * 2


@pytest.mark.parametrize("make", [jsonl, csv_table, parquet])
def test_a_column_of_videos_makes_questions_about_videos(make, folder):
    write_video(folder / "clip.mp4", 6)
    rows = [{"video": name, "question": "which?", "answer": "red"} for name in ("clip.mp4", "./clip.mp4")]
    path = make(folder, *rows)
    found = load(path)
    assert [sample.problem for sample in found] == ["", ""]
    assert {sample.image_id for sample in found} == {"clip.mp4"} and found[0].sources == ()
    assert found[0].seen and found[0].single and len(found[0].clip.frames) == 6
    assert set(files_of(Table(str(path)), "all")) == {path, folder / "clip.mp4"}


def test_images_and_videos_stand_in_one_table(folder):
    write_video(folder / "clip.mp4", 6)
    found = load(jsonl(folder, ROW, {"video": "clip.mp4", "question": "which?", "answer": "red"}))
    assert [(len(sample.sources), sample.video is None) for sample in found] == [(1, True), (0, False)]


BAD_VIDEOS = {
    "lost": ({"video": "lost.mp4"}, r"row 1, column 'video': video 'lost.mp4': there is no file 'lost.mp4' in the"),
    "outside": ({"video": "../clip.mp4"}, r"row 1, column 'video': .* leads out of the folder of its table"),
    "url": ({"video": "https://x.org/a.mp4"}, r"row 1, column 'video': .*: download it into the table's folder"),
    "several": ({"video": ["clip.mp4"]}, r"row 1, column 'video': it is \['clip.mp4'\]: expected the path of one"),
    "image": ({"video": "clip.mp4", "image": "a.png"}, r"row 1, column 'video': the row has an image, too: a question"),
    "boxes": ({"video": "clip.mp4", "evidence": [[0, 0, 8, 8]]}, r"row 1: column 'evidence' .* in which frames they"),
    "neither": ({"video": None}, r"row 1, column 'image': it is empty"),
}


@pytest.mark.parametrize("kind", BAD_VIDEOS)
def test_a_row_with_a_bad_video_is_named_with_its_column(kind, folder):
    write_video(folder / "clip.mp4", 6)
    change, message = BAD_VIDEOS[kind]
    (sample,) = load(jsonl(folder, {"question": "which?", "answer": "red"} | change))
    assert re.match(message, sample.problem)


def test_tables_that_cannot_be_read_are_refused(folder):
    (folder / "empty.jsonl").write_text("\n")
    (folder / "latin.csv").write_bytes("image,question,answer\na.png,größe?,x\n".encode("latin-1"))
    (folder / "twice.csv").write_text("image,image\n")
    (folder / "noise.parquet").write_bytes(b"noise")
    (folder / "table.txt").write_text("x")
    for name, message in {
        "empty.jsonl": "table 'empty.jsonl' has no rows",
        "latin.csv": "table 'latin.csv' cannot be read: .*expected UTF-8",
        "twice.csv": "two columns of one name: image, image",
        "noise.parquet": "cannot be read as parquet",
        "table.txt": "expected a name that ends in one of .jsonl .csv .parquet",
        "none.csv": "there is no such file or folder",
        "x" * 300 + ".csv": "is not a valid path",
    }.items():
        with pytest.raises(DataError, match=message):
            load(folder / name)
    with pytest.raises(DataError, match=r"split 'test': the table 'questions.jsonl' has none; leave it out"):
        load_samples(str(jsonl(folder, ROW)), "test")


def test_a_folder_holds_one_table_or_one_per_split(folder):
    with pytest.raises(DataError, match="folder 'own' holds no table: expected a file that ends in one of"):
        load(folder)
    jsonl(folder, ROW, name="search.jsonl")
    assert len(load(folder)) == len(load_samples(str(folder), "search")) == 1
    csv_table(folder, ROW, ROW, name="test.csv")
    assert [len(load_samples(str(folder), split)) for split in ("search", "test")] == [1, 2]
    with pytest.raises(DataError, match=r"split 'all' of 'own' is unknown: choose one with --split search \| test"):
        load(folder)


def test_a_saved_folder_with_several_splits_needs_one(folder):
    image = {"bytes": (folder / "a.png").read_bytes(), "path": None}
    one = Dataset.from_list([ROW | {"image": image}])
    DatasetDict({"dev": one}).save_to_disk(folder / "one")
    DatasetDict({"dev": one, "test": one}).save_to_disk(folder / "two")
    assert len(load(folder / "one")) == len(load_samples(str(folder / "two"), "test")) == 1
    with pytest.raises(DataError, match=r"split 'all' of 'two' is unknown: choose one with --split dev \| test"):
        load(folder / "two")


def test_names_of_tables_are_paths_and_names_of_benchmarks_win(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    (folder.parent / "pope").mkdir()
    for name in ("own", "own/x.csv", "own/x.csv:f1", "./x", "/x", "pope.jsonl"):
        assert parsed(name) == (TABLE, name.removesuffix(":f1"))
        assert (default_split(name), answer_tokens(name)) == ("all", 32)
    assert table_of("pope") is table_of("pope:x.parquet") is None
    assert [table_of(name).label for name in ("own", "own/x y.csv:f1", "own/")] == ["own", "x_y_f1", "own"]
    for unknown in ("x", "pop:own/pope.parquet"):
        with pytest.raises(DataError, match=r"data '(x|pop)' is unknown; known: scenes, .*; or a table of your own"):
            parsed(unknown)
    assert [shown_name(name) for name in ("./pope", "own/x.csv:f1", "pope:x")] == ["table pope", "table x_f1", "pope"]


def test_the_hash_depends_on_everything_that_the_table_says_and_not_on_its_place(folder, tmp_path):
    changes = ({}, {"question": "which?"}, {"answer": "blue"}, {"id": "x"}, {"kind": "x"}, {"evidence": [[0, 0, 8, 8]]})
    hashes = [data_hash(load(jsonl(folder, ROW | change))) for change in changes]
    hashes += [data_hash(load(jsonl(folder, ROW), ":f1"))]
    moved = folder.rename(tmp_path / "moved")
    assert data_hash(load(jsonl(moved, ROW))) == hashes[0]
    (moved / "a.png").write_bytes((moved / "b.png").read_bytes())
    hashes += [data_hash(load(moved / "questions.jsonl"))]
    assert len(set(hashes)) == len(changes) + 2


def test_the_files_of_a_table_are_itself_and_its_images(folder):
    path = jsonl(folder, ROW, ROW | {"image": "b.png"})
    assert set(files_of(table_of(str(path)), "all")) == {path, folder / "a.png", folder / "b.png"}
    data = ROW | {"image": (folder / "a.png").read_bytes()}
    assert list(files_of(table_of(str(parquet(folder, data))), "all")) == [folder / "questions.parquet"]
    (folder / "b.png").unlink()
    with pytest.raises(DataError, match="row 2, column 'image'"):
        list(files_of(table_of(str(path)), "all"))


def test_the_template_is_a_table_of_three_questions_and_overwrites_nothing(tmp_path):
    path = write_template(tmp_path / "new" / "folder")
    samples = load(path)
    assert [sample.problem for sample in samples] == [""] * 3
    assert len({sample.kind for sample in samples}) == len({sample.image_id for sample in samples}) == 3
    scenes = {sample.id: sample for sample in load_samples("scenes", "test", limit=40)}
    for sample in samples:
        scene = scenes[sample.id]
        assert (sample.question, sample.references, sample.kind) == (scene.question, scene.references, scene.kind)
        np.testing.assert_array_equal(np.asarray(sample.image), np.asarray(scene.image))
        assert (sample.evidence | ~scene.evidence).all() and len(sample.evidence) == len(scene.evidence)
    with pytest.raises(OutputError, match=r"questions.jsonl exists already: a template overwrites nothing"):
        write_template(path.parent)
