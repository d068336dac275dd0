import pytest
import torch

from foveate.compressors import Identity
from foveate.core.compression import Compressed
from foveate.core.needs import ResponseRows
from foveate.data.load import load_samples
from foveate.models.loading.load import load
from foveate.models.runtime.generation import Decoding, answer_each
from foveate.models.runtime.response_attention import AttentionMaps, attention_maps, response_rows
from tests.image_files import live_images

NAMES = ("last", "question", "every", "response")
TOKENS = 4
ROUNDING = 1e-5  # of eight blocks in float32; in float64 the same comparisons differ by less than 1e-7
GIVEN = ([7, 8, 9, 10, 11], [12], [], [13, 9])


class Asked:
    """Four prompts of different lengths about three images."""

    def __init__(self, checkpoint: str):
        self.loaded = load(checkpoint)
        samples = load_samples("scenes", "search", limit=33)
        self.samples = [samples[i] for i in (0, 4, 11, 31)]
        self.prompts = [self.loaded.prompt(sample.question) for sample in self.samples]
        self.pixels = self.loaded.image_inputs([sample.image for sample in self.samples])[0]["pixel_values"]

    @torch.inference_mode()
    def full(self, rows: slice = slice(None)) -> Compressed:
        return Identity().compress(live_images(self.loaded.adapter, self.pixels[rows]))

    def attention_maps(self, answers, rows: slice = slice(None)) -> AttentionMaps:
        return attention_maps(self.loaded.adapter, self.prompts[rows], self.full(rows), answers, TOKENS)


@pytest.fixture(scope="module")
def asked(tiny):
    asked = Asked(tiny)
    assert len(set(map(len, asked.prompts))) > 1  # so that there is padding
    return asked


@torch.inference_mode()
def eager_matrices(asked: Asked, row: int, answer: list[int]):
    """Returns the stock attention matrices of one unpadded prompt with its answer: (layer, head, query, key)."""
    model = asked.loaded.model
    ids = torch.tensor([asked.prompts[row] + answer])
    model.set_attn_implementation({"text_config": "eager"})
    output = model(input_ids=ids, pixel_values=asked.pixels[row : row + 1], output_attentions=True)
    model.set_attn_implementation({"text_config": "sdpa"})
    return torch.cat(output.attentions)


def test_attention_maps_of_a_padded_batch_equal_the_eager_attention_matrices_of_each_prompt_alone(asked):
    found = asked.attention_maps(GIVEN)
    for row, (prompt, answer) in enumerate(zip(asked.prompts, GIVEN, strict=True)):
        matrices = eager_matrices(asked, row, answer)
        patches = [i for i, token in enumerate(prompt) if token == asked.loaded.adapter.image_token]
        length, seen = len(prompt), matrices[..., patches]
        expected = {
            "last": seen[:, :, length - 1],
            "question": seen[:, :, patches[-1] + 1 : length].mean(2),
            "every": seen[:, :, :length].mean(2),
            "response": seen[:, :, length - 1 : length - 1 + (len(answer) or 1)].mean(2),
        }
        assert expected["last"].max() > 0.3  # peaked: a uniform row would prove nothing
        for name in NAMES:
            torch.testing.assert_close(getattr(found, name)[row], expected[name], atol=ROUNDING, rtol=0)
        own = seen[:, :, length : length + max(0, len(answer) - 1)]
        assert found.answer[row].isnan().all() == (len(answer) < 2)
        if len(answer) > 1:
            torch.testing.assert_close(found.answer[row], own.mean(2), atol=ROUNDING, rtol=0)
        single = seen[:, :, length - 1 : length - 1 + (len(answer) or 1)].mean((0, 1))[:TOKENS]
        torch.testing.assert_close(found.tokens[row, : len(single)], single, atol=ROUNDING, rtol=0)
        assert found.tokens[row, len(single) :].isnan().all()


def test_of_answers_of_one_token_there_are_no_own_rows(asked):
    found = asked.attention_maps([[7], [12], [], [13]])
    assert found.answer.isnan().all()
    torch.testing.assert_close(found.tokens[:, 0], found.last.mean((1, 2)), atol=1e-6, rtol=0)
    assert found.tokens[:, 1:].isnan().all()
    assert asked.attention_maps(GIVEN).answer.shape == found.answer.shape


def test_the_four_ways_to_look_differ_where_they_should(asked):
    found = asked.attention_maps(GIVEN)
    means = torch.stack([getattr(found, name) for name in NAMES])
    distance = (means[:, None] - means).abs().amax((3, 4, 5))  # (name, name, prompt)
    assert (distance[:3, :3] + torch.eye(3)[..., None] > 0.01).all()
    same = torch.tensor([len(answer) < 2 for answer in GIVEN])
    # one row produces such an answer, that of the last prompt token
    assert torch.equal(distance[0, 3] < ROUNDING, same)


@pytest.mark.parametrize("brief", [False, True])
def test_given_the_own_answer_the_response_rows_are_those_recorded_while_it_was_decoded(asked, monkeypatch, brief):
    llava, new = asked.loaded.adapter, 6

    def own():
        return answer_each(llava, asked.prompts, asked.full(), False, (), Decoding(new))[0].tokens

    if brief:  # the first token of one answer becomes an end token: that answer is empty, others may be short
        monkeypatch.setattr(llava.model.generation_config, "eos_token_id", own()[0][0])
    lengths = list(map(len, own()))
    assert max(lengths) > 1 and (0 in lengths) == brief
    recorded = response_rows(llava, asked.prompts, asked.full(), ResponseRows(()), new)
    torch.testing.assert_close(asked.attention_maps(own()).response, recorded, atol=ROUNDING, rtol=0)


def test_a_batch_gives_what_single_prompts_give(asked):
    batch = asked.attention_maps(GIVEN)
    for row, answer in enumerate(GIVEN):
        single = asked.attention_maps([answer], slice(row, row + 1))
        for name in NAMES:
            torch.testing.assert_close(getattr(batch, name)[row], getattr(single, name)[0], atol=ROUNDING, rtol=0)
        for name in ("answer", "tokens"):
            pair = getattr(batch, name)[row], getattr(single, name)[0]
            torch.testing.assert_close(*pair, atol=ROUNDING, rtol=0, equal_nan=True)


def test_an_end_token_does_not_count(asked):
    end = asked.loaded.adapter.ends[0]
    ended, bare = asked.attention_maps([[*answer, end] for answer in GIVEN]), asked.attention_maps(GIVEN)
    for name in NAMES:
        assert torch.equal(getattr(ended, name), getattr(bare, name))
