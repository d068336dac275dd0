"""AUC of [CLS] attention by layer, and of filters of pixels, for things, details and decoys."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from PIL import Image
from scipy.stats import mannwhitneyu
from torch import nn
from torch.nn import functional as F

from foveate.core.contracts import Scorer
from foveate.data.scenes.scene import Role, Scene, Split, make_scene
from foveate.data.scenes.tiles import PATCH
from foveate.models.loading.load import LoadedModel
from foveate.scorers import ClsAttention, ClsEnsemble, Contrast, Edges, Saturation
from reference_model.images import normalised

THINGS, DETAILS = (Role.THING,), (Role.STRING, Role.DIGIT)
REST = (Role.DECOY, Role.CLUTTER, Role.GROUND)
CONTRASTS = {
    "things": (THINGS, REST),
    "details": (DETAILS, REST),
    "asked": (THINGS + DETAILS, REST),
    "decoys": ((Role.DECOY,), (Role.CLUTTER, Role.GROUND)),
    "large": (THINGS, (Role.DECOY,)),
}
"""The patches that a score should rank high, and those it should rank low; "large" is about things and decoys that are
two patches high, which no single patch tells apart."""
FILTERS: dict[str, Scorer] = {"saturation": Saturation(), "contrast": Contrast(), "edges": Edges()}


def scenes_of(split: Split, count: int) -> list[Scene]:
    """Returns the first scenes of a split."""
    return [make_scene(split, index) for index in range(count)]


@torch.inference_mode()
def patch_scores(loaded: LoadedModel, scenes: Sequence[Scene], batch_size: int = 50) -> dict[str, np.ndarray]:
    """Returns the scores (image, patch) of every [CLS] layer, of the sum of all layers and of the pixel filters."""
    layers = loaded.adapter.tower.depth
    scorers: dict[str, Scorer] = {f"layer {layer}": ClsAttention(layer) for layer in range(layers)}
    scorers |= {"all layers": ClsEnsemble(tuple(range(layers)))} | FILTERS
    needs = tuple({need for scorer in scorers.values() for need in scorer.needs})
    found: dict[str, list[np.ndarray]] = {name: [] for name in scorers}
    for start in range(0, len(scenes), batch_size):
        images = [Image.fromarray(scene.pixels) for scene in scenes[start : start + batch_size]]
        trace = loaded.images(images).encode(needs)[1]
        for name, scorer in scorers.items():
            found[name].append(scorer.score(trace).float().numpy())
    return {name: np.concatenate(scores) for name, scores in found.items()}


def auc(scores: np.ndarray, positive: np.ndarray) -> float:
    """Returns the probability that a positive patch has a higher score than another; ties count half."""
    above = mannwhitneyu(scores[positive], scores[~positive]).statistic
    return float(above / (positive.sum() * (~positive).sum()))


def aucs(scores: np.ndarray, scenes: Sequence[Scene]) -> pd.DataFrame:
    """Returns the AUC of each image for each of `CONTRASTS`; NaN if an image lacks one side."""
    rows = []
    for row, scene in zip(scores, scenes, strict=True):
        values = {}
        for name, (high, low) in CONTRASTS.items():
            chosen = np.isin(scene.roles, high + low) & (name != "large" or _two_high(scene))
            positive = np.isin(scene.roles[chosen], high)
            values[name] = auc(row[chosen], positive) if 0 < positive.sum() < len(positive) else np.nan
        rows.append(values)
    return pd.DataFrame(rows)


def _two_high(scene: Scene) -> np.ndarray:
    """Marks the patches of parts that are two patches high."""
    parts = scene.parts.reshape(scene.grid, scene.grid)
    same = np.pad(parts[1:] == parts[:-1], ((1, 1), (0, 0)))
    return (same[1:] | same[:-1]).ravel()


def one_patch_scores(labelled: Sequence[Scene], scenes: Sequence[Scene], steps: int = 1500) -> np.ndarray:
    """Returns the scores (image, patch) of a network that sees one patch and learned in other images what a thing is.

    It is the control that a score must exceed to show that patches are compared with each other.
    """
    torch.manual_seed(0)
    pixels, test = _pixels_of(labelled), _pixels_of(scenes)
    role = torch.from_numpy(np.stack([scene.roles for scene in labelled])).long()
    use = torch.isin(role, torch.tensor(THINGS + REST))
    inputs, target = pixels[use], torch.isin(role[use], torch.tensor(THINGS)).float()
    net = nn.Sequential(nn.Linear(inputs.shape[-1], 256), nn.GELU(), nn.Linear(256, 1))
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    for _ in range(steps):
        some = torch.randint(len(inputs), (1024,))
        optimizer.zero_grad()
        F.binary_cross_entropy_with_logits(net(inputs[some])[:, 0], target[some]).backward()
        optimizer.step()
        schedule.step()
    with torch.inference_mode():
        return net(test)[..., 0].numpy()


def _pixels_of(scenes: Sequence[Scene]) -> torch.Tensor:
    """Returns the pixels of each patch, (image, patch, value)."""
    images = normalised(torch.from_numpy(np.stack([scene.pixels for scene in scenes])))
    return F.unfold(images, PATCH, stride=PATCH).transpose(1, 2)


@torch.inference_mode()
def norms_of(loaded: LoadedModel, scenes: Sequence[Scene]) -> str:
    """Returns a sentence about the norms of the patch states, whose outliers are registers in large towers."""
    images = [Image.fromarray(scene.pixels) for scene in scenes]
    norms = loaded.images(images).encode(())[0].norm(dim=-1)
    quarter, three = norms.quantile(0.25, dim=1, keepdim=True), norms.quantile(0.75, dim=1, keepdim=True)
    outliers = (norms > three + 3 * (three - quarter)).float().mean()
    return (
        "Norms of the patch states that the language model reads: largest over median "
        f"{norms.max() / norms.median():.2f}; {100 * float(outliers):.2f} % lie more than three interquartile ranges "
        "above the third quartile of their image."
    )
