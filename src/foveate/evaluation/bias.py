"""What every signal looks at, what the answer looks at, and what the answer hangs on, question by question.

Written are the tables `samples` (a row per question), `signals` (per question, signal, layer and head), `pairs` (per
question and pair of signals), `curves` (per question, signal and share) and `maps` (the signals themselves); `measures`
names their columns. A signal has no row about a question that it says nothing about, such as the evidence where none is
known. `config.json` beside them says what was measured, with the plan as it was carried out and the grid of patches.
"""

from dataclasses import replace

from foveate.compression import Identity
from foveate.core.budget import resolve_keep
from foveate.core.errors import BudgetError, DeviceError, OptionError
from foveate.core.types import Grid
from foveate.data.names import parsed
from foveate.evaluation.bias_plan import MEND_IT, BiasPlan
from foveate.evaluation.config import EvalConfig, run_id
from foveate.evaluation.devices import team
from foveate.evaluation.run import cached_load, data_of
from foveate.evaluation.tables import TableFolder
from foveate.functional.regions import squares


def carried_out(plan: BiasPlan, grid: Grid) -> BiasPlan:
    """The plan on a grid: with the side and the number of the blocks that are taken away.

    Raises:
        BudgetError: Something in it does not fit the grid.
    """
    plan.check()
    for share in (plan.keep, *plan.shares):
        resolve_keep(share, grid.patches)
    largest = max(grid.rows, grid.columns)
    if plan.side > largest:
        raise BudgetError(
            f"side={plan.side}: blocks of 1..{largest} patches fit this grid of {grid.rows} x {grid.columns}"
        )
    counts = {side: len(squares(grid, side).unique()) for side in range(plan.side, largest + 1)}
    side = next(side for side, count in counts.items() if plan.blocks is None or count <= plan.blocks)
    return replace(plan, side=side, blocks=counts[side])


def measure(config: EvalConfig, plan: BiasPlan) -> TableFolder:
    """Measures the questions of a configuration that have not been measured yet.

    Killed runs continue where they stopped; what is measured is not held in memory, but put on disk batch by batch.

    Args:
        config: Model, data and place. Its compressor plays no part: the uncompressed model is looked at.
        plan: What is measured.

    Raises:
        FoveateError: The model, data, plan or place is not usable; the message says why.
    """
    if team().size > 1:
        raise DeviceError("bias is measured by one process: leave --devices and --nodes out")
    if config.on_error == "skip":
        raise OptionError(
            f"on_error='skip': bias is measured of every question of the data; leave it out and {MEND_IT}"
        )
    config = replace(config, compressor=Identity())
    loaded = cached_load(config.model, config.device, config.dtype)
    samples, questions = data_of(config.data, config.split, config.limit, config.seed)
    grid = loaded.adapter.tower.grid
    plan = carried_out(plan, grid)
    identity = config.identity(loaded.identity, questions) | {"plan": repr(plan), "grid": [grid.rows, grid.columns]}
    folder = TableFolder(config.out / "bias" / run_id(identity))
    if folder.complete:
        return folder
    with folder.lock(identity | {"place": parsed(config.data)[1]}):
        done = folder.done()
        if left := [sample for sample in samples if sample.id not in done]:
            from foveate.evaluation.agreement import check_evaluated
            from foveate.evaluation.answering import encodings_of, predict  # Lightning takes seconds to import
            from foveate.evaluation.datamodule import QuestionsInBatches
            from foveate.evaluation.measuring import Measuring, check_shapes
            from foveate.evaluation.module import RecordWriter

            encodings = encodings_of(config, loaded, samples, questions, MEND_IT)
            check_evaluated(config, loaded)
            check_shapes(encodings, grid)
            module = Measuring(encodings, plan, config.max_new_tokens)
            batches = QuestionsInBatches(samples, config.batch_size, only=frozenset(sample.id for sample in left))
            predict(module, batches, RecordWriter(folder))
        folder.finish(sample.id for sample in samples)
    return folder
