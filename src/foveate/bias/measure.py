"""What every signal looks at, what the answer looks at, and what the answer hangs on, question by question.

Written are the tables `samples` (a row per question), `signals` (per question, signal, layer and head), `pairs` (per
question and pair of signals), `curves` (per question, signal and share), `tokens` (per question, token of its answer
and signal) and `maps` (the signals themselves); `measures` names their columns. A signal has no row about a question
that it says nothing about, such as the evidence where none is known. `config.json` beside them says what was measured,
with the plan as it was carried out and the grid of patches.
"""

from dataclasses import dataclass, replace
from typing import Any

from foveate.bias.plan import MEND_IT, BiasPlan
from foveate.bias.tables import TableFolder
from foveate.compressors import Identity
from foveate.core.arrangement import Grid
from foveate.core.budget import resolve_keep
from foveate.core.errors import BudgetError, DataError, OptionError
from foveate.data.names import parsed
from foveate.evaluation import ranks
from foveate.evaluation.config import EvalConfig, checkpoint_identity, run_id
from foveate.evaluation.run import cached_load, data_of
from foveate.functional.regions import squares


def carried_out(plan: BiasPlan, grid: Grid) -> BiasPlan:
    """Returns the plan on a grid: with the side and the number of the blocks that are taken away.

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


@dataclass(frozen=True)
class Measurement:
    """What is to be measured, and under which name it lies on disk.

    Attributes:
        config: Of the uncompressed model.
        plan: As it is carried out on the model's grid.
        identity: Whatever can change a number.
    """

    config: EvalConfig
    plan: BiasPlan
    identity: dict[str, Any]

    @classmethod
    def of(cls, config: EvalConfig, plan: BiasPlan) -> "Measurement":
        """Returns the measurement of a configuration, whose compressor plays no part.

        Raises:
            FoveateError: The model, data or plan is not usable; the message says why.
        """
        if config.on_error == "skip":
            raise OptionError(
                f"on_error='skip': bias is measured of every question of the data; leave it out and {MEND_IT}"
            )
        config = replace(config, compressor=Identity())
        loaded = cached_load(config.model, config.device, config.dtype)
        samples, questions = data_of(config.data, config.split, config.limit, config.seed)
        if text_only := [sample.id for sample in samples if sample.source is None]:
            raise DataError(
                f"{len(text_only)} questions of {config.data!r} have no image, the first is {text_only[0]!r}: bias is "
                f"measured of questions about images; leave them out and {MEND_IT}"
            )
        grid = loaded.adapter.tower.grid
        plan = carried_out(plan, grid)
        known = config.identity(checkpoint_identity(loaded), questions)
        return cls(config, plan, known | {"plan": repr(plan), "grid": [grid.rows, grid.columns]})

    @property
    def folder(self) -> TableFolder:
        """Returns where its tables are, or will be."""
        return TableFolder(self.config.out / "bias" / run_id(self.identity))


def measure(config: EvalConfig, plan: BiasPlan) -> TableFolder:
    """Measures the questions of a configuration that have not been measured yet.

    Killed runs continue where they stopped; what is measured is not held in memory, but put on disk batch by batch.

    Args:
        config: Model, data and place.
        plan: What is measured.

    Raises:
        FoveateError: The model, data, plan or place is not usable; the message says why.
    """
    measurement = Measurement.of(config, plan)
    config, plan, folder = measurement.config, measurement.plan, measurement.folder
    if folder.complete:
        return folder
    samples, questions = data_of(config.data, config.split, config.limit, config.seed)
    folder.begin(measurement.identity | {"location": parsed(config.data)[1], "model": config.model})
    ranks.start()
    shares = ranks.shares()
    for share in shares:  # a process that has died leaves its share to the others
        with folder.share(share):
            done = folder.done()
            if left := frozenset(sample.id for sample in samples) - done:
                from foveate.bias.module import Measuring, check_shapes
                from foveate.evaluation.agreement import check_evaluated
                from foveate.evaluation.answering import encodings_of, predict  # Lightning takes seconds to import
                from foveate.evaluation.datamodule import QuestionsInBatches
                from foveate.evaluation.module import RecordWriter

                loaded = cached_load(config.model, config.device, config.dtype)
                encodings = encodings_of(config, loaded, samples, questions, MEND_IT)
                check_evaluated(config, loaded)
                check_shapes(encodings, loaded.adapter.tower.grid)
                module = Measuring(encodings, plan, config.max_new_tokens)
                batches = QuestionsInBatches(samples, config.batch_size, None, share, len(shares), left)
                predict(module, batches, RecordWriter(folder))
    folder.finish(sample.id for sample in samples)
    return folder
