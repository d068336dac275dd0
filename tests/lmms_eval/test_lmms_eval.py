"""Runs of lmms-eval on tasks made of scenes, against foveate's own evaluation of the same questions."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from datasets import Dataset, Features, Image, Value

from foveate.compressors import Compressor
from foveate.data.load import load_samples
from foveate.evaluation import EvalConfig, evaluate
from foveate.methods import fastv, full, vtc_cls
from tests.tiers import extended

pytestmark = extended("lmms")
pytest.importorskip("lmms_eval", reason="lmms-eval is not installed: docs/how_to/lmms_eval.md")

QUESTIONS, NEW = 24, 12
COMPRESSORS: dict[str, Compressor] = {
    "method=full": full(),
    "method=vtc_cls,keep=16,start_layer=0": vtc_cls(16, 0),
    "method=fastv,keep=0.1,layer=2": fastv(0.1, 2),
}
TASK = f"""
task: scenes
dataset_path: parquet
dataset_kwargs: {{data_files: {{test: FOLDER/scenes.parquet}}}}
test_split: test
output_type: generate_until
doc_to_visual: !function reading.images
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
process_results: !function reading.score
generation_kwargs: {{max_new_tokens: {NEW}, temperature: 0, do_sample: false}}
metric_list: [{{metric: exact, aggregation: mean, higher_is_better: true}}]
"""
READING = """
def images(doc):
    return [doc["image"].convert("RGB")]

def score(doc, results):
    return {"exact": float(results[0] == doc["answer"])}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    columns = {name: Value("string") for name in ("id", "question", "answer")} | {"image": Image()}
    rows = [
        {"id": sample.id, "question": sample.question, "answer": sample.references[0], "image": sample.image}
        for sample in load_samples("scenes", "test", limit=QUESTIONS)
    ]
    Dataset.from_list(rows, features=Features(columns)).to_parquet(str(folder / "scenes.parquet"))
    (folder / "scenes.yaml").write_text(TASK.replace("FOLDER", str(folder)))
    (folder / "reading.py").write_text(READING)
    return folder


def run(arguments, folder):
    environment = {**os.environ, "HF_HOME": str(folder / "hub"), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=folder, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def harness(folder, runs):
    """Returns the harness's results of each of these runs."""
    plan = json.dumps([{"tasks": ["scenes"], "device": "cpu", **one} for one in runs])
    done = run([str(Path(__file__).with_name("harness.py")), str(folder), plan], folder)
    return [json.loads(line.removeprefix("RESULT ")) for line in done.stdout.splitlines() if line.startswith("RESULT")]


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    """Returns the records of each compressor by question."""
    config = {"limit": QUESTIONS, "max_new_tokens": NEW, "out": tmp_path_factory.mktemp("ours")}
    tables = {text: evaluate(EvalConfig(compressor, **config)).read() for text, compressor in COMPRESSORS.items()}
    return {text: {row["sample_id"]: row for row in table.to_pylist()} for text, table in tables.items()}


def test_answers_and_tokens_are_those_of_our_own_evaluation_at_any_batch_size(folder, ours):
    plans = [(text, batch) for text in COMPRESSORS for batch in (1, 4)]
    found = harness(folder, [{"model_args": text, "batch_size": batch} for text, batch in plans])
    assert len(found) == len(plans)
    for (text, _), result in zip(plans, found, strict=True):
        expected = {name: [row["prediction"]] for name, row in ours[text].items()}
        assert result["answers"] == expected
        for name, row in ours[text].items():
            blocks = row["tokens_per_block"]
            assert result["counts"][name][0]["input_tokens"] == round(row["text_tokens"] + sum(blocks) / len(blocks))
        right = [row["prediction"] == row["reference"] for row in ours[text].values()]
        assert result["results"]["exact,none"] == pytest.approx(sum(right) / QUESTIONS)
    assert len({json.dumps(result["answers"]) for result in found}) == len(COMPRESSORS)


def test_the_command_line_finds_the_adapter_by_its_entry_point(folder, ours, tmp_path):
    text = "method=vtc_cls,keep=16,start_layer=0"
    options = f"--model foveate --model_args pretrained=reference,{text} --tasks scenes --batch_size 4 --device cpu"
    written = f"--include_path {folder} --output_path {tmp_path} --log_samples"
    run(["-m", "lmms_eval", *options.split(), *written.split()], folder)
    (samples,) = tmp_path.rglob("*samples_scenes.jsonl")
    rows = [json.loads(line) for line in samples.read_text().splitlines()]
    names = [sample.id for sample in load_samples("scenes", "test", limit=QUESTIONS)]
    answers = {names[row["doc_id"]]: row["filtered_resps"] for row in rows}
    assert answers == {name: row["prediction"] for name, row in ours[text].items()}
