"""Searches weights of the vision layers, mixes of signals and budgets that keep what the model needs."""

from typing import Annotated

import tyro

from foveate.evaluation.ranks import rank
from foveate.options import Flat, Options
from foveate.studies.plan import SearchPlan


def main(
    plan: Annotated[SearchPlan, tyro.conf.arg(name="")] = SearchPlan(),
    options: Flat = Options("search_weights", split="search", limit=1050, batch_size=98),
) -> None:
    """Searches on one split and reports the winner on another, with baselines and controls.

    Writes `<out>/<study>/{study.db, trials.csv, table.csv, table.md, history.png, importance.png, weights.png,
    proxy.png, test.png, front.png}`, and a recipe file of each winner, `recipe.json`. The same command resumes a run
    that was stopped; with more `--trials` it continues a finished one. Dimensions for `--space`: single, range, weights
    (how layers are weighted), reduce, heads, diversity, prompt (a second cut inside the language model), mass (adaptive
    budgets); or the name of one method, whose options `--open` lists.

    Args:
        plan: The plan.
        options: Options of all experiments.
    """
    plan.check_apart(options.split or "")
    from foveate.analysis.kept_patches import kept_figure
    from foveate.analysis.search.report import report
    from foveate.studies.search import confirm, save_winners, search
    from foveate.studies.study_folder import StudyFolder

    folder, config = StudyFolder(options.name, options.out, options.storage, existing=options.existing), options.config
    study = search(folder, config, plan, kept_figure)
    test = confirm(folder, config, plan, study, kept_figure)
    if rank() == 0:
        files = ", ".join(map(str, save_winners(study, config, plan)))
        print(report(study, test, config))
        print(f"\nRecipe files: {files or 'none, because no trial keeps to the limit'}")
