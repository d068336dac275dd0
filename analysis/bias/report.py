"""The report of a bias measurement: files and printed text."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from analysis.bias.answer import MEASURE_NAMES, bias_answer, finding, told
from analysis.bias.contrasts import contrasts
from analysis.bias.corrections import corrections_table, corrections_text
from analysis.bias.curves import curve_frame, curve_table
from analysis.bias.data import LEAST_TOKENS, headline, judges_table, pair_matrix, signal_frame, summary_table
from analysis.bias.figures import NAMES, curves_figure, layers_figure, maps_figure, pairs_figure
from analysis.bias.maps import PERMUTATIONS, mean_maps, place_nulls
from analysis.bias.measured import plan_of, source_of
from analysis.bias.measures import NEAR, PERCENT, WITH_RESPONSE
from analysis.bias.signals import ANSWER, CONTROLS, PROMPTS, RESPONSE, RESPONSES
from analysis.bias.slices import cross_table, heads_table, kinds_table, tokens_table
from analysis.bias.slices_figures import cross_figure, heads_figure, tokens_figure
from analysis.drawing import save_figure
from analysis.tables import grid, p_value, percent, write_table
from foveate.bias.tables import TableFolder
from foveate.core.storage import atomic_write
from foveate.studies.corrections import Corrected

_OF_ORACLE = ("block_of_oracle", "thinned_of_oracle", "thing_of_oracle")
_NAMES = MEASURE_NAMES | {
    "row_correlation_p_null": "its p of shuffled patches",
    **{name: f"{name.split('_')[0]} judge, share of the oracle's" for name in _OF_ORACLE},
}
_SHOWN = (
    *("spearman_response", "overlap_response", "spearman_answer", "overlap_answer", "placeless_spearman"),
    *("evidence_recall", "row_correlation", "row_correlation_p_null", "last_rows_share"),
    *("block_share", "thinned_share", "thing_share", *_OF_ORACLE, "insertion_area", "deletion_area"),
)
_PRINTED = ("spearman_response", "spearman_answer", "evidence_recall", "row_correlation", "thinned_share", *_OF_ORACLE)
_LEGEND = (
    "n = {n:,} questions about {images:,} images; where a measure is known for fewer, its n stands with it. In "
    "brackets the 95 % interval over images; shares in %. *The response* is what the tokens that produce the answer "
    "look at, the last prompt token among them; *the answer's own tokens* leave that out; both are means over blocks "
    "and heads, and nearness to them is measured on answers of at least {least} tokens. The *top* are the {top} "
    "patches that would be kept. *Worth in the top*: the sum over questions of what the top's patches are worth to the "
    "answer's log-probability, as a share of the sum of all worth; by three judges. *Block taken away*: the fall "
    "without a block of patches. *In thinned context*: the mean rise at a block's entry, in random orders of the "
    "blocks. *Needed thing taken away*: the fall without all patches of a thing that the question is about. *Share of "
    "the oracle's*: "
    "the same relative to the top of the evidence. *Row correlation* is above 0 where lower rows of the image have "
    "more. *Its p of shuffled patches*: of so large a mean over images if the patches of each stood in any order "
    "({permutations} permutations, a map per image). A large p acquits a signal of a bias of place; a small one shows "
    "none, for attention falls on things, which are larger than a patch. *Mean maps taken away*: from both sides the "
    "mean over all questions. *Nats lost*: mean over the logarithm of the share of patches that are left, or gone. "
    "Random patches are the mean over seeds. Differences, and what is sure of them: contrasts.csv."
)


def report(folder: TableFolder, out: Path, corrected: Sequence[Corrected] = (), mean_split: str = "") -> str:
    """Writes tables and figures; returns what to print.

    `table.csv` and `table.md` have every signal and layer, `contrasts.csv` the tests, `judges.csv` what judges find;
    `kinds.csv`, `tokens.csv`, `heads.csv` and `cross.csv` go by question type, token of the answer, head, and [CLS]
    layer against block; `corrections.csv` has the corrected attentions.

    Args:
        folder: What was measured.
        out: Where to write; made if missing.
        corrected: Evaluated corrections, if any.
        mean_split: Whose images gave their means.
    """
    frame = signal_frame(folder)
    shown = headline(frame)
    summary, differences = summary_table(shown, place_nulls(folder)), contrasts(shown)
    judges, kinds = judges_table(folder), kinds_table(frame)
    tables = {"contrasts": differences, "judges": judges, "kinds": kinds, "tokens": tokens_table(folder)}
    tables |= {"cross": cross_table(folder), "heads": heads_table(folder)}
    write_table(summary, out, markdown(folder, summary))
    parts = [_grid(_main(summary), _PRINTED), bias_answer(frame, summary, differences, judges), _by_kind(kinds)]
    if corrected:
        tables["corrections"] = corrections_table(corrected, folder.folder.parents[1])
        keep = plan_of(folder, "keep")
        parts.append(corrections_text(tables["corrections"], float(keep) if "." in keep else int(keep), mean_split))
    for name, table in tables.items():
        with atomic_write(out / f"{name}.csv") as path:
            table.to_csv(path, index=False, float_format="%.6f", lineterminator="\n")
    _draw(folder, summary, finding(differences), tables, out)
    return "\n\n".join(part for part in [*parts, f"Tables and figures: {out}"] if part)


def markdown(folder: TableFolder, summary: pd.DataFrame) -> str:
    """Returns the table for readers, every signal and layer."""
    keep = plan_of(folder, "keep")
    legend = _LEGEND.format(
        n=summary["n"].max(),
        images=summary["images"].max(),
        least=LEAST_TOKENS,
        top=f"{percent(float(keep))} % of" if "." in keep else keep,
        permutations=PERMUTATIONS,
    )
    return f"{source_of(folder)}; {legend}\n\n{_grid(summary, _SHOWN)}\n"


def _draw(folder: TableFolder, summary: pd.DataFrame, title: str, tables: dict[str, pd.DataFrame], out: Path) -> None:
    n, images, source = summary["n"].max(), summary["images"].max(), source_of(folder)
    squares = {measure: pair_matrix(folder, measure) for measure in ("spearman", "overlap")}
    figures = {
        "layers.png": layers_figure(summary, title, source),
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
    """Returns all [CLS] layers and sums, both prompts, the responses averaged over blocks, and the controls."""
    whole = summary["signal"].isin(RESPONSES) & summary["layers"].str.contains("-")
    return summary[whole | summary["signal"].isin(["cls", "cls sum", *PROMPTS, *CONTROLS])]


def _by_kind(kinds: pd.DataFrame) -> str:
    """Returns both prompts, the sum of all [CLS] layers and the response by question type, in short."""
    first = kinds.loc[kinds["signal"] == "cls sum", "layers"].head(1).tolist()
    chosen = (kinds["signal"] == "cls sum") & kinds["layers"].isin(first) | kinds["signal"].isin(PROMPTS)
    rows = [
        {"question type": row["kind"], "tokens of answers": f"{row['tokens']:.1f}", "signal": NAMES[row["signal"]]}
        | {_NAMES[measure]: told(row, measure) for measure in ("spearman_response", "spearman_answer", "thinned_share")}
        | {"n": f"{row['n']:,}"}
        for _, row in kinds[chosen].iterrows()
    ]
    text = "By question type (all answers; of one token the response is the last prompt token's row), means over layers"
    return f"### {text}\n\n{grid(rows)}" if rows else ""


def _grid(rows: pd.DataFrame, measures: tuple[str, ...]) -> str:
    """Signals of which none of these is known are left out, and so are measures."""
    known = [measure for measure in measures if rows[measure].notna().any()]
    names = {measure: f"{_NAMES[measure]}{', %' if measure in PERCENT else ''}" for measure in known}
    return grid(
        [
            {"signal": NAMES[row["signal"]], "layers": row["layers"] or "-"}
            | {name: _cell(row, measure) for measure, name in names.items()}
            for _, row in rows.dropna(subset=known, how="all").iterrows()
        ]
    )


def _cell(row: pd.Series, measure: str) -> str:
    if measure.endswith("_p_null"):
        return p_value(row[measure])
    about = RESPONSE if measure in WITH_RESPONSE else ANSWER if measure in NEAR[ANSWER] else None
    itself = row["signal"] == about and "-" in row["layers"]
    return "itself" if itself else told(row, measure).replace(" %", "")
