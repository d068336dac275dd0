"""A table of the user's own through the commands, with the shipped model."""

import json
import os
from pathlib import Path

import pandas as pd
import pytest

from foveate.data.load import load_samples
from foveate.data.sample import VQASample
from tests import scripts
from tests.tiers import extended

IMAGES = 6
COMPARE = ("compare_methods", "--data", "own/questions.jsonl", "--methods", "vtc_cls", "--keep", "16")


def run(script, *options, folder):
    cache = f"import datasets; datasets.config.HF_DATASETS_CACHE = {str(folder / 'cache')!r}"
    return scripts.run(script, *options, folder=folder, before=cache)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with a table of two questions about each of six images, which lie beside it."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "own").mkdir()
    of_image: dict[str, list[VQASample]] = {}
    for sample in load_samples("scenes", "test", limit=80, seed=7):
        if sample.scoring == "exact":
            of_image.setdefault(sample.image_id, []).append(sample)
    chosen = [sample for samples in list(of_image.values())[:IMAGES] for sample in samples[:2]]
    rows = [{"image": f"{s.image_id}.png", "question": s.question, "answer": s.references[0]} for s in chosen]
    for sample in chosen:
        sample.image.save(folder / "own" / f"{sample.image_id}.png")
    (folder / "own/questions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    old = (1e9, 1e9)
    for path in (folder / "own").iterdir():  # files that change while a command runs are not remembered
        os.utime(path, old)
    return folder


@pytest.fixture(scope="module")
def compared(folder):
    return run(*COMPARE, folder=folder)


def test_methods_are_compared_on_own_images(folder, compared):
    assert compared.returncode == 0, compared.stderr
    table = pd.read_csv(folder / "runs/compare_methods_questions/benchmark.csv").set_index("method")
    assert {"full", "vtc_cls", "random", "uniform", "saturation", "blind"} <= set(table.index)
    assert (table["n"] == 2 * IMAGES).all() and (table["failed"] == 0).all()
    assert table.loc["full", "value"] > 0.8
    assert table.loc["blind", "value"] < table.loc["full", "value"]


@extended("every")
def test_layers_are_compared_on_own_images_by_the_metric_that_the_suffix_names(folder):
    options = ("--data", "own/questions.jsonl:f1", "--layers", "1", "--keep", "16")
    result = run("ablate_layers", *options, folder=folder)
    assert result.returncode == 0, result.stderr
    table = pd.read_csv(folder / "runs/ablate_layers_questions_f1/table.csv")
    assert {"cls[1]", "saturation", "full"} <= set(table["family"]) | set(table["scorer"])
    assert (table["n"] == 2 * IMAGES).all()


def test_a_finished_command_notices_a_changed_image_and_evaluates_anew(folder, compared):
    done = "no file has changed since"
    assert done in run(*COMPARE, folder=folder).stderr
    records = len(list((folder / "runs/records").iterdir()))
    images = sorted((folder / "own").glob("*.png"))
    images[0].write_bytes(images[1].read_bytes())
    again = run(*COMPARE, folder=folder)
    assert again.returncode == 0, again.stderr
    assert done not in again.stderr and "data_hash: other than there" in again.stderr
    assert len(list((folder / "runs/records").iterdir())) > records


BAD = {
    "lost.jsonl": "data 'lost.jsonl': there is no such file or folder",
    "own/questions.jsonl:f2": "metric 'f2' is unknown; known: exact, vqa, f1, choice, anls, relaxed",
    "bad.jsonl": "question 'row-000001': row 1, column 'image': image 'a.png': there is no file 'a.png'",
}


@pytest.mark.parametrize("data", BAD)
def test_a_bad_table_gets_one_clear_line(data, folder):
    (folder / "bad.jsonl").write_text('{"image": "a.png", "question": "which?", "answer": "red"}')
    result = run("compare_methods", "--data", data, "--methods", "vtc_cls", folder=folder)
    assert result.returncode == 2, result.stderr
    assert result.stderr.startswith("error: ") and BAD[data] in result.stderr and "Traceback" not in result.stderr
