"""Measures batches of questions; see `bias` for what comes of it."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytorch_lightning as lightning
from jaxtyping import Int
from torch import Tensor

from foveate.core.budget import resolve_keep
from foveate.core.errors import DataError, UnsupportedModel
from foveate.core.progress import bar
from foveate.core.types import Grid
from foveate.data.sample import VQASample
from foveate.evaluation.asking import prompt_of
from foveate.evaluation.bias_plan import MEND_IT, BiasPlan
from foveate.evaluation.causal import Curve, Inquiry, Occlusion, curve, inquire, occlusion
from foveate.evaluation.encodings import Encodings
from foveate.evaluation.evidence import evidence_of
from foveate.evaluation.measures import Facts, Measured, curve_rows, map_rows, pair_rows, signal_rows
from foveate.evaluation.module import asked
from foveate.evaluation.signals import Signal, asked_signals, norms_of, signals_of, target_of
from foveate.evaluation.tables import SAMPLES
from foveate.functional.regions import spread, squares
from foveate.metrics.answers import SCORINGS


def check_shapes(encodings: Encodings, grid: Grid) -> None:
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
        prompts = [self._prompt(sample) for sample in batch]
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

    def _prompt(self, sample: VQASample) -> list[int]:
        image = self.encodings.arrangements[sample.image_id]
        try:
            return prompt_of(self.encodings.loaded, sample, image, self.max_new_tokens)
        except DataError as error:
            raise DataError(f"question {sample.id!r}: {error}; {MEND_IT}") from error

    def _without(
        self, inquiry: Inquiry, seen: Sequence[Signal], images: np.ndarray, blocks: Int[Tensor, " patch"]
    ) -> tuple[Occlusion, list[tuple[Signal, Curve]]]:
        """Returns the drops of the answers without each block, and the curves of the signals and of the blocks."""
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
