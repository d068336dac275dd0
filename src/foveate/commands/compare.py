"""Compares published methods at the same number of equivalent tokens."""

from typing import TYPE_CHECKING

from foveate.core.budget import check_budgets
from foveate.core.values import whole
from foveate.evaluation.ranks import rank
from foveate.methods.registry import METHODS, check_names, label_of, pairs_of
from foveate.options import Flat, Options

if TYPE_CHECKING:  # pandas takes half a second to import
    from foveate.analysis.comparison.summary_report import Compared
    from foveate.evaluation import EvalConfig


def main(
    methods: tuple[str, ...] = (),
    keep: tuple[int | float, ...] = (0.5, 1 / 3, 0.11),
    pairs: tuple[str, ...] = (),
    turns: int = 1,
    options: Flat = Options("compare_methods", scenes=1050),
) -> None:
    """Evaluates published methods, controls and oracles at budgets that cost the language model the same.

    Writes `<out>/<study>/{study.db, table.csv, table.md, frontier.png, ranking.png, kept_patches.png}`, and
    `worst_kinds.csv` with the kind of questions on which each row loses most. About scenes, `table_things.csv` and
    `table_details.csv` have the questions about things and about details. The same command resumes a run that was
    stopped. The controls (no compression, no image, random, even grid, pooling, smaller image, pixel filters) are
    always evaluated, and about videos also controls over frames. Without --limit it asks 1,050 questions about scenes,
    or all questions of a benchmark.

    The study of a benchmark is in `<out>/<study>_<data>`, with the benchmark's official numbers in `benchmark.csv` and
    `benchmark.md`. With several benchmarks `<out>/<study>/{benchmarks.csv, benchmarks.md}` has the first number of
    each. With several data sets or models, every data set is compared on every model, after a line that says how long
    that takes and how much it writes: each study is in `<out>/<study>_<data>_<model>`, and `<out>/<study>/{summary.csv,
    summary.md, summary.png}` have mean ranks, shares retained and worst tasks.

    Args:
        methods: Names of methods, your own as ./file.py:function or package.module:function, from a budget to a
            compressor, or recipe files such as recipe.json, whose budgets are added; default is all published methods
            about images, and about videos those for videos with evidence, vtc_cls, visionzip, divprune, fastv and
            pyramiddrop.
        keep: Budgets in equivalent tokens, the mean of the visual tokens over the blocks of the language model: counts,
            or fractions of an image's patches.
        pairs: Pairs of methods whose differences are tested, such as vtc_cls:fastv; `pairs.csv` and `pairs.md` have
            them. Methods that a pair names are evaluated, too.
        turns: Number of questions about an image that share a choice. From 2 on, methods that read the question are
            evaluated once more, with what they choose for the first of so many questions, and `pairs.csv` has the
            differences.
        options: Options of all experiments.
    """
    check_names(methods)
    pairs_of(pairs, methods or METHODS)
    check_budgets(keep)
    whole("turns", turns, least=1)
    from foveate.analysis.comparison.report import report
    from foveate.analysis.comparison.summary_report import Compared
    from foveate.analysis.kept_patches import kept_figure
    from foveate.studies.comparison import compare
    from foveate.studies.forecast import AnnouncedGrid
    from foveate.studies.study_folder import StudyFolder

    short = {model: label for label, model in options.models.items()}
    configs = [config for _, config in options.by_model]
    rows = [_rows(config, methods, pairs, turns) for config in configs]
    announced, studies = AnnouncedGrid(configs, [names for names, _ in rows], keep), []
    for (name, config), (names, compared) in zip(options.by_model, rows, strict=True):
        folder = StudyFolder(name, options.out, options.storage, existing=options.existing)
        study = compare(folder, config, names, keep, draw=kept_figure)
        studies.append(Compared(config, study, short[config.model]))
        if rank() == 0:
            print(report(study, config, compared))
            announced.ended()
    if rank() == 0 and len(studies) > 1:
        _print_summaries(studies, keep, options)


def _rows(
    config: "EvalConfig", methods: tuple[str, ...], pairs: tuple[str, ...], turns: int
) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
    """Returns the methods of one comparison, and the pairs whose differences are tested."""
    from foveate.methods.fitting import sharing
    from foveate.studies.comparison import usual_for

    methods = methods or usual_for(config)
    compared = pairs_of(pairs, methods)
    labels = {label_of(name) for name in methods}
    methods = (*methods, *dict.fromkeys(name for pair in compared for name in pair if name not in labels))
    shared = sharing(methods, turns) if turns > 1 else {}
    tested = (*compared, *((label_of(new), label_of(old)) for old, new in shared.items()))
    return (*methods, *shared.values()), tested


def _print_summaries(studies: "list[Compared]", keep: tuple[int | float, ...], options: Options) -> None:
    """Writes and prints what is said about several studies together."""
    from foveate.analysis.benchmark_numbers import overview
    from foveate.analysis.comparison.summary_report import report_summary
    from foveate.analysis.trainings import report_trainings

    if len(options.models) > 1:
        text = report_trainings([(config, study) for config, study, _ in studies], options.models)
    else:
        text = overview({c.data: options.out / s.study_name for c, s, _ in studies}, options.out / options.name)
    if text:
        print(text)
    print(report_summary(studies, keep, options.out / options.name))
