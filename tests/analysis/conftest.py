"""Records as an evaluation writes them, drawn from a model in which images differ in difficulty."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest

from foveate.analysis.ablation.data import ablation_table
from foveate.analysis.cells import Cell, read_cells
from foveate.core.storage import checksummed
from foveate.evaluation.records import RecordFolder

KINDS = ("color", "count", "describe", "exist", "exist_adversarial", "list", "multiple_choice", "position", "reading",
         "relation", "shape")  # fmt: skip
PATCHES, SIDE, DEPTH, FEATURE_LAYER = 144, 12, 6, 4
# how well a scorer ranks patches: 1 finds the evidence, 0 is blind
QUALITY = {"evidence": 1.0, "uniform": 0.28, "cls[all]": 0.6} | {f"random[{seed}]": 0.2 for seed in range(5)}
QUALITY |= {f"cls[{layer}]": quality for layer, quality in enumerate((0.3, 0.55, 0.74, 0.6, 0.35, 0.1))}
QUALITY |= {f"cls[{start}:]": quality for start, quality in enumerate((0.62, 0.68, 0.72, 0.58))}


class Study(NamedTuple):
    """The cells, the folder of their records, and their table."""

    cells: list[Cell]
    out: Path
    table: pd.DataFrame


def cell_of(scorer: str, keep: int) -> Cell:
    """Returns the cell with the labels that a study gives it."""
    name, _, inside = scorer.rstrip("]").partition("[")
    if name != "cls":
        return Cell(scorer, name, "", keep, f"{scorer}-{keep}")
    family, layers = "single", inside
    if inside == "all":
        family, layers = "all", f"0-{DEPTH - 1}"
    elif inside.endswith(":"):
        family, layers = "suffix", f"{inside[:-1]}-{FEATURE_LAYER}"
    return Cell(scorer, family, layers, keep, f"{scorer}-{keep}")


def write_records(out: Path, run_id: str, frame: pd.DataFrame, parts: int = 1) -> None:
    """Writes the records of one run in the layout of an evaluation."""
    folder = RecordFolder(out / "records" / run_id)
    folder.begin({})
    for part in range(parts):
        with checksummed(folder.folder, f"part-{part:05d}", ".parquet") as path:
            frame.iloc[part::parts].to_parquet(path)
    folder.finish(frame["sample_id"])


def simulate(out: Path, scorers: tuple[str, ...], keeps: tuple[int, ...], images: int) -> list[Cell]:
    """Writes the records of `full` and of every scorer at every budget, and returns the cells."""
    questions = pd.DataFrame(
        [(f"{image:04d}-{kind}", f"{image:04d}", kind) for image in range(images) for kind in KINDS],
        columns=["sample_id", "image_id", "kind"],
    )
    rng = np.random.default_rng(0)
    easy = rng.normal(1.2, 0.7, images).repeat(len(KINDS)) + rng.normal(0, 0.8, len(questions))
    cells = [cell_of("full", PATCHES), *(cell_of(scorer, keep) for scorer in scorers for keep in keeps)]
    for index, cell in enumerate(cells):
        rng = np.random.default_rng([0, index])
        loss = 0.0 if cell.family == "full" else (1.15 - QUALITY[cell.scorer]) * math.log2(PATCHES / cell.keep) * 0.75
        chance = 1 / (1 + np.exp(-2.2 * (easy - loss + 0.6)))
        right = rng.random(len(questions)) * 0.15 + np.tile(np.linspace(0.1, 0.5, 11), images) < chance
        kept = [np.sort(rng.permutation(PATCHES)[: cell.keep]) for _ in range(images)]
        write_records(out, cell.run_id, _records(questions, right, kept, chance))
    return cells


def _records(questions: pd.DataFrame, right: np.ndarray, kept: list[np.ndarray], chance: np.ndarray) -> pd.DataFrame:
    partial = (questions["kind"] == "list") & ~right
    return questions.assign(
        question="what color is the " + questions["kind"] + "?",
        reference="red",
        prediction=np.where(right, "red", np.where(partial, "red star, blue ring", "blue")),
        score=np.where(right, 1.0, np.where(partial, 0.5, 0.0)),
        kept=[kept[int(image)] for image in questions["image_id"]],
        tokens=len(kept[0]),
        tokens_per_block=[[len(kept[0])] * 4] * len(questions),
        text_tokens=20 + questions["kind"].map(len),
        evidence_recall=chance,
        things_kept=(chance > 0.5).astype(float),
    ).sample(frac=1, random_state=0)


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Returns an ablation with every family, three budgets and 40 images of 11 questions."""
    out = tmp_path_factory.mktemp("study")
    cells = simulate(out, tuple(QUALITY), (36, 16, 7), images=40)
    return Study(cells, out, ablation_table(read_cells(cells, out)))


@pytest.fixture(scope="session")
def write_run() -> Callable[..., None]:
    """Returns a function that writes records in the layout of an evaluation."""
    return write_records


@pytest.fixture
def records() -> Callable[..., pd.DataFrame]:
    """Returns a function that makes records of a few questions, two per image, with the given scores."""

    def make(scores: list[float], predictions: list[str] | None = None) -> pd.DataFrame:
        names = [f"{number:03d}" for number in range(len(scores))]
        frame = pd.DataFrame({"sample_id": names, "image_id": [f"i{n // 2}" for n in range(len(scores))]})
        return frame.assign(
            kind=["color" if n % 2 else "count" for n in range(len(scores))],
            question="what color is it?",
            reference="red",
            prediction=predictions or ["red" if score else "blue" for score in scores],
            score=scores,
            kept=[[0, 3]] * len(scores),
            tokens=2,
            tokens_per_block=[[2, 2]] * len(scores),
            text_tokens=10,
            evidence_recall=np.nan,
            things_kept=np.nan,
        )

    return make
