"""What the layers of a tower have to say for their sum, in words: failures repaired beyond controls, mass on sinks."""

import numpy as np
import pandas as pd

from analysis.ablation.layers import Repairs
from analysis.bias.signals import RANDOM
from analysis.tables import between, p_value, percent
from analysis.verdicts import side, too_few


def layers_answer(repairs: Repairs, sinks: pd.DataFrame) -> str:
    """What the sum repairs of the worst and of the last layer, and what part of attention falls on sinks, in words."""
    table = repairs.table
    last, worst = (table.iloc[int(table[name].argmax())] for name in ("layer", "wrong"))
    parts = [
        f"At {repairs.keep} patches (n = {repairs.n:,} questions about {repairs.images:,} images; p is of permutations "
        f"over images, Holm-corrected over all layers and both controls), with patches chosen by the sum of layers "
        f"{repairs.layers}: {_repaired(last, repairs, 'the last layer')}"
    ]
    tests = int(table.reindex(columns=["over_other_p", "over_random_p"]).notna().sum().sum())
    if tests and (few := too_few(repairs.images, tests, 1 + max(repairs.seeds, 1))):
        parts.insert(0, few)
    if worst["layer"] != last["layer"]:
        parts.append(_repaired(worst, repairs, "the worst layer"))
    if sinks.empty or sinks["n"].max() == 0:
        parts.append("Whether sinks play a part was not measured.")
    else:
        parts.append(_on_sinks(sinks))
    return "\n\n".join(parts)


def _repaired(row: pd.Series, repairs: Repairs, what: str) -> str:
    n = repairs.n
    name = f"{what}, {row['layer']:.0f},"
    if row["wrong"] == 0:
        return f"{name} answers all questions itself."
    named = {"other": f"layer {row['other_layer']:.0f}", "random": f"random patches ({repairs.seeds} seeds)"}
    controls = {column: who for column, who in named.items() if pd.notna(row[column])}
    parts = [
        f"of the {row['wrong']:.0f} questions that {name} gets wrong the sum answers {_share(row, 'of_wrong')}; it "
        f"breaks {round(row['broken'] * n)} of the {n - row['wrong']:.0f} others."
    ]
    if controls:
        about = {"other": ", the best other one on all questions"}
        rates = [f"{_share(row, column)} with {who}{about.get(column, '')}" for column, who in controls.items()]
        parts.append(
            "Whoever else chooses repairs some too, for what a layer gets wrong is partly bad luck (regression to the "
            f"mean). Of the same questions are answered: {'; '.join(rates)}."
        )
        parts += [_beyond(row, column, who) for column, who in controls.items()]
    return " ".join(parts)


def _beyond(row: pd.Series, column: str, who: str) -> str:
    """Whether the sum repairs more than a control."""
    p = row[f"over_{column}_p"]
    words = {1: "answers more of them than", -1: "answers fewer of them than", 0: "is not shown to differ from"}
    points = between(row, (f"over_{column}", f"over_{column}_low", f"over_{column}_high"), " points")
    verdict = words[side(row[f"over_{column}"], p)]
    return f"The sum {verdict} {who}: {points}, p {p_value(p)}."


def _share(row: pd.Series, column: str) -> str:
    return f"{percent(row[column])} % [{percent(row[f'{column}_low'])}, {percent(row[f'{column}_high'])}]"


def _on_sinks(sinks: pd.DataFrame) -> str:
    """Which layers put more than an even share on sinks: paired with random patches, corrected over the layers."""
    size = f"n = {sinks['n'].max():,} questions about {sinks['images'].max():,} images"
    if (sinks["sink_share"] == 0).all():
        return f"This model has no sinks: no patch of these images has an outlying norm ({size})."
    names = sinks["signal"].unique()
    name = next((name for name in ("cls", "received") if name in names), None)
    if name is None:
        return "No layer of the tower was measured for sinks."
    layers = sinks[sinks["signal"] == name]
    most, even = layers.iloc[int(layers["sink_share"].argmax())], sinks[sinks["signal"] == RANDOM]
    text = f"The layer with most mass on sinks is {most['layers']}: {_share(most, 'sink_share')} ({size})."
    if even.empty:
        return f"{text} Random patches, which would tell an even share, were not measured."
    sides = np.array([side(row["difference"], row["p_holm"]) for _, row in layers.iterrows()])
    told = [
        f"{word} at layer {', '.join(_against_even(row) for _, row in layers[sides == sign].iterrows())}"
        for sign, word in ((1, "more"), (-1, "less"), (0, "not shown to differ"))
        if (sides == sign).any()
    ]
    return (
        f"{text} Of random patches {percent(even.iloc[0]['sink_share'])} % are sinks. Against these, paired over "
        f"images and Holm-corrected over the {len(layers)} layers: {'; '.join(told)}."
    )


def _against_even(row: pd.Series) -> str:
    return f"{row['layers']} ({between(row, ('difference', 'low', 'high'), ' points')}, p {p_value(row['p_holm'])})"
