"""What a bias measurement writes and prints."""

from pathlib import Path

import pandas as pd

from analysis.bias import (
    SHARES,
    WITH_RESPONSE,
    contrasts,
    curve_frame,
    curve_table,
    heads_data,
    nearness,
    pair_matrix,
    signal_frame,
    summary_table,
    unnoticed,
)
from analysis.bias_answer import bias_answer, told
from analysis.bias_figures import NAMES, curves_figure, heads_figure, layers_figure, maps_figure, pairs_figure
from analysis.drawing import save_figure
from analysis.maps import PERMUTATIONS, mean_maps, place_nulls
from analysis.signals import CONTROLS, RESPONSE
from analysis.tables import grid, p_value, write_table
from foveate.core.files import replacing
from foveate.evaluation.tables import SAMPLES, TableFolder

_SHOWN = {
    "overlap_response": "overlap with the response",
    "spearman_response": "Spearman with the response",
    "placeless_spearman": "the same without mean maps",
    "evidence_recall": "evidence in the top",
    "row_correlation": "row correlation",
    "row_correlation_p_null": "its p of shuffled patches",
    "last_rows_share": "in the last quarter of the rows",
    "causal_mass": "what the answer hangs on, in the top",
    "causal_spearman": "Spearman with it",
    "insertion_area": "nats lost, the best left",
    "deletion_area": "nats lost, the best gone",
}
_PRINTED = (
    *("overlap_response", "spearman_response", "evidence_recall", "row_correlation", "row_correlation_p_null"),
    *("causal_mass", "causal_spearman"),
)
_LEGEND = (
    "n = {n:,} questions about {images:,} images; where a measure is known for fewer, its n stands with it. In "
    "brackets the 95 % interval over images; shares in %. The *response* is what the answer's tokens look "
    "at, mean over blocks and heads; the *top* are the patches that would be kept. *Row correlation* is above 0 where "
    "lower rows of the picture have more. *Its p of shuffled patches*: of so large a mean over images if "
    "the patches of each stood in any order ({permutations} permutations, a map per image). A large p acquits a signal "
    "of a bias of place; a small one shows none, for attention falls on things, which are larger than a patch: that "
    "takes the interval, and the evidence beside it. *Without mean maps*: from both sides the mean over all questions "
    "is taken away. *What the answer hangs on*: by how much the log-probability of the model's own answer falls when a "
    "block of patches is taken away. *Nats lost*: mean over the shares of patches that are left, or gone. Random "
    "patches are the mean over seeds. Differences, and what is sure of them: contrasts.csv."
)


def report(folder: TableFolder, out: Path) -> str:
    """Writes `table.csv`, `table.md`, `contrasts.csv` and figures; returns what to print.

    Args:
        folder: What was measured.
        out: Where to write; made if missing.
    """
    frame = signal_frame(folder)
    summary, differences = summary_table(frame, place_nulls(folder)), contrasts(frame)
    write_table(summary, out, markdown(summary))
    with replacing(out / "contrasts.csv") as path:
        differences.to_csv(path, index=False, float_format="%.6f", lineterminator="\n")
    _draw(folder, summary, out)
    answer = bias_answer(summary, differences, unnoticed(folder))
    parts = [_grid(_main(summary), _PRINTED), _of_several_tokens(folder, frame), answer]
    return "\n\n".join(part for part in [*parts, f"Tables and figures: {out}"] if part)


def markdown(summary: pd.DataFrame) -> str:
    """The table for readers, every signal and layer."""
    legend = _LEGEND.format(n=summary["n"].max(), images=summary["images"].max(), permutations=PERMUTATIONS)
    return f"{legend}\n\n{_grid(summary, tuple(_SHOWN))}\n"


def _draw(folder: TableFolder, summary: pd.DataFrame, out: Path) -> None:
    n, images = summary["n"].max(), summary["images"].max()
    squares = {measure: pair_matrix(folder, measure) for measure in ("spearman", "overlap")}
    figures = {
        "layers.png": layers_figure(summary),
        "pairs.png": pairs_figure(squares, n, images),
        "maps.png": maps_figure(mean_maps(folder), images),
        "curves.png": curves_figure(curve_table(curve_frame(folder))),
    }
    heads = heads_data(folder)
    if len(heads):
        figures["heads.png"] = heads_figure(heads)
    for name, figure in figures.items():
        save_figure(figure, out / name)


def _main(summary: pd.DataFrame) -> pd.DataFrame:
    """Every [CLS] layer, sum and prompt block, the response as a whole, and the controls."""
    whole = (summary["signal"] == RESPONSE) & summary["layers"].str.contains("-")
    return summary[whole | summary["signal"].isin(["cls", "cls sum", "prompt", *CONTROLS])]


def _of_several_tokens(folder: TableFolder, frame: pd.DataFrame) -> str:
    """The same of answers that the last prompt token does not produce alone, if there are any others too."""
    samples = folder.read(SAMPLES, ["sample_id", "answer_tokens"]).to_pandas()
    several = samples.loc[samples["answer_tokens"] > 1, "sample_id"]
    if len(several) in (0, len(samples)):
        return ""
    part = frame[frame["sample_id"].isin(several)]
    summary = summary_table(part)
    title = f"Only the {len(several):,} questions whose answer has several tokens ({summary['images'].max():,} images):"
    nearer = [
        f"[CLS] {row['layers']} less prompt block {row['block']}: {row['delta']:+.2f} [{row['low']:+.2f}, "
        f"{row['high']:+.2f}], p {p_value(row['p_holm'])}"
        for _, row in nearness(part).iterrows()
    ]
    told_apart = f"Spearman with the response, paired (p Holm-corrected over these): {'; '.join(nearer)}."
    return f"{title}\n\n{_grid(_main(summary), _PRINTED)}\n\n{told_apart if nearer else ''}"


def _grid(rows: pd.DataFrame, measures: tuple[str, ...]) -> str:
    """Signals of which none of these is known are left out, and so are measures."""
    known = [measure for measure in measures if rows[measure].notna().any()]
    names = {measure: f"{_SHOWN[measure]}{', %' if measure in SHARES else ''}" for measure in known}
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
    itself = row["signal"] == RESPONSE and "-" in row["layers"] and measure in WITH_RESPONSE
    return "is the response" if itself else told(row, measure).replace(" %", "")
