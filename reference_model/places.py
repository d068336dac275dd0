"""Answers with given patches at the input of the language model, for comparison with a cut inside that chose them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from foveate.compressors import VisionCompressor
from foveate.core.contracts import Scorer
from foveate.core.progress import bar
from foveate.core.trace import Trace
from foveate.data.load import answer_tokens, load_samples
from foveate.data.names import SCENES
from foveate.data.sample import VQASample
from foveate.evaluation import EvalConfig
from foveate.evaluation.prompts import Prompted
from foveate.metrics.answers import score_of
from foveate.models.loading.load import LoadedModel
from foveate.models.runtime.generation import Conversation, Decoding, answer

_BATCH = 50


@dataclass(frozen=True)
class Given(Scorer):
    """Scorer that ranks the given patches of each image of a batch above all others."""

    patches: tuple[tuple[int, ...], ...]

    def score(self, trace: Trace) -> Tensor:
        scores = torch.zeros(trace.real.shape, device=trace.real.device)
        return scores.scatter(1, torch.tensor(self.patches, device=scores.device), 1.0)


def scores_at_input(config: EvalConfig, loaded: LoadedModel, chosen: Mapping[str, Sequence[int]]) -> pd.DataFrame:
    """Returns the score of every question when only its chosen patches enter the language model.

    Args:
        config: Data, split and number of questions.
        loaded: The model.
        chosen: The patches that are kept, as many for each question, by the ID of the question.
    """
    samples = load_samples(SCENES, config.split, config.limit)
    rows = []
    for start in bar(range(0, len(samples), _BATCH), "batch", "answering"):
        rows += _answered(loaded, samples[start : start + _BATCH], chosen)
    return pd.DataFrame(rows).sort_values("sample_id", ignore_index=True)


def _answered(loaded: LoadedModel, samples: Sequence[VQASample], chosen: Mapping[str, Sequence[int]]) -> list[dict]:
    adapter = loaded.adapter
    images = loaded.images([sample.image for sample in samples])
    kept = tuple(tuple(chosen[sample.id]) for sample in samples)
    compressor = VisionCompressor(Given(kept), len(kept[0]), positions="original")
    limit = answer_tokens(SCENES)
    questions = [Prompted.of(loaded, sample, [images.arrangement], limit) for sample in samples]
    conversations = [Conversation.from_prompts([question.prompt], adapter.placeholders) for question in questions]
    decoding = Decoding(limit, [question.reference for question in questions])
    answers = answer(adapter, conversations, compressor.compress(images), compressor.repack, decoding)
    texts = loaded.text(answers.tokens)
    return [
        {"sample_id": sample.id, "image_id": sample.image_id, "score": score_of(text, sample)}
        for sample, text in zip(samples, texts, strict=True)
    ]
