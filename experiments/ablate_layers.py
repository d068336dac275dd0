"""Which layers' [CLS] attention tells what the model needs, alone and summed, at which budgets?"""

from functools import partial

from foveate.cli import run
from foveate.core.budget import check_budgets
from foveate.options import Flat, Options


def main(
    keep: tuple[int | float, ...] = (0.5, 0.25, 0.11, 0.05),
    layers: tuple[int, ...] = (),
    options: Flat = Options("ablate_layers", scenes=1500),
) -> None:
    """Evaluates every layer, every suffix of layers, all layers and the controls at several budgets.

    Writes `<out>/<study>/{study.db, table.csv, table.md, accuracy_by_layer.png, frontier.png, kept_patches.png}`.
    A second run continues the first. Without --limit 1,500 questions about scenes are asked, and all of a benchmark.
    With several models each has a study, and `<first study>/trainings_<models>.md` has the mean of every cell.

    Args:
        keep: Budgets: patches to keep, or fractions of an image's patches.
        layers: Only these single layers and starts of suffixes; default every layer.
        options: What every study is told.
    """
    check_budgets(keep)
    from analysis.ablation.report import report
    from analysis.kept_patches import kept_figure
    from analysis.trainings import run_and_report
    from foveate.studies.ablation import ablate
    from foveate.studies.choices import layer_choices

    choices = partial(layer_choices, layers=layers)
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
