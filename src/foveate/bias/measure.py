"""Measures signals, response attention and causal effects of patches for each question.

The results are the tables `samples` (a row per question), `signals` (per question, signal, layer and head), `pairs`
(per question and pair of signals), `curves` (per question, signal and share), `tokens` (per question, token of its
answer and signal) and `maps` (the signals themselves); `rows.measures` computes their columns. A signal has no row for
a question for which it is undefined, such as the evidence signal where the evidence is unknown. `config.json` in the
same folder records the configuration, the plan after its resolution, and the grid of patches.
"""

from dataclasses import dataclass, replace
from typing import Any

from foveate.bias.plan import FIX_DATA, BiasPlan
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


def resolve_plan(plan: BiasPlan, grid: Grid) -> BiasPlan:
    """Returns the plan with the side and the number of blocks for a grid.

    Raises:
        BudgetError: A value of the plan does not fit the grid.
    """
    plan.check()
    for share in (plan.keep, *plan.shares):
        resolve_keep(share, grid.patches)
    largest = max(grid.rows, grid.columns)
    if plan.side > largest:
        raise BudgetError(
            f"side={plan.side}: expected 1..{largest} patches on this grid of {grid.rows} x {grid.columns}"
        )
    counts = {side: len(squares(grid, side).unique()) for side in range(plan.side, largest + 1)}
    side = next(side for side, count in counts.items() if plan.blocks is None or count <= plan.blocks)
    return replace(plan, side=side, blocks=counts[side])


@dataclass(frozen=True)
class Measurement:
    """A measurement of one configuration, with its identity and its folder.

    Attributes:
        config: Configuration of the uncompressed model.
        plan: The plan, resolved for the model's grid.
        identity: Everything that can change a number.
    """

    config: EvalConfig
    plan: BiasPlan
    identity: dict[str, Any]

    @classmethod
    def of(cls, config: EvalConfig, plan: BiasPlan) -> "Measurement":
        """Returns the measurement of a configuration, whose compressor is ignored.

        Raises:
            FoveateError: The model, data or plan is not usable; the message says why.
        """
        if config.on_error == "skip":
            raise OptionError(
                f"on_error='skip': bias is measured on every question of the data; leave the option out and {FIX_DATA}"
            )
        config = replace(config, compressor=Identity())
        loaded = cached_load(config.model, config.device, config.dtype)
        config = config.on(loaded)
        samples, questions = data_of(config)
        if refused := [sample for sample in samples if len(sample.sources) != 1]:
            first = refused[0]
            raise DataError(
                f"{len(refused)} questions of {config.data!r} are not about one image, the first is {first.id!r} with "
                f"{len(first.sources) or 'no'} images: bias is measured on such questions only: remove the others"
            )
        grid = loaded.adapter.tower.grid
        plan = resolve_plan(plan, grid)
        known = config.identity(checkpoint_identity(loaded), questions)
        return cls(config, plan, known | {"plan": repr(plan), "grid": [grid.rows, grid.columns]})

    @property
    def folder(self) -> TableFolder:
        """The folder of the tables."""
        return TableFolder(self.config.out / "bias" / run_id(self.identity))


def measure(config: EvalConfig, plan: BiasPlan) -> TableFolder:
    """Measures the questions of a configuration that are not yet in its folder.

    Each batch is written to disk when it is measured, so that a killed run continues with the next one.

    Args:
        config: Model, data and output folder.
        plan: The measurement.

    Raises:
        FoveateError: The model, data, plan or folder is not usable; the message says why.
    """
    measurement = Measurement.of(config, plan)
    config, plan, folder = measurement.config, measurement.plan, measurement.folder
    if folder.complete:
        return folder
    samples, questions = data_of(config)
    folder.begin(measurement.identity | {"location": parsed(config.data)[1], "model": config.model})
    ranks.start()
    shares = ranks.shares()
    for share in shares:  # a process that ends early leaves its share to the others
        with folder.share(share):
            done = folder.done()
            if left := frozenset(sample.id for sample in samples) - done:
                from foveate.bias.module import BiasModule, check_grids
                from foveate.evaluation.agreement import check_evaluated
                from foveate.evaluation.answering import encodings_of, predict  # Lightning takes seconds to import
                from foveate.evaluation.datamodule import QuestionsInBatches
                from foveate.evaluation.prompts import note_unknown_words
                from foveate.evaluation.writer import RecordWriter

                loaded = cached_load(config.model, config.device, config.dtype)
                encodings = encodings_of(config, loaded, samples, questions, FIX_DATA)
                check_evaluated(config, loaded)
                note_unknown_words(loaded, samples)
                check_grids(encodings, loaded.adapter.tower.grid)
                module = BiasModule(encodings, plan, config.max_new_tokens)
                batches = QuestionsInBatches(samples, config.per_batch, None, share, len(shares), left)
                predict(module, batches, RecordWriter(folder))
    folder.finish(sample.id for sample in samples)
    return folder
