"""Packed questions and dense texts about training clips."""

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor
from torch.utils.data import Dataset

from foveate.data.scenes.bitmaps import CHARACTERS, COLOURS, KINDS
from foveate.data.scenes.moving import FRAMES, MovingScene
from foveate.data.scenes.moving_questions import CLIP_QUESTIONS, make_clip_question
from foveate.data.scenes.questions import NUMBERS
from foveate.data.scenes.scene import GRID, Role
from foveate.reference.architecture import PATCHES, VOCABULARY, make_tokenizer
from reference_model.clips import Clips
from reference_model.dialogues import SUFFIX, WORDS, Pack, Texts
from reference_model.vision_training import IGNORE

CLIP_KINDS = tuple(CLIP_QUESTIONS)
_OTHER = len(Role) * FRAMES  # parts above are single patches


class ClipDialogues(Dataset):
    """Clips with texts, packed into one sequence; item i has new texts about clip i modulo their number."""

    def __init__(self, indices: range, parts: list[Clips], texts: Texts, seed: int) -> None:
        self.indices, self.parts, self.texts, self.seed = indices, parts, texts, seed
        self.tokenizer = make_tokenizer()
        self.places = [(part, index) for part in parts for index in range(len(part))]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, item: int) -> dict[str, Tensor]:
        index = self.indices[item]
        part, place = self.places[index % len(self.places)]
        scene = part.scene(place)
        rng = np.random.default_rng([self.seed, 4, index])
        roles, parts, labels = _patches(scene)
        return {
            "features": part.features[place].flatten(0, 1),
            "roles": torch.from_numpy(roles).flatten(),
            "parts": torch.from_numpy(parts).flatten(),
            "labels": torch.from_numpy(labels).flatten(1),
            **self._pack(scene, rng),
        }

    def _pack(self, scene: MovingScene, rng: Generator) -> dict[str, Tensor]:
        kinds = sorted(rng.permutation(len(CLIP_KINDS))[: self.texts.questions])
        questions = [make_clip_question(CLIP_KINDS[kind], scene, rng) for kind in kinds]
        texts = self.tokenizer([q.text for q in questions], add_special_tokens=False).input_ids
        packed = Pack()
        for kind, question, text in zip(kinds, questions, texts, strict=True):
            given, predicted = [*text, *SUFFIX], [VOCABULARY[question.answer], VOCABULARY["</s>"]]
            packed.add([*given, *predicted], [False] * len(given) + [True] * len(predicted), int(kind))
        for number, words in enumerate([_tracks(scene, rng), _in_order(scene)][: self.texts.dense]):
            ids, predicted = zip(*((VOCABULARY[word], shown) for word, shown in words), strict=True)
            packed.add(list(ids), list(predicted), len(CLIP_KINDS) + number)
        return packed.tensors()


def _tracks(scene: MovingScene, rng: Generator) -> list[tuple[str, bool]]:
    """Names things and texts, and predicts of each rank or letter, part, colours and where it is last."""
    words: list[tuple[str, bool]] = []
    for track in rng.permutation(np.array([*scene.things, *scene.texts], dtype=object)):
        if track.role == Role.THING:
            given, known = [track.name], NUMBERS[scene.things.index(track) + 1]
        else:
            given, known = [track.colours[0], "text"], track.name
        row, column = track.places[-1]
        half = GRID / 2 - track.side / 2
        where = ["upper" if row < half else "lower", "left" if column < half else "right"]
        facts = [known, NUMBERS[track.part + 1], track.colours[0], track.colours[-1], *where]
        words += [(word, False) for word in given] + [(word, True) for word in facts] + [(",", False)]
    return words


def _in_order(scene: MovingScene) -> list[tuple[str, bool]]:
    """Lists the things in the order in which they appear, and their number."""
    names = [(word, True) for thing in scene.things for word in (thing.name, ",")]
    return [("list", False), ("things", False), *names[:-1], (".", True), (NUMBERS[len(scene.things)], True)]


def _patches(scene: MovingScene) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns role and part of each patch, (frame, patch), and its words by entry of `WORDS`, (entry, frame, patch)."""
    roles = np.full((FRAMES, GRID, GRID), int(Role.CLUTTER))
    parts = _OTHER + np.arange(roles.size).reshape(roles.shape)
    labels = np.full((len(WORDS), *roles.shape), IGNORE)
    named = {name: labels[i] for i, name in enumerate(WORDS)}
    rows, columns = np.indices((GRID, GRID)) >= GRID // 2
    for number, track in enumerate(scene.tracks):
        for frame, (row, column), colour in zip(track.frames, track.places, track.colours, strict=True):
            at = frame, slice(row, row + track.side), slice(column, column + track.side)
            roles[at], parts[at] = int(track.role), number
            if track.role == Role.DECOY:
                continue
            if track.role == Role.THING:
                named["kind"][at] = list(KINDS).index(track.name)
            else:
                named["character"][at] = list(CHARACTERS).index(track.name)
            named["colour"][at] = list(COLOURS).index(colour)
            named["row"][at], named["column"][at] = rows[at[1:]], columns[at[1:]]
    return roles.reshape(FRAMES, PATCHES), parts.reshape(FRAMES, PATCHES), labels.reshape(len(WORDS), FRAMES, PATCHES)
