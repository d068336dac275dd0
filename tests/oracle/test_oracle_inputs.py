"""Models with a compressor attached equal the oracle for special inputs and options, or refuse them."""

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from foveate.compressors import VisionCompressor
from foveate.core.errors import FoveateError
from foveate.mergers import DroppedMean
from foveate.methods import uniform
from foveate.scorers import Uniform
from foveate.testing.families import FAMILIES, IMAGE, PAD, VIDEO, WITHOUT_CUTS
from tests.oracle import oracle
from tests.oracle.cases import (
    Case,
    assistant_of,
    cases,
    close,
    ends_whole,
    ends_with_an_image_seen_both_ways,
    expected,
    inputs_of,
    model_of,
    or_refused,
)
from tests.oracle.test_oracle import OPTIONS, check_generated, examples


@pytest.mark.parametrize("family", FAMILIES)
@examples(fast=6)
@given(
    data=st.data(),
    options=st.sampled_from(
        [
            {"prefill_chunk_size": 3},
            {"prompt_lookup_num_tokens": 2},
            {"assistant_model": "another"},
            {"cache_implementation": "static"},
        ]
    ),
)
def test_options_that_only_save_work_change_nothing(family, data, options):
    guessing = bool({"prompt_lookup_num_tokens", "assistant_model"} & set(options))
    case = data.draw(cases(family, rows=1 if guessing else 3))
    assume(not (family.startswith(oracle.AXES) and ends_whole(case)))
    assume(not ends_with_an_image_seen_both_ways(case))
    model = model_of(family)
    cuts_images = family == "Gemma 3" and "prefill_chunk_size" in options
    more = {"assistant_model": assistant_of(family)} if "assistant_model" in options else options
    refused = {"prefill_chunk_size": "chunked prefill", "cache_implementation": None}
    with case.attached() as run:
        output = or_refused(
            lambda: model.generate(**inputs_of(case), **OPTIONS, **more),
            refused.get(next(iter(options)), "assisted decoding") if case.cuts or cuts_images else None,
        )
    if output is not None and not guessing:
        check_generated(case, run, output)
    if output is not None:
        length = inputs_of(case)["input_ids"].shape[1]
        for row, (tokens, cuts) in enumerate(expected(case, run)):
            said = output.sequences[row, length:].tolist()
            logits = oracle.answers(model, tokens, cuts, said[:-1])[:, : min(IMAGE, VIDEO)]
            best = logits.topk(2).values
            clear = best[:, 0] - best[:, 1] > 1e-3
            assert [t for t, c in zip(said, clear, strict=True) if c] == logits.argmax(-1)[clear].tolist()


@pytest.mark.parametrize("family", FAMILIES)
@examples(fast=6)
@given(data=st.data(), seed=st.integers(0, 99))
def test_a_loss_is_that_of_the_remaining_tokens(family, data, seed):
    """Any words of the prompts are labels, but no image token is."""
    case = data.draw(cases(family))
    model, inputs = model_of(family), inputs_of(case)
    ids, chance = inputs["input_ids"], torch.Generator().manual_seed(seed)
    words = (ids != PAD) & (ids < min(IMAGE, VIDEO)) & (torch.rand(ids.shape, generator=chance) < 0.6)
    labels = ids.masked_fill(~words, -100)
    assume(any(len(row.unique()) > 2 for row in labels))
    with torch.no_grad(), case.attached() as run:
        output = or_refused(lambda: model(**inputs, labels=labels), "a loss (labels)" if case.cuts else None)
        if output is None:
            return
        logits, targets = [], []
        for row, (tokens, cuts) in enumerate(expected(case, run)):
            every, visible = oracle.run(model, tokens, cuts)
            target = torch.full((len(tokens),), -100)
            own = labels[row][(ids[row] != PAD) & ~torch.isin(ids[row], torch.tensor([IMAGE, VIDEO]))]
            target[tokens.patch == oracle.TEXT] = own
            logits.append(every[visible][:-1])
            targets.append(target[visible][1:])
        wanted = torch.nn.functional.cross_entropy(torch.cat(logits), torch.cat(targets))
    if not wanted.isnan():  # every label was the first token of its prompt
        close(output.loss, wanted, "loss")


@pytest.mark.parametrize(("family", "keep"), [("LLaVA-1.5", 35), ("Qwen2.5-VL", 8), ("Qwen3-VL", 8)])
def test_an_image_at_the_end_with_one_patch_replaced_by_the_mean_is_compressed(family, keep):
    """The number of tokens stays the same."""
    mean = VisionCompressor(Uniform(), keep, merger=DroppedMean(), merge_projected=True, positions="original")
    case, model = Case(family, (((5, 6), ()),), ((1,),), mean), model_of(family)
    with case.attached() as run:
        output = model.generate(**inputs_of(case), **OPTIONS)
    check_generated(case, run, output)


@pytest.mark.parametrize("family", ["LLaVA-1.5", "Qwen2.5-VL"])
def test_a_cache_whose_rows_changed_places_is_right_or_refused(family):
    """The prompts have different lengths, so the rows are padded differently."""
    case = Case(family, (((5, 6), (9,)), ((5,), (9, 10, 11, 12))), ((0,), (1,)), uniform(4))
    model, more = model_of(family), torch.tensor([[20, 21], [20, 21]])
    with torch.no_grad(), case.attached() as run:
        cache = model(**inputs_of(case), use_cache=True).past_key_values
        cache.reorder_cache(torch.tensor([1, 0]))
        try:
            logits = model(input_ids=more, past_key_values=cache).logits
        except FoveateError:
            return
    for row, (tokens, cuts) in enumerate(expected(case, run)):
        close(logits[1 - row], oracle.answers(model, tokens, cuts, [20, 21], 0)[1:], f"prompt {row}")


@pytest.mark.parametrize("family", FAMILIES)
@examples(fast=2, deep=60)
@given(data=st.data(), kind=st.sampled_from(["no image", "other numbers of images", "a prompt without an image"]))
def test_what_cannot_be_compressed_is_refused(family, data, kind):
    assume(kind == "no image" or family not in WITHOUT_CUTS)
    case = data.draw(cases(family, kinds=("cut", "both") if kind != "no image" else ("vision", "cut", "both")))
    images = {
        "no image": ((),),
        "other numbers of images": ((0,), (1, 2)),
        "a prompt without an image": ((1,), ()),
    }[kind]
    texts = tuple(tuple((5, 6) for _ in range(len(own) + 1)) for own in images)
    inputs = inputs_of(Case(family, texts, images, case.compressor))
    message = {"no image": "nothing to compress", "other numbers of images": "equally many images"}
    model = model_of(family)
    for call in (model.generate, model):
        with case.attached(), pytest.raises(FoveateError, match=message.get(kind, "has no image")):
            model.generate(**inputs, max_new_tokens=2) if call == model.generate else model(**inputs)


def test_features_that_no_adapter_handles_reach_the_model():
    """The caller gives features of another kind beside pixels."""
    case, model, seen = Case("LLaVA-1.5", (((5, 6), (9,)),), ((0,),), uniform(4)), model_of("LLaVA-1.5"), []
    hook = model.model.register_forward_pre_hook(lambda _, args, given: seen.append(given), with_kwargs=True)
    other = object()
    try:
        with torch.no_grad(), case.attached():
            model(**inputs_of(case), mm_encoder_outputs={"audio": other})
    finally:
        hook.remove()
    assert seen[0]["mm_encoder_outputs"]["audio"] is other
