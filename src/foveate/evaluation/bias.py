"""What every signal looks at, what the answer looks at, and what the answer hangs on, question by question.

Written are the tables `samples` (a row per question), `signals` (per question, signal, layer and head), `pairs` (per
question and pair of signals), `curves` (per question, signal and share) and `maps` (the signals themselves); `measures`
names their columns. A signal has no row about a question that it says nothing about, such as the evidence where none is
known. `config.json` beside them says what was measured, with the plan as it was carried out and the grid of patches.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pytorch_lightning as lightning
from jaxtyping import Int
from torch import Tensor

from foveate.compression import Identity
from foveate.core.budget import resolve_keep
from foveate.core.errors import BudgetError, DeviceError, UnsupportedModel
from foveate.core.progress import bar
from foveate.core.types import Grid
from foveate.data.load import parsed
from foveate.data.sample import VQASample
from foveate.evaluation.causal import Curve, Inquiry, Occlusion, curve, inquire, occlusion
from foveate.evaluation.config import EvalConfig, run_id
from foveate.evaluation.datamodule import QuestionsInBatches
from foveate.evaluation.devices import team
from foveate.evaluation.encodings import Encodings
from foveate.evaluation.evidence import evidence_of
from foveate.evaluation.measures import Facts, Measured, curve_rows, map_rows, pair_rows, signal_rows
from foveate.evaluation.module import RecordWriter, asked, asked_text
from foveate.evaluation.run import cached_load, data_of, encodings_of, predict
from foveate.evaluation.signals import Signal, asked_signals, norms_of, signals_of, target_of
from foveate.evaluation.tables import SAMPLES, TableFolder
from foveate.functional.regions import spread, squares
from foveate.metrics.answers import SCORINGS


@dataclass(frozen=True)
class BiasPlan:
    """How bias is measured.

    Attributes:
        keep: How many patches "the top" are, a count or a share of them.
        side: Of the blocks of patches that are taken away to see what the answer hangs on.
        blocks: At most so many blocks, which are larger than `side` where more would be needed to cover the picture;
            None: as many as there are of that side.
        shares: Of the patches that are left, or taken away, along the curves.
        head_rows: Whether single heads have rows of their own.
    """

    keep: int | float = 0.11
    side: int = 3
    blocks: int | None = None
    shares: tuple[float, ...] = (0.05, 0.11, 0.25, 0.5)
    head_rows: bool = True

    def on(self, grid: Grid) -> "BiasPlan":
        """The plan as it is carried out on a grid: with the side and the number of the blocks that are taken away.

        Raises:
            BudgetError: Something in it does not fit the grid.
        """
        for share in (self.keep, *self.shares):
            resolve_keep(share, grid.patches)
        if not self.shares:
            raise BudgetError("shares=(): a curve needs at least one share of the patches, such as 0.1")
        largest = max(grid.rows, grid.columns)
        if not 1 <= self.side <= largest:
            raise BudgetError(
                f"side={self.side}: blocks of 1..{largest} patches fit this grid of {grid.rows} x {grid.columns}"
            )
        if self.blocks is not None and self.blocks < 1:
            raise BudgetError(f"blocks={self.blocks}: at least one is taken away; leave it out to cut by side alone")
        counts = {side: len(squares(grid, side).unique()) for side in range(self.side, largest + 1)}
        side = next(side for side, count in counts.items() if self.blocks is None or count <= self.blocks)
        return replace(self, side=side, blocks=counts[side])


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
    config = replace(config, compressor=Identity())
    loaded = cached_load(config.model, config.device, config.dtype)
    samples, questions = data_of(config.data, config.split, config.limit, config.seed)
    grid = loaded.adapter.tower.grid
    plan = plan.on(grid)
    identity = config.identity(loaded.identity, questions) | {"plan": repr(plan), "grid": [grid.rows, grid.columns]}
    folder = TableFolder(config.out / "bias" / run_id(identity))
    if folder.complete:
        return folder
    with folder.lock(identity | {"place": parsed(config.data)[1]}):
        done = folder.done()
        if left := [sample for sample in samples if sample.id not in done]:
            encodings = encodings_of(config, loaded, samples, questions)
            _of_one_shape(encodings, grid)
            module = Measuring(encodings, plan, config.max_new_tokens)
            batches = QuestionsInBatches(samples, config.batch_size, only=frozenset(sample.id for sample in left))
            predict(module, batches, RecordWriter(folder))
        folder.finish(sample.id for sample in samples)
    return folder


def _of_one_shape(encodings: Encodings, grid: Grid) -> None:
    """Refuses pictures that are not all arranged as one grid.

    Raises:
        UnsupportedModel: Some are not.
    """
    for name, image in encodings.arrangements.items():
        if image.views != (grid,):
            raise UnsupportedModel(
                f"picture {name!r} lies in {[(view.rows, view.columns) for view in image.views]} patches: bias is "
                f"compared place by place over one grid, here {grid.rows} x {grid.columns}; measure a model that gives "
                "every picture the same, such as LLaVA-1.5"
            )


class Measuring(lightning.LightningModule):
    """Measures batches of questions whose pictures follow each other."""

    def __init__(self, encodings: Encodings, plan: BiasPlan, max_new_tokens: int) -> None:
        super().__init__()
        self.encodings, self.plan, self.max_new_tokens = encodings, plan, max_new_tokens

    def predict_step(self, batch: list[VQASample]) -> dict[str, pa.Table]:
        loaded, plan = self.encodings.loaded, self.plan
        grid = loaded.adapter.tower.grid
        prompts = [loaded.prompt(asked_text(loaded, sample)) for sample in batch]
        share = evidence_of(batch, [self.encodings.arrangements[sample.image_id] for sample in batch], loaded)
        inquiry = inquire(self.encodings, batch, prompts, self.max_new_tokens)
        pictures = asked(self.encodings, batch, prompts, share)
        seen = signals_of(loaded.adapter, pictures, share) + asked_signals(inquiry, pictures, prompts)
        ids, images = (np.array([getattr(sample, name) for sample in batch]) for name in ("id", "image_id"))
        blocks = squares(grid, plan.side)
        found, curves = self._without(inquiry, seen, images, blocks)
        keep = resolve_keep(plan.keep, grid.patches)
        facts = Facts(grid, keep, target_of(seen), share, norms_of(pictures), found.drop.cpu(), blocks)
        measured = Measured(ids, images, seen)
        said = [[token for token in answer if token not in loaded.adapter.ends] for answer in inquiry.answers]
        tables = {
            "signals": signal_rows(measured, facts, plan.head_rows),
            "pairs": pair_rows(measured, facts),
            "curves": curve_rows(measured, curves, plan.shares),
            "maps": map_rows(measured),
        }
        return {SAMPLES: _sample_rows(batch, said, loaded.text(said), found), **tables}

    def _without(
        self, inquiry: Inquiry, seen: Sequence[Signal], images: np.ndarray, blocks: Int[Tensor, " patch"]
    ) -> tuple[Occlusion, list[tuple[Signal, Curve]]]:
        """What becomes of the answers without each block, and along the curves of the signals and of the blocks."""
        shares, curves, numbers = self.plan.shares, [], np.arange(len(images))
        signals = [signal for signal in seen if signal.has_curve]
        rows = sum(len(signal.rows) for signal in signals) + len(images)
        total = len(images) * (int(blocks.max()) + 2) + 2 * len(shares) * rows
        with bar(total, "sequence") as shown:
            shown.set_description("blocks", refresh=False)
            found = occlusion(inquiry, self.plan.side, ran=shown.update)
            for signal in [*signals, Signal("occlusion", "", spread(found.drop.cpu(), blocks)[:, None], True)]:
                shown.set_description(f"{signal.name} {signal.layers}".strip(), refresh=False)
                some = inquiry.of(set(numbers[signal.about].tolist()))
                curves.append((signal, curve(some, signal.scores(images), shares, ran=shown.update)))
        return found, curves


def _sample_rows(batch: list[VQASample], said: list[list[int]], texts: list[str], found: Occlusion) -> pa.Table:
    return pa.table(
        {
            "sample_id": [sample.id for sample in batch],
            "image_id": [sample.image_id for sample in batch],
            "kind": [sample.kind for sample in batch],
            "question": [sample.question for sample in batch],
            "reference": [" | ".join(sample.references) for sample in batch],
            "answer": texts,
            "answer_tokens": [len(tokens) for tokens in said],
            "score": [SCORINGS[s.scoring](text, s.references) for s, text in zip(batch, texts, strict=True)],
            "log_probability": pa.array(found.whole.tolist(), pa.float64()),
            "drop": pa.array(found.drop.tolist(), pa.list_(pa.float32())),
        }
    )
