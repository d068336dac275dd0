"""Cells of a study: their list, their records, and the table row of one cell."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optuna
import pandas as pd

from foveate.analysis.records import failure_note, read_records
from foveate.analysis.statistics import difference_interval, mean_interval
from foveate.analysis.tables import accuracy, percent
from foveate.analysis.verdicts import paired_p, side, too_few
from foveate.core.errors import DataError
from foveate.core.progress import bar
from foveate.evaluation.records import RecordFolder
from foveate.metrics.answers import agreement

PIXEL_FILTERS = ("saturation", "contrast", "edges")
FAMILIES = ("full", "evidence", "single", "suffix", "all", "uniform", *PIXEL_FILTERS, "random", "blind")
BUDGETLESS = ("full", "blind")  # all patches, and no image
MEASURES = ["score", "evidence_recall", "things_kept", "agreement"]
_QUESTION = ("sample_id", "image_id", "kind")


class Cell(NamedTuple):
    """One evaluated configuration.

    Attributes:
        scorer: Label, such as `cls[2]`, `cls[2:]` or `random[0]`.
        family: One of `FAMILIES`, or the method's name in a comparison; all seeds of `random` have one family.
        layers: Layers that the scorer reads: `2`, `2-4` or an empty string.
        keep: Number of patches kept: all patches for `full`, 0 for `blind`.
        run_id: Name of the run's folder in `records/`.
    """

    scorer: str
    family: str
    layers: str
    keep: int
    run_id: str

    @property
    def first_layer(self) -> int:
        """The first layer that the scorer reads, -1 if it reads none."""
        return int(self.layers.split("-")[0]) if self.layers else -1


def load_study(study_db: Path | str, study_name: str, command: str = "the experiment that writes it") -> optuna.Study:
    """Loads a stored study.

    Args:
        study_db: SQLite file, or URL of any Optuna storage.
        study_name: The study's name in that storage.
        command: Command that creates such a study, for the error message.

    Raises:
        DataError: The file does not exist.
    """
    if isinstance(study_db, Path):
        if not study_db.is_file():
            raise DataError(f"no study in {study_db}: run {command} first")
        study_db = f"sqlite:///{study_db}"
    return optuna.load_study(study_name=study_name, storage=study_db)


def cells_of(study: optuna.Study) -> list[Cell]:
    """Returns the complete cells of a study in table order; the latest of several trials of one cell."""
    cells = {}
    budgetless = {"full": study.user_attrs["patches"], "blind": 0}
    for trial in study.trials:
        if trial.state.name == "COMPLETE":
            facts, scorer = trial.user_attrs, trial.params["scorer"]
            family = facts["family"]
            keep = budgetless[family] if family in budgetless else trial.params["keep"]
            cells[scorer, keep] = Cell(scorer, family, str(facts["layers"]), keep, facts["run_id"])
    return sorted(cells.values(), key=_order)


def read_cells(
    cells: Iterable[Cell], out: Path, more: Callable[[pd.DataFrame], dict[str, np.ndarray]] | None = None
) -> dict[Cell, pd.DataFrame]:
    """Reads the records of every cell in table order, aligned by question.

    Seeds, such as `random[0]` and `random[1]`, become one cell `random` per budget, with the mean over the seeds for
    each question. Columns: sample_id, image_id, kind, score, evidence_recall, things_kept, agreement (1 where the
    answer equals that of `full`, NaN without `full`), those of `more`, seeds, and runs (the scores of all seeds).

    Args:
        cells: The cells, as `cells_of` returns them.
        out: Folder that holds `records/`.
        more: Computes further columns from the records of a cell.

    Raises:
        DataError: The cells were evaluated on different questions.
    """
    cells = sorted(cells, key=_order)
    full = next((read_records(out, cell.run_id) for cell in cells if cell.family == "full"), None)
    groups = defaultdict(list)
    for cell in bar(cells, "cell", "reading records"):
        seeded = cell.scorer.startswith(f"{cell.family}[")
        records = read_records(out, cell.run_id)
        pooled = cell._replace(scorer=cell.family, run_id="") if seeded else cell
        groups[pooled].append(_measured(records, full).assign(**(more(records) if more else {})))
    frames = [frame for group in groups.values() for frame in group]
    for frame in frames:
        if not frame["sample_id"].equals(frames[0]["sample_id"]):
            raise DataError(
                f"the cells answer {len(frames[0])} and {len(frame)} questions, and not the same ones: a table needs "
                "one data set, split and limit for all its cells"
            )
    return {cell: _seed_mean(group) for cell, group in groups.items()}


def runs_of(frame: pd.DataFrame) -> np.ndarray:
    """Returns the scores of every seed of a cell, (question, seed), which `paired_p` permutes."""
    return np.stack(frame["runs"].tolist())


def row_of(cell: Cell, frame: pd.DataFrame, full: pd.DataFrame | None, random: pd.DataFrame | None) -> dict[str, Any]:
    """Returns the table row of one cell, with an uncorrected p value.

    Args:
        cell: The cell.
        frame: Its records, as `read_cells` returns them.
        full: The records of `full`; None leaves NaN in the columns that compare with it.
        random: The records of `random` at the same budget; None leaves NaN there, too.
    """
    row = {**cell._asdict(), "seeds": frame["seeds"].iloc[0]} | accuracy_of(frame)
    del row["run_id"]
    row |= _difference(frame, full, ("delta_vs_full", "delta_ci_low", "delta_ci_high"))
    row |= _difference(frame, random, ("delta_vs_random", "delta_vs_random_low", "delta_vs_random_high"))
    p = np.nan
    if random is not None and random is not frame:
        p = paired_p(runs_of(frame), runs_of(random), frame["image_id"])
    return row | {
        "p_vs_random_holm": p,  # the caller corrects it over its table
        "evidence_recall": frame["evidence_recall"].mean(),
        "things_kept": frame["things_kept"].mean(),
        "agreement_with_full": frame["agreement"].mean(),
    }


def accuracy_of(frame: pd.DataFrame) -> dict[str, int | float]:
    """Returns the columns n, images, accuracy, ci_low and ci_high of some records."""
    mean, low, high, n = mean_interval(frame["score"], frame["image_id"])
    return {"n": n, "images": frame["image_id"].nunique(), "accuracy": mean, "ci_low": low, "ci_high": high}


def shown_accuracy(frame: pd.DataFrame) -> str:
    """Formats the accuracy of some records with its interval: `81.2 % [79.5, 82.8]`."""
    return accuracy(pd.Series(accuracy_of(frame)), " %")


def caveat(frames: Mapping[Cell, pd.DataFrame], table: pd.DataFrame) -> str:
    """Returns the reason why a table allows no verdicts, or an empty string if it allows them.

    Args:
        frames: The records, as `read_cells` returns them.
        table: The table of the same cells, with p values against `random` and `full`.
    """
    columns = table.columns.intersection(["p_vs_random_holm", "p_vs_full_holm"])
    tests = int(table[columns].notna().to_numpy().sum())
    if tests and (few := too_few(int(table["images"].iloc[0]), tests, 1 + int(table["seeds"].max()))):
        return few
    return image_caveat(frames)


def image_caveat(frames: Mapping[Cell, pd.DataFrame]) -> str:
    """Returns a note that the model is not significantly better with the image than without, or an empty string.

    Args:
        frames: The records, as `read_cells` returns them; without `full` or `blind` there is no note.
    """
    named = {cell.family: frame for cell, frame in frames.items()}
    full, blind = (named.get(name) for name in BUDGETLESS)
    if full is None or blind is None:
        return ""
    with_image, without = full["score"].mean(), blind["score"].mean()
    if side(with_image - without, paired_p(runs_of(full), runs_of(blind), full["image_id"])) > 0:
        return ""
    return (
        f"No verdicts: the uncompressed model ({percent(with_image)} %) is not significantly better than the same "
        f"model without the image ({percent(without)} %)."
    )


def best_scorer(table: pd.DataFrame, family: str) -> str | None:
    """Returns the scorer of a family with the highest mean accuracy over the rows; the first of equal ones."""
    rows = table[table["family"] == family]
    return None if rows.empty else str(rows.groupby("scorer", sort=False)["accuracy"].mean().idxmax())


def reference_budget(table: pd.DataFrame) -> int:
    """Returns the second smallest budget of a table, at which most scorers still differ, or the only one.

    Raises:
        DataError: No row has a budget.
    """
    keeps = sorted(int(keep) for keep in table.loc[~table["family"].isin(BUDGETLESS), "keep"].unique())
    if not keeps:
        raise DataError("the study has no row but `full`: a report needs a budget at which patches were dropped")
    return keeps[min(1, len(keeps) - 1)]


def failures(cells: Sequence[Cell], out: Path) -> str:
    """Returns `failure_note` of the first cell, whose questions are those of all cells."""
    return failure_note(RecordFolder(out / "records" / cells[0].run_id)) if cells else ""


def _order(cell: Cell) -> tuple[Any, ...]:
    family = FAMILIES.index(cell.family) if cell.family in FAMILIES else len(FAMILIES)
    return -cell.keep, family, cell.first_layer, cell.scorer


def _measured(records: pd.DataFrame, full: pd.DataFrame | None) -> pd.DataFrame:
    frame = records[[*_QUESTION, *MEASURES[:-1]]]
    if full is None or not records["sample_id"].equals(full["sample_id"]):
        return frame.assign(agreement=np.nan)
    return frame.assign(agreement=agreement(records["prediction"], full["prediction"]))


def _seed_mean(frames: list[pd.DataFrame]) -> pd.DataFrame:
    measures = [column for column in frames[0].columns if column not in _QUESTION]
    means = np.mean([frame[measures].to_numpy(float) for frame in frames], axis=0)
    runs = list(np.stack([frame["score"].to_numpy(float) for frame in frames], 1))
    return frames[0].assign(**dict(zip(measures, means.T, strict=True)), seeds=len(frames), runs=runs)


def _difference(frame: pd.DataFrame, baseline: pd.DataFrame | None, names: tuple[str, str, str]) -> dict[str, float]:
    if baseline is None or baseline is frame:
        return dict.fromkeys(names, np.nan)
    return dict(zip(names, difference_interval(frame["score"], baseline["score"], frame["image_id"])[:3], strict=True))
