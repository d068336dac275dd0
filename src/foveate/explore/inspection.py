"""One image and one question, inspected: what a method keeps and answers, and what the whole model attends to."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from datasets import Dataset
from jaxtyping import Bool, Float
from PIL.Image import Image
from torch import Tensor

from foveate.compressors import Compressor, Identity
from foveate.compressors.base import compressed_by
from foveate.core.arrangement import Arrangement
from foveate.core.errors import UnsupportedNeed
from foveate.core.needs import ClsRows, Need, ReceivedRows
from foveate.data.sample import VQASample
from foveate.data.stored import StoredImage, image_column
from foveate.evaluation.evidence import evidence_of
from foveate.evaluation.prompts import check_length
from foveate.metrics.evidence import SHOWN
from foveate.models.loading.load import LoadedModel
from foveate.models.runtime.generation_config import greedily
from foveate.models.runtime.images import LiveImages
from foveate.models.runtime.response_attention import attention_maps
from foveate.profiling.clock import synchronize


@dataclass(frozen=True, eq=False)
class Prompt:
    """An image and a question, prepared for a model.

    Attributes:
        loaded: The model.
        image: The image, RGB.
        question: The question, in the words that the model reads.
        max_new_tokens: Longest answer.
        ids: Token ids of the prompt, with all placeholders.
        images: Model inputs of the image.
        arrangement: Arrangement of its patches.
        evidence: Marks the patches with evidence; None if it is unknown.
    """

    loaded: LoadedModel
    image: Image
    question: str
    max_new_tokens: int
    ids: Sequence[int]
    images: Mapping[str, Tensor]
    arrangement: Arrangement
    evidence: Bool[np.ndarray, " patch"] | None = None

    @classmethod
    def of(
        cls, loaded: LoadedModel, image: Image, question: str, max_new_tokens: int, sample: VQASample | None = None
    ) -> "Prompt":
        """Returns the prompt of an image and a question.

        Args:
            loaded: The model.
            image: The image, RGB.
            question: The question.
            max_new_tokens: Longest answer.
            sample: The question of a data set that the image belongs to, for its evidence; None without one.

        Raises:
            DataError: The image processor refuses the image, the tokenizer the question, or the prompt with the longest
                answer exceeds the model's context.
        """
        images, (arrangement,) = loaded.image_inputs([image])
        ids = loaded.prompt(question, arrangement)
        check_length(loaded, ids, max_new_tokens)
        evidence = None
        if sample is not None and sample.things.known:
            share = evidence_of([sample], [arrangement], loaded)[0]
            evidence = (share >= SHOWN).any(0).numpy() if len(share) else None
        return cls(loaded, image, question, max_new_tokens, ids, images, arrangement, evidence)

    @cached_property
    def live(self) -> LiveImages:
        """The image for a compressor."""
        return LiveImages(self.loaded.adapter, self.images, self.arrangement)


@dataclass(frozen=True, eq=False)
class Inspection:
    """One answer with a compressor attached, and the decision behind it.

    Attributes:
        recipe: The `repr` of the compressor.
        kept: The kept patches, ascending.
        merged: The patches that are merged into tokens that remain.
        scores: Score of each patch; NaN where there is none.
        words: Token ids of the answer, without its end token.
        answer: The answer as text.
        log_probability: Log-probability of the answer (natural logarithm), with its end token if it has one.
        per_block: Number of visual tokens at each block of the language model.
        milliseconds: Time of the whole call, from pixels to the answer.
        content: Content of the file that `Result.save` writes.
    """

    recipe: str
    kept: tuple[int, ...]
    merged: tuple[int, ...]
    scores: Float[np.ndarray, " patch"]
    words: tuple[int, ...]
    answer: str
    log_probability: float
    per_block: tuple[float, ...]
    milliseconds: float
    content: Mapping[str, Any]


@torch.inference_mode()
def inspect(prompt: Prompt, compressor: Compressor) -> Inspection:
    """Returns the greedy answer with a compressor attached, and the compressor's decision.

    Raises:
        FoveateError: The model cannot answer a need of the compressor, or the image does not allow its budget.
    """
    loaded, model = prompt.loaded, cast(Any, prompt.loaded.model)
    inputs: Any = loaded.batch([prompt.ids], prompt.images)
    with greedily(model), compressor.attached(loaded) as result:
        begun = _now(loaded)
        output: Any = model.generate(
            **inputs, max_new_tokens=prompt.max_new_tokens, return_dict_in_generate=True, output_logits=True
        )
        milliseconds = 1000 * (_now(loaded) - begun)
    answer = output.sequences[0, inputs["input_ids"].shape[1] :]
    logits = torch.cat(output.logits).float().to(answer.device)
    chosen = logits.log_softmax(-1).gather(1, answer[:, None])
    words = [token for token in answer.tolist() if token not in loaded.adapter.ends]
    content = result.content
    (image,) = content["images"]
    return Inspection(
        recipe=result.recipe,
        kept=tuple(image["kept"]),
        merged=tuple(image["merged"]),
        scores=np.array([np.nan if score is None else score for score in image["scores"]]),
        words=tuple(words),
        answer=loaded.text([words])[0],
        log_probability=float(chosen.sum()),
        per_block=tuple(result.tokens.per_block[0].tolist()),
        milliseconds=milliseconds,
        content=content,
    )


@dataclass(frozen=True, eq=False)
class Maps:
    """Attention to the patches without compression, by layer or block and by head.

    Attributes:
        layers: The layers of the tower that `tower` has a row for: all that attend to the whole image.
        tower: Attention in the vision tower: that of [CLS], or without one that which a patch receives, averaged over
            all queries.
        has_cls: Whether `tower` is the attention of [CLS].
        last: Attention of the last prompt token; empty if attention cannot be read.
        question: Mean attention of the tokens after the image.
        answer: Mean attention of the tokens that produce the answer, the last prompt token included.
        unreadable: Reason why attention of the language model cannot be read; empty if it can.
    """

    layers: tuple[int, ...]
    tower: Float[np.ndarray, "layer head patch"]
    has_cls: bool
    last: Float[np.ndarray, "block decoder_head patch"]
    question: Float[np.ndarray, "block decoder_head patch"]
    answer: Float[np.ndarray, "block decoder_head patch"]
    unreadable: str = ""


@torch.inference_mode()
def maps_of(prompt: Prompt, answer: Sequence[int]) -> Maps:
    """Returns the attention maps of the uncompressed model while it reads a prompt and an answer.

    Args:
        prompt: The prompt.
        answer: Token ids of the answer.
    """
    adapter = prompt.loaded.adapter
    layers, tower = _tower_maps(prompt)
    nothing = np.zeros((0, 0, prompt.arrangement.patches))
    try:
        full = compressed_by(Identity(), prompt.live, adapter.extra_needs)
        maps = attention_maps(adapter, [prompt.ids], full, [list(answer)])
    except UnsupportedNeed as error:
        return Maps(layers, tower, adapter.tower.has_cls, nothing, nothing, nothing, str(error))
    last, question, response = (rows[0].float().cpu().numpy() for rows in (maps.last, maps.question, maps.response))
    return Maps(layers, tower, adapter.tower.has_cls, last, question, response)


def _tower_maps(prompt: Prompt) -> tuple[tuple[int, ...], np.ndarray]:
    """Returns the layers that attend to the whole image, and their maps (layer, head, patch)."""
    tower = prompt.loaded.adapter.tower
    layers = tuple(layer for layer in range(tower.depth) if layer not in tower.windowed_layers)
    needs: list[Need] = [ClsRows(layers)] if tower.has_cls else [ReceivedRows(layer) for layer in layers]
    _, trace = prompt.live.encode(needs)
    rows = trace[needs[0]][0] if tower.has_cls else torch.stack([trace[need][0] for need in needs])
    return layers, rows.float().cpu().numpy()


def read_image(path: Path) -> Image:
    """Returns the image of a file as upright RGB.

    Raises:
        DataError: The file is missing, is larger than 256 MiB, or is no image of a supported format.
    """
    table = image_column(Dataset.from_dict({"image": [{"path": path.name}]}), "image")
    return StoredImage(table, 0, path.name, path.parent).open()


def _now(loaded: LoadedModel) -> float:
    """Returns the time in seconds, after all work of the model's device."""
    synchronize(loaded.device)
    return time.perf_counter()
