"""Model cards of the reference models: accuracy, what [CLS] looks at, and what dropping tokens costs, all measured."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pandas as pd

from analysis.records import read_records
from analysis.statistics import Interval, difference_interval, mean_interval
from analysis.tables import grid, percent, points
from foveate.compressors import Blind, Compressor, DecoderCompressor, Identity, VisionCompressor
from foveate.data.scenes.questions import QUESTION_KINDS
from foveate.evaluation import EvalConfig, evaluate
from foveate.methods import fastv
from foveate.models.loading.load import LoadedModel, load
from foveate.reference.architecture import PATCHES, VOCABULARY
from foveate.scorers import ClsAttention, ClsEnsemble, Evidence, PromptAttention, Random, Uniform
from reference_model.attention import CONTRASTS, FILTERS, aucs, norms_of, one_patch_scores, patch_scores, scenes_of
from reference_model.places import scores_at_input

BUDGETS = (36, 16)
_IMAGES = 200
_CUT = 2  # blocks that process all tokens before a cut inside

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

## Accuracy on the `{split}` split

{size} Mean score in % (exact match; F1 of the named items for lists and descriptions), 95 % intervals over images.
"Blind" is the same model without the image; the difference is paired by question.

{kinds}

## What [CLS] looks at

Area under the ROC curve (AUC) of the attention of [CLS], mean over heads, in %: the chance that a patch of a thing (of
a string or digit; of either; of a decoy) ranks above one of decoys, clutter and ground (for decoys: above clutter and
ground). {images} images, 95 % intervals over images. "One patch" is a network with 256 hidden units that learned from
1,000 other images which patches show things; only what is above it compares patches with each other.

{attention}

{norms}

## What dropping tokens costs

Accuracy in % with {budgets} of {patches} tokens, and the difference to `random` in points, paired by question.

{choices}

## Where tokens are dropped

The same patches of each question, dropped before the language model or before its block {cut}: those with least [CLS]
attention, and those with least attention of the last prompt token in block {before}. Positions are kept.

{places}

## What positions cost

The same patches, numbered consecutively (as the original LLaVA code does after pruning) against each keeping its own
position.

{positions}
"""


def model_card(folder: Path, seed: int, questions: int, split: str = "test") -> str:
    """Measures the model in `folder` and returns its card.

    Args:
        folder: Folder with `llava` and `clip`.
        seed: The seed of the training.
        questions: Number of questions of the split.
        split: The split.
    """
    model = str(folder / "llava")
    config = EvalConfig(Identity(), model=model, limit=questions, split=split, out=folder / "card")
    loaded = load(model)
    full, blind = _scores(config, Identity()), _scores(config, Blind())
    attention = _attention(loaded)
    best = max(range(loaded.adapter.tower.depth), key=lambda layer: attention[f"layer {layer}"]["things"].mean)
    return _TEXT.format(
        seed=seed,
        parameters=sum(weight.numel() for weight in loaded.model.parameters()),
        vocabulary=len(VOCABULARY),
        split=split,
        size=f"n = {len(full):,} questions about {full['image_id'].nunique():,} images.",
        kinds=grid([_kind(name, full[rows], blind[rows]) for name, rows in _kinds(full)]),
        images=_IMAGES,
        attention=grid([_attention_row(name, found) for name, found in attention.items()]),
        norms=norms_of(loaded, scenes_of("test", _IMAGES)),
        budgets=" and ".join(map(str, BUDGETS)),
        patches=PATCHES,
        choices=grid([row for keep in BUDGETS for row in _choices(config, best, loaded, keep)]),
        cut=_CUT,
        before=_CUT - 1,
        places=grid(_places(config, loaded)),
        positions=grid([_positions(config, scorer, keep) for keep in BUDGETS for scorer in (Uniform(), Random())]),
    )


def _scores(config: EvalConfig, compressor: Compressor) -> pd.DataFrame:
    folder = evaluate(replace(config, compressor=compressor)).folder
    return read_records(config.out, folder.name)


def _about(records: pd.DataFrame) -> pd.Series:
    return pd.Series([QUESTION_KINDS[str(kind)].about for kind in records["kind"]], records.index)


def _kinds(records: pd.DataFrame) -> list[tuple[str, pd.Series]]:
    groups = [("all", records["kind"].notna())]
    groups += [(f"about {what}", _about(records) == what) for what in ("things", "details")]
    return groups + [(kind, records["kind"] == kind) for kind in QUESTION_KINDS]


def _kind(name: str, full: pd.DataFrame, blind: pd.DataFrame) -> dict[str, str]:
    images = full["image_id"]
    return {
        "questions": name,
        "n": f"{len(full):,}",
        "accuracy": _shown(mean_interval(full["score"], images)),
        "blind": _shown(mean_interval(blind["score"], images)),
        "difference": _gain(difference_interval(full["score"], blind["score"], images)),
    }


def _attention(loaded: LoadedModel) -> dict[str, dict[str, Interval]]:
    scenes = scenes_of("test", _IMAGES)
    scores = patch_scores(loaded, scenes) | {"one patch": one_patch_scores(scenes_of("search", 1000), scenes)}
    names = [str(index) for index in range(len(scenes))]
    return {
        name: {str(contrast): mean_interval(values, names) for contrast, values in aucs(rows, scenes).items()}
        for name, rows in scores.items()
    }


def _attention_row(name: str, found: Mapping[str, Interval]) -> dict[str, str]:
    title = f"filter: {name}" if name in FILTERS else name
    return {"score": title} | {contrast: _shown(found[contrast]) for contrast in CONTRASTS if contrast in found}


def _choices(config: EvalConfig, best: int, loaded: LoadedModel, keep: int) -> list[dict[str, str]]:
    layers = tuple(range(loaded.adapter.tower.depth))
    chosen: dict[str, Compressor] = {
        "evidence (oracle)": VisionCompressor(Evidence(), keep),
        f"[CLS], layer {best} (best AUC for things)": VisionCompressor(ClsAttention(best), keep),
        "[CLS], sum of all layers": VisionCompressor(ClsEnsemble(layers), keep),
        **{f"filter: {name}": VisionCompressor(scorer, keep) for name, scorer in FILTERS.items()},
        "uniform": VisionCompressor(Uniform(), keep),
        f"fastv before block {_CUT}": fastv(keep, _CUT),
    }
    random = _scores(config, VisionCompressor(Random(), keep))
    rows = [_choice("random", keep, random, None)]
    return rows + [_choice(name, keep, _scores(config, one), random) for name, one in chosen.items()]


def _choice(name: str, keep: int, records: pd.DataFrame, random: pd.DataFrame | None) -> dict[str, str]:
    cells = {"tokens": str(keep), "choice": name}
    for what in ("things", "details"):
        rows = _about(records) == what
        cells[f"about {what}"] = _shown(mean_interval(records["score"][rows], records["image_id"][rows]))
    for what in ("things", "details"):
        rows = _about(records) == what
        cells[f"{what}: against random"] = "" if random is None else _difference(records[rows], random[rows])
    cells["all: against random"] = "" if random is None else _difference(records, random)
    return cells


def _places(config: EvalConfig, loaded: LoadedModel) -> list[dict[str, str]]:
    scorer, keep = ClsEnsemble(tuple(range(loaded.adapter.tower.depth))), BUDGETS[0]
    before = _scores(config, VisionCompressor(scorer, keep, positions="original"))
    inside = _scores(config, DecoderCompressor(scorer, keep, _CUT, positions="original"))
    prompt = _scores(config, DecoderCompressor(PromptAttention(_CUT - 1), keep, _CUT, positions="original"))
    prompt = prompt.sort_values("sample_id", ignore_index=True)
    early = scores_at_input(config, loaded, dict(zip(prompt["sample_id"], prompt["kept"], strict=True)))
    pairs = {"[CLS], sum of all layers": (before, inside), f"prompt attention in block {_CUT - 1}": (early, prompt)}
    return [
        {
            f"{keep} tokens, chosen by": name,
            "dropped before the language model": _shown(mean_interval(first["score"], first["image_id"])),
            f"dropped before block {_CUT}": _shown(mean_interval(second["score"], second["image_id"])),
            "difference": _difference(second, first),
        }
        for name, (first, second) in pairs.items()
    ]


def _positions(config: EvalConfig, scorer: Uniform | Random, keep: int) -> dict[str, str]:
    repacked = _scores(config, VisionCompressor(scorer, keep))
    original = _scores(config, VisionCompressor(scorer, keep, positions="original"))
    return {
        "patches": f"{keep}, {type(scorer).__name__.lower()}",
        "original": _shown(mean_interval(original["score"], original["image_id"])),
        "re-packed": _shown(mean_interval(repacked["score"], repacked["image_id"])),
        "difference": _difference(repacked, original),
    }


def _difference(records: pd.DataFrame, baseline: pd.DataFrame) -> str:
    return _gain(difference_interval(records["score"], baseline["score"], records["image_id"]))


def _shown(interval: Interval) -> str:
    return f"{percent(interval.mean)} [{percent(interval.low)}, {percent(interval.high)}]"


def _gain(interval: Interval) -> str:
    return f"{points(interval.mean)} [{points(interval.low)}, {points(interval.high)}]"
