"""The precision of a loaded checkpoint, and offloaded parts."""

import shutil
from collections import Counter

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, LlavaForConditionalGeneration

from foveate.core.errors import UnsupportedModel
from foveate.methods import fastv, full, uniform
from foveate.models.loading.load import load
from foveate.testing.checkpoints import save_family
from foveate.testing.families import FAMILIES, SPREAD, WITHOUT_CUTS

IMAGE = Image.radial_gradient("L").resize((60, 40))
HALF = "LLaVA-1.5", "LLaVA-OneVision", "Qwen2.5-VL"


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory):
    known = {}

    def get(family, dtype=None):
        if (family, dtype) not in known:
            folder = save_family(family, tmp_path_factory.mktemp("family"))
            if dtype is not None:
                model = AutoModelForImageTextToText.from_pretrained(folder, dtype=dtype)
                model.save_pretrained(folder)
            known[family, dtype] = folder
        return known[family, dtype]

    return get


def precisions(model):
    return Counter(weight.dtype for weight in model.parameters())


@pytest.mark.parametrize("family", HALF)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_a_checkpoint_is_loaded_in_its_own_precision(family, dtype, folder_of):
    assert set(precisions(load(folder_of(family, dtype)).model)) == {dtype}


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_another_precision_has_to_be_named(dtype, folder_of):
    assert set(precisions(load(folder_of("LLaVA-1.5", torch.bfloat16), dtype=dtype).model)) == {getattr(torch, dtype)}


def test_the_shipped_model_is_in_float32():
    assert set(precisions(load().model)) == {torch.float32}


@torch.no_grad()
@pytest.mark.parametrize("family", HALF)
def test_in_half_precision_logits_are_those_of_the_stock_model(family, folder_of):
    """The stock model keeps the frequencies of rotary positions, which are buffers, in float32."""
    folder = folder_of(family)
    loaded = load(folder, dtype="bfloat16")
    stock = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.bfloat16).eval()
    inputs = loaded.inputs([loaded.chat_prompt([None, "What is it?"])], [[IMAGE]])
    assert torch.equal(loaded.model(**inputs).logits, stock(**inputs).logits)


@pytest.mark.parametrize("dtype", ["auto", "bfloat16"])
def test_weights_that_are_kept_in_another_precision_are_brought_to_that_of_the_others(dtype, folder_of, monkeypatch):
    monkeypatch.setattr(LlavaForConditionalGeneration, "_keep_in_fp32_modules_strict", {"multi_modal_projector"})
    folder = folder_of("LLaVA-1.5", torch.bfloat16)
    kept = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.bfloat16)
    assert set(precisions(kept)) == {torch.bfloat16, torch.float32}
    assert set(precisions(load(folder, dtype=dtype).model)) == {torch.bfloat16}


def test_a_precision_that_is_not_supported_is_named(folder_of, tmp_path):
    folder = shutil.copytree(folder_of("LLaVA-1.5"), tmp_path / "double")
    AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float64).save_pretrained(folder)
    with pytest.raises(
        UnsupportedModel, match=r"is stored as float64: load it with dtype= one of float32, bfloat16, float16"
    ):
        load(folder)
    assert set(precisions(load(folder, dtype="float32").model)) == {torch.float32}
    with pytest.raises(UnsupportedModel, match=r"dtype 'float64' is unknown; known: float32, .*, auto"):
        load(folder, dtype="float64")


READ_BESIDE = ("Idefics3", "GLM-4.1V", "GLM-4.5V", "GLM-4.6V")
"""The families whose stock model cannot be offloaded as a whole, because it reads weights beside its modules."""


def offloaded(family, folder, tmp_path, everything, **options):
    """Loads a checkpoint whose weights are all on disk, or only those of the language model."""
    vision, language = ["model.vision_tower", "model.multi_modal_projector"], "model.language_model"
    if family.startswith(("Qwen", "GLM")):
        vision = ["model.visual"]
    elif family in SPREAD:
        vision, language = ["model.vision_model", "model.connector"], "model.text_model"
    places = dict.fromkeys(vision, "disk" if everything else "cpu")
    places |= {language: "disk", "lm_head": "disk"}
    if family in ("LLaVA-NeXT", "LLaVA-NeXT-Video", "LLaVA-OneVision"):
        places["model.image_newline"] = "cpu"
    if family == "Gemma 3":
        places["model.multi_modal_projector"] = "cpu"
    return load(folder, device_map=places, offload_folder=tmp_path / "offloaded", **options)


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:The following device_map keys")  # accelerate: of image_newline, which is no module
@pytest.mark.parametrize(
    ("family", "everything"),
    [
        (family, everything)
        for family in FAMILIES
        for everything in (True, False)
        if not (everything and family in READ_BESIDE)
    ],
)
def test_an_offloaded_model_answers_and_is_identified_as_the_whole_one(family, everything, folder_of, tmp_path):
    folder = folder_of(family)
    whole, apart = load(folder), offloaded(family, folder, tmp_path, everything)
    assert any(weight.is_meta for weight in apart.model.parameters())
    assert apart.identity == whole.identity
    assert apart.device == torch.device("cpu")
    inputs = apart.inputs([apart.chat_prompt([None, "What is it?"])], [[IMAGE]])
    options = {"max_new_tokens": 3, "do_sample": False}
    for compressor in (full(), uniform(5), *([] if family in WITHOUT_CUTS else [fastv(6, 3)])):
        with compressor.attached(whole):
            expected = whole.model.generate(**inputs, **options)
        with compressor.attached(apart):
            assert torch.equal(apart.model.generate(**inputs, **options), expected)


def test_offloaded_weights_are_brought_to_one_precision_too(folder_of, tmp_path, monkeypatch):
    monkeypatch.setattr(LlavaForConditionalGeneration, "_keep_in_fp32_modules_strict", {"multi_modal_projector"})
    folder = folder_of("LLaVA-1.5")
    apart = offloaded("LLaVA-1.5", folder, tmp_path, True, dtype="bfloat16")
    assert set(precisions(apart.model)) == {torch.bfloat16}
    assert apart.identity == load(folder, dtype="bfloat16").identity
    inputs = apart.inputs([apart.chat_prompt([None, "What is it?"])], [[IMAGE]])
    assert apart.model.generate(**inputs, max_new_tokens=1).shape[1] == inputs["input_ids"].shape[1] + 1


@pytest.mark.filterwarnings("ignore:The following device_map keys")
def test_a_weight_that_the_stock_model_never_reads_back_is_named(folder_of, tmp_path):
    places = dict.fromkeys(["model.vision_tower", "model.multi_modal_projector", "model.language_model"], "disk")
    places |= {"lm_head": "disk", "model.image_newline": "disk"}
    with pytest.raises(UnsupportedModel, match=r"model.image_newline is offloaded"):
        load(folder_of("LLaVA-NeXT"), device_map=places, offload_folder=tmp_path / "offloaded")
    del places["model.image_newline"]
    with pytest.raises(UnsupportedModel, match=r"model.multi_modal_projector is offloaded"):
        load(folder_of("Gemma 3"), device_map=places, offload_folder=tmp_path / "offloaded")


def test_weights_without_values_are_named(folder_of):
    loaded = load(folder_of("LLaVA-1.5"))
    loaded.model.lm_head.to("meta")
    with pytest.raises(UnsupportedModel, match=r"weight lm_head.weight is on the meta device, without a hook"):
        loaded.identity  # noqa: B018 (computed when it is read)
