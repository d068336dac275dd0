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
from foveate.evaluation import EvalConfig
from foveate.evaluation.prompts import prompt_of, reference_of
from foveate.metrics.answers import score_of
from foveate.models.loading.load import LoadedModel
from foveate.models.runtime.generation import Conversation, Decoding, answer


@dataclass(frozen=True)
class Given(Scorer):
    """Scorer that ranks the given patches above all others."""

    patches: tuple[int, ...]

    def score(self, trace: Trace) -> Tensor:
        scores = torch.zeros(trace.real.shape, device=trace.real.device)
        scores[:, list(self.patches)] = 1.0
        return scores


def scores_at_input(config: EvalConfig, loaded: LoadedModel, chosen: Mapping[str, Sequence[int]]) -> pd.DataFrame:
    """Returns the score of every question when only its chosen patches enter the language model.

    Args:
        config: Data, split and number of questions.
        loaded: The model.
        chosen: The patches that are kept, by the ID of the question.
    """
    adapter, limit = loaded.adapter, answer_tokens(SCENES)
    rows = []
    samples = load_samples(SCENES, config.split or "test", config.limit)
    for sample in bar(samples, "question", "answering"):
        patches = chosen[sample.id]
        images = loaded.images([sample.image])
        compressor = VisionCompressor(Given(tuple(patches)), len(patches), positions="original")
        prompt = prompt_of(loaded, sample, images.arrangement, limit)
        conversations = [Conversation.from_prompts([prompt], adapter.image_token)]
        decoding = Decoding(limit, [reference_of(loaded, sample)])
        answers = answer(adapter, conversations, compressor.compress(images), compressor.repack, decoding)
        (text,) = loaded.text(answers.tokens)
        rows.append({"sample_id": sample.id, "image_id": sample.image_id, "score": score_of(text, sample)})
    return pd.DataFrame(rows).sort_values("sample_id", ignore_index=True)
