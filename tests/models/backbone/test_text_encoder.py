import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModel,
)

from foveate.core.arrangement import Grid
from foveate.core.errors import UnsupportedModel
from foveate.core.needs import AlignedPatches, AlignedText
from foveate.core.trace import Trace
from foveate.models.backbone.text_encoder import Companion
from foveate.models.loading.companion import load_companion
from foveate.reference.architecture import make_text_tokenizer
from foveate.scorers import TextSimilarity

GOLDEN = Path(__file__).parents[2] / "golden"
sys.path.insert(0, str(GOLDEN))
import inputs  # noqa: E402  (lies beside the arrays it explains)

WINDOW = 77


def golden(name: str) -> dict[str, torch.Tensor]:
    with np.load(GOLDEN / f"{name}.npz") as arrays:
        return {key: torch.from_numpy(value) for key, value in arrays.items()}


@pytest.fixture(scope="module")
def companion() -> Companion:
    inputs.self_check()
    config = CLIPConfig(text_config=inputs.CLIP_TEXT, vision_config=inputs.CLIP_VISION, projection_dim=32)
    clip = CLIPModel(config).eval()
    vision, text = inputs.clip_vision_weights(), inputs.clip_text_weights()
    inputs.load_clip_vision(clip.vision_model, vision)
    inputs.load_clip_text(clip.text_model, text)
    for projection, weights in (
        (clip.visual_projection, vision["visual_projection.weight"]),
        (clip.text_projection, text["text_projection.weight"]),
    ):
        projection.weight.data = torch.from_numpy(weights)
    return Companion(clip, make_text_tokenizer())


@pytest.fixture(scope="module")
def stock() -> CLIPTextModelWithProjection:
    """Returns the class that the authors of CDPruner and TRIM use."""
    model = CLIPTextModelWithProjection(CLIPTextConfig(**inputs.CLIP_TEXT)).eval()
    return inputs.load_clip_text(model, inputs.clip_text_weights() | {})


@torch.no_grad()
def embedded(stock, ids: list[int]) -> torch.Tensor:
    return stock(input_ids=torch.tensor([ids])).text_embeds[0]


def test_patches_are_those_of_the_golden_tower(companion):
    trunk = golden("trunk")
    ours = companion.patches(trunk["hidden_m2"][:, 1:])
    torch.testing.assert_close(ours, trunk["image_embeds_m2"], rtol=1e-5, atol=1e-6)
    assert not ours.requires_grad


@pytest.mark.parametrize("truncated", [False, True])
def test_a_short_question_is_that_of_the_authors(companion, truncated):
    ours = companion.embed(inputs.text_tokens()[:1], truncated)
    torch.testing.assert_close(ours[0], golden("cdpruner")["text_embeds_img0"], rtol=1e-5, atol=2e-6)
    torch.testing.assert_close(ours[:, 0], golden("trim")["text_embeds"], rtol=1e-5, atol=2e-6)


def test_patches_and_question_together_give_the_authors_scores(companion):
    image = companion.patches(golden("trunk")["hidden_m2"][:, 1:])
    text = companion.embed(inputs.text_tokens()[:1], False)
    trace = Trace({AlignedPatches(): image, AlignedText(): text, AlignedText(True): text}, (Grid(24, 24),), 1)
    trim = TextSimilarity(negated=True, cosine=False, normalise="softmax", truncated=True).score(trace)
    torch.testing.assert_close(trim, golden("trim")["scores"], rtol=2e-5, atol=0)
    ours = TextSimilarity(negated=True, normalise="minmax").score(trace)[0].double().numpy()
    theirs = golden("cdpruner")["relevance"][0].double().numpy()  # min and max over three images
    slope, shift = np.polyfit(theirs, ours, 1)
    np.testing.assert_allclose(ours, slope * theirs + shift, atol=1e-5)


def test_a_long_question_is_cut_into_windows_and_short_ones_are_padded_with_zeros(companion, stock):
    short, middle, long = inputs.text_tokens()
    ours = companion.embed([short, middle, long], truncated=False)
    assert ours.shape == (3, 2, 32)
    assert not ours[:2, 1].any()
    expected = [embedded(stock, ids) for ids in (short, middle, long[:WINDOW], long[WINDOW:])]
    torch.testing.assert_close(
        torch.stack([ours[0, 0], ours[1, 0], *ours[2]]), torch.stack(expected), rtol=1e-4, atol=2e-6
    )


def test_a_truncated_question_ends_in_its_last_token(companion, stock):
    *_, long = inputs.text_tokens()
    ours = companion.embed([long], truncated=True)
    assert ours.shape == (1, 1, 32)
    expected = embedded(stock, [*long[: WINDOW - 1], inputs.CLIP_TEXT["eos_token_id"]])
    torch.testing.assert_close(ours[0, 0], expected, rtol=1e-4, atol=2e-6)
    exact = [98, *[5] * (WINDOW - 2), 99]
    assert torch.equal(companion.embed([exact], truncated=True), companion.embed([exact], truncated=False))


def test_every_token_of_a_question_is_that_of_the_stock_encoder_and_zeros_pad(companion, stock):
    short, middle, long = inputs.text_tokens()
    ours = companion.embed_words([short, middle, long])
    assert ours.shape == (3, WINDOW, 32)
    assert not ours[0, len(short) :].any() and not ours[1, len(middle) :].any()
    for row, ids in zip(ours, (short, middle, [*long[: WINDOW - 1], long[-1]]), strict=True):
        with torch.no_grad():
            states = stock(input_ids=torch.tensor([ids])).last_hidden_state[0]
            expected = stock.text_projection(states)
        torch.testing.assert_close(row[: len(ids)], expected, rtol=1e-4, atol=2e-6)
        alone = companion.embed_words([ids])
        torch.testing.assert_close(alone[0], row[: len(ids)], rtol=1e-5, atol=1e-6)


def test_patches_without_the_final_norm_are_linear_in_the_features(companion):
    one, other = torch.randn(2, 1, 3, 64, generator=torch.Generator().manual_seed(0))
    weight = companion.clip.visual_projection.weight.detach()
    ours = companion.patches(one + 2 * other, normed=False)
    torch.testing.assert_close(ours, (one + 2 * other) @ weight.T, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(ours, companion.patches(one + 2 * other))


def test_a_question_does_not_depend_on_the_others(companion):
    texts = inputs.text_tokens()
    together = companion.embed(texts, truncated=False)
    for text, row in zip(texts, together, strict=True):
        alone = companion.embed([text], truncated=False)[0]
        torch.testing.assert_close(row[: len(alone)], alone, rtol=1e-5, atol=1e-6)


def test_features_of_another_width_or_precision(companion):
    with pytest.raises(UnsupportedModel, match=r"64 wide, these features are 128 wide.*clip-vit-large-patch14-336"):
        companion.patches(torch.zeros(1, 4, 128))
    assert companion.patches(torch.zeros(1, 4, 64, dtype=torch.bfloat16)).dtype == torch.float32


def test_the_shipped_companion_reads_questions():
    companion = load_companion("reference")
    question = "is there a red key?"
    ids = companion.tokenizer(question)["input_ids"]
    assert companion.tokenizer.convert_ids_to_tokens(ids) == f"<s> {question[:-1]} ? <end>".split()
    texts = companion.texts([question, "where is the star? " * 10], truncated=False)
    assert texts.shape == (2, 2, 128)
    words = companion.words([question, "where is the star?"])
    assert words.shape == (2, len(ids), 128)
    torch.testing.assert_close(words[:1], companion.embed_words([ids]))
    assert not texts[0, 1].any()
    assert texts[1, 1].any()
    assert companion.texts([question, "where is the star? " * 10], truncated=True).shape == (2, 1, 128)
    torch.testing.assert_close(texts[:1, :1], companion.embed([ids], truncated=False))
    stock = companion.clip.get_text_features(torch.tensor([ids])).pooler_output
    torch.testing.assert_close(texts[0, 0], stock[0], rtol=1e-5, atol=1e-5)


def test_what_is_no_companion_is_refused(tmp_path, tiny):
    with pytest.raises(UnsupportedModel, match="companion 'nowhere': neither 'reference', nor a checkpoint folder"):
        load_companion("nowhere")
    with pytest.raises(
        UnsupportedModel, match="of type 'llava', expected a CLIP with image and text encoder; name the CLIP"
    ):
        load_companion(tiny)
    tower = CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, image_size=8, patch_size=8
        )
    )
    tower.save_pretrained(tmp_path / "tower")
    with pytest.raises(UnsupportedModel, match="of type 'clip_vision_model'"):
        load_companion(tmp_path / "tower")


def test_a_folder_without_tokenizer_or_weights_is_incomplete(tmp_path):
    clip = CLIPModel(CLIPConfig(text_config=inputs.CLIP_TEXT, vision_config=inputs.CLIP_VISION, projection_dim=32))
    clip.save_pretrained(tmp_path / "untold")
    with pytest.raises(
        UnsupportedModel, match="lacks its tokenizer: the loaded one has 2 tokens, its text encoder 100"
    ):
        load_companion(tmp_path / "untold")
    (tmp_path / "untold" / "model.safetensors").unlink()
    with pytest.raises(UnsupportedModel, match="is incomplete"):
        load_companion(tmp_path / "untold")
    weights = {name: value for name, value in clip.state_dict().items() if not name.startswith("text_projection")}
    clip.save_pretrained(tmp_path / "partial", state_dict=weights)
    make_text_tokenizer().save_pretrained(tmp_path / "partial")
    with pytest.raises(UnsupportedModel, match=r"lacks 1 of its weights, such as text_projection\.weight"):
        load_companion(tmp_path / "partial")


def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(UnsupportedModel, match="device 'nonsense' cannot be used"):
        load_companion("reference", "nonsense")
