"""Time of an evaluation outside the model, and its memory, at several numbers of questions."""

import os
from time import process_time

import psutil
import pytest
from torch import nn

from benchmarks import test_load
from benchmarks.results import Result
from benchmarks.test_load import BATCH, PER_IMAGE, questions, single
from foveate.evaluation import EvalConfig, evaluate
from foveate.methods import full, vtc_cls

METHODS = {"with 16 of 144 patches": vtc_cls(16, 1), "with all patches": full()}
IMAGES = [int(count) for count in os.environ.get("FOVEATE_OUTSIDE_IMAGES", "84,417,1667").split(",")]


@pytest.mark.parametrize("name", METHODS)
def test_time_outside_the_model_and_memory_per_question_do_not_grow(name, benchmark, found, monkeypatch, tmp_path):
    """Takes slopes between numbers of questions, so that imports and whatever is done once do not count."""
    inside = [0.0]
    counted(monkeypatch, inside)
    rows: list[tuple[int, float, float, float]] = []

    def run() -> None:
        for images in IMAGES:
            monkeypatch.setattr(test_load, "IMAGES", images)
            out = tmp_path / str(images)
            out.mkdir()
            data = f"pope:{questions(out / 'questions.parquet')}"
            inside[0], begin = 0.0, process_time()
            config = EvalConfig(METHODS[name], data=data, split="random", batch_size=BATCH, max_new_tokens=4, out=out)
            evaluate(config)
            spent, memory = process_time() - begin, psutil.Process().memory_info()
            rows.append((images * PER_IMAGE, spent, inside[0], (memory.rss - memory.shared) / 2**20))

    benchmark.pedantic(run, rounds=1)
    (few, few_s, few_inside, few_mib), (many, many_s, many_inside, many_mib) = rows[-2:]
    spent, model, more = many_s - few_s, many_inside - few_inside, many - few
    name = f"evaluation {name}, from {few:,} to {many:,} questions"
    found(
        Result(f"{name}: share of the processor time inside the model", single(100 * model / spent), "%"),
        Result(f"{name}: processor time outside the model, per question", single(1e6 * (spent - model) / more), "us"),
        Result(f"{name}: memory per 10,000 questions", single(1e4 * (many_mib - few_mib) / more), "MiB"),
    )


def counted(monkeypatch: pytest.MonkeyPatch, inside: list[float]) -> None:
    """Adds the processor time of the model's modules, such as the tower's layers or the language model, to `inside`."""
    old, running = nn.Module.__call__, [False]

    def timed(module, *args, **kwargs):
        if running[0]:  # a module within a module
            return old(module, *args, **kwargs)
        running[0], begin = True, process_time()
        try:
            return old(module, *args, **kwargs)
        finally:
            running[0] = False
            inside[0] += process_time() - begin

    monkeypatch.setattr(nn.Module, "__call__", timed)
