"""Which published method keeps what the language model needs, when all are given the same number of tokens?"""

from functools import partial

from foveate.cli import run
from foveate.core.budget import check_budgets
from foveate.methods.registry import METHODS, check_names
from foveate.options import Flat, Options


def main(
    methods: tuple[str, ...] = tuple(METHODS),
    keep: tuple[int | float, ...] = (0.5, 1 / 3, 0.11),
    options: Flat = Options("compare_methods", scenes=1200),
) -> None:
    """Evaluates published methods, controls and oracles at budgets that cost the language model the same.

    Writes `<out>/<study>/{study.db, table.csv, table.md, frontier.png, ranking.png, kept_patches.png}`. A second run
    continues the first. The controls (no compression, no image, random, even grid, pooling, smaller image, filters
    of pixels) take part unasked. Without --limit 1,200 questions about scenes are asked, and all of a benchmark.

    A benchmark has its study in `<out>/<study>_<data>`, with its official numbers in `benchmark.csv` and
    `benchmark.md`; several have the first number of each in `<out>/<study>/{benchmarks.csv, benchmarks.md}`.

    Args:
        methods: Names, or your own as package.module:function, from a budget to a compressor; default all that are
            known.
        keep: Budgets in equivalent tokens, the mean of the visual tokens over the blocks of the language model: counts,
            or fractions of an image's patches.
        options: What every study is told.
    """
    check_names(methods)
    check_budgets(keep)
    from analysis.benchmark_numbers import overview
    from analysis.comparison.report import report
    from analysis.kept_patches import kept_figure
    from analysis.trainings import run_and_report
    from foveate.studies.comparison import compare

    run_comparison = partial(
        compare,
        methods=methods,
        equivalents=keep,
        storage=options.storage,
        workers=options.workers,
        draw=kept_figure,
        existing=options.existing,
    )
    folders = run_and_report(options, run_comparison, report)
    if len(options.models) == 1 and (table := overview(folders, options.out / options.name)):
        print(table)


if __name__ == "__main__":
    run(main)
