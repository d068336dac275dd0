"""Lightning module that measures batches of questions; `bias.measure` describes the tables."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pytorch_lightning as lightning
from jaxtyping import Bool
from torch import Tensor

from foveate.bias.causal import (
    AnsweredBatch,
    Curve,
    answer_batch,
    block_occlusion,
    block_shapley,
    cross_fitted_best,
    draw_orders,
    insertion_deletion,
    thing_occlusion,
)
from foveate.bias.plan import FIX_DATA, BiasPlan
from foveate.bias.rows import (
    BatchSignals,
    CausalEffects,
    Targets,
    curve_rows,
    map_rows,
    pair_rows,
    signal_rows,
    token_rows,
)
from foveate.bias.signals import Signal, decoder_signals, feature_norms, mean_attention, tower_signals
from foveate.bias.tables import SAMPLES
from foveate.core.arrangement import Grid
from foveate.core.budget import resolve_keep
from foveate.core.errors import DataError, UnsupportedModel
from foveate.core.progress import bar
from foveate.data.sample import VQASample
from foveate.evaluation.encodings import Encodings
from foveate.evaluation.evidence import evidence_of
from foveate.evaluation.module import images_of_questions
from foveate.evaluation.prompts import Prompted
from foveate.functional.regions import spread, squares
from foveate.metrics.answers import score_of
from foveate.metrics.evidence import SHOWN


def check_grids(encodings: Encodings, grid: Grid) -> None:
    """Checks that all images are arranged as one grid.

    Raises:
        UnsupportedModel: An image has another arrangement.
    """
    for name, image in encodings.arrangements.items():
        if image.views != (grid,):
            raise UnsupportedModel(
                f"image {name!r} has views of {[(view.rows, view.columns) for view in image.views]} patches: bias is "
                f"compared patch by patch over one grid, here {grid.rows} x {grid.columns}; measure a model with the "
                "same grid for every image, such as LLaVA-1.5"
            )


class BiasModule(lightning.LightningModule):
    """The measurement of batches of questions; those about an image follow each other."""

    def __init__(self, encodings: Encodings, plan: BiasPlan, max_new_tokens: int) -> None:
        super().__init__()
        self.encodings, self.plan, self.max_new_tokens = encodings, plan, max_new_tokens

    def predict_step(self, batch: list[VQASample]) -> dict[str, pa.Table]:
        loaded, plan = self.encodings.loaded, self.plan
        grid = loaded.adapter.tower.grid
        prompts = [self._prompt(sample) for sample in batch]
        share = evidence_of(batch, [self.encodings.arrangements[sample.image_id] for sample in batch], loaded)
        answered = answer_batch(self.encodings, batch, prompts, self.max_new_tokens)
        images = images_of_questions(self.encodings, batch, prompts, share)
        decoder = decoder_signals(answered, images, prompts, plan.tokens)
        signals = tower_signals(loaded.adapter, images, share) + decoder.signals
        ids, image_ids = (np.array([getattr(sample, name) for sample in batch]) for name in ("id", "image_id"))
        causal = self._measure_effects(answered, signals, image_ids, share >= SHOWN)
        response, answer = (mean_attention(signals, name) for name in ("response", "answer"))
        keep, blocks = resolve_keep(plan.keep, grid.patches), squares(grid, plan.side)
        targets = Targets(grid, keep, response, answer, share, feature_norms(images), causal.effects, blocks)
        named = BatchSignals(ids, image_ids, signals)
        answers = [[token for token in answer if token not in loaded.adapter.ends] for answer in answered.answers]
        rows = _sample_rows(batch, answers, loaded.text(answers), causal.effects)
        for name, values in causal.columns.items():
            rows = rows.append_column(name, pa.array(values.tolist(), pa.float64()))
        return {
            SAMPLES: rows,
            "signals": signal_rows(named, targets, plan.head_rows),
            "pairs": pair_rows(named, targets),
            "curves": curve_rows(named, causal.curves, plan.shares),
            "tokens": token_rows(named, decoder.tokens, targets),
            "maps": map_rows(named),
        }

    def _prompt(self, sample: VQASample) -> list[int]:
        image = self.encodings.arrangements[sample.image_id]
        try:
            return Prompted.of(self.encodings.loaded, sample, [image], self.max_new_tokens).prompt
        except DataError as error:
            raise DataError(f"question {sample.id!r}: {error}; {FIX_DATA}") from error

    def _measure_effects(
        self,
        answered: AnsweredBatch,
        signals: Sequence[Signal],
        images: np.ndarray,
        things: Bool[Tensor, "question thing patch"],
    ) -> "_Causal":
        """Measures causal effects, and the curves of the signals and of the effects of blocks.

        Args:
            answered: The questions and answers.
            signals: The signals.
            images: The image of each question.
            things: Patches that show each needed thing.
        """
        plan, curves, numbers = self.plan, [], np.arange(len(images))
        blocks = squares(self.encodings.loaded.adapter.tower.grid, plan.side)
        count, shares = int(blocks.max()) + 1, plan.shares
        orders = draw_orders(list(dict.fromkeys(images.tolist())), count, plan.orders)
        signals = [signal for signal in signals if signal.has_curve]
        rows = sum(len(signal.rows) for signal in signals) + 2 * len(images)
        total = len(images) * (count + 3 + orders.shape[1] * (count - 1)) + int(things.any(2).sum())
        with bar(total + 2 * len(shares) * rows, "sequence") as shown:
            shown.set_description("blocks", refresh=False)
            occlusion = block_occlusion(answered, plan.side, progress=shown.update)
            rises = block_shapley(answered, plan.side, orders, progress=shown.update)
            shown.set_description("things", refresh=False)
            drops = thing_occlusion(answered, things, occlusion.whole, progress=shown.update)
            effects = CausalEffects(occlusion.drop.cpu(), rises.mean(1), drops)
            of_blocks = [("occlusion", effects.block), ("thinned", effects.shapley)]
            signals += [Signal(name, "", spread(values, blocks)[:, None], True) for name, values in of_blocks]
            for signal in signals:
                shown.set_description(f"{signal.name} {signal.layers}".strip(), refresh=False)
                some = answered.select(set(numbers[signal.about].tolist()))
                curve = insertion_deletion(some, signal.scores(images), shares, progress=shown.update)
                curves.append((signal, curve))
        columns = {"log_probability": occlusion.whole, "thinned_best": cross_fitted_best(rises)}
        return _Causal(columns, effects, curves)


class _Causal(NamedTuple):
    """Causal effects of a batch, further columns of its table of samples, and the curves of signals."""

    columns: dict[str, Tensor]
    effects: CausalEffects
    curves: list[tuple[Signal, Curve]]


def _sample_rows(
    batch: list[VQASample], answers: list[list[int]], texts: list[str], effects: CausalEffects
) -> pa.Table:
    """Returns a row per question.

    Args:
        batch: The questions.
        answers: Tokens of the model's answers.
        texts: The same answers as texts.
        effects: Causal effects on the answers.
    """
    things = [row[row.isfinite()].tolist() for row in effects.thing]
    return pa.table(
        {
            "sample_id": [sample.id for sample in batch],
            "image_id": [sample.image_id for sample in batch],
            "kind": [sample.kind for sample in batch],
            "question": [sample.question for sample in batch],
            "reference": [" | ".join(sample.references) for sample in batch],
            "answer": texts,
            "answer_tokens": [len(tokens) for tokens in answers],
            "score": [score_of(text, sample) for sample, text in zip(batch, texts, strict=True)],
            "drop": pa.array(effects.block.tolist(), pa.list_(pa.float32())),
            "thinned": pa.array(effects.shapley.tolist(), pa.list_(pa.float32())),
            "thing_drop": pa.array(things, pa.list_(pa.float32())),
        }
    )
