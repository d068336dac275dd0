"""The golden sets of methods with several stages, with graphs, and inside the layers; see `test_conformance`."""

import json
from itertools import count

import numpy as np
import pytest
import torch
from transformers.modeling_outputs import BaseModelOutputWithPooling

from foveate.compressors import Pipeline
from foveate.core.arrangement import Grid
from foveate.core.budget import resolve_keep
from foveate.core.contracts import Reduction
from foveate.core.needs import Features, Fingerprint, PatchStates
from foveate.core.trace import Trace
from foveate.functional.spanning import drawn
from foveate.methods import METHODS, fitprune_table
from foveate.methods.calibration import Widths, _Cutting, _MassCut, _Run, search
from foveate.models.loading.load import adapt
from tests.golden_llava import (
    GOLDEN,
    IMAGE_TOKEN,
    exact_llava,
    golden,
    golden_llava,
    golden_pixels,
    golden_prompt,
    golden_tiles,
    inputs,
)
from tests.test_conformance import LOGITS, MERGED, encoder_outputs, generated

PATCHES = 576


def seed_of(start):
    """The first seed whose random token of an image with fingerprint 0 is `start`."""
    everything = torch.ones(1, PATCHES, dtype=torch.bool)
    return next(seed for seed in count() if int(drawn(seed, torch.tensor([0]), everything)) == start)


def trace_of(need, tokens):
    return Trace({need: tokens, Fingerprint(): torch.tensor([0])}, (Grid(24, 24),), 1)


def by_falling_score(compression, scores):
    kept = compression.origin[0]
    return kept[scores[0, kept].argsort(descending=True)]


APET = [(192, 10), (128, 10), (96, 10), (64, 10), (32, 10), (64, 20)]


@pytest.mark.parametrize(("keep", "basis"), APET)
def test_apet_before_the_projector(keep, basis):
    """The recipe's first stage, with 1.5 times its budget."""
    expected, name = golden("apet"), f"n{keep}_k{basis}_img0"
    stage = METHODS["apet"](keep=keep / 1.5 / PATCHES, basis=basis, seed=seed_of(288)).parts[0]
    features = torch.from_numpy(golden("trunk")["hidden_m2"][:1, 1:]).double()
    trace = trace_of(Features(), features)
    scores = stage.scorer.score(trace)
    if basis == 10:
        np.testing.assert_allclose(scores[0], expected["errors_img0"], rtol=1e-4, atol=1e-4)
    kept = stage.selector.select(scores, trace, keep)
    made = stage.merger.merge(features, kept, scores, trace, keep)
    np.testing.assert_array_equal(by_falling_score(made, scores), expected[f"{name}_order"])
    np.testing.assert_array_equal(made.origin[0], np.sort(expected[f"{name}_order"]))
    if f"{name}_assign" in expected:
        targets = expected[f"{name}_order"][:-basis][expected[f"{name}_assign"]]
        dropped = np.setdiff1d(np.arange(PATCHES), made.origin[0])
        joined = made.mixing[0, :, dropped].masked_fill(
            torch.isin(made.origin[0], by_falling_score(made, scores)[-basis:])[:, None], 0
        )
        np.testing.assert_array_equal(made.origin[0][joined.argmax(0)], targets)
    if f"{name}_out" in expected:
        out = expected[f"{name}_out"]
        np.testing.assert_allclose(made.apply(features)[0, : len(out)], out, **MERGED)


@pytest.mark.parametrize("keep", (96, 64, 32))
def test_apet_inside_the_language_model(keep):
    expected, name = golden("apet"), f"llm_p0_n{keep}"
    cut = METHODS["apet"](keep=2 * keep, layer=4, seed=seed_of(494)).cuts[0]
    with torch.no_grad():
        embedded = golden_llava().get_input_embeddings()(golden_prompt().clamp(max=127))
        start = inputs.SYS_LEN
        embedded[:, start : start + PATCHES] = encoder_outputs()["image"].pooler_output[0]
        states = golden_llava().model.language_model(inputs_embeds=embedded, output_hidden_states=True).hidden_states[4]
    visual = states[:, start : start + PATCHES]
    decision = cut.cut(visual, trace_of(PatchStates(), visual))
    compression = decision.compression
    np.testing.assert_array_equal(compression.origin[0], expected[f"{name}_kept"])
    np.testing.assert_array_equal(by_falling_score(compression, decision.scores), expected[f"{name}_order"])
    out = expected[f"{name}_vis"]
    np.testing.assert_allclose(compression.apply(visual)[0, : len(out)], out, **MERGED)


def test_apet_attached_cuts_by_the_states_that_enter_the_block():
    keep, cut = 32, METHODS["apet"](keep=64, layer=4).cuts[0]
    run, _, _ = generated(cut, golden_prompt(), golden_llava(), 1, mm_encoder_outputs=encoder_outputs())
    assert run.tokens.per_block[0].tolist() == [PATCHES] * 4 + [keep] * 4


@pytest.mark.parametrize("keep", (192, 64))
def test_apet_of_qwen_inside_the_language_model(keep):
    expected, name = golden("apet_qwen"), f"n{keep}_img0"
    cut = METHODS["apet"](keep=2 * keep, ridge=0.1, mix=0.5, seed=seed_of(377)).cuts[0]
    with torch.no_grad():
        features = torch.from_numpy(golden("trunk")["hidden_m2"][:1, 1:])
        states = exact_llava().model.multi_modal_projector(features.double())
    decision = cut.cut(states, trace_of(PatchStates(), states))
    np.testing.assert_array_equal(decision.compression.origin[0], expected[f"{name}_kept"])
    np.testing.assert_array_equal(by_falling_score(decision.compression, decision.scores), expected[f"{name}_order"])
    np.testing.assert_allclose(decision.compression.apply(states)[0, :8], expected[f"{name}_vis8"], **MERGED)


FITPRUNE = {50: 0.5, 60: 0.4, 80: 0.2, 90: 0.1}


@pytest.mark.parametrize("reduction", FITPRUNE)
def test_fitprune(reduction):
    """The first of its 31 cuts, as the golden model has 8 blocks; what the last block drops changes nothing after."""
    expected, name = golden("fitprune"), f"r{reduction}_p0"
    dropped = fitprune_table.DROPPED[reduction][:8]
    compressor = Pipeline(METHODS["fitprune"](keep=FITPRUNE[reduction]).parts[:7])
    run, logits, tokens = generated(compressor, golden_prompt(), golden_llava(), mm_encoder_outputs=encoder_outputs())
    before = np.arange(PATCHES)
    for decision, goes in zip(
        run.decisions[1:], np.split(expected[f"{name}_dropped"], np.cumsum(dropped)), strict=False
    ):
        after = np.setdiff1d(before, goes)
        np.testing.assert_array_equal(decision.compression.kept[0], after)
        before = after
    np.testing.assert_array_equal(run.tokens.per_block[0], PATCHES - np.cumsum([0, *dropped[:-1]]))
    np.testing.assert_allclose(logits, expected[f"{name}_logits"][0], **LOGITS)
    np.testing.assert_array_equal(tokens, expected[f"{name}_tokens"])


class GoldenRun(_Run):
    """A golden prompt, embedded by hand instead of from a sample."""

    def _tokens(self, alpha):
        cuts = tuple(_MassCut(layer, alpha, self.whole) for layer in range(1, 8))
        prompt = inputs.prompts(64)[self.sample]
        ids = torch.tensor([[*prompt["sys_ids"], *[IMAGE_TOKEN] * PATCHES, *prompt["q_ids"]]])
        visual = BaseModelOutputWithPooling(pooler_output=[torch.from_numpy(prompt["visual"])])
        with torch.no_grad(), _Cutting(cuts).attached(golden_llava()) as run:
            golden_llava().generate(
                input_ids=ids, mm_encoder_outputs={"image": visual}, max_new_tokens=1, do_sample=False
            )
        return run.tokens.per_block[0].numpy()


@pytest.fixture(scope="module")
def golden_runs():
    return [GoldenRun(None, number) for number in range(2)]


@pytest.mark.parametrize("reduction", (30, 50, 70))
def test_the_steps_of_fitprunes_calibration(reduction, golden_runs):
    expected, name = golden("fitprune"), f"fit{reduction}"
    steps = search(
        lambda alpha: np.stack([run.entering(alpha) for run in golden_runs]), 1 - reduction / 100, Widths(4096, 11008)
    )
    np.testing.assert_array_equal([step.alpha for step in steps], expected[f"{name}_alpha"])
    np.testing.assert_array_equal([step.reached for step in steps], expected[f"{name}_reach"])
    counts = np.floor(np.array([step.dropped for step in steps]) * PATCHES + 1e-9)
    np.testing.assert_array_equal(counts[:, :7], expected[f"{name}_scheme"][:, :7])
    for number, run in enumerate(golden_runs):
        for layer, sums in run.whole.items():
            for kind, found in zip(("cross", "self"), sums, strict=True):
                np.testing.assert_allclose(found[0], expected[f"stat_{kind}_mass"][number, layer - 1], rtol=1e-5)


class Recorded(Reduction):
    """A reduction of which every step is kept."""

    needs_cls, before_mlp, keeps_cls = True, True, False

    def __init__(self, inner):
        self.inner, self.steps = inner, []

    def reduce(self, block, state):
        step, state = self.inner.reduce(block, state)
        self.steps += [step] if step.mixing is not None else []
        return step, state


@pytest.mark.parametrize("merges", (42, 35, 41, 44))
@pytest.mark.parametrize("state", ("fresh", "steady"))
def test_ficoco_v_as_published(state, merges):
    """In float64, as the authors' numbers: scores differ by 3e-9."""
    expected, name = golden("ficoco_v"), f"r{merges}_{state}_img0"
    keep = PATCHES - 11 * merges
    compressor = METHODS["ficoco_v"](keep, as_published=True, first_image=state == "fresh")
    recorded = Recorded(compressor.reduction)
    images = {"pixel_values": golden_pixels().double()}
    with torch.no_grad():
        features, compression = adapt(exact_llava()).reduced(images, recorded, keep)
    orders, targets, before = [], [], 577
    for step, merged in zip(recorded.steps, expected[f"{name}_merge"], strict=True):
        left = step.origin[0]
        np.testing.assert_array_equal(np.setdiff1d(np.arange(before), left), np.sort(merged))
        columns = step.mixing[0][:, torch.from_numpy(merged).long()].T
        targets += [row.nonzero()[:, 0].tolist() for row in columns]
        orders.append(left.numpy())
        before -= merges
    if f"{name}_order" in expected:
        np.testing.assert_array_equal(np.concatenate(orders), expected[f"{name}_order"])
        places = iter(expected[f"{name}_targets"].tolist())
        for number, found in enumerate(targets):
            length = 577 - merges * (number // merges + 1)
            wanted = [next(places) for _ in range(K_TARGETS[number // merges])]
            assert found == sorted({place if place < length else place - merges for place in wanted})
    out = expected[f"{name}_out"]
    np.testing.assert_allclose(features[0, : len(out)], out, **MERGED)
    assert compression.origin.shape == (1, keep)


K_TARGETS = json.loads((GOLDEN / "ficoco_v.json").read_text())["settings"]["r42_fresh_img0"]["k_targets"]


@pytest.mark.parametrize("merges", (42, 35))
def test_ficoco_v_as_published_attached(merges):
    """To the answer, in float32, with [CLS] among the tokens while the authors keep it."""
    keep = PATCHES - 11 * merges
    run, _, _ = generated(
        METHODS["ficoco_v"](keep, as_published=True), golden_prompt(), golden_llava(), 2, pixel_values=golden_pixels()
    )
    assert run.tokens.per_block[0].tolist() == [keep] * 8


def projected(pixels):
    """Features of tiles after the projector (tile, patch, dim), in float64."""
    model = golden_llava().model
    with torch.no_grad():
        features = model.vision_tower(pixels, output_hidden_states=True).hidden_states[-2][:, 1:]
        return exact_llava().model.multi_modal_projector(features.double())


@pytest.mark.parametrize("keep", (192, 128, 64, 32))
def test_gprune(keep):
    recipe = METHODS["gprune"](keep)
    trace = Trace({Features(True): projected(golden_pixels())}, (Grid(24, 24),), 1)
    kept = recipe.selector.select(recipe.scorer.score(trace), trace, keep)
    np.testing.assert_array_equal(kept, golden("gprune")[f"base_n{keep}_idx"])


@pytest.mark.parametrize("keep", (192, 64))
def test_gprune_attached(keep):
    run, _, _ = generated(METHODS["gprune"](keep), golden_prompt(), golden_llava(), 1, pixel_values=golden_pixels())
    np.testing.assert_array_equal(run.kept[0], golden("gprune")[f"base_n{keep}_idx"][0])


@pytest.mark.parametrize(("name", "share"), [("r50", 0.5), ("r33", 0.3334), ("r22", 0.2223), ("r11", 0.1112)])
def test_gprune_of_a_tiled_image(name, share):
    """An image of 600 x 640 pixels: the whole, and 2 x 2 tiles whose grid without padding has 46 x 48 patches.

    Separators stand at the ends of the grid's rows.
    """
    expected, tiles = golden("gprune"), projected(golden_tiles(5, np.random.default_rng(911)))
    grid = tiles[1:].reshape(2, 2, 24, 24, -1).transpose(1, 2).reshape(48, 48, -1)[1:47].flatten(0, 1)
    views = (Grid(24, 24), Grid(46, 48))
    trace = Trace({Features(True): torch.cat([tiles[0], grid])[None]}, views, 1)
    recipe = METHODS["gprune"](share)
    scores = recipe.scorer.score(trace)
    np.testing.assert_allclose(scores[0, :576], expected["score_base"], rtol=1e-5)
    np.testing.assert_allclose(scores[0, 576:], expected["score_grid"], rtol=1e-5)
    kept = recipe.selector.select(scores, trace, resolve_keep(recipe.keep, trace.patches))[0]
    patches = np.where(kept < 576, kept, kept + (kept - 576) // 48)
    separators = 576 + 49 * np.arange(1, 47) - 1
    np.testing.assert_array_equal(np.sort([*patches, *separators]), expected[f"{name}_kept"])


def test_ficoco_v_as_published_is_the_same_alone_and_in_a_batch():
    pixels = golden_pixels(3).double()
    reduction = METHODS["ficoco_v"](114, as_published=True, first_image=True).reduction
    with torch.no_grad():
        together, made = adapt(exact_llava()).reduced({"pixel_values": pixels}, reduction, 114)
        for row in range(3):
            alone, own = adapt(exact_llava()).reduced({"pixel_values": pixels[row : row + 1]}, reduction, 114)
            torch.testing.assert_close(alone[0], together[row])
            assert torch.equal(own.origin[0], made.origin[row])
    torch.testing.assert_close(made.mixing.sum(2), torch.ones(3, 114))
    assert made.mixing.shape[2] == PATCHES + 1  # [CLS] is the last source, and part of some token
    assert made.mixing[..., -1].any(1).all()


def test_ficoco_v_as_published_can_be_written_to_a_file(tmp_path):
    compressor = METHODS["ficoco_v"](191, as_published=True)
    run, _, _ = generated(compressor, golden_prompt(), golden_llava(), 1, pixel_values=golden_pixels())
    run.save(tmp_path / "kept.json")
    told = json.loads((tmp_path / "kept.json").read_text())
    assert "FilterAndMergeAsPublished(start=12, first_image=False)" in told["recipe"]
