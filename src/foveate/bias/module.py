"""Measures batches of questions; see `bias` for what comes of it."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytorch_lightning as lightning
from jaxtyping import Bool
from torch import Tensor

from foveate.bias.causal import (
    Curve,
    Inquiry,
    cross_checked,
    curve,
    drawn_orders,
    inquire,
    occlusion,
    removal,
    shapley,
)
from foveate.bias.plan import MEND_IT, BiasPlan
from foveate.bias.rows import (
    Facts,
    Measured,
    Worths,
    curve_rows,
    map_rows,
    pair_rows,
    signal_rows,
    token_rows,
)
from foveate.bias.signals import Signal, asked_signals, norms_of, signals_of, target_of
from foveate.bias.tables import SAMPLES
from foveate.core.arrangement import Grid
from foveate.core.budget import resolve_keep
from foveate.core.errors import DataError, UnsupportedModel
from foveate.core.progress import bar
from foveate.data.sample import VQASample
from foveate.evaluation.encodings import Encodings
from foveate.evaluation.evidence import evidence_of
from foveate.evaluation.module import images_of_questions
from foveate.evaluation.prompts import prompt_of
from foveate.functional.regions import spread, squares
from foveate.metrics.answers import score_of
from foveate.metrics.evidence import SHOWN


def check_shapes(encodings: Encodings, grid: Grid) -> None:
    """Refuses images that are not all arranged as one grid.

    Raises:
        UnsupportedModel: Some are not.
    """
    for name, image in encodings.arrangements.items():
        if image.views != (grid,):
            raise UnsupportedModel(
                f"image {name!r} lies in {[(view.rows, view.columns) for view in image.views]} patches: bias is "
                f"compared place by place over one grid, here {grid.rows} x {grid.columns}; measure a model that gives "
                "every image the same, such as LLaVA-1.5"
            )


class Measuring(lightning.LightningModule):
    """Measures batches of questions whose images follow each other."""

    def __init__(self, encodings: Encodings, plan: BiasPlan, max_new_tokens: int) -> None:
        super().__init__()
        self.encodings, self.plan, self.max_new_tokens = encodings, plan, max_new_tokens

    def predict_step(self, batch: list[VQASample]) -> dict[str, pa.Table]:
        loaded, plan = self.encodings.loaded, self.plan
        grid = loaded.adapter.tower.grid
        prompts = [self._prompt(sample) for sample in batch]
        share = evidence_of(batch, [self.encodings.arrangements[sample.image_id] for sample in batch], loaded)
        inquiry = inquire(self.encodings, batch, prompts, self.max_new_tokens)
        images = images_of_questions(self.encodings, batch, prompts, share)
        heard = asked_signals(inquiry, images, prompts, plan.tokens)
        seen = signals_of(loaded.adapter, images, share) + heard.signals
        ids, image_ids = (np.array([getattr(sample, name) for sample in batch]) for name in ("id", "image_id"))
        judged, worths, curves = self._without(inquiry, seen, image_ids, share >= SHOWN)
        response, answer = (target_of(seen, name) for name in ("response", "answer"))
        keep, blocks = resolve_keep(plan.keep, grid.patches), squares(grid, plan.side)
        facts = Facts(grid, keep, response, answer, share, norms_of(images), worths, blocks)
        measured = Measured(ids, image_ids, seen)
        said = [[token for token in answer if token not in loaded.adapter.ends] for answer in inquiry.answers]
        tables = {
            "signals": signal_rows(measured, facts, plan.head_rows),
            "pairs": pair_rows(measured, facts),
            "curves": curve_rows(measured, curves, plan.shares),
            "tokens": token_rows(measured, heard.tokens, facts),
            "maps": map_rows(measured),
        }
        rows = _sample_rows(batch, said, loaded.text(said), worths)
        for name, values in judged.items():
            rows = rows.append_column(name, pa.array(values.tolist(), pa.float64()))
        return {SAMPLES: rows, **tables}

    def _prompt(self, sample: VQASample) -> list[int]:
        image = self.encodings.arrangements[sample.image_id]
        try:
            return prompt_of(self.encodings.loaded, sample, image, self.max_new_tokens)
        except DataError as error:
            raise DataError(f"question {sample.id!r}: {error}; {MEND_IT}") from error

    def _without(
        self, inquiry: Inquiry, seen: Sequence[Signal], images: np.ndarray, things: Bool[Tensor, "question thing patch"]
    ) -> tuple[dict[str, Tensor], Worths, list[tuple[Signal, Curve]]]:
        """Returns numbers about each question, what its answer hangs on, and the curves of signals and of judges.

        The numbers are its log-probability, and what its best block is worth in thinned context, cross-checked.
        """
        plan, curves, numbers = self.plan, [], np.arange(len(images))
        blocks = squares(self.encodings.loaded.adapter.tower.grid, plan.side)
        count, shares = int(blocks.max()) + 1, plan.shares
        orders = drawn_orders(list(dict.fromkeys(images.tolist())), count, plan.orders)
        signals = [signal for signal in seen if signal.has_curve]
        rows = sum(len(signal.rows) for signal in signals) + 2 * len(images)
        total = len(images) * (count + 3 + orders.shape[1] * (count - 1)) + int(things.any(2).sum())
        with bar(total + 2 * len(shares) * rows, "sequence") as shown:
            shown.set_description("blocks", refresh=False)
            found = occlusion(inquiry, plan.side, ran=shown.update)
            rises = shapley(inquiry, plan.side, orders, ran=shown.update)
            shown.set_description("things", refresh=False)
            worths = Worths(found.drop.cpu(), rises.mean(1), removal(inquiry, things, found.whole, ran=shown.update))
            judges = [("occlusion", worths.block), ("thinned", worths.thinned)]
            judged = [Signal(name, "", spread(values, blocks)[:, None], True) for name, values in judges]
            for signal in [*signals, *judged]:
                shown.set_description(f"{signal.name} {signal.layers}".strip(), refresh=False)
                some = inquiry.of(set(numbers[signal.about].tolist()))
                curves.append((signal, curve(some, signal.scores(images), shares, ran=shown.update)))
        return {"log_probability": found.whole, "thinned_best": cross_checked(rises)}, worths, curves


def _sample_rows(batch: list[VQASample], said: list[list[int]], texts: list[str], worths: Worths) -> pa.Table:
    things = [row[row.isfinite()].tolist() for row in worths.thing]
    return pa.table(
        {
            "sample_id": [sample.id for sample in batch],
            "image_id": [sample.image_id for sample in batch],
            "kind": [sample.kind for sample in batch],
            "question": [sample.question for sample in batch],
            "reference": [" | ".join(sample.references) for sample in batch],
            "answer": texts,
            "answer_tokens": [len(tokens) for tokens in said],
            "score": [score_of(text, sample) for sample, text in zip(batch, texts, strict=True)],
            "drop": pa.array(worths.block.tolist(), pa.list_(pa.float32())),
            "thinned": pa.array(worths.thinned.tolist(), pa.list_(pa.float32())),
            "thing_drop": pa.array(things, pa.list_(pa.float32())),
        }
    )
