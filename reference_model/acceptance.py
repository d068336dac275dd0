"""The conditions under which a training is accepted as a reference model, each with what was measured."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import pandas as pd

from foveate.analysis.contents import CONTENTS, content_of
from foveate.analysis.records import read_records
from foveate.analysis.statistics import Interval, difference_interval, mean_interval
from foveate.analysis.tables import percent, points
from foveate.compressors import Compressor
from foveate.data.scenes.questions import QUESTION_KINDS
from foveate.evaluation import EvalConfig, evaluate
from reference_model.attention import FILTERS
from reference_model.language_training import LANGUAGE_PHASES

EVIDENCE, RANDOM = "evidence (oracle)", "random"
ONE_PATCH = "one patch"
_HIDDEN = max(phase.hidden for phase in LANGUAGE_PHASES)


@dataclass(frozen=True)
class Measured:
    """The measurements that a model card reports.

    Attributes:
        full: Records of all questions with all tokens.
        blind: The same without the image.
        attention: AUC of each score: a row per image, a column per contrast.
        best: The layer whose [CLS] attention finds things best, among the second half of the tower, in other images.
        choices: Records by budget and name of the choice, with `EVIDENCE`, `RANDOM` and `cls_name(best)`.
        places: For the choice of prompt attention before a block, records with its patches dropped at the input, and
            there.
    """

    full: pd.DataFrame
    blind: pd.DataFrame
    attention: Mapping[str, pd.DataFrame]
    best: int
    choices: Mapping[int, Mapping[str, pd.DataFrame]]
    places: Mapping[int, tuple[pd.DataFrame, pd.DataFrame]]


def cls_name(layer: int) -> str:
    """Returns the name of the choice by one layer's [CLS] attention."""
    return f"[CLS], layer {layer}"


def acceptance_rows(measured: Measured) -> Iterator[dict[str, str]]:
    """Yields a row per condition: figure, target, measured value with its interval, and whether the mean meets it.

    Before a block that the training hid the image from, cuts have no target: the text has read little there.
    """
    accuracy, blind = (accuracy_of(records) for records in (measured.full, measured.blind))
    yield _row("accuracy with all tokens", "80 to 92", shown(accuracy), 0.80 <= accuracy.mean <= 0.92)
    yield _row("accuracy without the image", "at most 35", shown(blind), blind.mean <= 0.35)
    for contrast, bound in (("asked", 0.60), ("things", 0.65), ("details", 0.65)):
        name = max(FILTERS, key=lambda each: measured.attention[each][contrast].mean())
        auc = _mean_auc(measured.attention[name][contrast])
        title = f"AUC of the best pixel filter ({name}) for {contrast}"
        yield _row(title, f"at most {percent(bound)}", shown(auc), auc.mean <= bound)
    auc = _mean_auc(measured.attention[ONE_PATCH]["asked"])
    yield _row("AUC of a network that sees one patch for asked", "at most 60.0", shown(auc), auc.mean <= 0.60)
    yield from _layer_rows(measured)
    yield from _choice_rows(measured)
    for block, (early, inside) in measured.places.items():
        gap = difference_of(inside, early)
        title = f"dropping before block {block} minus the same patches at the input, chosen by prompt attention"
        if block > _HIDDEN:
            yield _row(title, "at least 5 in either direction", gained(gap), abs(gap.mean) >= 0.05)
        else:
            yield _row(title, "", gained(gap))


def _layer_rows(measured: Measured) -> Iterator[dict[str, str]]:
    aucs, layer = measured.attention, f"layer {measured.best}"
    things, details = aucs[layer]["things"], aucs[layer]["details"]
    auc = _mean_auc(things)
    yield _row(f"AUC of [CLS] in {layer} for things", "at least 85", shown(auc), auc.mean >= 0.85)
    best = max(FILTERS, key=lambda each: aucs[each]["things"].mean())
    for title, other, least in (
        (f"minus {best}", aucs[best]["things"], 0.25),
        ("minus its AUC for details", details, 0.3),
    ):
        gain = difference_interval(things, other, things.index.astype(str))
        yield _row(title, f"at least {points(least)}", gained(gain), gain.mean >= least)


def _choice_rows(measured: Measured) -> Iterator[dict[str, str]]:
    for (keep, choices), least in zip(measured.choices.items(), (0.10, 0.25), strict=True):
        gain = difference_of(choices[EVIDENCE], choices[RANDOM])
        yield _row(
            f"evidence minus random, {keep} tokens", f"at least {points(least)}", gained(gain), gain.mean >= least
        )
    keep, choices = next(iter(measured.choices.items()))
    for content in CONTENTS:
        one, random = (rows_about(choices[name], content) for name in (cls_name(measured.best), RANDOM))
        gain = difference_of(one, random)
        title = f"{cls_name(measured.best)} minus random, {keep} tokens, questions about {content}"
        target, met = ("above 0", gain.low > 0) if content == "things" else ("", None)
        yield _row(title, target, gained(gain), met)


def rows_about(records: pd.DataFrame, content: str) -> pd.DataFrame:
    """Returns the records of the questions about things, or about details."""
    return records[content_of(records["kind"]) == content]


def kinds_of(records: pd.DataFrame) -> list[tuple[str, pd.Series]]:
    """Returns names and rows of all questions, of those about things and about details, and of each kind."""
    groups = [("all", records["kind"].notna())]
    groups += [(f"about {content}", content_of(records["kind"]) == content) for content in CONTENTS]
    return groups + [(kind, records["kind"] == kind) for kind in QUESTION_KINDS]


def records_of(config: EvalConfig, compressor: Compressor) -> pd.DataFrame:
    """Returns the records of an evaluation."""
    folder = evaluate(replace(config, compressor=compressor)).folder
    return read_records(config.out, folder.name)


def accuracy_of(records: pd.DataFrame) -> Interval:
    """Returns the mean score."""
    return mean_interval(records["score"], records["image_id"])


def difference_of(records: pd.DataFrame, baseline: pd.DataFrame) -> Interval:
    """Returns the difference of accuracy, paired by question."""
    return difference_interval(records["score"], baseline["score"], records["image_id"])


def shown(interval: Interval) -> str:
    """Formats a share in %, with its interval."""
    return f"{percent(interval.mean)} [{percent(interval.low)}, {percent(interval.high)}]"


def gained(interval: Interval) -> str:
    """Formats a difference in points, with its interval."""
    return f"{points(interval.mean)} [{points(interval.low)}, {points(interval.high)}]"


def _mean_auc(values: pd.Series) -> Interval:
    return mean_interval(values, values.index.astype(str))


def _row(figure: str, target: str, measured: str, met: bool | None = None) -> dict[str, str]:
    """Returns the cells of a condition; without a target, `met` is None."""
    verdict = "" if met is None else "yes" if met else "**no**"
    return {"figure": figure, "target": target, "measured": measured, "met": verdict}
