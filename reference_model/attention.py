"""What [CLS] looks at, layer by layer, against filters of pixels: AUC for things, details and decoys."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from PIL import Image
from scipy.stats import rankdata

from foveate.core.contracts import Scorer
from foveate.data.scenes.scene import Role, Scene, Split, make_scene
from foveate.models.loading.load import LoadedModel
from foveate.scorers import ClsAttention, ClsEnsemble, Contrast, Edges, Saturation

THINGS, DETAILS = (Role.THING,), (Role.STRING, Role.DIGIT)
REST = (Role.DECOY, Role.CLUTTER, Role.GROUND)
CONTRASTS = {
    "things": (THINGS, REST),
    "details": (DETAILS, REST),
    "asked": (THINGS + DETAILS, REST),
    "decoys": ((Role.DECOY,), (Role.CLUTTER, Role.GROUND)),
}
"""The patches that a score should rank high, and those it should rank low."""
FILTERS: dict[str, Scorer] = {"saturation": Saturation(), "contrast": Contrast(), "edges": Edges()}


def scenes_of(split: Split, count: int) -> list[Scene]:
    """Returns the first scenes of a split."""
    return [make_scene(split, index) for index in range(count)]


@torch.inference_mode()
def patch_scores(loaded: LoadedModel, scenes: Sequence[Scene], batch_size: int = 50) -> dict[str, np.ndarray]:
    """Returns the scores (image, patch) of every [CLS] layer, of the sum of all layers and of the pixel filters."""
    layers = loaded.adapter.vision_layers
    scorers: dict[str, Scorer] = {f"layer {layer}": ClsAttention(layer) for layer in range(layers)}
    scorers |= {"all layers": ClsEnsemble.over(range(layers))} | FILTERS
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
    ranks, count = rankdata(scores), int(positive.sum())
    return float((ranks[positive].sum() - count * (count + 1) / 2) / (count * (len(scores) - count)))


def aucs(scores: np.ndarray, scenes: Sequence[Scene]) -> pd.DataFrame:
    """Returns the AUC of each image for each of `CONTRASTS`."""
    rows = []
    for row, scene in zip(scores, scenes, strict=True):
        values = {}
        for name, (high, low) in CONTRASTS.items():
            chosen = np.isin(scene.roles, high + low)
            values[name] = auc(row[chosen], np.isin(scene.roles[chosen], high))
        rows.append(values)
    return pd.DataFrame(rows)
