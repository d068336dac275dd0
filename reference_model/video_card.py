"""The model card of the reference model for videos, measured on clips."""

from pathlib import Path

import pandas as pd

from foveate.analysis.tables import grid
from foveate.compressors import Blind, Compressor, Identity, VisionCompressor
from foveate.compressors.base import Positions
from foveate.data.names import CLIPS
from foveate.data.scenes.moving import FRAMES
from foveate.evaluation import EvalConfig
from foveate.methods import METHODS
from foveate.models.loading.load import load
from foveate.reference.architecture import PATCHES, VOCABULARY
from foveate.scorers import Evidence, Random, Uniform
from reference_model.acceptance import accuracy_of, difference_of, gained, records_of, shown
from reference_model.clip_dialogues import CLIP_KINDS

_FEWER = (4, 2, 1)
_BUDGETS = (288, 72)
_SCORERS = (Evidence(), Uniform(), Random())
_TEXT = """---
license: apache-2.0
pipeline_tag: video-text-to-text
---

# The reference model of foveate for videos

A LLaVA-NeXT-Video of {parameters:,} parameters in transformers' own classes that answers questions about generated
clips of {frames} frames. Its tower is that of `reference`, frozen; projector and language model started from those of
`reference` and were trained by `experiments/train_reference.py --stage video`. Unlike LLaVA-NeXT-Video's checkpoints it
pools no patches (`spatial_pool_stride=1`), so a frame has {patches} tokens. **It says nothing about any real
checkpoint**: frames are 96 x 96 pixels of small drawings on clutter, questions are templates over {vocabulary} words.
It was not trained on images.

## How it was trained

Cross-entropy of the answers to questions about clips of the `train` split, and of dense texts: what each thing looks
like, where it is last and when it appears, and all things in order. Few patches are shown at first, those of things and
texts before others. The language model knows the frame of a patch from its position alone; while positions are the
model's own, a linear layer on the states of patches after the second block learns to tell the frame, and is thrown away
afterwards. The last phase shows all patches, or drops some, or whole frames, with positions of either convention; 3 in
100 batches show none, so that the blind baseline is a fair one.

## Accuracy on the `{split}` split

{size} In %, exact match, 95 % intervals over clips. "Blind" is the same
model without the video; the difference is paired by question. Other columns show fewer frames, at equal distances.

{kinds}

## What positions cost

Accuracy in % with a share of the {tokens:,} tokens, numbered consecutively (as behind the tower in the code of most
methods) and with their own positions. The difference is paired by question.

{positions}
"""


def write_video_card(folder: Path, questions: int) -> None:
    """Measures the model in `<folder>/llava-video` and writes its card beside the weights."""
    model = folder / "llava-video"
    config = EvalConfig(
        Identity(), model=str(model), data=CLIPS, limit=questions, split="test", max_new_tokens=4, out=folder / "card"
    )
    (model / "README.md").write_text(video_card(config))


def video_card(config: EvalConfig) -> str:
    """Measures a model and returns its card."""
    views = {"all": Identity(), "blind": Blind()}
    views |= {f"{count} frame{'s' * (count > 1)}": METHODS["fewer_frames"](keep=count / FRAMES) for count in _FEWER}
    records = {name: records_of(config, compressor) for name, compressor in views.items()}
    full = records["all"]
    rows = [("all", full["kind"].notna()), *((kind, full["kind"] == kind) for kind in CLIP_KINDS)]
    return _TEXT.format(
        parameters=sum(weight.numel() for weight in load(config.model).model.parameters()),
        frames=FRAMES,
        patches=PATCHES,
        tokens=FRAMES * PATCHES,
        vocabulary=len(VOCABULARY),
        split=config.split,
        size=f"n = {len(full):,} questions about {full['image_id'].nunique():,} clips.",
        kinds=grid([_kind(name, {view: each[chosen] for view, each in records.items()}) for name, chosen in rows]),
        positions=grid([_positions(config, scorer, keep) for keep in _BUDGETS for scorer in _SCORERS]),
    )


def _kind(name: str, records: dict[str, pd.DataFrame]) -> dict[str, str]:
    row = {"questions": name, "n": f"{len(records['all']):,}"}
    row |= {view: shown(accuracy_of(each)) for view, each in records.items()}
    return row | {"all minus blind": gained(difference_of(records["all"], records["blind"]))}


def _positions(config: EvalConfig, scorer: Evidence | Uniform | Random, keep: int) -> dict[str, str]:
    def records(positions: Positions) -> pd.DataFrame:
        compressor: Compressor = VisionCompressor(scorer, keep, positions=positions)
        return records_of(config, compressor)

    repacked, original = records("repacked"), records("original")
    return {
        "patches": type(scorer).__name__.lower(),
        "tokens": str(keep),
        "consecutive": shown(accuracy_of(repacked)),
        "own positions": shown(accuracy_of(original)),
        "difference": gained(difference_of(original, repacked)),
    }
