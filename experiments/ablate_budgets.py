"""How does accuracy fall with the number of kept patches, for chosen ways of scoring?"""

from functools import partial

from foveate.cli import run
from foveate.core.budget import check_budgets
from foveate.options import Flat, Options


def main(
    scorers: tuple[str, ...] = ("cls[-2]", "cls[-1]", "cls[all]"),
    keep: tuple[int | float, ...] = (0.75, 0.5, 0.35, 0.25, 0.18, 0.125, 0.09, 0.06, 0.04, 0.03, 0.02, 0.01),
    options: Flat = Options("ablate_budgets", scenes=1500),
) -> None:
    """Evaluates the chosen scorers and the controls along a fine budget axis; see `ablate_layers.py` for the output.

    Without --limit 1,500 questions about scenes are asked, and all of a benchmark.

    Args:
        scorers: "cls[2]" is one layer, "cls[2:]" the sum from layer 2 to the one that writes the features, "cls[all]"
            the sum of all layers.
        keep: Budgets: patches to keep, or fractions of an image's patches.
        options: What every study is told.
    """
    check_budgets(keep)
    from analysis.ablation.report import report
    from analysis.kept_patches import kept_figure
    from analysis.trainings import run_and_report
    from foveate.studies.ablation import ablate
    from foveate.studies.choices import named_choices

    choices = partial(named_choices, names=scorers)
    run_ablation = partial(
        ablate,
        choices_for=choices,
        keep=keep,
        storage=options.storage,
        workers=options.workers,
        draw=kept_figure,
        existing=options.existing,
    )
    run_and_report(options, run_ablation, report)


if __name__ == "__main__":
    run(main)
