"""Which layers' [CLS] attention tells what the model needs, alone and summed, at which budgets?"""

from functools import partial

from foveate.cli import run
from foveate.core.budget import check_budgets
from foveate.options import Flat, Options


def main(
    keep: tuple[int | float, ...] = (0.5, 0.25, 0.11, 0.05),
    layers: tuple[int, ...] = (),
    options: Flat = Options("ablate_layers", limit=1800),
) -> None:
    """Evaluates every layer, every suffix of layers, all layers and the controls at several budgets.

    Writes `<out>/<study>/{study.db, table.csv, table.md, accuracy_by_layer.png, frontier.png, kept_patches.png}`.
    A second run continues the first.

    Args:
        keep: Budgets: patches to keep, or fractions of an image's patches.
        layers: Only these single layers and starts of suffixes; default every layer.
        options: What every study is told.
    """
    check_budgets(keep)
    from analysis.ablation.report import report
    from analysis.comparison.trainings import between_trainings
    from analysis.overlays import kept_picture
    from foveate.studies.ablation import ablate
    from foveate.studies.choices import layer_choices

    choices, studies = partial(layer_choices, layers=layers), []
    for name, config in options.each:
        study = ablate(name, config, choices, keep, options.storage, options.workers, kept_picture, options.existing)
        print(report(study, config))
        studies.append((study, config))
    if told := between_trainings(studies, options):
        print(told)


if __name__ == "__main__":
    run(main)
