"""Measures which layers' [CLS] attention predicts what the model needs, alone and summed, at several budgets."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from foveate.core.budget import check_budgets
from foveate.evaluation.ranks import rank
from foveate.options import Flat, Options

if TYPE_CHECKING:  # both import torch
    from foveate.models.backbone.adapter import Tower
    from foveate.studies.ablation import Choice


def main(
    keep: tuple[int | float, ...] = (0.5, 0.25, 0.11, 0.05),
    layers: tuple[int, ...] = (),
    options: Flat = Options("ablate_layers", scenes=1050),
) -> None:
    """Evaluates every layer, every suffix of layers, all layers and the controls at several budgets.

    Writes `<out>/<study>/{study.db, table.csv, table.md, accuracy_by_layer.png, frontier.png, kept_patches.png}`,
    and `worst_kinds.csv` with the kind of questions on which each row loses most. About scenes, `table_things.csv` and
    `table_details.csv` have the questions about things and about details. The same command resumes a run that was
    stopped. Without --limit it asks 1,050 questions about scenes, or all questions of a benchmark. With several models
    each has a study, and `<first study>/trainings_<models>.md` has the mean of every cell.

    Args:
        keep: Budgets: patches to keep, or fractions of an image's patches.
        layers: Single layers and first layers of suffixes; default is every layer.
        options: Options of all experiments.
    """
    check_budgets(keep)
    from foveate.studies.ablation import layer_choices

    ablate_all(partial(layer_choices, layers=layers), keep, options)


def ablate_all(choices: "Callable[[Tower], Sequence[Choice]]", keep: Sequence[int | float], options: Options) -> None:
    """Evaluates choices of patches with every model and data set of the options, and prints the reports.

    Args:
        choices: Function from a vision tower to the choices.
        keep: See `main`.
        options: Options of all experiments.
    """
    from foveate.analysis.ablation.report import report
    from foveate.analysis.kept_patches import kept_figure
    from foveate.analysis.trainings import report_trainings
    from foveate.studies.ablation import ablate
    from foveate.studies.study_folder import StudyFolder

    studies = []
    for name, config in options.each:
        folder = StudyFolder(name, options.out, options.storage, existing=options.existing)
        study = ablate(folder, config, choices, keep, kept_figure)
        studies.append((config, study))
        if rank() == 0:
            print(report(study, config))
    if rank() == 0 and (text := report_trainings(studies, options.models)):
        print(text)
