from threading import Event, Thread

import pytest
import torch
from transformers import AttentionInterface, AttentionMaskInterface, LlavaForConditionalGeneration
from transformers.masking_utils import sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from foveate.core.layers import LayersFrom
from foveate.core.needs import ClsRows
from foveate.models.backbone.attention_tap import tapped
from foveate.models.families.llava import Llava
from foveate.testing.tiny import tiny_llava
from tests.image_files import live_images


@pytest.fixture(scope="module")
def pixels():
    return torch.randn(3, 3, 96, 96, generator=torch.Generator().manual_seed(0))


def eager_rows(model: LlavaForConditionalGeneration, pixels):
    """Returns the [CLS] rows of all layers from the full attention matrices of the eager kernel."""
    tower = model.model.vision_tower
    before = tower.config._attn_implementation
    tower.set_attn_implementation("eager")
    with torch.no_grad():
        matrices = tower(pixels, output_attentions=True).attentions
    tower.set_attn_implementation(before)
    return torch.stack([matrix[:, :, 0, 1:] for matrix in matrices], 1)


def test_cls_rows_equal_the_eager_attention_matrix(pixels):
    model = tiny_llava()
    every = ClsRows(tuple(range(8)))
    with torch.no_grad():
        _, trace = live_images(Llava(model), pixels).encode((every, ClsRows(LayersFrom(2)), ClsRows((-1,))))
    expected = eager_rows(model, pixels)
    assert expected.max() > 0.3  # peaked: a uniform row would prove nothing
    torch.testing.assert_close(trace[every], expected, atol=1e-5, rtol=1e-4)
    assert torch.equal(trace[ClsRows(LayersFrom(2))], trace[every][:, 2:7])
    assert torch.equal(trace[ClsRows((-1,))], trace[every][:, 7:])


def test_features_are_bit_by_bit_those_of_the_untapped_tower(pixels):
    model = tiny_llava()
    with torch.no_grad():
        sources, _ = live_images(Llava(model), pixels).encode((ClsRows((0,)),))
        projected = model.model.get_image_features(
            pixels, vision_feature_layer=-2, vision_feature_select_strategy="default"
        ).pooler_output
        assert torch.equal(model.model.multi_modal_projector(sources[:, :144]), torch.stack(list(projected)))


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_the_attention_function_is_restored_also_after_an_exception(implementation, pixels):
    tower = tiny_llava().model.vision_tower
    tower.set_attn_implementation(implementation)
    with pytest.raises(KeyError, match="mine"), tapped(tower, {}, print):
        assert "tap" in tower.config._attn_implementation
        raise KeyError("mine")
    assert tower.config._attn_implementation == implementation


def test_two_models_in_one_process_are_heard_apart(pixels):
    models = [tiny_llava(seed) for seed in (1, 2)]
    heard = {0: [], 1: []}

    def layers(model):
        return {layer.self_attn: i for i, layer in enumerate(model.model.vision_tower.encoder.layers)}

    towers = [model.model.vision_tower for model in models]
    with (
        torch.no_grad(),
        tapped(towers[0], layers(models[0]), lambda *call: heard[0].append(call)),
        tapped(towers[1], layers(models[1]), lambda *call: heard[1].append(call)),
    ):
        for tower in (towers[1], towers[0], towers[1]):
            tower(pixels)
    assert [call[0] for call in heard[0]] == list(range(8))
    assert [call[0] for call in heard[1]] == list(range(8)) * 2
    assert not torch.equal(heard[0][0][1], heard[1][0][1])
    towers[0](pixels)
    assert len(heard[0]) == 8


def test_threads_may_overlap_in_one_model(pixels):
    model = tiny_llava()
    heard, inside, leave = [], Event(), Event()
    layers = {layer.self_attn: i for i, layer in enumerate(model.model.vision_tower.encoder.layers)}

    def first():
        with tapped(model.model.vision_tower, layers, lambda *call: None):
            inside.set()
            leave.wait(10)

    thread = Thread(target=first)
    thread.start()
    inside.wait(10)
    with tapped(model.model.vision_tower, layers, lambda *call: heard.append(call[0])):
        leave.set()
        thread.join()
        model.model.vision_tower(pixels)
    assert heard == list(range(8))
    assert model.model.vision_tower.config._attn_implementation == "sdpa"


def test_other_kernels_find_their_own_name_in_the_configuration(pixels):
    """The kernel reads its name from the module's configuration, like flash kernels, which cannot run here."""
    names = []

    def kernel(module, query, key, value, attention_mask, **kwargs):
        names.append(module.config._attn_implementation)
        return ALL_ATTENTION_FUNCTIONS["sdpa"](module, query, key, value, attention_mask, **kwargs)

    AttentionInterface.register("picky", kernel)
    AttentionMaskInterface.register("picky", sdpa_mask)
    model = tiny_llava()
    with torch.no_grad():
        expected, _ = live_images(Llava(model), pixels).encode((ClsRows((1,)),))
        model.model.vision_tower.set_attn_implementation("picky")
        features, trace = live_images(Llava(model), pixels).encode((ClsRows((1,)),))
    assert names == ["picky"] * 7  # the last layer is not read, so it does not run
    assert torch.equal(features, expected)
    torch.testing.assert_close(trace[ClsRows((1,))], eager_rows(model, pixels)[:, 1:2], atol=1e-5, rtol=1e-4)
    assert model.model.vision_tower.config._attn_implementation == "picky"
