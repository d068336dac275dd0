"""The table of methods and model families that work together, made by running each pair."""

import re
from dataclasses import replace
from functools import cache
from typing import Any, cast

import torch
from PIL import Image
from torch import nn
from transformers import CLIPConfig, CLIPModel

from foveate.compressors import Fallback
from foveate.core.errors import FoveateError
from foveate.data.clip import Clip
from foveate.methods import METHODS
from foveate.methods.fitting import options_on, with_fallbacks
from foveate.models.backbone.text_encoder import Companion
from foveate.models.loading.load import LoadedModel, adapt
from foveate.models.loading.processor import Parts
from foveate.testing.checkpoints import image_processor, tokenizer
from foveate.testing.families import (
    BEGIN,
    END,
    FAMILIES,
    PAD,
    START,
    VIDEOS,
    WORDS,
    frames_of,
    image_inputs,
    placeholders,
    video_inputs,
)
from foveate.testing.recomputation import features_of

_KEEP = 8
REASONS = {
    "a": (r"EvidenceShare", "needs annotated data: runs in evaluations only"),
    "b": (
        r"cuts an image into tiles|takes images of one size|token for each frame",
        "needs one image for the tower, of any size, not tiles or frames",
    ),
    "c": (r"ClsQuery.*no \[CLS\]", "needs the query of [CLS] itself, for which there is no fallback"),
    "d": (r"works inside the tower of LLaVA-1.5", "works between the blocks of a tower like LLaVA-1.5's"),
    "e": (
        r"which no CLIP shares|companion: its vision tower",
        "needs a CLIP that the tower came from",
    ),
    "f": (r"sliding_window of|both directions", "needs a language model whose tokens attend to all earlier ones"),
    "g": (r"debiased attention", "needs rotary positions that rotate whole heads by halves, as in LLaMA"),
    "h": (r"has no rule for smaller (images|videos)", "has no rule for smaller images or videos"),
    "i": (r"compares the frames of a video", "needs a video of two frames or more"),
}
"""By sign: a pattern of the error's message, and its short form."""
OF_VIDEOS = "videos of "
KINDS = (*FAMILIES, *(OF_VIDEOS + name for name in VIDEOS))
"""The columns of the table: images of each family, then videos of those that take them."""


def table() -> str:
    """Returns methods and families as Markdown: one row for methods with equal cells, and the reasons below."""
    names_of: dict[tuple[str, ...], list[str]] = {}
    for name in METHODS:
        names_of.setdefault(tuple(outcome(name, family) for family in KINDS), []).append(f"`{name}`")
    rows = [["methods", *KINDS], ["---"] * (1 + len(KINDS))]
    rows += [[" ".join(names), *cells] for cells, names in names_of.items()]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([*lines, "", *(f"- ({sign}) {words}" for sign, (_, words) in REASONS.items())])


@torch.no_grad()
def outcome(name: str, family: str) -> str:
    """Runs a recipe on a family's tiny model, with an image or a video and two tokens of an answer.

    Args:
        name: Name of the recipe.
        family: One of `KINDS`.

    Returns:
        "works", "fallback", or the sign of a reason in brackets.

    Raises:
        FoveateError: The recipe failed for none of the known reasons.
    """
    loaded = load_family(family.removeprefix(OF_VIDEOS))
    adapter, model = loaded.adapter, cast(Any, loaded.model)
    options = options_on(METHODS[name], adapter)
    try:
        compressor = with_fallbacks(METHODS[name](keep=_KEEP, **options), loaded)
        small, compressor = compressor.resized(loaded)
        inputs = _smaller_inputs(small, family) if small.original else family_inputs(family)
        with compressor.attached(small):
            model.generate(**inputs, max_new_tokens=2, min_new_tokens=2, do_sample=False)
    except FoveateError as error:
        if sign := next((sign for sign, (found, _) in REASONS.items() if re.search(found, str(error))), None):
            return f"({sign})"
        raise
    return "fallback" if isinstance(compressor, Fallback) or "cls" in options else "works"


def with_tokenizer(family: str, model: nn.Module) -> LoadedModel:
    """Returns a family's tiny model with its tokenizer and image processor."""
    return LoadedModel(family, adapt(model), Parts(image_processor(family, [[24, 48]]), tokenizer(family)))


@cache
def load_family(family: str) -> LoadedModel:
    """Returns a family's tiny model, with a CLIP whose tower is as wide as the family's."""
    width = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    text = {**width, "vocab_size": WORDS, "bos_token_id": BEGIN, "eos_token_id": 2, "pad_token_id": PAD}
    config = CLIPConfig(text_config=text, vision_config={**width, "image_size": 24, "patch_size": 4}, projection_dim=16)
    companion = Companion(CLIPModel(config).eval(), tokenizer(family))
    return replace(with_tokenizer(family, FAMILIES[family]()), companion=companion)


def _smaller_inputs(small: LoadedModel, family: str) -> dict[str, Any]:
    """Returns the inputs of a prompt about an image or a video that the image processor makes smaller."""
    image = Image.radial_gradient("L").convert("RGB")
    if family.startswith(OF_VIDEOS):
        inputs, (video,) = small.video_inputs([Clip([image] * 2, [0.0, 0.5])])
        return small.batch([small.prompt("ab", video)], inputs)
    return small.inputs([small.chat_prompt([None, "ab"])], [[image]])


@cache
def family_inputs(family: str) -> dict[str, Any]:
    """Returns the inputs of a prompt about the family's first image or video."""
    name, is_video = family.removeprefix(OF_VIDEOS), family.startswith(OF_VIDEOS)
    adapter = load_family(name).adapter
    adapter = adapter.other if is_video and adapter.other else adapter
    image = (video_inputs if is_video else image_inputs)(name)[0]
    count, frames = len(features_of(adapter, image)[0]), frames_of(image) if is_video else 0
    ids = torch.tensor([[5, 6, START, *placeholders(name, adapter.image_token, count, frames), END, 9, 10, 11]])
    return {**image, **adapter.token_types(ids), "input_ids": ids, "attention_mask": torch.ones_like(ids)}
