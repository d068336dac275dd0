"""Accuracy when attention is corrected for place, or for sinks."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from analysis.records import read_records
from analysis.statistics import difference_interval, mean_interval
from analysis.tables import grid, percent, points, tested
from analysis.verdicts import holm, paired_p
from foveate.studies.corrections import PLAIN, Corrected


def corrections_table(corrected: Sequence[Corrected], out: Path) -> pd.DataFrame:
    """Returns the accuracy of every corrected attention, and its paired difference from the same without correction.

    Columns: attention, correction, accuracy, low, high, evidence_recall, difference, difference_low, difference_high,
    p_holm (over the table; NaN of what is not corrected), changed (the share of questions for which other patches are
    kept), n, images, run.

    Args:
        corrected: As `foveate.studies.corrections.evaluate_corrections` gives them.
        out: Folder of all results.
    """
    records = {one: read_records(out, one.run) for one in corrected}
    plain = {one.attention: frame for one, frame in records.items() if one.correction == PLAIN}
    rows = []
    for one, frame in records.items():
        found = mean_interval(frame["score"], frame["image_id"])
        row = {"attention": one.attention, "correction": one.correction}
        row |= dict(zip(("accuracy", "low", "high", "n"), found, strict=True))
        row |= {"images": frame["image_id"].nunique(), "evidence_recall": frame["evidence_recall"].mean()}
        row |= {"run": one.run}
        others = plain[one.attention]["kept"]
        row["changed"] = sum(set(a) != set(b) for a, b in zip(frame["kept"], others, strict=True)) / len(frame)
        if one.correction != PLAIN:
            pair = frame["score"], plain[one.attention]["score"], frame["image_id"]
            names = ("difference", "difference_low", "difference_high")
            row |= dict(zip(names, difference_interval(*pair), strict=False)) | {"p_holm": paired_p(*pair)}
        rows.append(row)
    columns = ["attention", "correction", "accuracy", "low", "high", "evidence_recall", "difference", "difference_low"]
    table = pd.DataFrame(rows).reindex(columns=[*columns, "difference_high", "p_holm", "changed", "n", "images", "run"])
    return table.assign(p_holm=holm(table["p_holm"]))


def corrections_text(table: pd.DataFrame, keep: int | float, split: str) -> str:
    """Returns the table in words, for a terminal.

    Args:
        table: As `corrections_table` gives it.
        keep: Patches kept, as a count or a share.
        split: Whose images give the means.
    """
    rows = [
        {
            "attention": row["attention"],
            "correction": row["correction"],
            "accuracy, %": f"{percent(row['accuracy'])} [{percent(row['low'])}, {percent(row['high'])}]",
            "less without correction": "-"
            if pd.isna(row["difference"])
            else f"{points(row['difference'])} [{points(row['difference_low'])}, {points(row['difference_high'])}]",
            "p": tested(row["difference"], row["p_holm"]),
            "questions with other patches, %": percent(row["changed"]),
            "evidence in the top, %": percent(row["evidence_recall"]),
        }
        for _, row in table.iterrows()
    ]
    budget = f"{percent(keep)} % of the patches" if isinstance(keep, float) else f"{keep} patches"
    size = table.iloc[0]
    return (
        f"### Does a correction help? {budget} kept, n = {size['n']:,} questions about {size['images']:,} images; "
        f"means over the images of split {split!r}; p Holm-corrected over this table\n\n{grid(rows)}"
    )
