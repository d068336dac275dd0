"""Measures which layers' [CLS] attention predicts what the model needs, alone and summed, at several budgets."""

from functools import partial

from foveate.core.budget import check_budgets
from foveate.evaluation.ranks import rank
from foveate.options import Flat, Options


def main(
    keep: tuple[int | float, ...] = (0.5, 0.25, 0.11, 0.05),
    layers: tuple[int, ...] = (),
    options: Flat = Options("ablate_layers", scenes=1050),
) -> None:
    """Evaluates every layer, every suffix of layers, all layers and the controls at several budgets.

    Writes `<out>/<study>/{study.db, table.csv, table.md, accuracy_by_layer.png, frontier.png, kept_patches.png}`.
    About scenes, `table_things.csv` and `table_details.csv` have the questions about things and about details. The same
    command resumes a run that was stopped. Without --limit it asks 1,050 questions about scenes, or all
    questions of a benchmark. With several models each has a study, and `<first study>/trainings_<models>.md` has the
    mean of every cell.

    Args:
        keep: Budgets: patches to keep, or fractions of an image's patches.
        layers: Single layers and first layers of suffixes; default is every layer.
        options: Options of all experiments.
    """
    check_budgets(keep)
    from foveate.analysis.ablation.report import report
    from foveate.analysis.kept_patches import kept_figure
    from foveate.analysis.trainings import report_trainings
    from foveate.studies.ablation import ablate, layer_choices
    from foveate.studies.study_folder import StudyFolder

    choices = partial(layer_choices, layers=layers)
    studies = []
    for name, config in options.each:
        folder = StudyFolder(name, options.out, options.storage, existing=options.existing)
        study = ablate(folder, config, choices, keep, kept_figure)
        studies.append((config, study))
        if rank() == 0:
            print(report(study, config))
    if rank() == 0 and (text := report_trainings(studies, options.models)):
        print(text)
