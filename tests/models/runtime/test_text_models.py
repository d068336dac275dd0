"""Evaluations answer like `generate` of the stock model, token by token, for language models of many architectures."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from foveate.compressors import Compressor, DecoderCompressor, Identity, VisionCompressor
from foveate.compressors.base import compressed_by
from foveate.core.errors import FoveateError, UnsupportedNeed
from foveate.models.backbone.grouping import group_by_shape, in_groups
from foveate.models.loading.load import adapt
from foveate.models.runtime.generation import Conversation, Decoding, answer, answer_each
from foveate.models.runtime.images import LiveImages
from foveate.models.runtime.response_attention import attention_maps
from foveate.scorers import PromptAttention, Random
from foveate.testing.families import END, FAMILIES, PAD, START, image_inputs
from foveate.testing.recomputation import features_of
from foveate.testing.text_models import TEXT_MODELS, llava_with
from tests.tiers import parametrize

PROMPTS, BATCH, NEW = 200, 50, 4
OPTIONS = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False}
METHODS = (
    Identity(),
    VisionCompressor(Random(), 5),
    VisionCompressor(Random(), 5, positions="original"),
    DecoderCompressor(PromptAttention(1), 4, layer=2),
)
FEW = ("Mistral v0.1 (window)", "Granite", "Phi-3", "SmolLM3 (no positions in some blocks)")


class Asked:
    """Random prompts, each about one of a family's four images, in batches."""

    def __init__(self, family: str, model: Any) -> None:
        self.model, self.adapter, self.shown = model, adapt(model), image_inputs(family)
        self.lengths = [len(features_of(self.adapter, image)[0]) for image in self.shown]
        generator = torch.Generator().manual_seed(0)

        def words(least: int) -> list[int]:
            count = int(torch.randint(least, 9, (1,), generator=generator))
            return torch.randint(4, 110, (count,), generator=generator).tolist()

        def prompt(number: int) -> list[int]:
            image = [START, *[self.adapter.image_token] * self.lengths[number], END]
            return [*words(0), *image, *words(1)]

        numbers = [i % 4 for i in range(PROMPTS)]
        self.numbers = [numbers[start : start + BATCH] for start in range(0, PROMPTS, BATCH)]
        self.prompts = [[prompt(number) for number in batch] for batch in self.numbers]

    def images(self, numbers: Sequence[int]) -> dict[str, Any]:
        return {name: torch.cat([self.shown[n][name] for n in numbers]) for name in self.shown[0]}

    def stock(self, numbers: Sequence[int], prompts: Sequence[list[int]]) -> list[list[int]]:
        longest = max(map(len, prompts))
        ids = torch.tensor([[PAD] * (longest - len(prompt)) + prompt for prompt in prompts])
        mask = (torch.arange(longest) >= longest - torch.tensor([len(prompt) for prompt in prompts])[:, None]).long()
        inputs = {**self.images(numbers), **self.adapter.token_types(ids), "input_ids": ids, "attention_mask": mask}
        return [row[-NEW:].tolist() for row in self.model.generate(**inputs, **OPTIONS)]

    def evaluated(
        self, numbers: Sequence[int], prompts: Sequence[list[int]], method: Compressor, drafts: Sequence[list[int]] = ()
    ) -> list[list[int]]:
        adapter, images = self.adapter, self.images(numbers)
        arrangements = adapter.arrangements(images, [self.lengths[number] for number in numbers])
        compressed = in_groups(
            lambda some: compressed_by(method, some, adapter.extra_needs),
            group_by_shape(arrangements),
            lambda rows: LiveImages(adapter, adapter.chosen(images, rows, arrangements), arrangements[rows[0]]),
        )
        decoding = Decoding(NEW, drafts)
        if method.cuts:
            answers, _ = answer_each(adapter, prompts, compressed, method.repack, method.cuts, decoding)
            return answers.tokens
        turns = [Conversation.from_prompts([prompt], adapter.placeholders) for prompt in prompts]
        return answer(adapter, turns, compressed, method.repack, decoding).tokens


def check(family: str, model: Any) -> None:
    asked = Asked(family, model)
    for method in METHODS:
        for numbers, prompts in zip(asked.numbers, asked.prompts, strict=True):
            plain = asked.stock(numbers, prompts) if method == Identity() else None
            try:
                with method.attached(model):
                    expected = asked.stock(numbers, prompts)
            except FoveateError as error:
                assert method.cuts and asked.adapter.decoder.window, error
                with pytest.raises(FoveateError, match="sliding_window of"):
                    asked.evaluated(numbers, prompts, method)
                break
            assert plain is None or expected == plain
            assert asked.evaluated(numbers, prompts, method) == expected
            drafts = [said[: 1 + row % NEW] for row, said in enumerate(expected)]
            drafts = [[9 if token == asked.adapter.image_token else token for token in draft] for draft in drafts]
            assert asked.evaluated(numbers, prompts, method, drafts) == expected


@torch.no_grad()
@parametrize("name", TEXT_MODELS, fast=FEW)
def test_every_language_model_answers_as_stock_generate(name):
    check("LLaVA-1.5", llava_with(name))


@torch.no_grad()
@parametrize("family", FAMILIES, fast=("LLaVA-1.5",))
def test_every_family_answers_as_stock_generate(family):
    check(family, FAMILIES[family]())


def test_answers_depend_on_images_and_words():
    asked = Asked("LLaVA-1.5", llava_with("LLaMA"))
    said = asked.stock(asked.numbers[0], asked.prompts[0])
    assert len({tuple(row) for row in said}) > BATCH // 2
    assert asked.stock(asked.numbers[0][1:] + asked.numbers[0][:1], asked.prompts[0]) != said


@pytest.mark.parametrize("name", ["GLM", "Cohere", "Phi"])
def test_debiased_attention_is_refused_where_heads_are_rotated_otherwise(name):
    model: Any = llava_with(name)
    asked = Asked("LLaVA-1.5", model)
    method = DecoderCompressor(PromptAttention(1, debiased=True), 4, layer=2)
    with (
        method.attached(model),
        pytest.raises(UnsupportedNeed, match=r"debiased attention.*rotate whole heads by halves"),
    ):
        asked.stock(asked.numbers[0], asked.prompts[0])


@pytest.mark.parametrize(
    ("name", "found"), [("Gemma-2 (window)", "a window of 12"), ("OLMo-3 (window)", "window of 12")]
)
def test_attention_that_is_more_than_a_softmax_is_not_read(name, found):
    model: Any = llava_with(name)
    asked = Asked("LLaVA-1.5", model)
    full = Identity().compress(
        LiveImages(asked.adapter, asked.shown[0], asked.adapter.arrangements(asked.shown[0], [])[0])
    )
    with pytest.raises(UnsupportedNeed, match=found):
        attention_maps(asked.adapter, [asked.prompts[0][0]], full, [[5, 6]])
