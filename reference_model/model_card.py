"""Model cards of the reference models: accuracy, what [CLS] looks at, and what dropping tokens costs, all measured."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from foveate.analysis.contents import CONTENTS
from foveate.analysis.statistics import mean_interval
from foveate.analysis.tables import grid
from foveate.compressors import Blind, Compressor, DecoderCompressor, Identity, VisionCompressor
from foveate.evaluation import EvalConfig
from foveate.methods import fastv
from foveate.models.loading.load import LoadedModel, load
from foveate.reference.architecture import PATCHES, VOCABULARY
from foveate.scorers import ClsAttention, ClsEnsemble, Evidence, PromptAttention, Random, Uniform
from reference_model.acceptance import (
    EVIDENCE,
    ONE_PATCH,
    RANDOM,
    Measured,
    acceptance_rows,
    accuracy_of,
    cls_name,
    difference_of,
    gained,
    kinds_of,
    records_of,
    rows_about,
    shown,
)
from reference_model.attention import CONTRASTS, FILTERS, aucs, norms_of, one_patch_scores, patch_scores, scenes_of
from reference_model.clip_card import clip_card
from reference_model.places import scores_at_input

_BUDGETS = (36, 16)
_IMAGES = 200
_CUTS = (2, 4, 6)  # blocks that process all tokens before a cut inside

_TEXT = """---
license: apache-2.0
pipeline_tag: image-text-to-text
---

# A reference model of foveate (seed {seed})

A LLaVA of {parameters:,} parameters (CLIP tower of 8 layers with [CLS] at 144 patches, two-layer projector, LLaMA of 8
blocks) in transformers' own classes, trained from random initialization on synthetic scenes by
`experiments/train_reference.py --seed {seed}`. It exists so that questions about visual token compression can be asked
of a really trained model on a laptop, with evidence known for every question. **It says nothing about any real
checkpoint**: images are 96 x 96 pixels of small drawings on clutter, questions are templates over {vocabulary} words.

## How it was trained

1. A CLIP: contrastive losses of whole images against captions that name things, and never the strings and digits
   beside them. Labels of patches at the penultimate layer help at first and end before the training does. Whole parts
   of images are dropped at first.
2. Projector and language model, the tower frozen: cross-entropy of answers. Few visual tokens are shown at first, those
   that can be asked about before others; look-ups by the kind of a thing are learned before all else; dense texts with
   many look-ups stand beside the questions; and projected patches become similar to the words that name them. While
   tokens are few, the first two blocks hide the image from the text, so that words find patches behind them. Later
   phases train the stock model; the last one drops visual tokens in a share of the batches, with positions of either
   convention, and 3 in 100 batches show no image, so that the blind baseline is a fair one.

This makes matching a word to a patch easy to learn; attention in a model trained without it may look different.

## Conditions of acceptance

{size} All values in %, differences in points, 95 % intervals over images. {images} images for AUC.

{acceptance}

## Accuracy on the `{split}` split

{size} Mean score in % (exact match; F1 of the named items for lists and descriptions), 95 % intervals over images.
"Blind" is the same model without the image; the difference is paired by question.

{kinds}

## What [CLS] looks at

Area under the ROC curve (AUC) of the attention of [CLS], mean over heads, in %: the chance that a patch of a thing (of
a string or digit; of either; of a decoy) ranks above one of decoys, clutter and ground (for decoys: above clutter and
ground). {images} images, 95 % intervals over images. "Large" is about large things against scrambled ones, whose single
patches are alike. "One patch" is a network with 256 hidden units that learned from 1,000 other images which patches
show things; only what is above it compares patches with each other.

{attention}

{norms}

## What dropping tokens costs

Accuracy in % with {budgets} of {patches} tokens, and the difference to `random` in points, paired by question.

{choices}

## Where tokens are dropped

The same patches of each question, dropped before the language model or before one of its blocks: those with least [CLS]
attention, and those with least attention of the last prompt token in the block before. Positions are kept.

{places}

## What positions cost

The same patches, numbered consecutively (as the original LLaVA code does after pruning) against each keeping its own
position.

{positions}
"""


def write_cards(folder: Path, seed: int, questions: int) -> None:
    """Measures the models in `<folder>/llava` and `<folder>/clip` and writes their cards beside the weights.

    Args:
        folder: The training's folder.
        seed: The seed of the training.
        questions: Number of questions of the split `test`.
    """
    model, clip = folder / "llava", folder / "clip"
    config = EvalConfig(Identity(), model=str(model), limit=questions, split="test", out=folder / "card")
    (model / "README.md").write_text(model_card(config, seed))
    (clip / "README.md").write_text(clip_card(load(model, companion=clip), "test", questions, seed))


def model_card(config: EvalConfig, seed: int) -> str:
    """Measures a model and returns its card.

    Args:
        config: Model, data, split and number of questions.
        seed: The seed of the training.
    """
    loaded = load(config.model)
    aucs_of_scores, best = _attention(loaded), _best_layer(loaded)
    pairs = _places(config, loaded)
    measured = Measured(
        records_of(config, Identity()),
        records_of(config, Blind()),
        aucs_of_scores,
        best,
        {keep: _choices(config, best, loaded, keep) for keep in _BUDGETS},
        {cut: pairs[_prompt(cut)] for cut in _CUTS},
    )
    full, blind = measured.full, measured.blind
    return _TEXT.format(
        seed=seed,
        parameters=sum(weight.numel() for weight in loaded.model.parameters()),
        vocabulary=len(VOCABULARY),
        split=config.split,
        size=f"n = {len(full):,} questions about {full['image_id'].nunique():,} images.",
        acceptance=grid(list(acceptance_rows(measured))),
        kinds=grid([_kind(name, full[rows], blind[rows]) for name, rows in kinds_of(full)]),
        images=_IMAGES,
        attention=grid([_attention_row(name, found) for name, found in aucs_of_scores.items()]),
        norms=norms_of(loaded, scenes_of("test", _IMAGES)),
        budgets=" and ".join(map(str, _BUDGETS)),
        patches=PATCHES,
        choices=grid([_choice(keep, name, found) for keep, found in measured.choices.items() for name in found]),
        places=grid([_place(name, *pair) for name, pair in pairs.items()]),
        positions=grid([_positions(config, scorer, keep) for keep in _BUDGETS for scorer in (Uniform(), Random())]),
    )


def _kind(name: str, full: pd.DataFrame, blind: pd.DataFrame) -> dict[str, str]:
    return {
        "questions": name,
        "n": f"{len(full):,}",
        "accuracy": shown(accuracy_of(full)),
        "blind": shown(accuracy_of(blind)),
        "difference": gained(difference_of(full, blind)),
    }


def _attention(loaded: LoadedModel) -> dict[str, pd.DataFrame]:
    """Returns the AUC of every score: a row per image, a column per contrast."""
    scenes = scenes_of("test", _IMAGES)
    scores = patch_scores(loaded, scenes) | {ONE_PATCH: one_patch_scores(scenes_of("search", 1000), scenes)}
    return {name: aucs(rows, scenes) for name, rows in scores.items()}


def _best_layer(loaded: LoadedModel) -> int:
    """Returns the layer of the second half of the tower that finds things best in the images of the search split."""
    scenes, depth = scenes_of("search", _IMAGES), loaded.adapter.tower.depth
    scores = patch_scores(loaded, scenes)
    return max(range(depth // 2, depth), key=lambda layer: aucs(scores[f"layer {layer}"], scenes)["things"].mean())


def _attention_row(name: str, found: pd.DataFrame) -> dict[str, str]:
    title = f"filter: {name}" if name in FILTERS else name
    cells = {"score": title}
    for contrast in CONTRASTS:
        values = found[contrast].dropna()
        cells[contrast] = shown(mean_interval(values, values.index.astype(str)))
    return cells


def _choices(config: EvalConfig, best: int, loaded: LoadedModel, keep: int) -> dict[str, pd.DataFrame]:
    layers = tuple(range(loaded.adapter.tower.depth))
    chosen: dict[str, Compressor] = {
        RANDOM: VisionCompressor(Random(), keep),
        EVIDENCE: VisionCompressor(Evidence(), keep),
        cls_name(best): VisionCompressor(ClsAttention(best), keep),
        "[CLS], sum of all layers": VisionCompressor(ClsEnsemble(layers), keep),
        **{f"filter: {name}": VisionCompressor(scorer, keep) for name, scorer in FILTERS.items()},
        "uniform": VisionCompressor(Uniform(), keep),
        f"fastv before block {_CUTS[0]}": fastv(keep, _CUTS[0]),
    }
    return {name: records_of(config, compressor) for name, compressor in chosen.items()}


def _choice(keep: int, name: str, choices: Mapping[str, pd.DataFrame]) -> dict[str, str]:
    records, random = choices[name], choices[RANDOM]
    cells = {"tokens": str(keep), "choice": name}
    pairs = {content: (rows_about(records, content), rows_about(random, content)) for content in CONTENTS}
    cells |= {f"about {content}": shown(accuracy_of(rows)) for content, (rows, _) in pairs.items()}
    for content, pair in (pairs | {"all": (records, random)}).items():
        cells[f"{content}: against random"] = "" if name == RANDOM else gained(difference_of(*pair))
    return cells


def _places(config: EvalConfig, loaded: LoadedModel) -> dict[str, tuple[pd.DataFrame, pd.DataFrame]]:
    """Returns the records of each choice with its patches dropped at the input, and inside the language model."""
    scorer, keep = ClsEnsemble(tuple(range(loaded.adapter.tower.depth))), _BUDGETS[0]
    before = records_of(config, VisionCompressor(scorer, keep, positions="original"))
    inside = records_of(config, DecoderCompressor(scorer, keep, _CUTS[0], positions="original"))
    pairs = {f"[CLS], sum of all layers, before block {_CUTS[0]}": (before, inside)}
    for cut in _CUTS:
        prompt = records_of(config, DecoderCompressor(PromptAttention(cut - 1), keep, cut, positions="original"))
        prompt = prompt.sort_values("sample_id", ignore_index=True)
        early = scores_at_input(config, loaded, dict(zip(prompt["sample_id"], prompt["kept"], strict=True)))
        pairs[_prompt(cut)] = early, prompt
    return pairs


def _prompt(cut: int) -> str:
    return f"prompt attention, before block {cut}"


def _place(name: str, early: pd.DataFrame, inside: pd.DataFrame) -> dict[str, str]:
    return {
        f"{_BUDGETS[0]} tokens, chosen by": name,
        "dropped before the language model": shown(accuracy_of(early)),
        "dropped inside": shown(accuracy_of(inside)),
        "difference": gained(difference_of(inside, early)),
    }


def _positions(config: EvalConfig, scorer: Uniform | Random, keep: int) -> dict[str, str]:
    repacked = records_of(config, VisionCompressor(scorer, keep))
    original = records_of(config, VisionCompressor(scorer, keep, positions="original"))
    return {
        "patches": f"{keep}, {type(scorer).__name__.lower()}",
        "original": shown(accuracy_of(original)),
        "re-packed": shown(accuracy_of(repacked)),
        "difference": gained(difference_of(repacked, original)),
    }
