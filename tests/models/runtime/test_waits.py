"""Waits for a GPU, counted on a device that the CPU simulates; see `tests.accelerator`."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

from foveate.compressors import Compressor, DecoderCompressor, Pipeline, VisionCompressor
from foveate.compressors.base import compressed_by
from foveate.core.errors import FoveateError
from foveate.core.needs import Fingerprint
from foveate.functional import clustering
from foveate.functional.fingerprint import fingerprints
from foveate.mergers import Clusters
from foveate.methods import METHODS
from foveate.methods.fitting import options_on, with_fallbacks
from foveate.methods.registry import VIDEO
from foveate.models.loading.load import LoadedModel, adapt
from foveate.models.runtime.generation import Decoding, answer_each
from foveate.models.runtime.images import LiveImages
from foveate.models.runtime.prefix_cache import PrefixCache
from foveate.scorers import ClsAttention, Constant, PromptAttention, Random
from foveate.selectors import MaxMin
from foveate.testing.families import FAMILIES, VIDEOS, image_inputs
from foveate.testing.matrix import family_inputs, load_family
from tests.accelerator import Count, counting, moved, on_device, on_host
from tests.oracle.cases import Case, inputs_of, model_of
from tests.tiers import parametrize

KEEP = 8
BEFORE = {
    **dict.fromkeys(("prunesid", "prunesid_qwen"), 4),  # a decomposition, and suppression until nothing changes
    "fastvid": 4,  # segments of the video, and the tokens of each
    "flashvid": 4,  # segments of the video, and the trees of each
    "prunevid": 4,  # windows of the video, and the static patches of each
    "holitom": 3,  # windows of the video
}
"""Waits of methods before the language model, if they are not the two for prompts and choices."""
PER_CUT = {"apet": 3}  # which draws one of the tokens that are left, for scores and again for the basis
"""Waits of methods per cut, if they are not the one for the choice."""
EXEMPT = ("evidence", "response_attention", "downsample", *VIDEO)
"""Methods that need annotated data, run the language model themselves, take other pixels, or are for videos."""
AT_MOST = {"llava_scissor": 2 + 16 * 4, "sttm": 4 + 16 + 1}
"""Greatest numbers of waits of methods that try up to 15 thresholds, whatever the number of frames."""
OF_VIDEOS = ("vtc_cls", "fastv", *VIDEO)
SOME = ("vtc_cls", "scope", "cdpruner", "sparsevlm", "fastv")
ALL = tuple(name for name in METHODS if name not in EXEMPT)


def expected(name: str, compressor: Compressor) -> int:
    return BEFORE.get(name, 2) + PER_CUT.get(name, 1) * len(compressor.cuts)


def on_the_device(loaded: LoadedModel) -> LoadedModel:
    """Moves a model and its companion, in place."""
    moved(loaded.model)
    if loaded.companion is not None:
        moved(loaded.companion.clip)
    adapter = adapt(loaded.model)
    return LoadedModel(loaded.name, adapter, loaded.processor, loaded.companion)


def kept_on_the_cpu(
    loaded: LoadedModel, names: Sequence[str], inputs: dict[str, Any]
) -> dict[str, tuple[Compressor, list[list[int]], Tensor]]:
    """Returns the methods that the family takes, what each keeps on the CPU, and the logits."""
    found = {}
    for name in names:
        options = options_on(METHODS[name], loaded.adapter)
        compressor = with_fallbacks(METHODS[name](keep=KEEP, **options), loaded)
        try:
            found[name] = compressor, *prefilled(loaded, compressor, inputs)[1:]
        except FoveateError:
            continue  # `tests/models` hold which ones these are
    return found


@torch.no_grad()
def prefilled(
    loaded: LoadedModel, compressor: Compressor, inputs: dict[str, Any]
) -> tuple[Count, list[list[int]], Tensor]:
    """Returns what a pass over the prompt waits for, the kept patches, and the logits of the next token."""
    with counting() as count, compressor.attached(loaded) as run:
        logits = loaded.model(**inputs, logits_to_keep=1).logits
    return count, [on_host(kept).tolist() for kept in run.kept], on_host(logits)


@torch.no_grad()
def per_step(loaded: LoadedModel, compressor: Compressor | None, inputs: dict[str, Any]) -> float:
    """Returns the waits of a decoding step, those of the stock model included."""
    totals = []
    for new in (2, 4):
        model: Any = loaded.model
        with counting() as count, nullcontext() if compressor is None else compressor.attached(loaded):
            model.generate(**inputs, max_new_tokens=new, min_new_tokens=new, do_sample=False)
        totals.append(count.waits.total())
    return (totals[1] - totals[0]) / 2


@parametrize(
    ("family", "names"),
    [
        ("LLaVA-1.5", SOME),
        ("LLaVA-NeXT", SOME[:2]),
        ("Qwen2.5-VL", SOME[3:]),
        *((f"videos of {family}", OF_VIDEOS) for family in VIDEOS),
        *((family, ALL if family in ("LLaVA-1.5", "LLaVA-NeXT", "Qwen2.5-VL") else SOME) for family in FAMILIES),
    ],
    fast=5,
    ids=lambda value: value if isinstance(value, str) else f"{len(value)} methods",
)
def test_waits_are_those_for_prompts_and_choices_and_choices_are_those_of_the_cpu(family, names, monkeypatch):
    monkeypatch.setattr(clustering, "open_ended", lambda values: True)  # which decides the order of equal peaks
    loaded, inputs = load_family.__wrapped__(family.removeprefix("videos of ")), family_inputs(family)
    compressors = kept_on_the_cpu(loaded, names, inputs)
    loaded, inputs = on_the_device(loaded), {name: on_device(value) for name, value in inputs.items()}
    stock = per_step(loaded, None, inputs)
    for name, (compressor, kept, logits) in compressors.items():
        if name == "sparsevlm_plus":  # which checks once how a block of a model rotates
            prefilled(loaded, compressor, inputs)
        count, found, found_logits = prefilled(loaded, compressor, inputs)
        if name in AT_MOST:
            assert count.own <= AT_MOST[name], f"{name}: {count.waits}"
        else:
            assert count.own == expected(name, compressor), f"{name}: {count.waits}"
        assert found == kept, name
        torch.testing.assert_close(found_logits, logits, atol=3e-3, rtol=0)  # stock GLM differs by up to 2e-4
        assert per_step(loaded, compressor, inputs) == stock, name
    assert compressors


TEXTS = (((5, 6, 7), (8,), (9, 10)), ((5,), (6, 7), (8, 9, 10, 11)))
IMAGES = ((0, 1), (2, 3))  # of three shapes
BATCHES = {
    "behind the tower": Case("LLaVA-NeXT", TEXTS, IMAGES, VisionCompressor(ClsAttention(-2), 5)),
    "a choice by similarity": Case("LLaVA-NeXT", TEXTS, IMAGES, VisionCompressor(Constant(), 0.3, MaxMin())),
    "a choice by pixels": Case("LLaVA-NeXT", TEXTS, IMAGES, VisionCompressor(Random(), 5)),
    "two cuts": Case(
        "LLaVA-NeXT",
        TEXTS,
        IMAGES,
        Pipeline((DecoderCompressor(PromptAttention(1), 6, 1), DecoderCompressor(PromptAttention(2, "raters"), 4, 3))),
    ),
    "clusters and different positions": Case(
        "LLaVA-1.5",
        TEXTS,
        IMAGES,
        DecoderCompressor(PromptAttention(1, "raters"), 9, 2, merger=Clusters(), positions="repacked"),
    ),
}


@torch.no_grad()
@pytest.mark.parametrize("case", BATCHES.values(), ids=BATCHES)
def test_batches_of_several_images_wait_as_often_and_get_the_answers_of_the_cpu(case):
    inputs, options = inputs_of(case), {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False}
    with case.compressor.attached(model_of(case.family)) as run:
        answers, kept = model_of(case.family).generate(**inputs, **options), [row.tolist() for row in run.kept]
    model: Any = moved(FAMILIES[case.family]())
    inputs = {name: on_device(value) for name, value in inputs.items()}
    with counting() as count, case.compressor.attached(model) as run:
        model(**inputs)
    assert count.own == 2 + len(case.compressor.cuts), count.waits
    with counting(), case.compressor.attached(model) as run:
        found = model.generate(**inputs, **options)
        assert [on_host(row).tolist() for row in run.kept] == kept
    assert on_host(found).tolist() == answers.tolist()


@torch.inference_mode()
def test_answers_of_evaluations_wait_once_per_step():
    compressor = DecoderCompressor(PromptAttention(1), 4, 2)
    prompts = [[5, 6, *[119] * 36, 9], [5, *[119] * 36, 10]]
    model: Any = moved(FAMILIES["LLaVA-1.5"]())
    adapter = adapt(model)
    pixels = on_device(torch.cat([image["pixel_values"] for image in image_inputs("LLaVA-1.5")[:2]]))
    totals = []
    for limit in (2, 5):
        with counting() as count:
            images = LiveImages(
                adapter, {"pixel_values": pixels}, adapter.arrangements({"pixel_values": pixels}, [])[0]
            )
            compressed = compressed_by(compressor, images)
            answer_each(adapter, prompts, compressed, False, compressor.cuts, Decoding(limit))
        totals.append(count.own)
    assert totals[1] - totals[0] == 3


@torch.no_grad()
def test_pixels_that_are_not_on_the_host_are_hashed_before_the_tower_runs():
    model: Any = moved(FAMILIES["LLaVA-1.5"]())
    adapter, pixels = adapt(model), image_inputs("LLaVA-1.5")[0]["pixel_values"]
    images = {"pixel_values": on_device(pixels)}
    live, before = LiveImages(adapter, images, adapter.arrangements(images, [])[0]), []
    model.model.vision_tower.encoder.layers[0].register_forward_pre_hook(lambda *_: before.append(count.own))
    with counting() as count:
        _, trace = live.encode([Fingerprint()])
    assert before == [1] and count.own == 1
    assert torch.equal(trace[Fingerprint()], fingerprints(pixels))


@torch.no_grad()
def test_scores_that_cannot_be_ranked_are_refused_on_a_device_too():
    model: Any = moved(FAMILIES["LLaVA-1.5"]())
    inputs = {name: on_device(value) for name, value in family_inputs("LLaVA-1.5").items()}
    inputs["pixel_values"] = on_device(torch.full((1, 3, 24, 24), torch.nan))
    refused = pytest.raises(FoveateError, match=r"compressor before the language model gave 36 of 36 scores as NaN")
    with refused, counting(), VisionCompressor(ClsAttention(-2), 5).attached(model):
        model(**inputs)


def test_the_tap_leaves_after_the_prompt():
    """The attention function of a decoding step is the stock model's."""
    model: Any = FAMILIES["LLaVA-1.5"]()
    used: list[str] = []
    language = model.model.language_model
    language.layers[3].register_forward_pre_hook(lambda *_: used.append(language.config._attn_implementation))
    with torch.no_grad(), DecoderCompressor(PromptAttention(1), 4, 2).attached(model):
        model.generate(**family_inputs("LLaVA-1.5"), max_new_tokens=3, min_new_tokens=3, do_sample=False)
    assert [name.startswith("foveate") for name in used] == [True, False, False]


@torch.no_grad()
def test_pixels_are_read_once_for_a_choice_by_pixels_and_for_the_keys_of_a_prefix_cache():
    loaded, inputs = load_family.__wrapped__("LLaVA-1.5"), family_inputs("LLaVA-1.5")
    loaded, inputs = on_the_device(loaded), {name: on_device(value) for name, value in inputs.items()}
    counts = []
    for scorer in (Constant(), Random()):
        compressor = VisionCompressor(scorer, KEEP)
        with counting() as count, compressor.attached(loaded, PrefixCache()):
            loaded.model(**inputs)
        counts.append(count.own)
    assert counts[1] == counts[0] - len(inputs["pixel_values"])  # the keys read each image by itself otherwise
