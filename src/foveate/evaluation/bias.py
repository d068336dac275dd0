"""What every signal looks at, what the answer looks at, and what the answer hangs on, question by question.

Written are the tables `samples` (a row per question), `signals` (per question, signal, layer and head), `pairs` (per
question and pair of signals), `curves` (per question and signal) and `maps` (the signals themselves); the schemas below
name the columns.
"""

from dataclasses import dataclass, replace

import pyarrow as pa
import pytorch_lightning as lightning

from foveate.compression import Identity
from foveate.core.budget import resolve_keep
from foveate.core.errors import BudgetError
from foveate.data.load import parsed
from foveate.data.sample import VQASample
from foveate.evaluation.causal import Occlusion, curve, inquire, occlusion
from foveate.evaluation.config import EvalConfig, run_id
from foveate.evaluation.datamodule import QuestionsInBatches
from foveate.evaluation.encodings import Encodings
from foveate.evaluation.measures import Facts, Measured, curve_rows, map_rows, pair_rows, signal_rows
from foveate.evaluation.module import RecordWriter, asked, asked_text, evidence_of
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
        shares: Of the patches that are left, or taken away, along the curves.
        head_rows: Whether single heads have rows of their own.
    """

    keep: int | float = 0.11
    side: int = 3
    shares: tuple[float, ...] = (0.05, 0.11, 0.25)
    head_rows: bool = True


def measure(config: EvalConfig, plan: BiasPlan, progress: bool = True) -> TableFolder:
    """Measures the questions of a configuration that have not been measured yet.

    Killed runs continue where they stopped; what is measured is not held in memory, but put on disk batch by batch.

    Args:
        config: Model, data and place. Its compressor plays no part: the uncompressed model is looked at.
        plan: What is measured.
        progress: Show a bar.

    Raises:
        FoveateError: The model, data, plan or place is not usable; the message says why.
    """
    config = replace(config, compressor=Identity())
    loaded = cached_load(config.model, config.device, config.dtype)
    samples, questions = data_of(config.data, config.split, config.limit, config.seed)
    grid = loaded.adapter.tower.grid
    for share in (plan.keep, *plan.shares):
        resolve_keep(share, grid.patches)
    if not 1 <= plan.side <= max(grid.rows, grid.columns):
        raise BudgetError(
            f"side={plan.side}: blocks of 1..{max(grid.rows, grid.columns)} patches fit this grid of {grid.rows} x "
            f"{grid.columns}"
        )
    identity = config.identity(loaded.identity, questions) | {"plan": repr(plan)}
    folder = TableFolder(config.out / "bias" / run_id(identity))
    if folder.complete:
        return folder
    with folder.lock(identity | {"place": parsed(config.data)[1]}):
        done = folder.done()
        if left := [sample for sample in samples if sample.id not in done]:
            module = Measuring(encodings_of(config, loaded, samples, questions), plan, config.max_new_tokens)
            predict(module, QuestionsInBatches(left, config.batch_size), RecordWriter(folder), progress)
        folder.finish(sample.id for sample in samples)
    return folder


class Measuring(lightning.LightningModule):
    """Measures batches of questions whose pictures follow each other."""

    def __init__(self, encodings: Encodings, plan: BiasPlan, max_new_tokens: int) -> None:
        super().__init__()
        self.encodings, self.plan, self.max_new_tokens = encodings, plan, max_new_tokens

    def predict_step(self, batch: list[VQASample]) -> dict[str, pa.Table]:
        loaded, plan = self.encodings.loaded, self.plan
        grid = loaded.adapter.tower.grid
        prompts = [loaded.prompt(asked_text(loaded, sample)) for sample in batch]
        share = evidence_of(batch, grid, loaded)
        inquiry = inquire(self.encodings, batch, prompts, self.max_new_tokens)
        pictures = asked(self.encodings, batch, prompts, share)
        seen = signals_of(loaded.adapter, pictures, share) + asked_signals(inquiry, pictures, prompts)
        blocks = squares(grid, plan.side)
        found = occlusion(inquiry, plan.side)
        keep = resolve_keep(plan.keep, grid.patches)
        facts = Facts(grid, keep, target_of(seen), share, norms_of(pictures), found.drop.cpu(), blocks)
        measured = Measured([sample.id for sample in batch], [sample.image_id for sample in batch], seen)
        causal = Signal("occlusion", "", spread(found.drop.cpu(), blocks)[:, None], True)
        curves = [
            (signal, curve(inquiry, signal.scores(measured.images), plan.shares))
            for signal in [*seen, causal]
            if signal.has_curve
        ]
        said = [[token for token in answer if token not in loaded.adapter.ends] for answer in inquiry.answers]
        tables = {
            "signals": signal_rows(measured, facts, plan.head_rows),
            "pairs": pair_rows(measured, facts),
            "curves": curve_rows(measured, curves, plan.shares),
            "maps": map_rows(measured),
        }
        return {SAMPLES: _sample_rows(batch, said, loaded.text(said), found), **tables}


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
