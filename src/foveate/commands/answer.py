"""Answers benchmarks with a model whose images one method compresses."""

from dataclasses import replace

from foveate.core.budget import check_budgets
from foveate.data.names import shown_name
from foveate.evaluation.ranks import rank
from foveate.methods.registry import check_names
from foveate.options import Flat, Options


def main(
    method: str = "full",
    keep: int | float | None = None,
    options: Flat = Options("answers"),
) -> None:
    """Answers benchmarks with one method, including splits without reference answers, whose servers grade them.

    Writes `<out>/<study>_<data>/{benchmark.csv, benchmark.md}` if there are reference answers, `submission.json` if the
    benchmark has a format for submissions, and with several benchmarks `<out>/<study>/benchmarks.md`. The worst kind of
    questions and the worst benchmark are printed beside the means. The same command resumes a run that was stopped.

    Args:
        method: Name of a method, your own as ./file.py:function or package.module:function, from a budget to a
            compressor, or a recipe file such as recipe.json.
        keep: Budget in equivalent tokens: a count, or a fraction of an image's patches; methods without a budget and
            recipe files take none.
        options: Options of all experiments.
    """
    options.without_storage()
    check_names([method])
    check_budgets([] if keep is None else [keep], needed=False)
    from foveate.analysis.benchmark_numbers import overview
    from foveate.analysis.benchmarks.answers import report_answers
    from foveate.evaluation.announcement import announce
    from foveate.evaluation.run import cached_load, data_of, evaluate, grid_of
    from foveate.methods.fitting import BUDGETLESS, at_budget

    for name, config in options.each:
        loaded = cached_load(config.model, config.device, config.dtype)
        compressor = at_budget(method, keep, loaded.adapter, grid_of(loaded, data_of(config)[0]).patches)
        announce(
            config, f"method {method}" + (f" at {keep:g}" if keep is not None and method not in BUDGETLESS else "")
        )
        folder = evaluate(replace(config, compressor=compressor), shared=True)
        if rank() == 0:
            print(report_answers(method, shown_name(config.data), folder, config.out / name))
    if rank() == 0 and len(options.models) == 1:
        folders = {config.data: config.out / name for name, config in options.each}
        print(overview(folders, options.out / options.name, one_method=True))
