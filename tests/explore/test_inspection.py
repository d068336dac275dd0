"""One image and one question, inspected."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from foveate.compressors import Identity
from foveate.core.errors import DataError
from foveate.core.needs import ClsRows, ReceivedRows
from foveate.data.load import load_samples
from foveate.explore.choice import Choice
from foveate.explore.drawing import (
    Column,
    as_image,
    attention_at,
    comparison_figure,
    map_figure,
    method_figure,
    panes_of,
)
from foveate.explore.inspection import Prompt, inspect, maps_of, read_image
from foveate.explore.plan import Plan
from foveate.explore.session import Session
from foveate.methods import fastv, visionzip, vtc_cls
from foveate.methods.fitting import for_model
from foveate.models.loading.load import load
from foveate.testing.checkpoints import save_family
from foveate.testing.families import FAMILIES, WITHOUT_CUTS
from tests.tiers import parametrize


@pytest.fixture(scope="module")
def sample():
    return load_samples("scenes", "test", limit=1)[0]


@pytest.fixture(scope="module")
def prompt(sample):
    return Prompt.of(load("reference"), sample.image, sample.question, 8, sample)


@pytest.mark.parametrize("compressor", [vtc_cls(20, start_layer=0), fastv(20, layer=2)], ids=["vision", "cut"])
def test_answer_decision_and_tokens_are_those_of_generate_with_the_compressor_attached(prompt, compressor):
    found = inspect(prompt, compressor)
    inputs = prompt.loaded.batch([prompt.ids], prompt.images)
    with compressor.attached(prompt.loaded) as result:
        output = prompt.loaded.model.generate(**inputs, max_new_tokens=8)
    assert found.answer == prompt.loaded.text([output[0, len(prompt.ids) :].tolist()])[0]
    assert found.kept == tuple(result.kept[0].tolist())
    assert np.array_equal(found.scores, result.scores[0].numpy(), equal_nan=True)
    assert found.per_block == tuple(result.tokens.per_block[0].tolist())
    assert found.milliseconds > 0
    assert found.content == result.content


def test_the_log_probability_is_that_of_one_pass_over_prompt_and_answer(prompt):
    found = inspect(prompt, Identity())
    answer = [*found.words, prompt.loaded.adapter.ends[0]]
    inputs = prompt.loaded.batch([[*prompt.ids, *answer]], prompt.images)
    with torch.inference_mode():
        logits = prompt.loaded.model(**inputs).logits[0, len(prompt.ids) - 1 : -1].log_softmax(-1)
    expected = sum(float(row[token]) for row, token in zip(logits, answer, strict=True))
    assert math.isclose(found.log_probability, expected, abs_tol=1e-4)


def test_maps_are_the_rows_of_the_tower_and_of_the_language_model(prompt):
    adapter, words = prompt.loaded.adapter, inspect(prompt, Identity()).words
    maps = maps_of(prompt, words)
    _, trace = prompt.live.encode([ClsRows(tuple(range(adapter.tower.depth)))])
    assert maps.has_cls and np.array_equal(maps.tower, trace[ClsRows(maps.layers)][0].numpy())
    shape = (adapter.decoder.depth, adapter.text_config.num_attention_heads, 144)
    assert maps.last.shape == maps.question.shape == maps.answer.shape == shape
    assert 0 < maps.answer.sum(-1).max() <= 1 + 1e-5
    assert np.allclose(attention_at(maps, "last", 2, None), maps.last[2].mean(0))
    assert np.array_equal(attention_at(maps, "tower", 1, 3), maps.tower[1, 3])


def test_evidence_is_marked_where_the_data_have_it(prompt, sample):
    assert prompt.evidence is not None and 0 < prompt.evidence.sum() < 144
    assert Prompt.of(prompt.loaded, sample.image, sample.question, 8).evidence is None


def test_a_prompt_that_exceeds_the_context_is_refused(prompt, sample):
    with pytest.raises(DataError, match=r"exceed the model's context of 512"):
        Prompt.of(prompt.loaded, sample.image, "what " * 2000, 8)


@parametrize("family", list(FAMILIES), fast=("Qwen2.5-VL",))
def test_every_family_is_inspected_and_drawn(family, tmp_path):
    loaded = load(save_family(family, tmp_path / "model"))
    image = Image.effect_noise((60, 40), 80).convert("RGB")
    prompt = Prompt.of(loaded, image, "what?", 3)
    full, patches = inspect(prompt, Identity()), prompt.arrangement.patches
    kept = inspect(prompt, for_model("vtc_cls", 0.5, {}, loaded.adapter))
    assert full.kept == tuple(range(patches)) and 0 < len(kept.kept) < patches
    maps, panes = maps_of(prompt, full.words), panes_of(prompt)
    whole = [layer for layer in range(loaded.adapter.tower.depth) if layer not in loaded.adapter.tower.windowed_layers]
    assert maps.layers == tuple(whole) and len(maps.tower) == len(whole) and maps.tower.shape[-1] == patches
    assert bool(maps.unreadable) == (family in WITHOUT_CUTS) and maps.answer.shape[-1] == patches
    if not maps.has_cls:
        need = ReceivedRows(whole[0])
        assert np.array_equal(maps.tower[0], prompt.live.encode([need])[1][need][0].numpy())
    assert [pane.patches.shape for pane in panes] == [(v.rows, v.columns) for v in prompt.arrangement.views]
    figure = comparison_figure(prompt, panes, full, [Column("vtc_cls", kept, kept.words != full.words)])
    shown = maps.tower if maps.unreadable else maps.last
    for one in (figure, method_figure(panes, kept, None), map_figure(panes, [("one", shown.mean((0, 1)))])):
        assert min(as_image(one).size) > 200


def test_dropped_patches_are_grey_merged_ones_pale_and_kept_ones_as_they_are(prompt):
    inspection = inspect(prompt, visionzip(20, deep_layer=-2))
    (pane,) = panes_of(prompt)
    figure = method_figure((pane,), replace(inspection, merged=inspection.merged[::2]), None)
    shown = figure.subfigs[0].axes[0].images[0].get_array()
    down, across = pane.scale
    for patch in range(144):
        row, column = divmod(patch, 12)
        part = np.s_[row * down : (row + 1) * down, column * across : (column + 1) * across]
        own, seen = pane.pixels[part], np.asarray(shown[part])
        grey = np.repeat(0.66 + 0.3 * own.mean(-1, keepdims=True), 3, -1)
        share = 1 if patch in inspection.kept else 0.5 if patch in inspection.merged[::2] else 0
        assert np.allclose(seen, share * own + (1 - share) * grey)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no file"),
        (b"", "cannot be decoded|is missing"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "expected one of the formats JPEG, PNG"),
        (b"\x89PNG\r\n\x1a\n", "cannot be decoded"),
    ],
    ids=["missing", "empty", "program", "broken"],
)
def test_a_file_that_is_no_image_is_refused_by_name(content, message, tmp_path):
    path = tmp_path / "mine.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=f"image 'mine.png'.*({message})"):
        read_image(path)


def test_an_image_is_read_upright(tmp_path):
    image = Image.new("RGB", (30, 20), "red")
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.jpg", exif=exif)
    assert read_image(tmp_path / "turned.jpg").size == (20, 30)


def test_a_session_offers_every_method_but_that_of_annotated_data(tiny):
    session = Session.opened(Plan((Choice("vtc_cls", 0.25),), model=tiny, limit=3, new_tokens=2))
    assert "evidence" not in session.names and {"full", "vtc_cls", "fastv"} <= set(session.names)
    assert session.options_hint("vtc_cls").startswith("start_layer=")
    assert session.default_keep(Choice("vtc_cls", 0.25), 144) == 36
    seen = session.see(None, 2, session.question(2))
    assert seen.reference and seen.plan.index == 2 and seen.plan.question is None
    assert session.see(None, 2, "what?").reference == ""
    with pytest.raises(DataError, match="there is no question"):
        session.see(None, 2, " ")


def test_the_command_names_the_image_that_the_page_was_started_with_by_its_path(tiny, tmp_path):
    given, other = tmp_path / "photos" / "mine.png", tmp_path / "other" / "mine.png"
    copied = tmp_path / "copied" / "mine.png"
    for path, colour in ((given, "red"), (copied, "red"), (other, "blue")):
        path.parent.mkdir()
        Image.new("RGB", (30, 20), colour).save(path)
    session = Session.opened(Plan((Choice("vtc_cls", 0.25),), image=given, model=tiny, limit=1, new_tokens=2))
    assert session.see(copied, 0, "what?").plan.image == given
    assert session.see(other, 0, "what?").plan.image == Path("mine.png")


def test_budgets_at_the_start_are_those_of_the_first_image_whose_tiles_count(tmp_path):
    model = str(save_family("LLaVA-NeXT", tmp_path / "model"))
    (tmp_path / "broken.png").write_bytes(b"")
    Image.effect_noise((60, 30), 80).save(tmp_path / "mine.png")
    plan = Plan((), image=tmp_path / "mine.png", model=model, limit=1, new_tokens=2)
    session, grid = Session.opened(plan), 36
    patches = session.see(plan.image, 0, "what?").prompt.arrangement.patches
    assert session.patches_at_start() == patches > grid
    assert session.default_keep(Choice("vtc_cls", grid + 9), patches) == grid + 9
    assert replace(session, plan=replace(plan, image=tmp_path / "broken.png")).patches_at_start() == grid
