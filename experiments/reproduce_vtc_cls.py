"""Do the paper's numbers come out? VTC-CLS, FastV and PruMerge+ on eight benchmarks, beside what the paper prints."""

from dataclasses import replace

from analysis.benchmarks.paper import BENCHMARKS, BUDGETS, CHECKPOINT, METHODS
from foveate.cli import run
from foveate.core.budget import check_budgets
from foveate.core.errors import DataError, OptionError, UnsupportedModel
from foveate.data.names import parsed
from foveate.options import Flat, Options


def main(
    keep: tuple[int, ...] = BUDGETS,
    tolerance: float = 0.3,
    options: Flat = Options("reproduce_vtc_cls", model=(CHECKPOINT,), data=tuple(BENCHMARKS), batch_size=32),
) -> None:
    """Runs the grid of arXiv 2412.05819 and sets numbers, averages, per cent retained and gaps beside the published.

    VTC-CLS runs with the start layer of its scripts, 16, and with K = 3, from layer 20. Writes
    `<out>/<study>/{table.csv, averages.csv, gaps.csv, table.md}`. A second run continues the first. MM-Vet is graded by
    GPT-4 there, so its number here is another one, and said to be.

    Args:
        keep: Patches that stay, as the paper counts them.
        tolerance: Points by which a number may differ from the published one and still be the same.
        options: What every study is told.
    """
    options.without_storage()
    if strange := [data for data in options.data if parsed(data)[0] not in BENCHMARKS]:
        raise DataError(f"data {strange[0]!r} is not in the paper; its benchmarks: {', '.join(BENCHMARKS)}")
    check_budgets(keep, needed=False)
    if not 0 <= tolerance <= 100:
        raise OptionError(f"tolerance={tolerance}: expected a number of points from 0 to 100")
    from analysis.benchmarks.data import Reproduced
    from analysis.benchmarks.report import report, requirements
    from foveate.evaluation.ranks import rank
    from foveate.evaluation.run import cached_load, evaluate
    from foveate.methods.fitting import for_model

    runs = []
    try:
        adapter = cached_load(options.checkpoint, options.device, options.dtype).adapter
        for _, config in options.each:
            for name in METHODS:
                for budget in [None] if name == "full" else dict.fromkeys(keep):
                    compressor = for_model(name, budget, {}, adapter)
                    folder = evaluate(replace(config, compressor=compressor), shared=True)
                    runs.append(Reproduced(name, budget, parsed(config.data)[0], folder))
    except UnsupportedModel as error:
        raise UnsupportedModel(f"{error}. {requirements(options.checkpoint, options.data)}") from error
    if rank() == 0:
        print(report(runs, options.checkpoint, options.out / options.name, tolerance, options.limit is None))


if __name__ == "__main__":
    run(main)
