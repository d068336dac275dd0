"""Packed questions and dense texts about training images, and the features of the frozen tower."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset
from transformers import CLIPModel

from foveate.core.progress import bar
from foveate.data.scenes.bitmaps import CHARACTERS, COLOURS, KINDS
from foveate.data.scenes.questions import QUESTION_KINDS, make_question
from foveate.data.scenes.scene import GRID, Scene
from foveate.reference.architecture import FEATURE_LAYER, PATCHES, VOCABULARY, make_tokenizer
from reference_model.images import Images, normalised
from reference_model.probes import dense_texts
from reference_model.training import computed_once
from reference_model.vision_training import IGNORE, patch_labels

KIND_NAMES = tuple(QUESTION_KINDS)
PREFIX = tuple(VOCABULARY[word] for word in ("<s>", "USER", ":"))
SUFFIX = tuple(VOCABULARY[word] for word in ("ASSISTANT", ":"))
WORDS = {
    "kind": tuple(KINDS),
    "character": tuple(CHARACTERS),
    "colour": tuple(COLOURS),
    "row": ("upper", "lower"),
    "column": ("left", "right"),
}
"""Words that a projected patch is made similar to: what it shows, and its half of the image."""


def features(clip: CLIPModel, images: Images, out: Path) -> Tensor:
    """Returns the patch states that the language model reads, (image, patch, width) float16, kept in `out`."""
    tower = clip.vision_model.eval()
    name = f"features-{len(images)}"
    return computed_once(name, tower, out, lambda: {"features": encoded(clip, images)})["features"]


@torch.inference_mode()
def encoded(clip: CLIPModel, images: Images, batch_size: int = 64) -> Tensor:
    """Returns the patch states of the penultimate layer, (image, patch, width) float16."""
    tower = clip.vision_model.eval()
    states = []
    for pixels in bar(images.pixels.split(batch_size), "batch", "encoding"):
        with torch.autocast("cpu", torch.bfloat16):
            hidden = tower(pixel_values=normalised(pixels), output_hidden_states=True).hidden_states
        states.append(hidden[FEATURE_LAYER][:, 1:].half())
    return torch.cat(states)


@dataclass(frozen=True)
class Texts:
    """Texts about an image.

    Attributes:
        questions: Number of questions of different kinds; None means one of every kind.
        dense: Number of dense texts.
        kinds: The kinds of questions.
    """

    questions: int | None = None
    dense: int = 0
    kinds: tuple[str, ...] = KIND_NAMES


class SceneDialogues(Dataset):
    """Images with texts, packed into one sequence; item i has new texts about image i modulo their number."""

    def __init__(self, indices: range, images: Images, features: Tensor, texts: Texts, seed: int) -> None:
        self.indices, self.images, self.features, self.texts, self.seed = indices, images, features, texts, seed
        self.tokenizer = make_tokenizer()

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, item: int) -> dict[str, Tensor]:
        index = self.indices[item]
        image = index % len(self.images)
        scene = self.images.scene(image)
        rng = np.random.default_rng([self.seed, 2, index])
        kinds = self.texts.kinds
        chosen = sorted(rng.permutation(len(kinds))[: self.texts.questions])
        return {
            "features": self.features[image],
            "roles": self.images.roles[image],
            "parts": self.images.parts[image],
            "labels": _word_labels(scene),
            **self._pack(scene, [kinds[i] for i in chosen], rng),
        }

    def _pack(self, scene: Scene, kinds: list[str], rng: np.random.Generator) -> dict[str, Tensor]:
        questions = [make_question(kind, scene, rng) for kind in kinds]
        packed = Pack()
        texts = self.tokenizer([q.text for q in questions], add_special_tokens=False).input_ids
        answers = self.tokenizer([q.answer for q in questions], add_special_tokens=False).input_ids
        for kind, text, answer in zip(kinds, texts, answers, strict=True):
            given, predicted = [*text, *SUFFIX], [*answer, VOCABULARY["</s>"]]
            packed.add([*given, *predicted], [False] * len(given) + [True] * len(predicted), KIND_NAMES.index(kind))
        dense = dense_texts(scene, rng, self.texts.dense) if self.texts.dense else ()
        for number, words in enumerate(dense):
            ids, predicted = zip(*((VOCABULARY[word], shown) for word, shown in words), strict=True)
            packed.add(list(ids), list(predicted), len(KIND_NAMES) + number)
        return packed.tensors()


class Pack:
    """Texts of one image, one behind the other; a target is the next token of the same text."""

    def __init__(self) -> None:
        self.ids, self.target, self.offset, self.block = [], [], [], []

    def add(self, ids: list[int], predicted: list[bool], block: int) -> None:
        self.ids += ids
        self.target += [token if shown else IGNORE for token, shown in zip(ids[1:], predicted[1:], strict=True)] + [
            IGNORE
        ]
        self.offset += range(len(ids))
        self.block += [block] * len(ids)

    def tensors(self) -> dict[str, Tensor]:
        return {name: torch.tensor(values) for name, values in vars(self).items()}


def collate(rows: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Stacks images and right-pads the packed texts."""
    fill = {"ids": VOCABULARY["<pad>"], "target": IGNORE, "offset": 0, "block": -1}
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    return {
        name: pad_sequence(values, batch_first=True, padding_value=fill[name]) if name in fill else torch.stack(values)
        for name, values in columns.items()
    }


def _word_labels(scene: Scene) -> Tensor:
    """Returns for each entry of `WORDS` the number of the word that holds for a patch, (entry, patch)."""
    labels = patch_labels(scene)
    content = labels["colour"] != IGNORE
    rows, columns = np.divmod(np.arange(PATCHES), GRID)
    labels["row"] = np.where(content, rows >= GRID // 2, IGNORE)
    labels["column"] = np.where(content, columns >= GRID // 2, IGNORE)
    return torch.from_numpy(np.stack([labels[name] for name in WORDS]))
