"""One image or video and one question: what a method keeps and answers, and what the whole model attends to."""

import math
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
from foveate.core.errors import UnsupportedModel, UnsupportedNeed
from foveate.core.needs import ClsRows, Need, ReceivedRows
from foveate.data.clip import Clip
from foveate.data.sample import VQASample
from foveate.data.stored import StoredImage, image_column
from foveate.data.video_file import VideoFile, is_video
from foveate.evaluation.evidence import evidence_of
from foveate.evaluation.prompts import check_length
from foveate.metrics.evidence import SHOWN
from foveate.models.backbone.adapter import Adapter
from foveate.models.loading.load import LoadedModel
from foveate.models.loading.names import VIDEO_FAMILIES
from foveate.models.runtime.generation_config import greedily
from foveate.models.runtime.images import LiveImages
from foveate.models.runtime.response_attention import attention_maps
from foveate.profiling.clock import synchronize


@dataclass(frozen=True, eq=False)
class Prompt:
    """An image or a video and a question, prepared for a model.

    Attributes:
        loaded: The model.
        media: The image, RGB, or the video.
        question: The question, in the words that the model reads.
        max_new_tokens: Longest answer.
        ids: Token ids of the prompt, with all placeholders.
        images: Model inputs of the image or the video.
        arrangement: Arrangement of its patches.
        evidence: Marks the patches with evidence; None if it is unknown.
    """

    loaded: LoadedModel
    media: Image | Clip
    question: str
    max_new_tokens: int
    ids: Sequence[int]
    images: Mapping[str, Tensor]
    arrangement: Arrangement
    evidence: Bool[np.ndarray, " patch"] | None = None

    @classmethod
    def of(
        cls,
        loaded: LoadedModel,
        media: Image | Clip,
        question: str,
        max_new_tokens: int,
        sample: VQASample | None = None,
    ) -> "Prompt":
        """Returns the prompt of an image or a video and a question.

        Args:
            loaded: The model.
            media: The image, RGB, or the video.
            question: The question.
            max_new_tokens: Longest answer.
            sample: The question of a data set that they belong to, for its evidence; None without one.

        Raises:
            UnsupportedModel: The model takes no videos.
            DataError: The image processor refuses the image, the tokenizer the question, or the prompt with the longest
                answer exceeds the model's context.
        """
        if isinstance(media, Clip) and not takes_videos(loaded):
            raise UnsupportedModel(
                f"{type(loaded.model).__name__} takes images, not videos: start the page with --model and a model of "
                f"{VIDEO_FAMILIES}"
            )
        images, (arrangement,) = loaded.media_inputs([media])
        ids = loaded.prompt(question, arrangement)
        check_length(loaded, ids, max_new_tokens)
        evidence = None
        if sample is not None and sample.things.known:
            share = evidence_of([sample], [arrangement], loaded)[0]
            evidence = (share >= SHOWN).any(0).numpy() if len(share) else None
        return cls(loaded, media, question, max_new_tokens, ids, images, arrangement, evidence)

    @property
    def frames(self) -> tuple[Image, ...]:
        """The image; of a video, the frame that each view shows, the first of those that the model merges in time."""
        return tuple(self.media.frames[:: self._together]) if isinstance(self.media, Clip) else (self.media,)

    @property
    def seconds(self) -> tuple[float, ...]:
        """The times of `frames` in a video; none of an image."""
        return tuple(self.media.seconds[:: self._together]) if isinstance(self.media, Clip) else ()

    @property
    def adapter(self) -> Adapter:
        """The model's adapter of images, or that of videos."""
        return self.loaded.adapter.of(self.arrangement)

    @cached_property
    def live(self) -> LiveImages:
        """The image or the video for a compressor."""
        return LiveImages(self.adapter, self.images, self.arrangement)

    @property
    def _together(self) -> int:
        """Number of frames that the model merges in time."""
        shown = len(self.media.frames) if isinstance(self.media, Clip) else 1
        return math.ceil(shown / max(self.arrangement.frames, 1))


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
        layers: The layers of the tower that `tower` has a row for: all that attend to the whole image or frame.
        tower: Attention in the vision tower: that of [CLS], or without one that which a patch receives, averaged over
            all queries.
        has_cls: Whether `tower` is the attention of [CLS].
        last: Attention of the last prompt token; empty if attention cannot be read.
        question: Mean attention of the tokens after the image or video.
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
    adapter = prompt.adapter
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
    """Returns the layers that attend to the whole image or frame, and their maps (layer, head, patch)."""
    tower = prompt.adapter.tower
    layers = tuple(layer for layer in range(tower.depth) if layer not in tower.windowed_layers)
    needs: list[Need] = [ClsRows(layers)] if tower.has_cls else [ReceivedRows(layer) for layer in layers]
    _, trace = prompt.live.encode(needs)
    rows = trace[needs[0]][0] if tower.has_cls else torch.stack([trace[need][0] for need in needs])
    return layers, rows.float().cpu().numpy()


def takes_videos(loaded: LoadedModel) -> bool:
    """Returns whether a model takes videos."""
    return loaded.adapter.kind("video") is not None


def read_media(path: Path, frames: int) -> Image | Clip:
    """Returns the image of a file, or so many frames of a video, by the ending of the file's name.

    Raises:
        DataError: The file cannot be read; see `read_image` and `VideoFile`.
        MissingPackage: The file is a video, and PyAV is not installed.
    """
    return VideoFile(path, path.name).open(frames) if is_video(path) else read_image(path)


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
