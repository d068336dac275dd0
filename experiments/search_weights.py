"""Which weights of the vision layers, which mix of signals and which budget keep what the model needs?"""

from typing import Annotated

import tyro

from foveate.cli import run
from foveate.options import Flat, Options
from foveate.studies.plan import SearchPlan


def main(
    plan: Annotated[SearchPlan, tyro.conf.arg(name="")] = SearchPlan(),
    options: Flat = Options("search_weights", split="search", limit=1200, batch_size=96),
) -> None:
    """Searches on one split and reports the winner on another, beside baselines and controls.

    Writes `<out>/<study>/{study.db, trials.csv, table.csv, table.md, history.png, importance.png, weights.png,
    proxy.png, test.png, front.png}`. A second run adds nothing; with more `--trials` it goes on. Words for `--space`:
    single, range, weights (how layers are weighed), reduce, heads, diversity, prompt (a second cut inside the language
    model), mass (adaptive budgets); or one method's name, whose options `--open` then names.

    Args:
        plan: What is searched, and how.
        options: What every study is told.
    """
    plan.check_apart(options.split or "")
    from analysis.kept_patches import kept_figure
    from analysis.search.report import report
    from foveate.evaluation.ranks import rank
    from foveate.studies.search import confirm, search
    from foveate.studies.study_folder import StudyFolder

    place = StudyFolder(options.name, options.out, options.storage, existing=options.existing)
    study = search(place, options.config, plan, options.workers, kept_figure)
    test = confirm(place, options.config, plan, study, options.workers, kept_figure)
    if rank() == 0:
        print(report(study, test, options.config))


if __name__ == "__main__":
    run(main)
