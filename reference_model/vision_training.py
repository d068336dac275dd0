"""Stage 1: training of the vision tower.

Three losses: attributes of the whole image from [CLS], a contrastive loss against captions (as in CLIP), and the
contents of each patch from the penultimate layer, which the language model reads.
"""

import math
from collections.abc import Sequence

import numpy as np
import pytorch_lightning as lightning
import torch
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset
from transformers import CLIPModel

from foveate.data.scenes.scene import COLOURS, GLYPHS, KINDS, SIGN, Scene, make_scene, stream
from foveate.reference.architecture import GRID, PATCH_SIZE, PATCHES, PIXEL_MEAN, PIXEL_STD, VOCABULARY, clip_config

_COLOUR = {name: i for i, name in enumerate(COLOURS)}
_KIND = {name: i for i, name in enumerate((*KINDS, SIGN))}
_GLYPH = {name: i for i, name in enumerate(GLYPHS)}
_CAPTION_LENGTH = 32
_OWNED = 10  # pixels of a thing in a patch that has its label
_IGNORE = -100
_ATTRIBUTES = (len(_COLOUR) * len(KINDS), len(_COLOUR) * len(GLYPHS), len(KINDS) * 4, len(_COLOUR) * 4, 3)


class SceneImages(Dataset):
    """Images of the `train` split with the targets of stage 1; deterministic per index."""

    def __init__(self, indices: range, seed: int = 0) -> None:
        self.indices, self.seed = indices, seed

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, item: int) -> dict[str, Tensor]:
        index = self.indices[item]
        scene = make_scene("train", index, self.seed)
        colour, kind, glyph = patch_labels(scene)
        return {
            "pixels": normalised(scene.pixels),
            "attributes": image_attributes(scene),
            "caption": caption(scene, stream("train", index, self.seed, 1)),
            "colour": colour,
            "kind": kind,
            "glyph": glyph,
        }


def normalised(pixels: np.ndarray) -> Tensor:
    """Returns (96, 96, 3) uint8 pixels as (3, 96, 96) float32, normalized as by the image processor."""
    return torch.from_numpy(((pixels / 255 - PIXEL_MEAN) / PIXEL_STD).astype(np.float32)).permute(2, 0, 1)


def patch_owners(scene: Scene) -> tuple[Tensor, Tensor]:
    """Returns the thing that covers most of each patch, and pixel counts (thing, patch)."""
    masks = scene.masks(range(len(scene.things)))
    cover = masks.reshape(-1, GRID, PATCH_SIZE, GRID, PATCH_SIZE).sum((2, 4)).reshape(-1, PATCHES)
    cover = torch.from_numpy(cover)
    return torch.where(cover.amax(0) >= _OWNED, cover.argmax(0), -1), cover


def patch_labels(scene: Scene) -> tuple[Tensor, Tensor, Tensor]:
    """Returns colour, kind and glyph of each patch, (144,) int64; background has its own colour and kind."""
    owner, _ = patch_owners(scene)
    things = scene.things
    colours = torch.tensor([*(_COLOUR[t.colour] for t in things), len(_COLOUR)])
    kinds = torch.tensor([*(_KIND[t.kind] for t in things), len(_KIND)])
    glyphs = torch.tensor([*(_GLYPH.get(t.glyph, _IGNORE) for t in things), _IGNORE])
    return colours[owner], kinds[owner], glyphs[owner]


def image_attributes(scene: Scene) -> Tensor:
    """Returns multi-hot attributes of an image.

    The groups are colour x kind, sign colour x glyph, kind x quadrant, sign colour x quadrant, and number of shapes.
    """
    groups = [torch.zeros(size) for size in _ATTRIBUTES]
    for thing in scene.things:
        colour, quadrant = _COLOUR[thing.colour], 2 * (thing.quadrant[0] == "lower") + (thing.quadrant[1] == "right")
        if thing.is_shape:
            groups[0][colour * len(KINDS) + _KIND[thing.kind]] = 1
            groups[2][_KIND[thing.kind] * 4 + quadrant] = 1
        else:
            groups[1][colour * len(GLYPHS) + _GLYPH[thing.glyph]] = 1
            groups[3][colour * 4 + quadrant] = 1
    groups[4][len(scene.shapes) - 2] = 1
    return torch.cat(groups)


def caption(scene: Scene, rng: np.random.Generator) -> Tensor:
    """Returns the tokens (32,) int64 of the things in random order, in half of the captions with their quadrants."""
    words, placed = ["<s>"], rng.random() < 0.5
    for index in rng.permutation(len(scene.things)):
        thing = scene.things[index]
        words += [thing.colour, thing.kind, *filter(None, [thing.glyph]), *(thing.quadrant if placed else ())]
    ids = [VOCABULARY[word] for word in (*words[: _CAPTION_LENGTH - 1], "</s>")]
    return F.pad(torch.tensor(ids), (0, _CAPTION_LENGTH - len(ids)), value=VOCABULARY["<pad>"])


def warmup_cosine(step: int, steps: int, warmup: int = 150, floor: float = 0.03) -> float:
    """Returns the learning-rate factor."""
    return min(1.0, (step + 1) / warmup) * (floor + (1 - floor) * (1 + math.cos(math.pi * min(1.0, step / steps))) / 2)


def adamw(module: nn.Module, learning_rate: float, betas: tuple[float, float], steps: int) -> OptimizerLRScheduler:
    """Returns AdamW with weight decay of matrices only, warm-up and cosine decay per step."""
    trained = [p for p in module.parameters() if p.requires_grad]
    groups: Sequence[dict] = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": 0.05},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=learning_rate, betas=betas, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: warmup_cosine(step, steps))
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class VisionTraining(lightning.LightningModule):
    """A training of a CLIP on scenes; `clip.vision_model` is used by stage 2.

    Half of the patches are dropped at random in the first `drop_until` of the steps, which nearly halves the time. With
    `places`, every patch state must also predict its row and column: without that loss the tower loses the positions of
    patches, and a language model cannot recover them once positions are consecutive.
    """

    def __init__(self, steps: int, learning_rate: float = 1e-3, drop_until: float = 0.6, places: bool = False) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.clip = CLIPModel(clip_config())
        width = self.clip.vision_embed_dim
        self.attributes = nn.Linear(width, sum(_ATTRIBUTES))
        nn.init.constant_(self.attributes.bias, -2.5)
        self.colour = nn.Linear(width, len(_COLOUR) + 1)
        self.kind = nn.Linear(width, len(_KIND) + 1)
        self.glyph = nn.Linear(width, len(_GLYPH))
        self.place = nn.Linear(width, 2 * GRID)

    def forward(self, pixels: Tensor, keep: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Returns the pooled [CLS] state and the penultimate patch states."""
        tower = self.clip.vision_model
        states = tower.embeddings(pixels)
        if keep is not None:
            index = torch.cat([torch.zeros_like(keep[:, :1]), keep + 1], 1)
            states = states.gather(1, index[..., None].expand(-1, -1, states.shape[-1]))
        states = tower.pre_layrnorm(states)
        for layer in tower.encoder.layers[:-1]:
            states = layer(states, None)
        last = tower.encoder.layers[-1](states, None)
        return tower.post_layernorm(last[:, 0]), states[:, 1:]

    def training_step(self, batch: dict[str, Tensor]) -> Tensor:
        progress = self.global_step / self.hparams["steps"]
        keep = None
        if progress < self.hparams["drop_until"]:
            keep = torch.rand(len(batch["pixels"]), PATCHES).topk(PATCHES // 2, 1).indices.sort(1).values
        pooled, patches = self(batch["pixels"], keep)
        losses = {
            "attributes": self._attribute_loss(pooled, batch["attributes"]),
            "contrast": 0.3 * self._contrast_loss(pooled, batch["caption"]),
            "patches": (1 - 0.8 * progress) * self._patch_loss(patches, batch, keep),
            # weight 0, because with two processes every parameter needs a gradient in every step
            "places": 0.3 * self.hparams["places"] * self._position_loss(patches, keep),
        }
        self.log_dict({f"loss/{name}": value for name, value in losses.items()})
        return torch.stack(list(losses.values())).sum()

    def _attribute_loss(self, pooled: Tensor, target: Tensor) -> Tensor:
        loss = F.binary_cross_entropy_with_logits(self.attributes(pooled), target, reduction="sum")
        return loss / len(target) / 10

    def _contrast_loss(self, pooled: Tensor, captions: Tensor) -> Tensor:
        image = F.normalize(self.clip.visual_projection(pooled), dim=-1)
        text = self.clip.text_projection(self.clip.text_model(input_ids=captions).pooler_output)
        logits = self.clip.logit_scale.exp().clamp(max=50) * image @ F.normalize(text, dim=-1).T
        own = torch.arange(len(logits))
        return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2

    def _patch_loss(self, patches: Tensor, batch: dict[str, Tensor], keep: Tensor | None) -> Tensor:
        colour, kind, glyph = (
            batch[name] if keep is None else batch[name].gather(1, keep) for name in ("colour", "kind", "glyph")
        )
        weight = torch.where(kind == len(_KIND), 0.15, 1.0)  # background covers most of an image and is easy
        per_patch = F.cross_entropy(self.colour(patches).transpose(1, 2), colour, reduction="none")
        per_patch = per_patch + F.cross_entropy(self.kind(patches).transpose(1, 2), kind, reduction="none")
        glyphs = F.cross_entropy(self.glyph(patches).transpose(1, 2), glyph, ignore_index=_IGNORE)
        return (per_patch * weight).sum() / weight.sum() + 0.5 * glyphs

    def _position_loss(self, patches: Tensor, keep: Tensor | None) -> Tensor:
        index = torch.arange(PATCHES).expand(len(patches), -1) if keep is None else keep
        rows, columns = self.place(patches).transpose(1, 2).split(GRID, 1)
        return F.cross_entropy(rows, index // GRID) + F.cross_entropy(columns, index % GRID)

    def validation_step(self, batch: dict[str, Tensor]) -> None:
        pooled, patches = self(batch["pixels"])
        shown = batch["kind"] < len(_KIND)
        read = batch["glyph"] != _IGNORE
        right = {
            "colour": (self.colour(patches).argmax(-1) == batch["colour"])[shown],
            "kind": (self.kind(patches).argmax(-1) == batch["kind"])[shown],
            "glyph": (self.glyph(patches).argmax(-1) == batch["glyph"])[read],
            "row": (self.place(patches)[..., :GRID].argmax(-1) == torch.arange(PATCHES) // GRID)[shown],
        }
        logits = self.attributes(pooled).split(_ATTRIBUTES, 1)
        for name, found, true in zip(
            ("colour_kind", "colour_glyph"), logits, batch["attributes"].split(_ATTRIBUTES, 1), strict=False
        ):
            ranks = found.argsort(1, descending=True).argsort(1)
            right[f"cls_{name}"] = (ranks < true.sum(1, keepdim=True))[true.bool()]
        self.log_dict({name: hits.float().mean() for name, hits in right.items()}, sync_dist=True)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        return adamw(self, self.hparams["learning_rate"], (0.9, 0.98), self.hparams["steps"])
