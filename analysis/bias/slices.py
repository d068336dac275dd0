"""A bias measurement by question type, by token of the answer, by head, and [CLS] layer against block."""

from collections.abc import Sequence

import pandas as pd

from analysis.bias.data import LEAST_TOKENS, named, numbered, summary_table
from analysis.bias.measured import means
from analysis.bias.measures import JUDGES, interval_in, interval_of
from analysis.bias.signals import CONTROLS, DECODER, ordered
from analysis.ratios import ratio_interval
from foveate.bias.tables import SAMPLES, TableFolder

BY_KIND = ("spearman_response", "spearman_answer", "evidence_recall", *(f"{judge}_share" for judge in JUDGES))
_OF_TOKENS = ("spearman", "overlap", "evidence_recall", "row_correlation")


def kinds_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Returns the measures of `BY_KIND` per question type, for sums and means over layers and the controls.

    `tokens` is the mean length of the answers. All answers count, those of one token too, of which the response is the
    row of the last prompt token.

    Args:
        frame: As `analysis.bias.data.signal_frame` gives it.
    """
    shown = frame[frame["layers"].str.contains("-") | frame["signal"].isin(CONTROLS)]
    parts = []
    for kind, some in shown.groupby("kind", sort=True):
        table = summary_table(some, measures=BY_KIND).drop(columns="row_correlation_p_null")
        tokens = some.drop_duplicates("sample_id")["answer_tokens"].mean()
        table.insert(0, "kind", kind)
        table.insert(1, "tokens", tokens)
        parts.append(table)
    return pd.concat(parts, ignore_index=True)


def tokens_table(folder: TableFolder) -> pd.DataFrame:
    """Returns how near signals are to the row that produces each token of the answer.

    Token 0 is produced by the last prompt token. Beside `spearman` and `overlap` stands what the top of the token's own
    row finds: `evidence_recall`, `row_correlation`, and `thinned_share`, all with intervals over images.

    Args:
        folder: What was measured.
    """
    columns = ["sample_id", "image_id", "signal", "layers", "token", *_OF_TOKENS, "thinned_nats"]
    frame = numbered(folder.read("tokens", columns).to_pandas())
    samples = folder.read(SAMPLES, ["sample_id", "thinned"]).to_pandas().set_index("sample_id")["thinned"]
    frame["thinned_total"] = frame["sample_id"].map(samples.map(sum))
    rows = []
    for (token, signal, layers), group in ordered(frame, ["token"]).groupby(["token", "signal", "layers"], sort=False):
        row = {"token": token, "signal": signal, "layers": layers, "n": len(group)}
        row["images"] = group["image_id"].nunique()
        for measure, like in zip(_OF_TOKENS, ("spearman_response", "overlap_response", *_OF_TOKENS[2:]), strict=True):
            row |= named(measure, interval_of(group[measure], group["image_id"], like))
        rows.append(row | named("thinned_share", interval_in(group, "thinned_share")))
    return pd.DataFrame(rows).sort_values("token", kind="stable", ignore_index=True)


def cross_table(folder: TableFolder, measure: str = "spearman") -> pd.DataFrame:
    """Returns how alike each [CLS] layer and each block of the language model look, a row per signal, block and layer.

    Columns: signal, block, layer, the measure with `_low` and `_high` over images, n. Of questions whose answer has at
    least `LEAST_TOKENS` tokens, so that all signals are about the same.

    Args:
        folder: What was measured.
        measure: A column of the table of pairs.
    """
    chosen = [("signal_a", "==", "cls"), ("signal_b", "in", list(DECODER))]
    keys = ["signal_b", "layers_b", "layers_a"]
    table = _by_image(folder, "pairs", keys, measure, chosen)
    table = table[table["layers_b"].str.isdigit()].rename(columns={"signal_b": "signal", "layers_b": "block"})
    table = table.rename(columns={"layers_a": "layer"}).astype({"block": int, "layer": int})
    order = table["signal"].map({name: place for place, name in enumerate(DECODER)})
    return table.assign(_o=order).sort_values(["_o", "block", "layer"], ignore_index=True).drop(columns="_o")


def heads_table(folder: TableFolder, measure: str = "spearman_response") -> pd.DataFrame:
    """Returns the mean of one measure over questions, one row per signal, layers and head, with interval and n.

    What speaks of the response counts for answers of at least `LEAST_TOKENS` tokens.

    Args:
        folder: What was measured.
        measure: A column of the table of signals.
    """
    table = _by_image(folder, "signals", ["signal", "layers", "head"], measure, [("head", ">=", 0)])
    return ordered(table, ["head"]) if len(table) else table


def long_answers(folder: TableFolder) -> list[str]:
    """Returns the questions whose answer has at least `LEAST_TOKENS` tokens."""
    samples = folder.read(SAMPLES, ["sample_id", "answer_tokens"]).to_pandas()
    return list(samples.loc[samples["answer_tokens"] >= LEAST_TOKENS, "sample_id"])


def _by_image(
    folder: TableFolder, table: str, keys: Sequence[str], measure: str, filters: list[tuple[str, str, object]]
) -> pd.DataFrame:
    """Returns means over long answers with intervals over images; rows of single questions are not held."""
    long = ("sample_id", "in", long_answers(folder) or [""])  # an empty list has no type to compare with
    found = means(folder, table, [*keys, "image_id"], measure, [*filters, long])
    found = found[found["n"] > 0].assign(total=lambda frame: frame[measure] * frame["n"])
    rows = []
    for key, group in found.groupby(list(keys), sort=False):
        ends = ratio_interval(group["total"], group["n"], group["image_id"])
        row = dict(zip(keys, key, strict=True)) | named(measure, ends) | {"n": int(group["n"].sum())}
        rows.append(row)
    columns = [*keys, measure, f"{measure}_low", f"{measure}_high", "n"]
    return pd.DataFrame(rows, columns=columns)
