"""Recommends the cheapest setting of a method that surely loses at most so many points of accuracy."""

from typing import Annotated

import tyro

from foveate.evaluation.ranks import rank
from foveate.options import Flat, Options
from foveate.studies.plan import RecommendationPlan


def main(
    plan: Annotated[RecommendationPlan, tyro.conf.arg(name="")] = RecommendationPlan(),
    options: Flat = Options("recommend", scenes=4200),
) -> None:
    """Finds the cheapest method and budget that loses at most --max-loss points of accuracy, with confidence.

    Settings race on some of the images, and leave the race when they have hardly a chance. A few are then confirmed on
    the other images, which the race did not see, by a one-sided paired test, from the most expensive to the cheapest,
    up to the first that fails; the last that passed is recommended. With a probability of --confidence, it loses less
    than --max-loss points on questions like these.

    Writes `<out>/<study>/{study.db, recipe.json, table.csv, table.md, race.csv, kinds.csv, frontier.png}`. The same
    command resumes a run that was stopped. Without --limit it asks 4,200 questions about scenes, or all questions of a
    benchmark or table.

    Args:
        plan: The plan.
        options: Options of all experiments.
    """
    from foveate.analysis.kept_patches import kept_figure
    from foveate.analysis.recommendation.report import report
    from foveate.studies.recommendation import recommend
    from foveate.studies.study_folder import StudyFolder

    folder = StudyFolder(options.name, options.out, options.storage, existing=options.existing)
    found = recommend(folder, options.config, plan, kept_figure)
    if rank() == 0:
        print(report(found))
