"""Cost of 100,000 questions, 5,000 trials and 1,000,000 records, compared with the first of them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from threading import Event, Thread

import numpy as np
import optuna
import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from optuna.trial import create_trial
from PIL import Image
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.results import FOLDER, Result
from foveate.analysis.drawing import save_figure
from foveate.analysis.records import read_records
from foveate.analysis.rounds import Estimate, mean, timed
from foveate.analysis.speed.figures import load_figure
from foveate.compressors import Identity
from foveate.data.scenes.questions import make_questions
from foveate.data.scenes.scene import make_scene, stream
from foveate.evaluation import EvalConfig, evaluate
from foveate.evaluation.records import Record, RecordFolder
from foveate.methods import random, vtc_cls
from foveate.studies.objective import Objective
from foveate.studies.opening import open_study
from foveate.studies.space import AnyTrial, Proposal, Space
from foveate.studies.study import run_trials
from foveate.studies.study_folder import StudyFolder
from foveate.testing.tiny import save_tiny_llava

pytestmark = pytest.mark.long
SCALE = float(os.environ.get("FOVEATE_LOAD_SCALE", "1"))
PER_IMAGE, BATCH = 12, 252
IMAGES, TRIALS, ROWS = (round(SCALE * count) for count in (8_334, 5_000, 1_000_000))
QUESTIONS = PER_IMAGE * IMAGES
PERIOD_S = 0.5
SIZES, RUN = 6, 30  # so many times so many trials are run
MEMORY, BETWEEN, FIGURE = (FOLDER / name for name in ("memory.csv", "trials.csv", "load.png"))


@pytest.fixture(autouse=True)
def only_the_full_size_is_noted(request):
    if SCALE != 1 and not request.config.option.benchmark_disable:
        pytest.fail("FOVEATE_LOAD_SCALE is for a quick look: give --benchmark-disable as well")


def test_memory_stays_flat_over_the_questions_of_an_evaluation(benchmark, found, tmp_path):
    place = questions(tmp_path / "questions.parquet")
    config = EvalConfig(
        vtc_cls(16, 1), data=f"pope:{place}", split="random", batch_size=BATCH, max_new_tokens=4, out=tmp_path
    )

    def watched() -> pd.DataFrame:
        with watching(tmp_path / "records") as seen:
            evaluate(config)
        return pd.DataFrame(seen, columns=["questions", "bytes"])

    memory = benchmark.pedantic(watched, rounds=1)
    drawn(benchmark, memory, MEMORY)
    share = memory["questions"] / QUESTIONS
    early, late = (memory["bytes"][there].mean() for there in (share.between(0.1, 0.2), share > 0.9))
    name = f"evaluation of {QUESTIONS:,} questions"
    found(
        Result(f"{name}: memory of its own in the last tenth", single(late / 2**20), "MiB"),
        Result(
            f"{name}: memory of its own in the last tenth / in the second tenth", single(late / early), "x", at_most=1.1
        ),
    )


def test_trials_begin_as_fast_late_as_early(benchmark, found, tmp_path):
    """Runs only some of the trials; copies of them fill the study in between."""
    model = str(save_tiny_llava(tmp_path / "model"))
    config = EvalConfig(Identity(), model=model, limit=PER_IMAGE, max_new_tokens=1, out=tmp_path)
    place, objective = StudyFolder("load", tmp_path), Objective(config, Seeds())
    place, study = open_study(place, objective, {"load": TRIALS}, {})
    course: list[tuple[int, float]] = []

    def whole() -> None:
        run_trials(place, study, objective, 2)  # what is done once
        for before in np.linspace(2, TRIALS - RUN, SIZES).astype(int).tolist():
            filled_up(study, before)
            run_trials(place, study, objective, before + RUN)
            course.extend(zip(range(before + 1, before + RUN), between(study, before), strict=True))

    benchmark.pedantic(whole, rounds=1)
    trials = pd.DataFrame(course, columns=["trial", "seconds"])
    drawn(benchmark, trials, BETWEEN)
    again = timed(lambda: run_trials(place, study, objective, TRIALS))()
    run_trials(place, study, objective, TRIALS + 10, "tpe")
    early, late = trials["seconds"][: RUN - 1], trials["seconds"][1 - RUN :]
    name = f"study of {TRIALS:,} trials"
    found(
        Result(f"{name}: from one trial to the next, first {RUN}", mean(early), "s"),
        Result(f"{name}: from one trial to the next, last {RUN}", mean(late), "s", at_most=1),
        Result(
            f"{name}: from one trial to the next, ten more chosen by NSGA-II in place of TPE",
            mean(between(study, TRIALS)),
            "s",
        ),
        Result(f"{name}: to find that all are there", single(again), "s"),
    )


def between(study: optuna.Study, first: int) -> list[float]:
    """Returns the seconds from the start of each trial to that of the next one."""
    begun = [trial.datetime_start.timestamp() for trial in study.get_trials()[first:] if trial.datetime_start]
    return np.diff(begun).tolist()


def filled_up(study: optuna.Study, size: int) -> None:
    """Adds copies of the last trial with other parameters until the study has `size` trials."""
    there = study.get_trials(deepcopy=False)
    copies = [
        create_trial(
            params={"seed": number, "keep": 1 + number % 9},
            distributions=there[-1].distributions,
            values=there[-1].values,
            user_attrs=there[-1].user_attrs,
        )
        for number in range(len(there), size)
    ]
    study.add_trials(copies)


def test_a_million_records_load_in_seconds(benchmark, found, tmp_path):
    records(tmp_path / "records" / "many")
    seconds = benchmark.pedantic(timed(lambda: read_records(tmp_path, "many")), rounds=1)
    first = single(seconds)
    again = mean([timed(lambda: read_records(tmp_path, "many"))() for _ in range(3)])
    assert len(read_records(tmp_path, "many")) == ROWS
    found(
        Result(f"{ROWS:,} records into a frame, checksums included", first, "s", at_most=20),
        Result(f"{ROWS:,} records into a frame, once more in the same process", again, "s"),
    )


@dataclass(frozen=True)
class Seeds(Space):
    """Random choices of patches, each with another seed."""

    def suggest(self, trial: AnyTrial) -> Proposal:
        seed, keep = trial.suggest_int("seed", 0, 10**9), trial.suggest_int("keep", 1, 9)
        return Proposal(random(keep, seed), f"random[{seed}]", "random")


def drawn(benchmark: BenchmarkFixture, course: pd.DataFrame, path: Path) -> None:
    """Writes the course of a run to a file and draws the figure."""
    if benchmark.enabled:
        course.to_csv(path, index=False, float_format="%.4g")
        save_figure(load_figure(pd.read_csv(MEMORY), pd.read_csv(BETWEEN)), FIGURE)


def single(value: float) -> Estimate:
    return Estimate(float(value), np.nan, np.nan, np.nan, 1)


def questions(path: Path) -> Path:
    """Writes a table in the format of POPE with random scenes, part by part."""
    draw = np.random.default_rng(0)
    schema = pa.schema(
        [(name, pa.string()) for name in ("question_id", "question", "answer", "image_source", "category")]
        + [("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())]))]
    )
    with pq.ParquetWriter(path, schema) as writer:
        for first in range(0, IMAGES, 100):
            rows = []
            for index in range(first, min(first + 100, IMAGES)):
                scene, data = make_scene("test", index), BytesIO()
                Image.fromarray(scene.pixels).save(data, "JPEG")
                texts = [question.text for question in make_questions(scene, stream("test", index, 0, 1))]
                rows += [
                    {
                        "question_id": f"{index}-{number}",
                        "question": texts[number % len(texts)],
                        "answer": ("yes", "no")[draw.integers(2)],
                        "image_source": str(index),
                        "category": "random",
                        "image": {"bytes": data.getvalue(), "path": None},
                    }
                    for number in range(PER_IMAGE)
                ]
            writer.write_table(pa.Table.from_pylist(rows, schema))
    return path


@contextmanager
def watching(folder: Path) -> Iterator[list[tuple[int, int]]]:
    """Records the number of answered questions and the unshared memory of this process every half second."""
    seen: list[tuple[int, int]] = []
    done, process = Event(), psutil.Process()

    def watch() -> None:
        while not done.wait(PERIOD_S):
            answered = min(BATCH * len(list(folder.glob("*/part-*"))), QUESTIONS)
            memory = process.memory_info()
            seen.append((answered, memory.rss - memory.shared))  # without files that are mapped, which can be dropped

    watcher = Thread(target=watch)
    watcher.start()
    try:
        yield seen
    finally:
        done.set()
        watcher.join()


def records(folder: Path) -> None:
    """Writes a finished run of `ROWS` questions, in the parts that evaluations write."""
    out = folder.parent.parent / "one"
    few = evaluate(EvalConfig(random(16), limit=240, max_new_tokens=4, out=out))
    rows = few.read().to_pylist()
    made = RecordFolder(folder)
    made.begin({"made": ROWS})
    for first in range(0, ROWS, len(rows)):
        some = rows[: ROWS - first]
        made.append([Record(**row | {"sample_id": f"{first + n:09d}"}) for n, row in enumerate(some)])
    made.finish(())
