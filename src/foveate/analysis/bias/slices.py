"""Slices of a bias measurement: by question type, answer token, head, and [CLS] layer against block; and sinks."""

from collections.abc import Sequence

import pandas as pd

from foveate.analysis.bias.data import LEAST_TOKENS, numbered, summary_table
from foveate.analysis.bias.measurement import means
from foveate.analysis.bias.measures import (
    CONTROLS,
    DECODER,
    JUDGES,
    RANDOM,
    ROW,
    interval_in,
    interval_of,
    named,
    one_random,
    ordered,
)
from foveate.analysis.statistics import difference_interval, ratio_interval
from foveate.analysis.verdicts import holm, paired_p
from foveate.bias.tables import SAMPLES, TableFolder

BY_KIND = ("spearman_response", "spearman_answer", "evidence_recall", *(f"{judge}_share" for judge in JUDGES))
_OF_TOKENS = ("spearman", "overlap", "evidence_recall", "row_correlation")
_SINKS = (
    *("signal", "layers", "images", "n", "sink_share", "sink_share_low", "sink_share_high"),
    *("difference", "low", "high", "p"),
)


def kinds_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Returns the measures of `BY_KIND` per question type, for sums and means over layers and for the controls.

    `tokens` is the mean length of the answers. Answers of one token are included, whose response is the row of the last
    prompt token.

    Args:
        frame: Frame of `foveate.analysis.bias.data.signal_frame`.
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
    """Returns the nearness of signals to the row that produces each token of the answer.

    The last prompt token produces token 0. `spearman` and `overlap` measure nearness; `evidence_recall`,
    `row_correlation` and `thinned_share` are those of the token's own row. All have intervals over images.

    Args:
        folder: The measurement.
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
    """Returns the similarity of each [CLS] layer to each block of the language model, by signal, block and layer.

    Columns: signal, block, layer, the measure with `_low` and `_high` over images, n. Only answers of at least
    `LEAST_TOKENS` tokens count, so that all signals are measured on the same questions.

    Args:
        folder: The measurement.
        measure: Column of the table of pairs.
    """
    chosen = [("signal_a", "==", "cls"), ("signal_b", "in", list(DECODER))]
    keys = ["signal_b", "layers_b", "layers_a"]
    table = _by_image(folder, "pairs", keys, measure, chosen)
    table = table[table["layers_b"].str.isdigit()].rename(columns={"signal_b": "signal", "layers_b": "block"})
    table = table.rename(columns={"layers_a": "layer"}).astype({"block": int, "layer": int})
    order = table["signal"].map({name: number for number, name in enumerate(DECODER)})
    return table.assign(_o=order).sort_values(["_o", "block", "layer"], ignore_index=True).drop(columns="_o")


def heads_table(folder: TableFolder, measure: str = "spearman_response") -> pd.DataFrame:
    """Returns the mean of one measure over questions with interval and n, one row per signal, layers and head.

    Only answers of at least `LEAST_TOKENS` tokens count.

    Args:
        folder: The measurement.
        measure: Column of the table of signals.
    """
    table = _by_image(folder, "signals", ["signal", "layers", "head"], measure, [("head", ">=", 0)])
    return ordered(table, ["head"]) if len(table) else table


def sinks_data(frame: pd.DataFrame) -> pd.DataFrame:
    """Returns the share of attention on sinks, patches of outlying norm, by signal and layers.

    The share of random maps is the share of patches that are sinks. `difference`, `low`, `high` and `p_holm` compare
    the layers of the tower with it, paired by question and Holm-corrected over the layers of a signal; NaN for other
    signals.

    Args:
        frame: Frame of `foveate.analysis.bias.data.signal_frame`.
    """
    known = frame.dropna(subset="sink_share")
    seeds = known[known["signal"] == RANDOM].pivot(index="sample_id", columns="layers", values="sink_share").dropna()
    shown = one_random(known[[*ROW, "sink_share"]], [])
    rows = []
    for (signal, layers), group in shown.groupby(["signal", "layers"], sort=False):
        found = interval_of(group["sink_share"], group["image_id"], "sink_share")
        row = {"signal": signal, "layers": layers, "images": group["image_id"].nunique(), "n": found.n}
        row |= {"sink_share": found.mean, "sink_share_low": found.low, "sink_share_high": found.high}
        both = group[group["sample_id"].isin(seeds.index)]
        if signal in ("cls", "received") and len(both):
            a, b = both["sink_share"].to_numpy(), seeds.loc[both["sample_id"]].to_numpy()
            found = difference_interval(a, b.mean(1), both["image_id"])
            row |= dict(zip(("difference", "low", "high"), found, strict=False)) | {
                "p": paired_p(a, b, both["image_id"])
            }
        rows.append(row)
    table = pd.DataFrame(rows).reindex(columns=_SINKS)
    return table.assign(p_holm=table.groupby("signal", sort=False)["p"].transform(holm)).drop(columns="p")


def long_answers(folder: TableFolder) -> list[str]:
    """Returns the questions whose answer has at least `LEAST_TOKENS` tokens."""
    samples = folder.read(SAMPLES, ["sample_id", "answer_tokens"]).to_pandas()
    return list(samples.loc[samples["answer_tokens"] >= LEAST_TOKENS, "sample_id"])


def _by_image(
    folder: TableFolder, table: str, keys: Sequence[str], measure: str, filters: list[tuple[str, str, object]]
) -> pd.DataFrame:
    """Returns means over long answers with intervals over images, without the rows of all questions in memory."""
    long = ("sample_id", "in", long_answers(folder) or [""])  # an empty list has no type
    found = means(folder, table, [*keys, "image_id"], measure, [*filters, long])
    found = found[found["n"] > 0].assign(total=lambda frame: frame[measure] * frame["n"])
    rows = []
    for key, group in found.groupby(list(keys), sort=False):
        ends = ratio_interval(group["total"], group["n"], group["image_id"])
        row = dict(zip(keys, key, strict=True)) | named(measure, ends) | {"n": int(group["n"].sum())}
        rows.append(row)
    columns = [*keys, measure, f"{measure}_low", f"{measure}_high", "n"]
    return pd.DataFrame(rows, columns=columns)
