"""A compiled language model, and compiled decoding steps from a static cache, answer as the plain model does."""

import pytest
import torch
from torch._dynamo.exc import Unsupported
from transformers import CompileConfig

from foveate.core.errors import FoveateError
from foveate.methods import fastv, pyramiddrop, random, vtc_cls
from foveate.models.loading.load import load
from foveate.testing.matrix import family_inputs, load_family
from tests.tiers import parametrize

BEHIND = {"vtc_cls": vtc_cls(16, 1), "random": random(16)}
CUTS = {"one cut": fastv(16, 2), "several cuts": pyramiddrop(16, (1, 2, 3))}
POSITIONS_OF_SEVERAL_AXES = ("Qwen2.5-VL", "Qwen3-VL", "GLM-4.1V")


@pytest.fixture(autouse=True)
def compiled_anew():
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


@pytest.fixture(scope="module")
def inputs(loaded):
    ids = torch.tensor([loaded.prompt("what is it ?"), loaded.prompt("where is it ?")])
    images = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": images}


def said(model, method, inputs, **options):
    with method.attached(model):
        return model.generate(**inputs, max_new_tokens=5, min_new_tokens=5, do_sample=False, **options)


def static_steps(backend="eager", one_graph=True):
    """Returns the options that a GPU has by default, where they make CUDA graphs, for this CPU."""
    config = CompileConfig(backend=backend, fullgraph=one_graph, mode=None)
    config._compile_all_devices = True  # type: ignore[assignment]
    return {"cache_implementation": "static", "compile_config": config}


def graphs():
    counters = torch._dynamo.utils.counters
    return counters["stats"]["unique_graphs"], sum(counters["graph_break"].values())


@parametrize("backend", ["eager", "aot_eager", "inductor"])
@pytest.mark.parametrize("method", BEHIND.values(), ids=BEHIND)
def test_steps_from_a_static_cache_are_one_graph_behind_the_tower(loaded, inputs, method, backend):
    expected = said(loaded.model, method, inputs)
    assert torch.equal(said(loaded.model, method, inputs, **static_steps(backend)), expected)
    assert graphs() == (1, 0)


@parametrize("family", POSITIONS_OF_SEVERAL_AXES)
def test_steps_are_one_graph_where_positions_have_several_axes(family):
    model, given, method = load_family(family).model, family_inputs(family), random(8)
    assert torch.equal(said(model, method, given, **static_steps()), said(model, method, given))
    assert graphs() == (1, 0)


@parametrize("backend", ["eager", "aot_eager", "inductor"])
@parametrize("how", ["in place", "replaced"])
def test_a_compiled_language_model_is_one_graph_behind_the_tower(tiny, inputs, how, backend):
    method = BEHIND["vtc_cls"]
    whole = load(tiny).model
    expected, inner = said(whole, method, inputs), whole.model
    if how == "in place":
        inner.language_model.compile(backend=backend, fullgraph=True)
    else:
        inner.language_model = torch.compile(inner.language_model, backend=backend, fullgraph=True)
    assert torch.equal(said(whole, method, inputs), expected)
    made, breaks = graphs()
    assert made and not breaks


@parametrize("method", CUTS.values(), ids=list(CUTS))
def test_cuts_work_in_compiled_steps_of_several_graphs(loaded, inputs, method):
    expected = said(loaded.model, method, inputs)
    assert torch.equal(said(loaded.model, method, inputs, **static_steps(one_graph=False)), expected)
    assert graphs()[0] > 1


@parametrize("method", CUTS.values(), ids=list(CUTS))
@parametrize("how", ["steps", "language model", "one pass"])
def test_cuts_in_one_graph_are_refused_by_name(tiny, inputs, method, how):
    model, options = load(tiny).model, static_steps() if how == "steps" else {}
    if how != "steps":
        model.model.language_model.compile(backend="eager", fullgraph=True)
    with pytest.raises(FoveateError, match=r"fullgraph=True does not work with a method that cuts inside"):
        if how == "one pass":
            with method.attached(model):
                model(**inputs)
        else:
            said(model, method, inputs, **options)


def test_errors_of_a_compiled_model_without_cuts_are_those_of_torch(tiny, inputs):
    model = load(tiny).model
    layer = model.model.language_model.layers[0]
    layer.register_forward_pre_hook(torch.compiler.disable(lambda *_: None))
    model.model.language_model.compile(backend="eager", fullgraph=True)
    with pytest.raises(Unsupported):
        said(model, BEHIND["random"], inputs)
