"""Report of a recommendation: the answer, its table and figure, and the recipe file."""

from typing import Any

import pandas as pd

from foveate.analysis.drawing import save_figure
from foveate.analysis.kept_patches import setting_of as images_of
from foveate.analysis.recommendation.data import (
    confirmation_table,
    full_accuracy,
    kinds_table,
    needed,
    race_table,
    setting_of,
    simpler_setting,
)
from foveate.analysis.recommendation.figures import frontier_figure
from foveate.analysis.tables import accuracy, grid, paragraphs, percent, write_csv, write_table
from foveate.compressors.recipe_file import RecipeFile, chosen_for, write
from foveate.evaluation.run import cached_load
from foveate.studies.notes import note_study
from foveate.studies.racing import HOPELESS
from foveate.studies.recommendation import Recommendation
from foveate.studies.study import keep_artifacts

RECIPE = "recipe.json"
_LOSS = ("loss", "low", "high")
_METHOD = (
    "Settings raced on {race:,} images in one order. A setting leaves the race when its chance to be confirmed is "
    "below {hopeless:.0%}, its smaller budgets with it, or when one with no more tokens surely loses less. The other "
    "{confirming:,} images confirm: settings are tested from the most expensive to the cheapest, each at the full "
    "level of {level:.3g}, up to the first that fails (fixed sequence), {steps} in all. So the probability that the "
    "recommended setting loses more than {max_loss:g} points is at most {level:.3g}. The test resamples images under "
    "the null hypothesis of that loss."
)


def report(found: Recommendation) -> str:
    """Writes recipe.json, table.csv, table.md, race.csv, kinds.csv and frontier.png; returns the text to print."""
    folder = found.config.out / found.study.study_name
    race, confirmation = race_table(found), confirmation_table(found)
    answer = _answer(found, confirmation)
    if found.chosen is not None:
        compressor = found.compressor_of(found.trial(found.chosen.key))
        kinds = kinds_table(found, found.chosen)
        write_csv(kinds, folder / "kinds.csv")
        chosen = chosen_for(cached_load(found.config.model, found.config.device, found.config.dtype).adapter)
        name = str(confirmation.iloc[len(found.steps) - 1]["method"])
        write(folder / RECIPE, RecipeFile(compressor, name, chosen, _origin(found, confirmation, kinds)))
        answer = paragraphs(answer, _next(found, str(folder / RECIPE)))
    elif (folder / RECIPE).exists():
        (folder / RECIPE).unlink()  # of an earlier run of this study with other options
    write_csv(race, folder / "race.csv")
    write_table(confirmation, folder, _page(found, answer, race, confirmation))
    source = images_of(found.study, found.config).source
    save_figure(frontier_figure(race, confirmation, found.race.standard.max_loss, source), folder / "frontier.png")
    keep_artifacts(found.study, folder)
    note_study(found.study, answer)
    return paragraphs(answer, f"Tables and figure: {folder}")


def _answer(found: Recommendation, confirmation: pd.DataFrame) -> str:
    """Returns what is recommended, in Markdown."""
    if found.chosen is None:
        return paragraphs(
            f"**No setting qualifies** for a loss of at most {found.plan.max_loss:g} points.", _why(found)
        )
    row = confirmation[confirmation["passed"]].iloc[-1]
    patches = found.study.user_attrs["patches"]
    lines = [
        f"**{row['method']} with {row['budget']} equivalent tokens** of {patches} ({percent(row['tokens'] / patches)} %"
        f"{_measured(found)}).",
        f"It loses {_lost(row, ' points')} against the uncompressed model; {percent(row['bound'])} points or more are "
        f"excluded with {found.plan.confidence:.0%} confidence (p = {row['p']:.4f}). n = {row['n']:,} questions about "
        f"{row['images']:,} images that the choice did not see; accuracy {accuracy(row, ' %')}, without compression "
        f"{accuracy(pd.Series(full_accuracy(found)), ' %')}.",
    ]
    return paragraphs(*lines, _worst(found), _simpler(found))


def _measured(found: Recommendation) -> str:
    """Returns the measured cost of the chosen setting against no compression, for aims that are measured."""
    if found.plan.aim == "tokens" or found.chosen is None:
        return ""
    cost, ratio = found.costs[found.chosen.key], found.full_cost / found.costs[found.chosen.key]
    if found.plan.aim == "latency":
        return f"; {cost:.1f} ms per question, {ratio:.2f} times as fast as without compression"
    return f"; {cost / 2**20:,.0f} MiB peak, without compression {ratio:.2f} times as much"


def _worst(found: Recommendation) -> str:
    """Returns the kind of question that loses most; an empty string if there is one kind."""
    assert found.chosen is not None, "a setting was chosen"
    kinds = kinds_table(found, found.chosen)
    if len(kinds) < 2:
        return ""
    row = kinds.iloc[0]
    return (
        f"The mean hides kinds of questions: of {len(kinds)}, {row['kind']!r} loses most, {_lost(row, ' points')}, n = "
        f"{row['n']:,}."
    )


def _simpler(found: Recommendation) -> str:
    assert found.chosen is not None, "a setting was chosen"
    other = simpler_setting(found, found.chosen)
    if other is None:
        return ""
    row = pd.Series(dict(zip(_LOSS, other.difference, strict=True)))
    return (
        f"`{other.method}` with {other.budget} tokens is not shown to lose more on the images of the race "
        f"({_lost(row, ' points')}): take the simpler one unless more images tell them apart."
    )


def _why(found: Recommendation) -> str:
    """Returns why no setting qualifies."""
    lines = []
    if found.steps:
        step, trial = found.steps[0], found.trial(found.steps[0].key)
        lines.append(
            f"The first to be confirmed, {trial.user_attrs['label']} with {trial.params['keep']} tokens, loses "
            f"{100 * step.losses.mean:.2f} points on {len(step.losses.lost):,} images; p = {step.p:.3f}."
        )
    if (known := needed(found)) is None:
        lines.append("Every setting loses more than that in the race.")
    else:
        trial, images = known
        lines.append(
            f"The smallest loss in the race is that of {trial.user_attrs['label']} with {trial.params['keep']} tokens, "
            f"{100 * trial.user_attrs['lost']:.2f} points: if that is its loss, about {images:,} images confirm it; "
            f"there are {len(found.race.images) + len(found.confirming):,}."
        )
    return " ".join(lines)


def _next(found: Recommendation, path: str) -> str:
    model = "" if found.config.model == "reference" else f" --model {found.config.model}"
    return f"Recipe: {path}; use it as `foveate serve {path}{model}`, or in place of any method's name."


def _page(found: Recommendation, answer: str, race: pd.DataFrame, confirmation: pd.DataFrame) -> str:
    """Returns the text of `table.md`."""
    plan, sizes = found.plan, {"race": len(found.race.images), "confirming": len(found.confirming)}
    level = {"level": 1 - plan.confidence, "max_loss": plan.max_loss, "hopeless": HOPELESS}
    parts = ["# Recommendation", answer, _METHOD.format(**sizes, **level, steps=len(found.steps))]
    if len(confirmation):
        parts += ["## Confirmation", grid([_confirmed(row) for _, row in confirmation.iterrows()])]
    if found.chosen is not None:
        kinds = [_kind(row) for _, row in kinds_table(found, found.chosen).iterrows()]
        parts += ["## Kinds of questions, recommended setting", grid(kinds)]
    parts += ["## Race", grid([_raced(row) for _, row in race.iterrows()]), *_absent(found)]
    return paragraphs(*parts) + "\n"


def _absent(found: Recommendation) -> list[str]:
    facts = found.study.user_attrs
    unable = [f"- {name}: {why}" for name, why in facts["not_applicable"].items()]
    budgets = [f"- {name} at {b}: {why}" for name, whys in facts["left_out"].items() for b, why in whys.items()]
    parts = ["## Methods that cannot run on this model", "\n".join(unable)] if unable else []
    return parts + (["## Budgets that a method cannot have", "\n".join(budgets)] if budgets else [])


def _confirmed(row: pd.Series) -> dict[str, str]:
    return {
        "setting": f"{row['method']}, {row['budget']}",
        "tokens": f"{row['tokens']:.1f}",
        "accuracy, %": accuracy(row),
        "loss, points": _lost(row),
        "excluded from": percent(row["bound"]),
        "p": f"{row['p']:.4f}",
        "": "confirmed" if row["passed"] else "not confirmed",
    }


def _kind(row: pd.Series) -> dict[str, str]:
    return {"kind": str(row["kind"]), "n": f"{row['n']:,}", "loss, points": _lost(row)}


def _raced(row: pd.Series) -> dict[str, str]:
    return {
        "setting": f"{row['method']}, {row['budget']}",
        "tokens": f"{row['tokens']:.1f}",
        "loss, points": _lost(row),
        "images": f"{row['images']:,}",
        "chance": percent(row["chance"]),
        "left the race because": row["left"],
    }


def _origin(found: Recommendation, confirmation: pd.DataFrame, kinds: pd.DataFrame) -> dict[str, Any]:
    """Returns where the recipe comes from, as plain JSON; shares of the score, with 95 % intervals."""
    row, full, worst = confirmation[confirmation["passed"]].iloc[-1], full_accuracy(found), kinds.iloc[0]
    assert found.chosen is not None, "a setting was chosen"
    return {
        "study": found.study.study_name,
        "trial": found.chosen.key,
        "data": found.config.data,
        "split": found.config.split,
        "questions": int(row["n"]),
        "images": int(row["images"]),
        "max_loss": found.race.standard.max_loss,
        "confidence": found.plan.confidence,
        "accuracy": _numbers(row, ("accuracy", "ci_low", "ci_high")),
        "accuracy_without_compression": _numbers(pd.Series(full), ("accuracy", "ci_low", "ci_high")),
        "loss": _numbers(row, _LOSS),
        "loss_excluded_from": round(float(row["bound"]), 6),
        "worst_kind": {"kind": str(worst["kind"]), "n": int(worst["n"]), "loss": _numbers(worst, _LOSS)},
        "equivalent_tokens": round(float(row["tokens"]), 4),
        "aim": found.plan.aim,
        "cost": round(float(row["cost"]), 4),
        "cost_without_compression": round(float(found.full_cost), 4),
    } | {"setting": {key: value for key, value in setting_of(found.trial(found.chosen.key)).items() if key != "tokens"}}


def _lost(row: pd.Series, unit: str = "") -> str:
    """Formats a loss in points with its interval: `1.2 [0.5, 2.0]`."""
    return accuracy(row[list(_LOSS)].set_axis(["accuracy", "ci_low", "ci_high"]), unit)


def _numbers(row: pd.Series, names: tuple[str, str, str]) -> list[float]:
    return [round(float(row[name]), 6) for name in names]
