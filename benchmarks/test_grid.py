"""A grid of layers and budgets on the reference model, against the same grid one sample at a time."""

import os
from collections.abc import Iterator
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import pyarrow as pa
import pytest

from benchmarks.results import Result
from foveate.analysis.rounds import Estimate, ratio
from foveate.compressors import Compressor, Identity
from foveate.core.budget import resolve_keep
from foveate.core.needs import ClsRows
from foveate.data.load import load_samples
from foveate.data.sample import VQASample
from foveate.evaluation import EvalConfig, evaluate
from foveate.evaluation.names import REUSABLE
from foveate.evaluation.run import cached_load
from foveate.profiling.one_by_one import OneByOne
from foveate.studies.ablation import layer_choices

pytestmark = pytest.mark.long
QUESTIONS = int(os.environ.get("FOVEATE_GRID_QUESTIONS", "600"))
BUDGETS = (0.5, 0.25, 0.11, 0.05)


def test_a_grid_of_layers_and_budgets_is_ten_times_faster_with_equal_answers(benchmark, found):
    samples = load_samples("scenes", "test", QUESTIONS)
    baseline = OneByOne(str(files("foveate.reference") / "llava"))
    config = EvalConfig(Identity(), limit=QUESTIONS, out=Path(), reuse=REUSABLE)
    adapter = cached_load(config.model, config.device, config.dtype).adapter
    cells = list(grid())
    ours: list[float] = []
    theirs: list[float] = []
    unlike: list[str] = []

    def run() -> None:
        with TemporaryDirectory() as folder:
            for name, compressor, keep in cells:
                start = perf_counter()
                records = evaluate(replace(config, compressor=compressor, out=Path(folder))).read()
                between = perf_counter()
                layers = [
                    layer for need in compressor.needs if isinstance(need, ClsRows) for layer in adapter.layers(need)
                ]
                answers = [baseline.answer(sample.image, sample.question, layers, keep) for sample in samples]
                ours.append(between - start)
                theirs.append(perf_counter() - between)
                unlike.extend(f"{name} at {keep}: {text}" for text in differences(samples, answers, records))

    benchmark.pedantic(run, rounds=1)
    assert not unlike, f"{len(unlike)} of {len(cells) * len(samples)} answers differ: {unlike[:5]}"
    whole = ratio([sum(theirs)], [sum(ours)])
    per_cell = ratio(theirs[1:], ours[1:])  # the first one also encodes the images
    name = f"grid of {len(cells)} cells x {len(samples)} questions"
    differing = Estimate(len(unlike), len(unlike), len(unlike), float("nan"), 1)
    found(
        Result(f"{name}: one at a time / shared", whole, "x", at_least=10),
        Result(f"{name}: one at a time / shared, cell by cell without the first", per_cell, "x", at_least=10),
        Result(f"{name}: answers that differ", differing, "", at_most=0),
    )


def grid() -> Iterator[tuple[str, Compressor, int]]:
    """Yields every single layer and every sum of layers at every budget."""
    tower = cached_load("reference", "cpu", "float32").adapter.tower
    for fraction in BUDGETS:
        keep = resolve_keep(fraction, tower.grid.patches)
        for choice in layer_choices(tower):
            if choice.layers:
                yield choice.label, choice.recipe(keep), keep


def differences(samples: list[VQASample], answers: list[str], records: pa.Table) -> list[str]:
    """Returns the questions with different answers."""
    predictions = dict(zip(records["sample_id"].to_pylist(), records["prediction"].to_pylist(), strict=True))
    return [
        f"{sample.id}: {predictions[sample.id]!r}, {answer!r}"
        for sample, answer in zip(samples, answers, strict=True)
        if predictions[sample.id] != answer
    ]
