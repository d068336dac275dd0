"""Losses of the answer when only the best patches of a signal are left, and when they are removed."""

import numpy as np
import pandas as pd

from analysis.bias.measures import AREAS, interval_of, one_random
from analysis.bias.signals import ROW, ordered
from foveate.bias.tables import SAMPLES, TableFolder

LOSSES = {"insertion": "insertion_loss", "deletion": "deletion_loss"}


def curve_frame(folder: TableFolder) -> pd.DataFrame:
    """Returns what the own answer loses in log-probability, one row per question, signal, layers and share.

    `insertion_loss`: when only that share of the patches is left, the less the better the signal; `deletion_loss`:
    when it is taken away, the more the better. Each seed of the random maps is a row.
    """
    frame = folder.read("curves", [*ROW, "share", *LOSSES]).to_pandas()
    whole = folder.read(SAMPLES, ["sample_id", "log_probability"]).to_pandas().set_index("sample_id")
    known = frame["sample_id"].map(whole["log_probability"])
    losses = {name: known - frame[measured] for measured, name in LOSSES.items()}
    return ordered(frame.assign(**losses).drop(columns=list(LOSSES)), ["share"])


def curve_table(curves: pd.DataFrame) -> pd.DataFrame:
    """Returns n, images and both losses with intervals per signal, layers and share; random maps are one signal.

    Args:
        curves: As `curve_frame` gives it.
    """
    curves, rows = ordered(one_random(curves, ["share"]), ["share"]), []
    for key, group in curves.groupby(["signal", "layers", "share"], sort=False):
        row = dict(zip(("signal", "layers", "share"), key, strict=True)) | {"images": group["image_id"].nunique()}
        for name in LOSSES.values():
            found = interval_of(group[name], group["image_id"], name)
            row |= dict(zip((name, f"{name}_low", f"{name}_high"), found, strict=False))
        rows.append(row | {"n": len(group)})
    return pd.DataFrame(rows)


def curve_areas(curves: pd.DataFrame) -> pd.DataFrame:
    """Returns the mean loss along each curve, per question: the trapezoidal rule over the log of the share.

    Args:
        curves: As `curve_frame` gives it.
    """
    areas = {}
    for measure, loss in zip(AREAS, LOSSES.values(), strict=True):
        wide = curves.pivot(index=ROW, columns="share", values=loss).sort_index(axis=1)
        places, losses = np.log(wide.columns.to_numpy(float)), wide.to_numpy(float)
        area = np.trapezoid(losses, places, axis=1) / np.ptp(places) if len(places) > 1 else losses[:, 0]
        areas[measure] = pd.Series(area, wide.index)
    return pd.DataFrame(areas).reset_index()
