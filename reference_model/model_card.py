"""Model card of the reference model, with measured accuracies."""

from dataclasses import replace

import pandas as pd

from analysis.records import read_records
from analysis.statistics import Interval, difference_interval, mean_interval
from analysis.tables import grid, percent, points
from foveate.compressors import Blind, Compressor, Identity, VisionCompressor
from foveate.evaluation import EvalConfig, evaluate
from foveate.models.loading.load import load
from foveate.reference.architecture import VOCABULARY
from foveate.scorers import Random, Uniform
from reference_model.language_training import PHASES

POSITION_BUDGETS = (0.25, 0.05)

_TEXT = """---
license: apache-2.0
pipeline_tag: image-text-to-text
---

# The reference model of foveate

A LLaVA of {parameters:,} parameters (CLIP tower of 6 layers with [CLS] at 144 patches, two-layer projector, LLaMA of 4
layers) in transformers' own classes, trained from ordinary random initialisation on synthetic scenes by
`experiments/train_reference.py`. It exists so that questions about visual token compression can be asked of a really
trained model on a laptop, with evidence known for every question. **It says nothing about any real checkpoint**:
images are 96 x 96 pixels of coloured shapes and signs, questions are templates over {vocabulary} words.

## How it was trained

1. The tower alone: attributes of the image from [CLS], a contrastive loss against captions, and the contents of each
   patch from the penultimate layer, which is the one that the language model gets; then the same with each patch's row
   and column, which the tower otherwise forgets.
2. Projector and language model, the tower frozen: cross-entropy of the answers. The number of visual tokens grows from
   {first} per image to all; for the first half a projected patch also learns to resemble the embeddings of the words
   that name it. In the last part a share of the batches drops visual tokens, with re-packed or original positions, and
   1 in 50 batches shows no image at all, so that the blind baseline is a fair one.

Curriculum and alignment loss make matching a word to a patch easy to learn; attention in a model trained without them
may look different.

## Accuracy on the `test` split

{size} Mean score in % (exact match; F1 of the named
items for lists and descriptions), 95 % intervals over images. "Blind" is the same model without the image; the
difference is paired by question.

{kinds}

## What positions cost

The same patches, numbered consecutively (as the original LLaVA code does after pruning) against each keeping its own
position.

{positions}
"""


def model_card(config: EvalConfig) -> str:
    """Evaluates the model of `config` without and with compressors, and returns its card."""
    full, blind = _scores(config, Identity()), _scores(config, Blind())
    size = f"n = {len(full):,} questions about {full['image_id'].nunique():,} images."
    return _TEXT.format(
        parameters=sum(weight.numel() for weight in load(config.model).model.parameters()),
        vocabulary=len(VOCABULARY),
        first=PHASES[0].tokens,
        size=size,
        kinds=grid([_kind(name, full[rows], blind[rows]) for name, rows in _kinds(full)]),
        positions=grid(
            [_positions(config, scorer, keep, full) for keep in POSITION_BUDGETS for scorer in (Uniform(), Random())]
        ),
    )


def _scores(config: EvalConfig, compressor: Compressor) -> pd.DataFrame:
    folder = evaluate(replace(config, compressor=compressor)).folder
    return read_records(config.out, folder.name)


def _kinds(records: pd.DataFrame) -> list[tuple[str, pd.Series]]:
    kinds = [(str(kind), records["kind"] == kind) for kind in sorted(records["kind"].unique())]
    return [("all", records["kind"].notna()), *kinds]


def _kind(name: str, full: pd.DataFrame, blind: pd.DataFrame) -> dict[str, str]:
    images = full["image_id"]
    return {
        "questions": name,
        "n": f"{len(full):,}",
        "accuracy": _shown(mean_interval(full["score"], images)),
        "blind": _shown(mean_interval(blind["score"], images)),
        "difference": _gain(difference_interval(full["score"], blind["score"], images)),
    }


def _positions(config: EvalConfig, scorer: Uniform | Random, keep: float, full: pd.DataFrame) -> dict[str, str]:
    repacked = _scores(config, VisionCompressor(scorer, keep))
    original = _scores(config, VisionCompressor(scorer, keep, positions="original"))
    images = full["image_id"]
    return {
        "patches": f"{type(scorer).__name__.lower()}, {percent(keep)} % kept",
        "original": _shown(mean_interval(original["score"], images)),
        "re-packed": _shown(mean_interval(repacked["score"], images)),
        "difference": _gain(difference_interval(repacked["score"], original["score"], images)),
    }


def _shown(interval: Interval) -> str:
    return f"{percent(interval.mean)} [{percent(interval.low)}, {percent(interval.high)}]"


def _gain(interval: Interval) -> str:
    return f"{points(interval.mean)} [{points(interval.low)}, {points(interval.high)}]"
