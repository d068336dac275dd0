"""Examples for properties: images of any grid, in one view or several, with scores that tie or are missing."""

import torch
from hypothesis import strategies as st

from foveate.core.arrangement import Grid
from foveate.core.trace import PADDING, Trace
from foveate.testing.contracts import random_trace

SIDES = st.integers(1, 7)
GRIDS = st.builds(Grid, SIDES, SIDES)
VALUES = st.sampled_from([0.0, 0.25, 0.25, 1.0, 1e-30, 3e4])  # few, so that many tie
SEEDS = st.integers(0, 2**31)


@st.composite
def views(draw):
    """One grid or several."""
    return tuple(draw(st.lists(GRIDS, min_size=1, max_size=3)))


@st.composite
def scores_of(draw, batch, patches):
    """Scores of several images; some patches are missing, but never all of an image."""
    rows = []
    for _ in range(batch):
        row = draw(st.lists(VALUES, min_size=patches, max_size=patches))
        gone = draw(st.sets(st.integers(0, patches - 1), max_size=patches - 1))
        rows.append([-torch.inf if place in gone else value for place, value in enumerate(row)])
    return torch.tensor(rows)


@st.composite
def situations(draw):
    """Scores, the views that they are about, a budget, and a seed of everything else."""
    seen = draw(views())
    patches = sum(grid.patches for grid in seen)
    scores = draw(scores_of(draw(st.integers(1, 3)), patches))
    keep = draw(st.one_of(st.just(1), st.just(patches), st.integers(1, patches)))
    return scores, seen, keep, draw(SEEDS)


def trace_of(needs, seen, batch, seed) -> Trace:
    """Random answers about these views."""
    flat = random_trace(needs, batch, seed % 1000, Grid(1, sum(grid.patches for grid in seen)))
    return Trace(flat.values, seen, batch)


def real(row: torch.Tensor) -> list[int]:
    return [patch for patch in row.tolist() if patch != PADDING]
