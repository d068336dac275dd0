"""What the maps of a bias measurement say of place. They are read batch by batch and never held all at once."""

from collections import defaultdict
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow.compute as pc
import torch

from analysis.bias.measured import grid_of, mapped
from analysis.bias.signals import RESPONSE, ROW, Key, is_whole, key_order
from analysis.ranks import spearman
from foveate.bias.metrics import row_null
from foveate.bias.tables import TableFolder

PERMUTATIONS = 999


class MeanMap(NamedTuple):
    """Where a signal looks on average over `n` questions, (rows, columns) of sum 1; every question weighs equally."""

    signal: str
    layers: str
    values: np.ndarray
    n: int


def mean_maps(folder: TableFolder) -> list[MeanMap]:
    """The mean map of every signal and layers over all questions, each of sum 1."""
    grid = grid_of(folder)
    found = _mean_rows(folder)
    return [MeanMap(*key, mean.reshape(grid.rows, grid.columns), n) for key, (mean, n) in found.items()]


def placeless(folder: TableFolder) -> pd.DataFrame:
    """Spearman with the response when the mean map over all questions is taken from each: `placeless_spearman`.

    What a signal prefers whatever the question, and whatever the image, is in its mean map; of two signals that
    share a preference for places, or differ by one, only the rest is compared. NaN where nothing is left.
    """
    mean = {key: row for key, (row, _) in _mean_rows(folder).items()}
    target = next((key for key in mean if key[0] == RESPONSE and is_whole(key)), None)
    parts = [pd.DataFrame(columns=[*ROW, "placeless_spearman"])]
    for rows, maps in _unit_maps(folder) if target else ():
        keys = list(zip(rows["signal"], rows["layers"], strict=True))
        rest = maps - np.stack([mean[key] for key in keys])
        at = [number for number, key in enumerate(keys) if key == target]
        theirs = rows["sample_id"].map(pd.Series(at, rows["sample_id"].iloc[at]))
        known = theirs.notna().to_numpy()
        mine, wanted = rest[known], rest[theirs[known].astype(int)]
        left = np.minimum(np.ptp(mine, axis=1), np.ptp(wanted, axis=1)) > 1e-9  # less is rounding
        parts.append(rows[known].assign(placeless_spearman=np.where(left, spearman(mine, wanted), np.nan)))
    return pd.concat(parts[1:] or parts, ignore_index=True)


def place_nulls(folder: TableFolder, permutations: int = PERMUTATIONS, seed: int = 0) -> pd.DataFrame:
    """Of every signal and layers the p of its row correlation if place meant nothing: `row_correlation_p_null`.

    `foveate.bias.metrics.positional_null` says what it means; one map per image, the mean over its questions. Those of
    one signal are held at a time.

    Args:
        folder: What was measured.
        permutations: Of the patches of every image.
        seed: Of the permutations.
    """
    grid, rows = grid_of(folder), []
    for signal in dict.fromkeys(signal for signal, _ in mapped(folder)):
        sums: dict[str, dict[str, Any]] = defaultdict(lambda: defaultdict(float))
        for about, maps in _unit_maps(folder, [("signal", "==", signal)]):
            for (layers, image), places in _equal(about, "layers", "image_id"):
                sums[layers][image] += maps[places].sum(0)
        for layers, images in sums.items():
            maps = torch.from_numpy(np.stack(list(images.values())))  # sums, which rank as means do
            rows.append((signal, layers, row_null(maps, grid, permutations, seed)))
    return pd.DataFrame(rows, columns=["signal", "layers", "row_correlation_p_null"])


def _mean_rows(folder: TableFolder) -> dict[Key, tuple[np.ndarray, int]]:
    """Of every signal and layers, in order, the mean of its maps, flat, and how many there are."""
    sums: dict[Key, Any] = defaultdict(float)
    counts: dict[Key, int] = defaultdict(int)
    for rows, maps in _unit_maps(folder):
        for key, places in _equal(rows, "signal", "layers"):
            sums[key] += maps[places].sum(0)
            counts[key] += len(places)
    return {key: (sums[key] / counts[key], counts[key]) for key in sorted(sums, key=key_order)}


def _equal(rows: pd.DataFrame, first: str, second: str) -> Iterator[tuple[tuple[str, str], np.ndarray]]:
    """What stands in two columns, and the places of the rows where it does."""
    for (a, b), places in rows.groupby([first, second]).indices.items():  # pyright: ignore
        yield (str(a), str(b)), np.asarray(places)


def _unit_maps(folder: TableFolder, filters: Any = None) -> Iterator[tuple[pd.DataFrame, np.ndarray]]:  # noqa: ANN401
    """Batch by batch the columns `ROW`, and the maps, each of sum 1; those that are not known are left out."""
    for batch in folder.batches("maps", [*ROW, "map"], filters):
        batch = batch.filter(pc.is_valid(batch["map"]))  # pyright: ignore
        if not batch.num_rows:
            continue
        maps = np.stack(batch["map"].to_numpy()).astype(float)
        sums = maps.sum(axis=1)
        known = sums > 0
        yield batch.select(ROW).to_pandas()[known].reset_index(drop=True), maps[known] / sums[known, None]
