"""Stage 1: a CLIP, trained on captions that name the things of an image and never its details.

Captions alone do not teach kinds within hours, so the patches get help at first: labels of what they show, at the layer
that the language model reads. The help ends before the training does. Whole parts of an image are dropped at first, the
things least often, and half of the large parts lose one or two patches: fewer tokens are faster and easier.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pytorch_lightning as lightning
import torch
from numpy.random import Generator
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset
from transformers import CLIPModel

from foveate.data.scenes.bitmaps import CHARACTERS, COLOURS, KINDS
from foveate.data.scenes.scene import GRID, Role, Scene, Thing
from foveate.reference.architecture import END, PATCHES, TEXT_LENGTH, VOCABULARY, clip_config
from reference_model.images import Images, normalised
from reference_model.training import use_fast_attention

IGNORE = -100
LABELS = {"kind": len(KINDS), "character": len(CHARACTERS), "colour": len(COLOURS), "bold": 2}
_KIND, _COLOUR, _CHARACTER = ({name: i for i, name in enumerate(names)} for names in (KINDS, COLOURS, CHARACTERS))
_TEMPLATES = ("{}", "{}", "is there a {}?", "what color is the {}?", "where is the {}?", "describe the {}.")
_PHRASES = [[kind] for kind in KINDS] + [[colour, kind] for colour in COLOURS for kind in KINDS]
_NO_KIND = len(KINDS)
_RARE = 0.15  # weight of patches without a kind, which are most
_SCALE_LIMIT = 60.0


@dataclass(frozen=True)
class VisionPhase:
    """Some epochs of stage 1.

    Attributes:
        epochs: Number of epochs.
        tokens: Patches that are kept; None keeps all and tears nothing.
        batch_size: Images per step.
        help: Weight of the loss on patches.
    """

    epochs: int
    tokens: int | None
    batch_size: int
    help: float


VISION_PHASES = (
    VisionPhase(3, 20, 64, 0.5),
    VisionPhase(3, 40, 64, 0.5),
    VisionPhase(2, 72, 64, 0.5),
    VisionPhase(2, None, 48, 0.5),
    VisionPhase(2, None, 48, 0.0),
)


class CaptionedImages(Dataset):
    """Training images with captions and patch labels; item i is image i modulo their number, and random otherwise."""

    def __init__(self, indices: range, images: Images, tokens: int | None, seed: int) -> None:
        self.indices, self.images, self.tokens, self.seed = indices, images, tokens, seed

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, item: int) -> dict[str, Tensor]:
        index = self.indices[item]
        scene = self.images.scene(index % len(self.images))
        rng = np.random.default_rng([self.seed, 1, index])
        kept = np.arange(PATCHES) if self.tokens is None else kept_patches(scene, self.tokens, rng)
        shown = np.isin(np.arange(PATCHES), kept)
        things = [thing for thing in scene.things if shown[list(thing.patches)].mean() >= 0.5]
        caption, foil = captions(scene, things, rng)
        example = {"pixels": scene.pixels, "kept": kept, "caption": caption, "foil": foil, "named": named(things)}
        example |= {name: label[kept] for name, label in patch_labels(scene).items()}
        return {name: torch.as_tensor(value) for name, value in example.items()}


def kept_patches(scene: Scene, tokens: int, rng: Generator) -> np.ndarray:
    """Returns `tokens` patches in ascending order: whole parts at random, the asked ones more likely than others."""
    priority = rng.random(int(scene.parts.max()) + 1)[scene.parts]
    priority += 0.75 * (scene.roles == Role.THING) + 0.3 * np.isin(scene.roles, (Role.STRING, Role.DIGIT))
    priority -= 9 * _missing(scene, rng)
    return np.sort(np.argpartition(-priority, tokens)[:tokens])


def _missing(scene: Scene, rng: Generator) -> np.ndarray:
    """Returns one or two patches of half of the parts of 2 x 2 patches, (patch,) bool."""
    missing = np.zeros(PATCHES, bool)
    order = np.argsort(scene.parts, kind="stable")
    starts = np.flatnonzero(np.diff(scene.parts[order], prepend=-1))
    for patches in np.split(order, starts[1:]):
        if len(patches) == 4 and patches[2] - patches[0] == GRID and rng.random() < 0.5:
            missing[rng.permutation(patches)[: rng.integers(1, 3)]] = True
    return missing


def captions(scene: Scene, things: list[Thing], rng: Generator) -> tuple[np.ndarray, np.ndarray]:
    """Returns the tokens of a caption of these things, and of the same caption with one kind replaced.

    Half of the captions leave out colours, which are easier than kinds.
    """
    order, coloured = rng.permutation(len(things)), rng.random() < 0.5
    wrong = list(things)
    if things:
        absent = [kind for kind in KINDS if kind not in {thing.kind for thing in scene.things}]
        at = int(rng.integers(len(things)))
        wrong[at] = replace(wrong[at], kind=str(rng.choice(absent)))

    def caption(named: list[Thing]) -> np.ndarray:
        pairs = ((named[i].colour, named[i].kind) for i in order)
        return token_ids([word for pair in pairs for word in (pair if coloured else pair[1:])])

    return caption(things), caption(wrong)


def token_ids(words: list[str]) -> np.ndarray:
    """Returns the tokens of a text of the CLIP, (32,)."""
    ids = [VOCABULARY["<s>"], *(VOCABULARY[word] for word in words), END]
    return np.pad(ids, (0, TEXT_LENGTH - len(ids)), constant_values=VOCABULARY["<pad>"])


def phrases(rng: Generator) -> np.ndarray:
    """Returns the tokens of all phrases "<kind>" and "<colour> <kind>", (84, 32), each alone or in a question."""
    texts = [_TEMPLATES[rng.integers(len(_TEMPLATES))].format(" ".join(words)) for words in _PHRASES]
    return np.stack([token_ids(text.replace("?", " ?").replace(".", " .").split()) for text in texts])


def named(things: list[Thing]) -> np.ndarray:
    """Returns which phrases are true, (84,) float32."""
    true = np.zeros(len(_PHRASES), np.float32)
    for thing in things:
        true[_KIND[thing.kind]] = true[len(KINDS) * (1 + _COLOUR[thing.colour]) + _KIND[thing.kind]] = 1
    return true


def patch_labels(scene: Scene) -> dict[str, np.ndarray]:
    """Returns kind, character, colour and weight of the asked content of each patch, (patch,); `IGNORE` elsewhere."""
    labels = {name: np.full(PATCHES, IGNORE) for name in LABELS}
    for thing in scene.things:
        labels["kind"][list(thing.patches)] = _KIND[thing.kind]
        labels["colour"][list(thing.patches)] = _COLOUR[thing.colour]
    beside = [thing.beside for thing in scene.things if thing.beside]
    for text in (scene.strings[0], *beside):
        labels["character"][list(text.patches)] = [_CHARACTER[character] for character in text.characters]
        labels["colour"][list(text.patches)] = _COLOUR[text.colour]
        labels["bold"][list(text.patches)] = text.bold
    return labels


class VisionTraining(lightning.LightningModule):
    """A training of a CLIP on scenes; `clip.vision_model` is used by stage 2."""

    def __init__(
        self, steps: int, phases: tuple[VisionPhase, ...] = VISION_PHASES, learning_rate: float = 1e-3
    ) -> None:
        super().__init__()
        self.phases = phases
        self.save_hyperparameters("steps", "learning_rate")
        self.clip = CLIPModel(clip_config())
        use_fast_attention(self.clip)
        width = self.clip.vision_embed_dim
        self.clip.vision_model.embeddings.position_embedding.weight.data[1:] = 0.3 * _waves(width)
        self.labels = nn.ModuleDict({name: nn.Linear(width, classes) for name, classes in LABELS.items()})
        self.kind_or_none = nn.Linear(width, len(KINDS) + 1)
        self.place = nn.Linear(width, 2 * GRID)
        self.phrase_scale = nn.Parameter(torch.tensor(math.log(8.0)))
        self.phrase_bias = nn.Parameter(torch.tensor(-3.0))

    def forward(self, pixels: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the pooled [CLS] state and the penultimate states of the kept patches (batch, kept)."""
        tower = self.clip.vision_model
        states = tower.embeddings(pixels)
        index = torch.cat([torch.zeros_like(kept[:, :1]), kept + 1], 1)
        states = tower.pre_layrnorm(states.gather(1, index[..., None].expand(-1, -1, states.shape[-1])))
        for layer in tower.encoder.layers[:-1]:
            states = layer(states, None)
        last = tower.encoder.layers[-1](states, None)
        return tower.post_layernorm(last[:, 0]), states[:, 1:]

    def training_step(self, batch: dict[str, Tensor]) -> Tensor:
        # not the trainer's mixed precision, which refuses gradient clipping with a fused optimizer
        with torch.autocast(self.device.type, torch.bfloat16):
            pooled, patches = self(normalised(batch["pixels"]), batch["kept"])
            image = F.normalize(self.clip.visual_projection(pooled).float(), dim=-1)
            rng = np.random.default_rng([self.global_step])
            texts = self._texts(torch.cat([batch["caption"], batch["foil"], torch.from_numpy(phrases(rng))]))
        captions, phrase_states = texts.split([2 * len(image), len(_PHRASES)])
        losses = {
            "caption": 0.5 * self._caption_loss(image, captions),
            "phrases": 2.0 * self._phrase_loss(image, phrase_states, batch["named"]),
        }
        weight = phase_of(self.phases, self.current_epoch).help
        if weight:
            losses["help"] = weight * self._help_loss(patches.float(), batch)
        self.log_dict({f"loss/{name}": value for name, value in losses.items()})
        return torch.stack(list(losses.values())).sum()

    def _texts(self, ids: Tensor) -> Tensor:
        longest = int((ids != VOCABULARY["<pad>"]).sum(1).max())
        pooled = self.clip.text_model(input_ids=ids[:, :longest]).pooler_output
        return F.normalize(self.clip.text_projection(pooled).float(), dim=-1)

    def _caption_loss(self, image: Tensor, texts: Tensor) -> Tensor:
        """Returns InfoNCE, in which each image is also compared with all wrong captions."""
        logits = self.clip.logit_scale.exp().clamp(max=_SCALE_LIMIT) * image @ texts.T
        own = torch.arange(len(image))
        return (F.cross_entropy(logits, own) + F.cross_entropy(logits[:, : len(own)].T, own)) / 2

    def _phrase_loss(self, image: Tensor, texts: Tensor, true: Tensor) -> Tensor:
        logits = self.phrase_scale.exp().clamp(max=_SCALE_LIMIT) * image @ texts.T + self.phrase_bias
        return F.binary_cross_entropy_with_logits(logits, true, reduction="sum") / len(image) / 10

    def _help_loss(self, patches: Tensor, batch: dict[str, Tensor]) -> Tensor:
        named = [
            F.cross_entropy(head(patches).transpose(1, 2), batch[name], ignore_index=IGNORE)
            for name, head in self.labels.items()
        ]
        kind = batch["kind"].where(batch["kind"] != IGNORE, _NO_KIND)
        weight = torch.where(kind == _NO_KIND, _RARE, 1.0)
        all_kinds = F.cross_entropy(self.kind_or_none(patches).transpose(1, 2), kind, reduction="none")
        rows, columns = self.place(patches).transpose(1, 2).split(GRID, 1)
        place = F.cross_entropy(rows, batch["kept"] // GRID) + F.cross_entropy(columns, batch["kept"] % GRID)
        return torch.stack(named).sum() + (all_kinds * weight).sum() / weight.sum() + 0.3 * place

    def validation_step(self, batch: dict[str, Tensor]) -> None:
        pooled, patches = self(normalised(batch["pixels"]), batch["kept"])
        right = {
            name: (head(patches).argmax(-1) == batch[name])[batch[name] != IGNORE] for name, head in self.labels.items()
        }
        rows, columns = self.place(patches).split(GRID, 2)
        right["row"], right["column"] = (
            (found.argmax(-1) == place)[batch["colour"] != IGNORE]
            for found, place in ((rows, batch["kept"] // GRID), (columns, batch["kept"] % GRID))
        )
        image = F.normalize(self.clip.visual_projection(pooled), dim=-1)
        right["caption"] = (image @ self._texts(batch["caption"]).T).argmax(1) == torch.arange(len(image))
        found = image @ self._texts(torch.from_numpy(np.stack([token_ids(words) for words in _PHRASES]))).T
        true = batch["named"][:, len(KINDS) :].bool()
        right["phrase"] = (ranks_within(found[:, len(KINDS) :]) < true.sum(1, keepdim=True))[true]
        self.log_dict({name: hits.float().mean() for name, hits in right.items()}, sync_dist=True)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        groups: Sequence[dict] = [
            {"params": [p for p in self.parameters() if p.ndim >= 2], "weight_decay": 0.05},
            {"params": [p for p in self.parameters() if p.ndim < 2], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=self.hparams["learning_rate"], betas=(0.9, 0.98), fused=True)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, partial(_rate_factor, steps=self.hparams["steps"]))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def ranks_within(scores: Tensor) -> Tensor:
    """Returns the rank of each score in its row, 0 for the largest."""
    return scores.argsort(1, descending=True).argsort(1)


def phase_of(phases: tuple[VisionPhase, ...], epoch: int) -> VisionPhase:
    """Returns the phase of an epoch; epochs after the last phase belong to it."""
    for phase in phases:
        if epoch < phase.epochs:
            return phase
        epoch -= phase.epochs
    return phases[-1]


def _rate_factor(step: int, steps: int, warmup: int = 150, floor: float = 0.03) -> float:
    """Returns the factor of the learning rate: linear warm-up, then a cosine."""
    return min(1.0, (step + 1) / warmup) * (floor + (1 - floor) * (1 + math.cos(math.pi * min(1.0, step / steps))) / 2)


def _waves(width: int) -> Tensor:
    """Returns sines and cosines of row and column, (patch, width)."""
    quarter = width // 4
    angles = torch.arange(GRID)[:, None] / 100 ** (torch.arange(quarter) / quarter)
    wave = torch.cat([angles.sin(), angles.cos()], 1)
    rows, columns = wave[:, None].expand(-1, GRID, -1), wave[None].expand(GRID, -1, -1)
    return torch.cat([rows, columns], -1).reshape(PATCHES, width)
