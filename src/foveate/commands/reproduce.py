"""Reproduces published numbers: the grid of the VTC-CLS paper, or the rows of any paper that are known."""

from dataclasses import replace

from foveate.analysis.benchmarks.paper import BENCHMARKS, BUDGETS, CHECKPOINT, METHODS
from foveate.core.budget import check_budgets
from foveate.core.errors import DataError, OptionError, UnsupportedModel
from foveate.data.names import parsed
from foveate.data.published import paper_named
from foveate.evaluation.ranks import rank
from foveate.options import Flat, Options

_DATA = tuple(BENCHMARKS)


def main(
    paper: str | None = None,
    tasks: tuple[str, ...] = (),
    methods: tuple[str, ...] = (),
    keep: tuple[int | float, ...] = (),
    tolerance: float = 0.3,
    options: Flat = Options("reproduce_vtc_cls", model=(CHECKPOINT,), data=_DATA, batch_size=32, frames=32),
) -> None:
    """Evaluates published rows, and compares our numbers with the published ones.

    Without a paper it evaluates the grid of arXiv 2412.05819; compares numbers, averages, per cent retained and gaps
    with the paper's. VTC-CLS runs with the start layer of its scripts, 16, and with K = 3, from layer 20. Writes
    `<out>/<study>/{table.csv, averages.csv, gaps.csv, table.md}`. The paper grades MM-Vet with GPT-4; the number here
    is another one, and is marked as not comparable.

    With a paper it evaluates its rows for the model's family, or those of other papers about its method, and writes
    `<out>/reproduce_<paper>/{table.csv, protocols.csv, table.md}`: every number beside the published one, with a
    fingerprint of the protocol and the papers that print the same numbers. Numbers about videos need the folders of
    their benchmarks (--tasks videomme:FOLDER) and the paper's number of frames, mostly 32, the default of --frames.

    The same command resumes a run that was stopped.

    Args:
        paper: Paper whose rows are reproduced, such as visionzip; default is the grid of VTC-CLS.
        tasks: Benchmarks, as --data takes them; default is all of the paper that are known here.
        methods: Names of the paper's methods; default is all that are known here. `full` always runs.
        keep: Budgets, as the paper counts them; default is all of its own (of VTC-CLS 256, 128 and 64).
        tolerance: Largest difference in points at which a number counts as the published one.
        options: Options of all experiments.
    """
    options.without_storage()
    check_budgets(keep, needed=False)
    if not 0 <= tolerance <= 100:
        raise OptionError(f"tolerance={tolerance}: expected a number of points from 0 to 100")
    if tasks:
        options = replace(options, data=tasks)
        options.check()
    if paper is not None:
        _rows(paper_named(paper), methods, keep, tolerance, options)
        return
    if methods:
        raise OptionError(f"methods {' '.join(methods)}: the grid of VTC-CLS has its own; they need --paper")
    if shares := [budget for budget in keep if isinstance(budget, float)]:
        raise OptionError(f"keep={shares[0]:g}: the grid of VTC-CLS counts patches; expected a count such as 64")
    _grid(tuple(map(int, keep)) or BUDGETS, tolerance, options)


def _grid(keep: tuple[int, ...], tolerance: float, options: Options) -> None:
    """Runs and reports the grid of the VTC-CLS paper."""
    if strange := [data for data in options.data if parsed(data)[0] not in BENCHMARKS]:
        raise DataError(f"data {strange[0]!r} is not in the paper; its benchmarks: {', '.join(BENCHMARKS)}")
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


def _rows(
    paper: str, methods: tuple[str, ...], keep: tuple[int | float, ...], tolerance: float, options: Options
) -> None:
    """Runs and reports the published rows of a paper."""
    from foveate.analysis.benchmarks.report import requirements
    from foveate.analysis.benchmarks.rows import chosen, study_name, wanted, without_folders
    from foveate.analysis.benchmarks.rows_report import report_rows
    from foveate.analysis.benchmarks.rows_run import run_rows
    from foveate.evaluation.run import cached_load

    options = replace(options, default_study=study_name(paper))
    data = options.data if options.data != _DATA else ()
    names = [parsed(one)[0] for one in data]
    config = replace(options, data=data[:1] or _DATA[:1]).config
    try:
        loaded = cached_load(config.model, config.device, config.dtype)
    except UnsupportedModel as error:
        there = names or ["the paper's benchmarks"]
        raise UnsupportedModel(f"{error}. {requirements(options.checkpoint, there)}") from error
    known = wanted(paper, loaded.family, options.checkpoint, options.frames)
    found = chosen(known if data else without_folders(known), names, methods, keep)
    options = replace(options, data=data or tuple(dict.fromkeys(row.data for row in found.rows)))
    runs, unable = run_rows(found, [each for _, each in options.each], loaded)
    if rank() == 0:
        print(report_rows(found, runs, options.out / options.name, tolerance, unable))
