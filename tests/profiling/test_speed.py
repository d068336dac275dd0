import numpy as np
import pytest
import torch
from torch import nn

from foveate.compressors import DecoderCompressor, Identity, VisionCompressor
from foveate.core.errors import FoveateError
from foveate.data.load import load_samples
from foveate.data.sample import first_of_images
from foveate.methods import cdpruner, evidence, flowcut, pyramiddrop, vtc_cls
from foveate.methods.fitting import at_budget
from foveate.models.loading.load import LoadedModel, load
from foveate.profiling import clock as clock_module
from foveate.profiling.clock import Clock
from foveate.profiling.flops import OURS, operations, projector_macs, tower_macs
from foveate.profiling.shapes import ModelShape
from foveate.profiling.speed import INPUTS, PARTS, Batch, answer_batch, footprint, image_sizes, measure
from foveate.scorers import PromptAttention, Random
from foveate.testing.checkpoints import save_family

NEW = 4
CUTS = DecoderCompressor(PromptAttention(1), 10, layer=2)


@pytest.fixture(scope="module")
def loaded(tiny) -> LoadedModel:
    return load(tiny)


@pytest.fixture(scope="module")
def asked() -> list:
    """Returns three images with one question each, of different lengths."""
    samples = list(first_of_images(load_samples("scenes", "test", limit=21)).values())
    questions = ["what color is the star?", "how many are there?", "what is it?"]
    return [(sample.image, question) for sample, question in zip(samples, questions, strict=True)]


@pytest.fixture
def batch(loaded, asked) -> Batch:
    return Batch.of(loaded, *zip(*asked, strict=True))


@pytest.mark.parametrize(
    "compressor",
    [Identity(), VisionCompressor(Random(), 9), CUTS, pyramiddrop(10, layers=(1, 2, 3)), flowcut(12)],
    ids=["full", "vision", "decoder", "cuts", "tower"],
)
def test_answers_are_those_of_the_stock_model(loaded, asked, batch, compressor):
    model = loaded.model
    texts = [loaded.chat_prompt([None, question]) for _, question in asked]
    inputs = loaded.inputs(texts, [[image] for image, _ in asked])
    with compressor.attached(loaded) as run:
        expected = model.generate(**inputs, max_new_tokens=NEW, eos_token_id=10**6, do_sample=False)[:, -NEW:]
    found = answer_batch(batch, compressor, NEW, Clock("cpu"))
    assert len({len(prompt) for prompt in batch.texts.prompts}) > 1  # so that padding matters
    assert torch.equal(found.tokens, expected)
    assert torch.equal(found.visual.per_block, run.tokens.per_block)


def test_the_parts_add_up_to_all_the_time_there_was(loaded, asked, monkeypatch):
    """The clock advances by a second whenever it is read."""
    ticks = []
    monkeypatch.setattr(clock_module.time, "perf_counter", lambda: ticks.append(1) or float(len(ticks)))
    found, unable = measure(loaded, asked, {("cut", 10): CUTS}, {}, (NEW, 3))
    assert not unable
    assert [one.number for one in found] == [0, 1, 2]
    for one in found:
        assert set(one.ms) == {INPUTS, *PARTS}
        # tower, projector and cut begin and end inside another part, whose time they interrupt
        assert one.ms == {"inputs": 1e3, "scoring": 4e3, "vision": 1e3, "projector": 1e3, "prefill": 2e3, "decode": 1e3}
        assert sum(one.ms.values()) / 1e3 == 10


def test_every_part_is_where_it_belongs(loaded, batch):
    """Hooks on modules read the clock's running part."""
    adapter, clock, heard = loaded.adapter, Clock("cpu"), []
    tower = loaded.model.model.vision_tower
    modules = {
        "tower": tower.encoder.layers[0],
        "projector": adapter.projector.linear_1,
        "block": adapter.decoder.blocks[0],
    }
    hooks = [
        module.register_forward_hook(lambda *_, name=name: heard.append((name, clock._running[-1])))
        for name, module in modules.items()
    ]
    answer_batch(batch, vtc_cls(9, start_layer=0), NEW, clock)
    for hook in hooks:
        hook.remove()
    decoding = [("block", "decode")] * (NEW - 1)
    assert heard == [("tower", "vision"), ("projector", "projector"), ("block", "prefill"), *decoding]


def test_choosing_inside_the_language_model_is_scoring_and_not_prefill(batch, monkeypatch):
    clock, during = Clock("cpu"), []
    cut = DecoderCompressor.cut

    def noted(self: DecoderCompressor, *args: object) -> object:
        during.append(list(clock._running))
        return cut(self, *args)

    monkeypatch.setattr(DecoderCompressor, "cut", noted)
    answer_batch(batch, pyramiddrop(10, layers=(1, 2, 3)), NEW, clock)
    assert during == [["prefill", "scoring"]] * 3


def test_afterwards_the_model_is_as_it_was(loaded, batch):
    adapter = loaded.adapter
    before = set(vars(adapter)), set(vars(adapter.projector))
    answer_batch(batch, CUTS, NEW, Clock("cpu"))
    with pytest.raises(FoveateError):
        answer_batch(batch, cdpruner(9), NEW, Clock("cpu"))  # without a companion
    assert (set(vars(adapter)), set(vars(adapter.projector))) == before


def test_tokens_cache_and_operations_equal_what_follows_from_the_numbers_of_tokens(loaded, batch):
    text, decoder = loaded.model.config.text_config, ModelShape.of(loaded.model.config.to_dict())
    words = [len(p) - 144 for p in batch.texts.prompts]
    depth = len(loaded.adapter.decoder.blocks)
    blocks = np.array([[144, 144] + [10] * (depth - 2)] * 3)
    taken = footprint(batch, CUTS, NEW)
    assert taken[:4] == (blocks.mean(), 144, 10, np.mean(words))
    entry = 2 * text.num_key_value_heads * loaded.adapter.decoder.blocks[0].self_attn.head_dim * 4  # bytes
    assert taken.kv_bytes == entry * (blocks[0].sum() + depth * max(words))  # shorter prompts are padded
    vision = tower_macs(decoder.tower, [loaded.adapter.tower.grid]) + projector_macs(decoder.projector, 144)
    expected = np.mean(operations(blocks, np.array(words), decoder.decoder, vision, OURS))
    assert taken.operations["foveate"] == pytest.approx(expected)
    small = footprint(batch, VisionCompressor(Random(), 9), NEW)
    vision -= projector_macs(decoder.projector, 135)  # which are not projected
    expected = np.mean(operations(np.full((3, depth), 9), np.array(words), decoder.decoder, vision, OURS))
    assert small.operations["foveate"] == pytest.approx(expected)


def test_fewer_tokens_hold_less_memory(loaded, asked):
    many = Batch.of(loaded, *zip(*asked * 8, strict=True))
    full, few = (footprint(many, c, 2).peak_bytes for c in (Identity(), VisionCompressor(Random(), 1)))
    if full is not None:
        assert few < full


@pytest.mark.parametrize(
    "name",
    ["LLaVA-NeXT", "InternVL", "Qwen2.5-VL", "Qwen3-VL", "Qwen3-VL-MoE", "Gemma 3", "Idefics3", "SmolVLM", "GLM-4.1V"],
)
def test_models_with_images_of_any_size_are_measured_too(name, asked, tmp_path):
    family = load(save_family(name, tmp_path))
    images = [(image.resize((40, 24)), question) for image, question in asked[:2]]
    batch = Batch.of(family, *zip(*images, strict=True))
    patches = batch.arrangements[0].patches
    full = footprint(batch, Identity(), 2)
    few = footprint(batch, at_budget("random", 0.5, family.adapter, patches), 2)
    assert few.given_tokens < full.given_tokens
    assert few.operations["PyramidDrop"] < 0.6 * full.operations["PyramidDrop"]
    clock = Clock("cpu")
    answer_batch(batch, Identity(), 2, clock)
    assert set(clock.ms) == set(PARTS)
    vision_grids = [grid for one in batch.arrangements for grid in family.adapter.vision_grids(batch.inputs, one)]
    assert sum(grid.patches for grid in vision_grids) == _patches_of(family.adapter, batch)


def test_what_cannot_be_measured_says_why_and_the_rest_is(loaded, asked):
    compressors = {("evidence", 9): evidence(9), ("full", 144): Identity(), ("cdpruner", 9): cdpruner(9)}
    found, unable = measure(loaded, asked, compressors, {}, (2, 2))
    assert [one.key for one in found] == [("full", 144)] * 2
    assert set(unable) == {("evidence", 9), ("cdpruner", 9)}
    assert "EvidenceShare" in unable["evidence", 9]


def test_settings_take_turns_and_every_other_round_runs_backwards(loaded, asked):
    order = []

    def other(clock: Clock) -> None:
        with clock.part("total"):
            order.append("other")

    compressors = {("full", 144): Identity(), ("random", 9): VisionCompressor(Random(), 9)}
    found, _ = measure(loaded, asked, compressors, {("other", 9): other}, (2, 3))
    keys = ["full", "random", "other"]
    assert [one.key[0] for one in found] == [*keys, *keys[::-1], *keys]
    assert len(order) == 3 + 2  # and two warm-ups
    assert [one.taken is None for one in found if one.number == 0] == [False, False, True]


@pytest.mark.parametrize("length", [(1, 5), (5, 0)])
def test_answers_of_one_token_and_no_rounds_are_refused(loaded, asked, length):
    with pytest.raises(FoveateError, match=f"new_tokens={length[0]}, rounds={length[1]}: expected at least 2 tokens"):
        measure(loaded, asked, {}, {}, length)


def test_a_model_with_one_image_size_refuses_others(loaded, asked):
    assert list(image_sizes(loaded, (), asked[0][0])) == [96]
    assert list(image_sizes(loaded, (96,), asked[0][0])) == [96]
    with pytest.raises(FoveateError, match=r"size 96 200: Llava\w+ resizes every image to 96 x 96 pixels"):
        image_sizes(loaded, (96, 200), asked[0][0])
    with pytest.raises(FoveateError, match="size 0: expected numbers of pixels from 1 up"):
        image_sizes(loaded, (0,), asked[0][0])


def test_a_model_for_any_image_size_gets_the_requested_one_or_a_typical_one(asked, tmp_path):
    family = load(save_family("Qwen2.5-VL", tmp_path))
    assert list(image_sizes(family, (30, 60), asked[0][0])) == [30, 60]
    assert list(image_sizes(family, (), asked[0][0])) == [672]


def _patches_of(adapter, batch: Batch) -> int:
    """Returns the number of patches that the tower's convolution computes for all images, without padding."""
    cut: list[int] = []
    convolution = next(m for m in adapter.inner.modules() if isinstance(m, nn.Conv2d | nn.Conv3d))
    hook = convolution.register_forward_hook(
        lambda _, args, out: cut.append(out.numel() // out.shape[1] if out.ndim == 4 else len(out))
    )
    answer_batch(batch, Identity(), 2, Clock("cpu"))
    hook.remove()
    return sum(cut)
