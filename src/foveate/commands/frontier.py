"""Measures what smaller images and fewer of their tokens cost together: the plane of resolution and budget."""

from foveate.core.budget import check_budgets
from foveate.evaluation.ranks import rank
from foveate.methods.registry import check_names
from foveate.options import Flat, Options
from foveate.profiling.timing import check_batches, check_length


def main(
    methods: tuple[str, ...] = ("vtc_cls",),
    keep: tuple[int | float, ...] = (0.5, 0.25, 0.11, 0.05),
    resolution: tuple[int | float, ...] = (0.75, 0.5, 0.35, 0.25, 0.11),
    batch: int = 8,
    new_tokens: int = 10,
    rounds: int = 10,
    options: Flat = Options("frontier", scenes=1050),
) -> None:
    """Evaluates methods on images of several sizes at every budget, and finds the best mix at equal tokens and time.

    Writes `<out>/<study>/{study.db, table.csv, table.md, frontier.png, rounds.parquet}`. The controls are no
    compression, no image, random patches, and `downsample`, the image whose own tokens are the budget. The best mix is
    chosen on half of the images and compared with them on the other half. Every cell is then timed, tower included;
    run nothing else on the machine. The same command resumes a run that was stopped, and keeps the times that it finds.

    Args:
        methods: Names of methods, or your own as ./file.py:function or package.module:function.
        keep: Budgets in equivalent tokens: counts, or fractions of an image's patches.
        resolution: Visual tokens that a smaller image has before the method: counts, or shares of those at full size.
            Full size is always there.
        batch: Questions per batch that is timed, each about another image.
        new_tokens: Number of tokens of every timed answer.
        rounds: Number of times that each cell is timed; 0 times nothing.
        options: Options of all experiments.
    """
    check_names(methods)
    check_budgets(keep)
    check_budgets(resolution)
    check_batches((batch,))
    if rounds:
        check_length(new_tokens, rounds)
    from foveate.analysis.frontier.report import ROUNDS, report
    from foveate.analysis.frontier.timing import time_cells
    from foveate.studies.frontier import frontier
    from foveate.studies.study_folder import StudyFolder

    for name, config in options.each:
        folder = StudyFolder(name, options.out, options.storage, existing=options.existing)
        study, compressors = frontier(folder, config, methods, keep, resolution)
        if rank() > 0:
            continue
        path = config.out / study.study_name / ROUNDS
        if rounds and not path.exists():
            time_cells(config, compressors, (batch, new_tokens, rounds), path)
        print(report(study, config))
