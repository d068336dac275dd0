"""Model card of the reference model's companion, with the measured evidence recall of text similarity."""

from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd
import torch

from analysis.statistics import mean_interval
from analysis.tables import grid, percent
from foveate.core.arrangement import Grid
from foveate.core.needs import AlignedPatches, AlignedText
from foveate.data.load import load_samples
from foveate.metrics.evidence import SHOWN, evidence_share
from foveate.models.backbone.text_encoder import Companion
from foveate.models.loading.load import LoadedModel, load
from foveate.reference.architecture import GRID
from foveate.scorers import TextSimilarity

_KEEP = 16
_NAMES_NOTHING = ("count", "list", "list_colors")  # kinds whose text is the same for every image

_TEXT = """---
license: apache-2.0
---

# The text half of foveate's reference model

A CLIP in transformers' own class whose vision tower equals, bit by bit, that of the reference LLaVA beside it. Its text
tower (2 layers) and the two projections were trained afterwards with the vision tower frozen, in stage `text` of
`experiments/train_reference.py`. Scorers that compare patches with the question need it.

## How it was trained

Contrastively, on synthetic images of the `train` split: [CLS] against a caption that names everything in the image,
and [CLS] and the mean of the four most similar patches against a short text, which names one or two things or is a
question about the image (never one whose answer is no). Patches have no labels. **Plain CLIP has no loss term for
patches**; this term makes the similarity of a word and a patch meaningful, which favours scorers that read it.
Published CLIPs are reported to behave in the opposite way, for which CDPruner and TRIM keep the patches *least*
similar to the question; this model is no evidence for or against that.

## Does similarity find the evidence?

Patches are ranked by the cosine with the question, most similar first and least similar first. The table has the share
of the patches that show a needed thing (at least {shown} % of their pixels) among the first {keep} of {patches}, where
chance is {chance} %, and the area under the ROC curve (AUC; chance is 50, and the reversed order has 100 minus it).
{size} Mean in %, 95 % intervals over images.

{kinds}

"Names nothing" are questions such as "how many shapes are there?", whose text does not depend on the image.
"""


def companion_card(model: Path | str, companion: Path | str, split: str = "test", limit: int | None = None) -> str:
    """Measures a companion with its model on a split, or its first `limit` questions, and returns its card."""
    found = evidence_found(load(model, companion=companion), split, limit)
    nameless = found["kind"].isin(_NAMES_NOTHING)
    groups = [("all", found["kind"].notna()), ("names a thing", ~nameless), ("names nothing", nameless)]
    groups += [(str(kind), found["kind"] == kind) for kind in sorted(found["kind"].unique())]
    return _TEXT.format(
        shown=percent(SHOWN),
        keep=_KEEP,
        patches=GRID * GRID,
        chance=percent(_KEEP / GRID**2),
        size=f"n = {len(found):,} questions about {found['image_id'].nunique():,} images of the `{split}` split.",
        kinds=grid([_row(name, found[rows]) for name, rows in groups]),
    )


@torch.inference_mode()
def evidence_found(loaded: LoadedModel, split: str, limit: int | None = None) -> pd.DataFrame:
    """Returns the evidence that text similarity finds, one row per question.

    Columns: kind, image_id, recall of the most similar (`most_similar`) and the `least` similar patches, and `auc`.
    """
    samples = load_samples("scenes", split, limit)
    images = {sample.image_id: sample.image for sample in samples}
    companion = cast(Companion, loaded.companion)
    scorer, patches = TextSimilarity(), {}
    for name, image in images.items():
        batch = loaded.images([image])
        patches[name] = batch.encode((AlignedPatches(),))[1]
    rows = []
    for sample in samples:
        text = {AlignedText(): companion.texts([sample.question], truncated=False)}
        trace = replace(patches[sample.image_id], values=patches[sample.image_id].values | text)
        cosine = scorer.score(trace)[0].numpy()
        share = evidence_share(torch.from_numpy(sample.evidence), Grid(GRID, GRID))
        shown = (share >= SHOWN).any(0).numpy()
        order = np.argsort(-cosine, kind="stable")
        rows.append(
            {
                "kind": sample.kind,
                "image_id": sample.image_id,
                "most_similar": shown[order[:_KEEP]].sum() / shown.sum(),
                "least": shown[order[-_KEEP:]].sum() / shown.sum(),
                "auc": float((cosine[shown][:, None] > cosine[~shown]).mean()),
            }
        )
    return pd.DataFrame(rows)


def _row(name: str, found: pd.DataFrame) -> dict[str, str]:
    cells = {"questions": name, "n": f"{len(found):,}"}
    for title, column in (("most similar", "most_similar"), ("least similar", "least"), ("AUC", "auc")):
        interval = mean_interval(found[column], found["image_id"])
        cells[title] = f"{percent(interval.mean)} [{percent(interval.low)}, {percent(interval.high)}]"
    return cells
