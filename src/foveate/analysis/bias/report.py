"""Report of a bias measurement: tables and figures in one folder."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from foveate.analysis import verdicts
from foveate.analysis.bias.data import (
    LEAST_TOKENS,
    WORTH,
    contrasts,
    corrections_table,
    headline,
    judges_table,
    pair_matrix,
    signal_frame,
    summary_table,
)
from foveate.analysis.bias.figures import NAMES, curves_figure, layers_figure, maps_figure, pairs_figure
from foveate.analysis.bias.measurement import (
    PERMUTATIONS,
    curve_frame,
    curve_table,
    mean_maps,
    plan_of,
    row_nulls,
    source_of,
)
from foveate.analysis.bias.measures import (
    ANSWER,
    CONTROLS,
    JUDGES,
    LEANS,
    MEASURE_NAMES,
    NEAR,
    PERCENT,
    PLACELESS,
    PROMPTS,
    RANDOM,
    RESPONSE,
    RESPONSES,
    SUM,
    WITH_RESPONSE,
    WORTHS,
    formatted,
    with_interval,
)
from foveate.analysis.bias.slices import cross_table, heads_table, kinds_table, tokens_table
from foveate.analysis.bias.slices_figures import cross_figure, heads_figure, tokens_figure
from foveate.analysis.drawing import save_figure
from foveate.analysis.tables import grid, p_value, paragraphs, percent, points, tested, write_csv, write_table
from foveate.bias.tables import TableFolder
from foveate.studies.corrections import Corrected

_OF_ORACLE = tuple(f"{judge}_of_oracle" for judge in JUDGES)
_SHOWN = (
    *("spearman_response", "overlap_response", "spearman_answer", "overlap_answer", "placeless_spearman"),
    *("evidence_recall", "row_correlation", "row_correlation_p_null", "last_rows_share"),
    *("block_share", "thinned_share", "thing_share", *_OF_ORACLE, "insertion_area", "deletion_area"),
)
_PRINTED = ("spearman_response", "spearman_answer", "evidence_recall", "row_correlation", "thinned_share", *_OF_ORACLE)
_SECTIONS = {
    "Nearness to the response": (*NEAR[RESPONSE], *NEAR[ANSWER], *PLACELESS),
    "Worth to the answer": WORTHS,
    "Position": LEANS,
}
_SIGNS = {1: "higher", -1: "lower", 0: "not significant"}
_LEGEND = (
    "n = {n:,} questions about {images:,} images, or as stated in the cell; shares in %. Brackets hold 95 % intervals "
    "over images. Random patches are the mean over seeds."
)
_COLUMNS = """\
- *response*: attention of the tokens that produce the answer, with the last prompt token; *answer's own tokens*:
  without it; means over blocks and heads, measured on answers of at least {least} tokens
- *top*: the {top} patches that would be kept; *evidence recall*: share of the evidence in the top
- *worth in the top*: worth of the top's patches to the answer's log-probability, summed over questions, as a share of
  all worth; *share of the oracle's worth*: the same relative to the top of the evidence
- judges of worth: *block removed*: loss without a block of patches; *thinned context*: mean gain from adding a block,
  in random orders of the blocks; *needed thing removed*: loss without all patches of a thing that the question is about
- *row correlation*: above 0 if lower rows of the image get more; *p of shuffled patches*: p of as large a mean if the
  patches of each image were shuffled ({permutations} permutations, one map per image); things are larger than a patch,
  so a small p does not prove a bias of position
- *without mean maps*: after the mean over all questions is subtracted from both sides
- *nats lost*: mean over the logarithm of the share of patches that are left or removed"""
_CONTRASTS = (
    "Differences between signals, paired by question: n = {n:,} questions about {images:,} images, or fewer where a "
    "measure is unknown; shares in points. A cell of several layers has the range of their differences and the counts "
    "of their verdicts. Verdicts rest on p < 0.05 in a permutation test over images, Holm-corrected over the {tests} "
    "tests of contrasts.csv."
)


def report(folder: TableFolder, out: Path, corrected: Sequence[Corrected] = (), mean_split: str = "") -> str:
    """Writes tables and figures; returns the text to print.

    `table.csv` and `table.md` have every signal and layer, `contrasts.csv` the tests, `judges.csv` the worth found by
    each judge; `kinds.csv`, `tokens.csv`, `heads.csv` and `cross.csv` have slices by question type, answer token, head,
    and [CLS] layer against block; `corrections.csv` has the accuracy of corrected attention.

    Args:
        folder: The measurement.
        out: Folder to write to; created if missing.
        corrected: Evaluated corrections, if any.
        mean_split: Split whose images gave the mean maps of the corrections.
    """
    frame = signal_frame(folder)
    shown = headline(frame)
    summary, differences = summary_table(shown, row_nulls(folder)), contrasts(shown)
    tables = {"contrasts": differences, "judges": judges_table(folder), "kinds": kinds_table(frame)}
    tables |= {"tokens": tokens_table(folder), "cross": cross_table(folder), "heads": heads_table(folder)}
    verdict = contrasts_markdown(frame, differences)
    write_table(summary, out, paragraphs(markdown(folder, summary), "## Contrasts", verdict) + "\n")
    parts = [_grid(_main(summary), _PRINTED), verdict, judges_markdown(tables["judges"]), _by_kind(tables["kinds"])]
    if corrected:
        tables["corrections"] = corrections_table(corrected, folder.folder.parents[1])
        parts.append(corrections_markdown(tables["corrections"], plan_of(folder, "keep"), mean_split))
    for name, table in tables.items():
        write_csv(table, out / f"{name}.csv")
    _draw(folder, summary, tables, out)
    return paragraphs(*parts, f"Tables and figures: {out}")


def markdown(folder: TableFolder, summary: pd.DataFrame) -> str:
    """Returns the Markdown table of every signal and layer."""
    keep, size = plan_of(folder, "keep"), {"n": summary["n"].max(), "images": summary["images"].max()}
    top = f"{percent(float(keep))} % of" if "." in keep else keep
    columns = _COLUMNS.format(least=LEAST_TOKENS, top=top, permutations=PERMUTATIONS)
    return f"{source_of(folder)}; {_LEGEND.format(**size)}\n\n{columns}\n\n{_grid(summary, _SHOWN)}\n"


def contrasts_markdown(frame: pd.DataFrame, table: pd.DataFrame) -> str:
    """Returns the verdicts of all contrasts as Markdown tables, by signals and measure.

    Args:
        frame: Frame of `signal_frame`.
        table: Table of `contrasts`.
    """
    n, images, tests = table["n"].max(), int(table["images"].max()), int(table["p"].notna().sum())
    seeds = frame.loc[frame["signal"] == RANDOM, "layers"].nunique()
    few = verdicts.too_few(images, tests, 1 + max(1, seeds))
    parts = [_CONTRASTS.format(n=n, images=images, tests=tests), few]
    layers = table["layers_a"].where(table["signal_a"] == SUM, "")
    keys = [table["signal_a"], layers.rename("layers"), table["signal_b"]]
    for title, measures in _SECTIONS.items():
        measures, rows = [name for name in measures if name in set(table["measure"])], []
        for (first, layer, second), group in table.groupby(keys, sort=False):
            cells = {MEASURE_NAMES[name]: _verdict(group[group["measure"] == name], not few) for name in measures}
            rows.append({"signal": f"{NAMES[str(first)]} {layer}".strip(), "minus": NAMES[str(second)]} | cells)
        rows = [row for row in rows if set(list(row.values())[2:]) != {"-"}]
        parts += [f"### {title}", grid(rows)] if rows else []
    return paragraphs(*parts)


def judges_markdown(table: pd.DataFrame) -> str:
    """Returns a Markdown table of the worth that each judge finds.

    Args:
        table: Table of `judges_table`.
    """
    names = {judge: MEASURE_NAMES[f"{judge}_share"].removeprefix("worth in the top, ") for judge in JUDGES}
    rows = [
        {
            "judge": names[row["judge"]],
            f"questions with a worth of {WORTH} nats, %": f"{percent(row['share'])} [{percent(row['low'])}, "
            f"{percent(row['high'])}]",
            "total nats per question": f"{row['nats']:.2f} [{row['nats_low']:.2f}, {row['nats_high']:.2f}]",
            "n": f"{row['n']:,}",
        }
        for _, row in table[table["n"] > 0].iterrows()
    ]
    return f"### Worth found by each judge\n\n{grid(rows)}" if rows else ""


def corrections_markdown(table: pd.DataFrame, keep: str, split: str) -> str:
    """Returns the accuracy of corrected attention as a Markdown table.

    Args:
        table: Table of `corrections_table`.
        keep: Patches kept, as a count or a share.
        split: Split whose images gave the mean maps.
    """
    rows = [
        {
            "attention": row["attention"],
            "correction": row["correction"],
            "accuracy, %": f"{percent(row['accuracy'])} [{percent(row['low'])}, {percent(row['high'])}]",
            "minus uncorrected": "-"
            if pd.isna(row["difference"])
            else f"{points(row['difference'])} [{points(row['difference_low'])}, {points(row['difference_high'])}]",
            "p": tested(row["difference"], row["p_holm"]),
            "questions with other patches, %": percent(row["changed"]),
            "evidence recall, %": percent(row["evidence_recall"]),
        }
        for _, row in table.iterrows()
    ]
    budget = f"{percent(float(keep))} % of the patches" if "." in keep else f"{keep} patches"
    size = table.iloc[0]
    return (
        f"### Corrected attention\n\n{budget} kept, mean maps of split {split!r}: n = {size['n']:,} questions about "
        f"{size['images']:,} images. Verdicts rest on p < 0.05 in a permutation test over images, Holm-corrected "
        f"over the table.\n\n{grid(rows)}"
    )


def _draw(folder: TableFolder, summary: pd.DataFrame, tables: dict[str, pd.DataFrame], out: Path) -> None:
    n, images, source = summary["n"].max(), summary["images"].max(), source_of(folder)
    squares = {measure: pair_matrix(folder, measure) for measure in ("spearman", "overlap")}
    figures = {
        "layers.png": layers_figure(summary, source),
        "pairs.png": pairs_figure(squares, n, images, source),
        "maps.png": maps_figure(mean_maps(folder), images, source),
        "curves.png": curves_figure(curve_table(curve_frame(folder)), source),
        "tokens.png": tokens_figure(tables["tokens"], source),
    }
    if len(tables["heads"]):
        figures["heads.png"] = heads_figure(tables["heads"], source)
    if len(tables["cross"]):
        figures["cross.png"] = cross_figure(tables["cross"], source)
    for name, figure in figures.items():
        save_figure(figure, out / name)


def _main(summary: pd.DataFrame) -> pd.DataFrame:
    """Returns the rows of [CLS], both prompts, the responses averaged over blocks, and the controls."""
    whole = summary["signal"].isin(RESPONSES) & summary["layers"].str.contains("-")
    return summary[whole | summary["signal"].isin(["cls", SUM, *PROMPTS, *CONTROLS])]


def _by_kind(kinds: pd.DataFrame) -> str:
    """Returns a table of both prompts and the sum of all [CLS] layers by question type."""
    first = kinds.loc[kinds["signal"] == SUM, "layers"].head(1).tolist()
    chosen = (kinds["signal"] == SUM) & kinds["layers"].isin(first) | kinds["signal"].isin(PROMPTS)
    measures = ("spearman_response", "spearman_answer", "thinned_share")
    rows = [
        {"question type": row["kind"], "tokens per answer": f"{row['tokens']:.1f}", "signal": NAMES[row["signal"]]}
        | {_header(measure): with_interval(row, measure) for measure in measures}
        | {"n": f"{row['n']:,}"}
        for _, row in kinds[chosen].iterrows()
    ]
    return f"### By question type, all answers\n\n{grid(rows)}" if rows else ""


def _grid(rows: pd.DataFrame, measures: tuple[str, ...]) -> str:
    """Returns a Markdown table without signals and measures that are unknown."""
    known = [measure for measure in measures if rows[measure].notna().any()]
    return grid(
        [
            {"signal": NAMES[row["signal"]], "layers": row["layers"] or "-"}
            | {_header(measure): _cell(row, measure) for measure in known}
            for _, row in rows.dropna(subset=known, how="all").iterrows()
        ]
    )


def _header(measure: str) -> str:
    return f"{MEASURE_NAMES[measure]}{', %' if measure in PERCENT else ''}"


def _cell(row: pd.Series, measure: str) -> str:
    if measure.endswith("_p_null"):
        return p_value(row[measure])
    about = RESPONSE if measure in WITH_RESPONSE else ANSWER if measure in NEAR[ANSWER] else None
    itself = row["signal"] == about and "-" in row["layers"]
    return "itself" if itself else with_interval(row, measure)


def _verdict(rows: pd.DataFrame, allowed: bool) -> str:
    """Returns the difference and verdict of one contrast, or the range of differences and the counts of verdicts."""
    rows = rows.dropna(subset="difference")
    if rows.empty:
        return "-"
    measure, signs = (
        rows["measure"].iloc[0],
        [verdicts.side(*pair) for pair in rows[["difference", "p_holm"]].to_numpy()],
    )
    if len(rows) == 1:
        middle, low, high = (formatted(rows[name].iloc[0], measure, True) for name in ("difference", "low", "high"))
        shown = f"{middle} [{'no interval' if low == '-' else f'{low}, {high}'}]"
        return f"{shown} {_SIGNS[signs[0]]}" if allowed else shown
    least, most = (formatted(end, measure, True) for end in (rows["difference"].min(), rows["difference"].max()))
    counts = [f"{_SIGNS[sign]} {signs.count(sign)}" for sign in (1, -1, 0) if sign in signs]
    return f"{least} to {most}" + (f": {', '.join(counts)}" if allowed else "")
