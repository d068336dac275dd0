"""Reproduces a paper's numbers: VTC-CLS, FastV and PruMerge+ on eight benchmarks, with the published numbers."""

from dataclasses import replace

from foveate.analysis.benchmarks.paper import BENCHMARKS, BUDGETS, CHECKPOINT, METHODS
from foveate.core.budget import check_budgets
from foveate.core.errors import DataError, OptionError, UnsupportedModel
from foveate.data.names import parsed
from foveate.evaluation.ranks import rank
from foveate.options import Flat, Options


def main(
    keep: tuple[int, ...] = BUDGETS,
    tolerance: float = 0.3,
    options: Flat = Options("reproduce_vtc_cls", model=(CHECKPOINT,), data=tuple(BENCHMARKS), batch_size=32),
) -> None:
    """Evaluates the grid of arXiv 2412.05819; compares numbers, averages, per cent retained and gaps with the paper's.

    VTC-CLS runs with the start layer of its scripts, 16, and with K = 3, from layer 20. Writes
    `<out>/<study>/{table.csv, averages.csv, gaps.csv, table.md}`. The same command resumes a run that was stopped. The
    paper grades MM-Vet with GPT-4; the number here is another one, and is marked as not comparable.

    Args:
        keep: Budgets: patches to keep, as the paper counts them.
        tolerance: Largest difference in points at which a number counts as the published one.
        options: Options of all experiments.
    """
    options.without_storage()
    if strange := [data for data in options.data if parsed(data)[0] not in BENCHMARKS]:
        raise DataError(f"data {strange[0]!r} is not in the paper; its benchmarks: {', '.join(BENCHMARKS)}")
    check_budgets(keep, needed=False)
    if not 0 <= tolerance <= 100:
        raise OptionError(f"tolerance={tolerance}: expected a number of points from 0 to 100")
    from foveate.analysis.benchmarks.data import Reproduced
    from foveate.analysis.benchmarks.report import report, requirements
    from foveate.evaluation.announcement import Announced
    from foveate.evaluation.run import cached_load, evaluate
    from foveate.methods.fitting import for_model

    runs = []
    try:
        cells = [(name, budget) for name in METHODS for budget in ([None] if name == "full" else dict.fromkeys(keep))]
        for _, config in options.each:
            adapter = cached_load(config.model, config.device, config.dtype).adapter
            announced = Announced(config, len(cells))
            for done, (name, budget) in enumerate(cells, 1):
                compressor = for_model(name, budget, {}, adapter)
                folder = evaluate(replace(config, compressor=compressor), shared=True)
                runs.append(Reproduced(name, budget, parsed(config.data)[0], folder))
                announced.ended(done)
    except UnsupportedModel as error:
        raise UnsupportedModel(f"{error}. {requirements(options.checkpoint, options.data)}") from error
    if rank() == 0:
        print(report(runs, options.checkpoint, options.out / options.name, tolerance, options.limit is None))
