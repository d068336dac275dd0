"""The split of questions into those that a smaller image answers and those that it does not."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from foveate.analysis.cells import BUDGETLESS, Cell, accuracy_of, shown_accuracy
from foveate.analysis.tables import accuracy, percent

SPLITTING = "downsample"
"""The control whose answers split the questions."""
GROUPS = ("simple", "difficult")
_RIGHT = 0.5  # least score of an answer that counts as right
_COLUMNS = ("n", "accuracy", "ci_low", "ci_high")
LEGEND = (
    "*Simple* questions are those that `downsample` answers at the same budget, *difficult* ones those that it does "
    "not (VTC-Bench's split). The split conditions on that result: `downsample` itself reaches 100 and 0 % by "
    "construction, methods that err where it errs look better on simple and worse on difficult questions than they "
    "are, and lucky guesses of `downsample` make questions simple. Compare methods with each other within a group, "
    "with what `full` and `blind` reach there, and never with `downsample`."
)


def simple_questions(frames: Mapping[Cell, pd.DataFrame]) -> dict[int, np.ndarray]:
    """Returns for each budget a mask of the questions that `downsample` answers at it.

    Args:
        frames: The records, as `read_cells` returns them; budgets without `downsample` have no mask.
    """
    answered = {cell.keep: frame for cell, frame in frames.items() if cell.family == SPLITTING}
    return {keep: frame["score"].to_numpy(float) >= _RIGHT for keep, frame in answered.items()}


def split_of(frame: pd.DataFrame, simple: np.ndarray | None) -> dict[str, float]:
    """Returns the accuracy on simple and on difficult questions, with n and interval; NaN without a split or questions.

    Args:
        frame: The records of a cell.
        simple: Mask of the simple questions; None without a split.
    """
    found = {f"{group}_{name}": np.nan for group in GROUPS for name in _COLUMNS}
    for group, mask in () if simple is None else zip(GROUPS, (simple, ~simple), strict=True):
        own = accuracy_of(frame[mask]) if mask.any() else {"n": 0}
        found |= {f"{group}_{name}": float(own[name]) for name in _COLUMNS if name in own}
    return found


def split_note(budget: int, frames: Mapping[Cell, pd.DataFrame]) -> str:
    """Returns the size of the split at a budget, and what the uncompressed model and the one without an image reach.

    An empty string without a split.
    """
    simple = simple_questions(frames).get(budget)
    if simple is None:
        return ""
    named = {cell.family: frame for cell, frame in frames.items() if cell.family in BUDGETLESS}
    texts = []
    for group, mask in zip(GROUPS, (simple, ~simple), strict=True):
        reached = [f"`{name}` {shown_accuracy(frame[mask])}" for name, frame in named.items() if mask.any()]
        whose = f": {', '.join(reached)}" if reached else ""
        texts.append(f"{mask.sum():,} are {group}{whose}")
    return f"Of {len(simple):,} questions, {'; '.join(texts)}."


def split_cells(row: pd.Series) -> dict[str, str]:
    """Returns the columns of Markdown: accuracy on simple and on difficult questions; none without a split."""
    if np.isnan(row["simple_n"]):
        return {}
    return {f"{group} (n = {row[f'{group}_n']:,.0f})": _cell(row, group) for group in GROUPS}


def _cell(row: pd.Series, group: str) -> str:
    own = pd.Series({name: float(row[f"{group}_{name}"]) for name in _COLUMNS})
    return f"{percent(float(own['accuracy']))} (splits)" if row["method"] == SPLITTING else accuracy(own)
