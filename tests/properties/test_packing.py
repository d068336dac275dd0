"""Prompts of any length with any number of images of any grid, against packing one prompt at a time with lists."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from foveate.core.arrangement import Arrangement
from foveate.core.compression import Compressed, Compression, Decision
from foveate.core.needs import Role
from foveate.core.trace import EXTRA, PADDING
from foveate.models.loading.load import load
from foveate.models.runtime.packing import pack
from tests.properties.strategies import views

WIDTH = 3


@st.composite
def arrangements(draw):
    seen = draw(views())
    patches = sum(grid.patches for grid in seen)
    breaks = draw(st.sets(st.integers(0, patches + 3), max_size=3))
    separators = tuple(sorted(place for place in breaks if place < patches + len(breaks)))
    return Arrangement(seen, separators=separators)


@st.composite
def batches(draw):
    """Prompts: images, kept patches of each, lengths of the texts around them, and padding."""
    prompts = []
    for _ in range(draw(st.integers(1, 3))):
        images = draw(st.lists(arrangements(), max_size=2))
        stays = []
        for image in images:
            every = list(range(image.patches))
            kept = draw(
                st.one_of(st.just(every), st.just([0]), st.just([]), st.sets(st.sampled_from(every)).map(sorted))
            )
            stays.append(kept + [EXTRA] * draw(st.integers(0, 2)))
        texts = draw(st.lists(st.integers(1, 4), min_size=len(images) + 1, max_size=len(images) + 1))
        prompts.append((images, stays, texts, draw(st.integers(0, 3))))
    return prompts, draw(st.booleans()), draw(st.booleans())


@pytest.fixture(scope="module")
def adapter(tiny):
    adapter = load(tiny).adapter
    adapter.separator = torch.full((WIDTH,), -1.0)
    return adapter


def woven(image, origin, separators):
    """(place in the run, number of the token or None for a separator) in the order of the prompt."""
    runs, last, tokens = image.offsets.tolist(), 0, []
    for number, patch in enumerate(origin):
        last = max(last, runs[patch]) if patch >= 0 else last
        tokens.append((last, number))
    breaks = [(place, None) for place in (image.separators if separators else ())]
    before = [0 if patch == EXTRA and not any(p >= 0 for p in origin[:n]) else 1 for n, patch in enumerate(origin)]
    keyed = [((-1 if not before[number] else place), 0, number, (place, number)) for place, number in tokens]
    keyed += [(place, 1, 0, (place, None)) for place, _ in breaks]
    return [item for *_, item in sorted(keyed, key=lambda one: one[:3])]


def by_hand(prompt, padding, image_token, separators, repack, first):
    """Ids, positions and tokens of one prompt; `first` is the number of its first image."""
    images, stays, texts, _ = prompt
    ids, positions, tokens, place, text = [], [], [], 0, 10
    for number, length in enumerate(texts):
        ids += range(text, text + length)
        positions += range(place, place + length)
        text, place = text + length, place + length
        if number < len(images):
            for offset, token in woven(images[number], stays[number], separators):
                ids.append(image_token)
                positions.append(place + offset)
                tokens.append([first + number, token] if token is not None else None)
            place += images[number].length
    return ids, list(range(len(ids))) if repack else positions, tokens


@pytest.mark.guards("padding mask: packed prompts mark padding as real")
@given(batch=batches())
def test_a_batch_is_packed_as_each_prompt_alone_by_hand(adapter, batch):
    prompts, separators, repack = batch
    images = [image for prompt in prompts for image in prompt[0]]
    stays = [kept for prompt in prompts for kept in prompt[1]]
    given_ids = []
    for own, _, texts, _ in prompts:
        ids, text = [], 10
        for number, length in enumerate(texts):
            ids += range(text, text + length)
            text += length
            ids += [adapter.image_token] * (own[number].length if number < len(own) else 0)
        given_ids.append(ids)
    longest = max(len(ids) + prompt[3] for ids, prompt in zip(given_ids, prompts, strict=True))
    rows = torch.tensor([[adapter.pad_token] * (longest - len(ids)) + ids for ids in given_ids])
    mask = torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids in given_ids])
    width = max(map(len, stays), default=0)
    origin = torch.tensor([kept + [PADDING] * (width - len(kept)) for kept in stays], dtype=torch.long)
    origin = origin.reshape(len(images), width)
    tokens = (
        torch.stack(
            [torch.tensor([[i, n, 0.0] for n in range(width)]).reshape(width, WIDTH) for i in range(len(images))]
        )
        if images
        else torch.zeros(0, 0, WIDTH)
    )
    decision = Decision(
        torch.full((len(images), max((i.patches for i in images), default=0)), torch.nan), Compression(origin)
    )
    compressed = Compressed(tokens, decision, tuple(images), separators)
    packed, layout = pack(adapter, {"input_ids": rows, "attention_mask": mask}, compressed, repack)
    first, made = 0, []
    for row, prompt in enumerate(prompts):
        ids, positions, own = by_hand(prompt, 0, adapter.image_token, separators, repack, first)
        first, made = first + len(prompt[0]), made + own
        there = packed["attention_mask"][row].bool()
        assert there.sum() == len(ids) and there[len(there) - len(ids) :].all()
        assert packed["input_ids"][row][there].tolist() == ids
        assert (packed["input_ids"][row][~there] == adapter.pad_token).all()
        assert packed["position_ids"][row][there].tolist() == positions
        assert (layout.role[row][~there] == Role.PADDING).all()
    expected = [[-1.0] * WIDTH if token is None else [*map(float, token), 0.0] for token in made]
    assert layout.tokens.tolist() == expected
