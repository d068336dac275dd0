"""Prefill of a medium language model with 64 instead of 576 visual tokens, compared with the ratio of operations."""

from typing import Any

import numpy as np
import torch
from transformers.modeling_outputs import BaseModelOutputWithPooling

from benchmarks.models import IMAGE_TOKEN, medium
from benchmarks.results import Result
from foveate.analysis.rounds import Estimate, ratio, timed
from foveate.compressors import Compressor, Identity
from foveate.core.arrangement import Arrangement
from foveate.methods import uniform
from foveate.models.loading.load import adapt
from foveate.models.runtime.generation import prompted
from foveate.models.runtime.images import GivenImages
from foveate.profiling.flops import prefill_flops
from foveate.profiling.shapes import DecoderShape

BATCH, PATCHES, KEPT = 4, 576, 64
BEFORE, QUESTION = 35, 29  # tokens of text, as LLaVA-1.5 has them before the image


class Prefill:
    """A prefill from image tokens to the logits of the first token of the answer."""

    def __init__(self) -> None:
        self.model: Any = medium()
        self.adapter = adapt(self.model)
        draw = torch.Generator().manual_seed(0)
        self.images = torch.randn(BATCH, PATCHES, 1024, generator=draw)
        words = torch.randint(10, 32000, (BATCH, BEFORE + QUESTION), generator=draw)
        image = torch.full((BATCH, PATCHES), IMAGE_TOKEN)
        self.ids = torch.cat([words[:, :BEFORE], image, words[:, BEFORE:]], 1)

    def stock(self) -> torch.Tensor:
        listed: Any = list(self.images)
        given = {"image": BaseModelOutputWithPooling(pooler_output=listed)}
        mask = torch.ones_like(self.ids)
        call = self.model(input_ids=self.ids, attention_mask=mask, mm_encoder_outputs=given, logits_to_keep=1)
        return call.logits[:, -1]

    def attached(self) -> torch.Tensor:
        with uniform(KEPT).attached(self.model):
            return self.stock()

    def engine(self, compressor: Compressor) -> torch.Tensor:
        images = GivenImages(self.images, Arrangement((self.adapter.tower.grid,)))
        _, states = prompted(self.adapter, self.ids.tolist(), compressor.compress(images), compressor.repack, ())
        return self.adapter.decoder.logits(states[:, -1])


def test_prefill_speeds_up_by_what_operations_promise(in_turn, found):
    prefill = Prefill()
    sides = {
        "stock": prefill.stock,
        "attached": prefill.attached,
        "engine, all": lambda: prefill.engine(Identity()),
        "engine": lambda: prefill.engine(uniform(KEPT)),
    }
    logits = {name: call() for name, call in sides.items()}
    torch.testing.assert_close(logits["stock"], logits["engine, all"], atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(logits["attached"], logits["engine"], atol=1e-4, rtol=1e-3)
    seconds = in_turn({name: timed(call) for name, call in sides.items()}, 12)
    attached = ratio(seconds["stock"], seconds["attached"])
    engine = ratio(seconds["engine, all"], seconds["engine"])
    shape = DecoderShape.of(prefill.model.config.text_config.to_dict())
    visual = np.repeat([[PATCHES], [KEPT]], shape.blocks, 1)
    full, kept = prefill_flops(visual, np.full(2, BEFORE + QUESTION), shape)
    promised = float(full / kept)

    def share(speed_up: Estimate) -> Estimate:
        value, low, high = (100 * end / promised for end in speed_up[:3])
        return speed_up._replace(value=value, low=low, high=high)

    name = "prefill of 8 blocks x 1,024, batch 4, from 576 to 64 visual tokens"
    found(
        Result(f"{name}: operations", Estimate(promised, promised, promised, np.nan, 1), "x"),
        Result(f"{name}: speed-up inside `attached`", attached, "x"),
        Result(f"{name}: speed-up in the engine", engine, "x"),
        Result(f"{name}: share of the operations' ratio inside `attached`", share(attached), "%", at_least=85),
        Result(f"{name}: share of the operations' ratio in the engine", share(engine), "%", at_least=85),
    )
