"""The card of the reference model's companion: whether likeness to the question finds what it asks about, measured."""

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

A CLIP in transformers' own class whose vision tower is, bit by bit, that of the reference LLaVA beside it. Its text
tower (2 layers) and the two projections were trained afterwards, the vision tower frozen, by the stage `text` of
`experiments/train_reference.py`. Scorers that compare patches with the question need it.

## How it was trained

Contrastively, on synthetic images of the `train` split: [CLS] against a caption that names everything in the image,
and [CLS] and the mean of the four likest patches against a short text, which names one or two things or is a question
about the image (never one whose answer is no). Which patch shows what is never told. **Plain CLIP has no term for
patches**; with it, likeness to a word means something at a patch, and scorers that read it are shown at an advantage.
Published CLIPs are reported to behave the other way round, for which CDPruner and TRIM keep the patches *least* like
the question; nothing here says whether they should.

## Does likeness find the evidence?

Patches ranked by the cosine with the question, the most alike first and the least alike first: the share of the
patches that show a needed thing (at least {shown} % of their pixels) among the first {keep} of {patches}, where chance
gives {chance} %, and the area under the ROC curve (AUC; chance is 50, and the reversed order has 100 minus it).
{size} Mean in %, 95 % intervals over images.

{kinds}

"Names nothing" are questions such as "how many shapes are there?", which do not depend on the image and so have no
place of their own in the shared space.
"""


def companion_card(model: Path | str, companion: Path | str, split: str = "test", limit: int | None = None) -> str:
    """Measures a companion beside the model whose tower it has, on (so many questions of) a split, and describes it."""
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
    """For each question `kind`, `image_id`, recall of the `likest` and `least` alike patches, and `auc`."""
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
                "likest": shown[order[:_KEEP]].sum() / shown.sum(),
                "least": shown[order[-_KEEP:]].sum() / shown.sum(),
                "auc": float((cosine[shown][:, None] > cosine[~shown]).mean()),
            }
        )
    return pd.DataFrame(rows)


def _row(name: str, found: pd.DataFrame) -> dict[str, str]:
    cells = {"questions": name, "n": f"{len(found):,}"}
    for title, column in (("most alike", "likest"), ("least alike", "least"), ("AUC", "auc")):
        interval = mean_interval(found[column], found["image_id"])
        cells[title] = f"{percent(interval.mean)} [{percent(interval.low)}, {percent(interval.high)}]"
    return cells
