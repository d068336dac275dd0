from dataclasses import replace
from itertools import combinations, permutations
from math import comb

import pytest
import torch
from scipy.stats import binomtest

from foveate.bias.causal import (
    AnsweredBatch,
    answer_batch,
    block_occlusion,
    block_shapley,
    cross_fitted_best,
    draw_orders,
    insertion_deletion,
    kept_log_probability,
    thing_occlusion,
)
from foveate.core.arrangement import Arrangement, Grid
from foveate.data.load import load_samples
from foveate.evaluation.encodings import Encodings
from foveate.evaluation.evidence import evidence_of
from foveate.functional.regions import spread, squares
from foveate.metrics.evidence import SHOWN
from foveate.models.loading.load import load

NEW = 5
PATCHES = 144
IMAGES = 3


@pytest.fixture(scope="module")
def tiny_batch(tiny, tmp_path_factory):
    """Returns a tiny model, 15 questions about three images, and the model's answers to them."""
    loaded = load(tiny)
    samples = load_samples("scenes", "search", limit=15)
    encodings = Encodings.of(
        loaded, {s.image_id: s.image for s in samples}, tmp_path_factory.mktemp("causal") / "encodings"
    )
    return loaded, samples, answer_batch(encodings, samples, [loaded.prompt(s.question) for s in samples], NEW)


@pytest.fixture(scope="module")
def reference():
    """Returns the shipped model, 98 questions about 14 images, and the model's answers to them."""
    loaded = load("reference")
    samples = load_samples("scenes", "test", limit=98)
    images = {sample.image_id: sample.image for sample in samples}
    prompts = [[loaded.prompt(s.question) for s in samples if s.image_id == image_id] for image_id in images]
    answered = AnsweredBatch.generate(loaded.adapter, loaded.images(list(images.values())), prompts, 24)
    return loaded, samples, answered


def owner(samples):
    ids = list(dict.fromkeys(sample.image_id for sample in samples))
    return torch.tensor([ids.index(sample.image_id) for sample in samples])


@torch.inference_mode()
def stock(loaded, sample, stays, tokens, repack):
    """Returns the log-probability by one pass of the stock model over a prompt whose tokens are removed here."""
    model, image = loaded.model, loaded.model.config.image_token_id
    words = torch.tensor(loaded.prompt(sample.question))
    embeds = model.get_input_embeddings()(words)
    embeds[words == image] = model.get_image_features(
        loaded.image_inputs([sample.image])[0]["pixel_values"]
    ).pooler_output[0]
    remaining = torch.ones_like(words, dtype=torch.bool)
    remaining[words == image] = stays
    position = torch.arange(len(words))[remaining]
    if repack:
        position = torch.arange(len(position))
    start = len(position) if repack else len(words)
    answer = torch.tensor(tokens)
    logits = model(
        inputs_embeds=torch.cat([embeds[remaining], model.get_input_embeddings()(answer)])[None],
        attention_mask=torch.ones(1, len(position) + len(answer), dtype=torch.long),
        position_ids=torch.cat([position, torch.arange(start, start + len(answer))])[None],
    ).logits[0, len(position) - 1 : -1]
    return logits.float().log_softmax(-1)[torch.arange(len(answer)), answer].sum()


@pytest.mark.parametrize("repack", [False, True])
def test_the_log_probability_of_an_answer_equals_the_stock_model_without_the_removed_tokens(tiny_batch, repack):
    loaded, samples, answered = tiny_batch
    share = torch.tensor([1.0, 0.5, 0.1, 0.02, 0.0])[:, None, None]
    stays = torch.rand(5, len(samples), PATCHES, generator=torch.Generator().manual_seed(0)) < share
    found = kept_log_probability(answered, stays, repack, batch_size=8)
    for kept, row in zip(stays, found, strict=True):
        for i in range(0, len(samples), 2):
            expected = stock(loaded, samples[i], kept[i], answered.answers[i], repack)
            torch.testing.assert_close(row[i], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("batch_size", [1, 5])
def test_a_row_of_patches_per_image_equals_the_same_row_for_each_of_its_questions(tiny_batch, batch_size):
    _, samples, answered = tiny_batch
    stays = torch.rand(3, IMAGES, PATCHES, generator=torch.Generator().manual_seed(1)) < 0.3
    shared = kept_log_probability(answered, stays, batch_size=batch_size)
    alone = kept_log_probability(answered, stays[:, owner(samples)], batch_size=batch_size)
    assert shared.shape == (3, len(samples))
    torch.testing.assert_close(shared, alone, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("about", ["tiny_batch", "reference"])
def test_generated_answers_equal_stock_generate_including_the_end_token(about, request):
    loaded, samples, answered = request.getfixturevalue(about)
    for i in (0, 1, 13):
        ids = torch.tensor([loaded.prompt(samples[i].question)])
        output = loaded.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            pixel_values=loaded.image_inputs([samples[i].image])[0]["pixel_values"],
            max_new_tokens=NEW if about == "tiny_batch" else 24,
            do_sample=False,
        )
        assert answered.answers[i] == output[0, ids.shape[1] :].tolist()
        assert about == "tiny_batch" or answered.answers[i][-1] in loaded.adapter.ends


def test_the_log_probability_of_given_answers_equals_the_stock_model(tiny_batch):
    loaded, samples, answered = tiny_batch
    answers = [loaded.reference(sample.question, sample.references[0]) for sample in samples]
    stays = torch.ones(1, IMAGES, PATCHES, dtype=torch.bool)
    found = kept_log_probability(replace(answered, answers=answers), stays)[0]
    for i in (0, 14):
        expected = stock(loaded, samples[i], stays[0, 0], answers[i], False)
        torch.testing.assert_close(found[i], expected, atol=1e-4, rtol=1e-4)


def test_occlusion_is_the_drop_of_the_log_probability_without_the_block(tiny_batch):
    loaded, samples, answered = tiny_batch
    drop = block_occlusion(answered, side=5).drop
    assert drop.shape == (len(samples), 9)
    block = squares(loaded.adapter.tower.grid, 5)
    everything = torch.ones(PATCHES, dtype=torch.bool)
    for i, number in ((0, 0), (7, 4), (14, 8)):
        full, without = (
            stock(loaded, samples[i], stays, answered.answers[i], False) for stays in (everything, block != number)
        )
        torch.testing.assert_close(drop[i, number], full - without, atol=2e-4, rtol=1e-4)


def test_occlusion_of_a_block_that_covers_the_grid_equals_removal_of_all_patches(tiny_batch):
    _, _, answered = tiny_batch
    stays = torch.tensor([True, False])[:, None, None].expand(2, IMAGES, PATCHES)
    seeing, blind = kept_log_probability(answered, stays)
    torch.testing.assert_close(block_occlusion(answered, side=12).drop, (seeing - blind)[:, None], atol=1e-5, rtol=1e-5)


def test_the_mean_over_all_orders_is_the_shapley_value(tiny_batch):
    """Compares with the formula over subsets: each block's rise, weighted by 1 / (B C(B - 1, |S|))."""
    loaded, samples, answered = tiny_batch
    block, every = squares(loaded.adapter.tower.grid, 6), range(4)
    sets = [some for size in range(5) for some in combinations(every, size)]
    stays = torch.stack([torch.isin(block, torch.tensor(some, dtype=torch.long)) for some in sets])
    values = kept_log_probability(answered, stays[:, None].expand(-1, IMAGES, -1))
    value = dict(zip(sets, values, strict=True))
    expected = torch.zeros(len(samples), 4)
    for number in every:
        for some in sets:
            if number not in some:
                rise = value[tuple(sorted((*some, number)))] - value[some]
                expected[:, number] += rise / (4 * comb(3, len(some)))
    orders = torch.tensor(list(permutations(every)))
    found = block_shapley(answered, 6, orders.expand(IMAGES, -1, -1)).mean(1)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert expected.abs().max() > 0.01


def test_each_image_has_its_own_orders_and_contributions_sum_to_the_effect_of_all_patches(tiny_batch):
    loaded, samples, answered = tiny_batch
    orders = draw_orders(["one", "two", "three"], 9, 2)
    found, counts = block_shapley(answered, 4, orders, batch_size=8), []
    stays = torch.tensor([False, True])[:, None, None].expand(2, IMAGES, PATCHES)
    blind, seeing = kept_log_probability(answered, stays)
    torch.testing.assert_close(found.sum(2), (seeing - blind)[:, None].expand(-1, 4), atol=1e-4, rtol=1e-4)
    block = squares(loaded.adapter.tower.grid, 4)
    for i, image in ((0, 0), (14, 2)):
        rises = torch.zeros(4, 9)
        for row, order in zip(rises, orders[image].tolist(), strict=True):
            for step, number in enumerate(order):
                before, after = (torch.isin(block, torch.tensor(order[:end])) for end in (step, step + 1))
                pair = torch.stack([before, after])[:, None].expand(-1, len(samples), -1)
                row[number] = kept_log_probability(answered, pair).diff(dim=0)[0, i]
        torch.testing.assert_close(found[i], rises, atol=1e-4, rtol=1e-3)
    block_shapley(answered, 4, orders, progress=counts.append)
    assert sum(counts) == (2 + 4 * 8) * len(samples)


def test_orders_depend_on_the_image_alone_and_each_is_also_reversed():
    orders = draw_orders(["a", "b"], 7, 3)
    assert orders.shape == (2, 6, 7)
    assert torch.equal(orders.sort(-1).values, torch.arange(7).expand(2, 6, 7))
    assert torch.equal(orders[:, 1::2], orders[:, ::2].flip(-1))
    assert torch.equal(draw_orders(["b"], 7, 3)[0], orders[1])
    assert not torch.equal(orders[0], orders[1])


def test_the_best_block_is_estimated_on_the_orders_that_did_not_select_it():
    rises = torch.tensor([[[1.0, 5.0, 0.0], [3.0, 1.0, 0.0], [0.0, -1.0, 2.0], [0.0, 0.5, 6.0]]])
    # the first half has means 2, 3, 0 and selects block 1; the second has 0, -0.25, 4 and selects block 2
    assert cross_fitted_best(rises).tolist() == [pytest.approx((-0.25 + 0.0) / 2)]
    noise = torch.randn(400, 4, 16, generator=torch.Generator().manual_seed(0))
    assert noise.mean(1).amax(1).mean() > 0.6  # the greatest of 16 means of noise
    assert abs(float(cross_fitted_best(noise).mean())) < 0.1


def test_the_effect_of_a_thing_is_the_drop_of_the_log_probability_without_its_patches(tiny_batch):
    loaded, samples, answered = tiny_batch
    things = torch.zeros(len(samples), 2, PATCHES, dtype=torch.bool)
    things[::2, 0, 30:50] = True
    things[3, 1, 100:] = True
    whole = block_occlusion(answered, side=12).whole
    counts = []
    found = thing_occlusion(answered, things, whole, progress=counts.append)
    assert torch.equal(found.isnan(), ~things.any(2))
    assert sum(counts) == int(things.any(2).sum())
    for i, thing in ((0, 0), (14, 0), (3, 1)):
        expected = stock(loaded, samples[i], ~things[i, thing], answered.answers[i], False)
        torch.testing.assert_close(found[i, thing], whole[i] - expected, atol=2e-4, rtol=1e-4)
    assert thing_occlusion(answered, things[:, :0], whole).shape == (len(samples), 0)


def test_squares_are_counted_from_the_upper_left_and_the_last_are_smaller():
    assert squares(Grid(3, 5), 2).reshape(3, 5).tolist() == [[0, 0, 1, 1, 2], [0, 0, 1, 1, 2], [3, 3, 4, 4, 5]]


def test_values_spread_over_patches_sum_to_the_values_of_the_blocks():
    block, values = squares(Grid(7, 5), 3), torch.randn(4, 6, generator=torch.Generator().manual_seed(2))
    patches = spread(values, block)
    torch.testing.assert_close(torch.zeros(4, 6).index_add_(1, block, patches), values)
    assert all(len(patches[0, block == number].unique()) == 1 for number in range(6))


def test_curves_hold_the_log_probabilities_with_and_without_the_best_patches(tiny_batch):
    loaded, samples, answered = tiny_batch
    scores = torch.randint(0, 9, (len(samples), PATCHES), generator=torch.Generator().manual_seed(3)).float()
    scores[:, 5] = -torch.inf
    shares = [0.0, 0.25, 1.0]
    insertion, deletion = insertion_deletion(answered, scores, shares)
    full, blind = (
        kept_log_probability(answered, torch.full((1, IMAGES, PATCHES), stays, dtype=torch.bool))[0]
        for stays in (True, False)
    )
    for values, first, last in ((insertion, blind, full), (deletion, full, blind)):
        torch.testing.assert_close(values[:, 0], first, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(values[:, 2], last, atol=1e-4, rtol=1e-4)
    for i in (0, 14):
        best = sorted(range(PATCHES), key=lambda patch: (-scores[i, patch], patch))[:36]
        stays = torch.zeros(PATCHES, dtype=torch.bool)
        stays[best] = True
        for values, kept in ((insertion, stays), (deletion, ~stays)):
            expected = stock(loaded, samples[i], kept, answered.answers[i], False)
            torch.testing.assert_close(values[i, 1], expected, atol=1e-4, rtol=1e-4)


def test_scores_per_image_give_the_curves_of_all_questions_about_it(tiny_batch):
    _, samples, answered = tiny_batch
    scores = torch.rand(IMAGES, PATCHES, generator=torch.Generator().manual_seed(4))
    for shared, alone in zip(
        insertion_deletion(answered, scores, [0.1, 0.6]),
        insertion_deletion(answered, scores[owner(samples)], [0.1, 0.6]),
        strict=True,
    ):
        torch.testing.assert_close(shared, alone, atol=1e-4, rtol=1e-4)


def test_selected_questions_have_the_values_of_the_whole_batch(tiny_batch):
    _, samples, answered = tiny_batch
    stays = torch.rand(2, len(samples), PATCHES, generator=torch.Generator().manual_seed(5)) < 0.4
    whole = kept_log_probability(answered, stays)
    for chosen in ({0, 3, 14}, {12, 13}, set(range(15))):
        some, numbers = answered.select(chosen), sorted(chosen)
        assert some.answers == [answered.answers[i] for i in numbers]
        assert len(some.conversations) == len(some.tokens) == len({samples[i].image_id for i in chosen})
        torch.testing.assert_close(
            kept_log_probability(some, stays[:, numbers]), whole[:, numbers], atol=1e-4, rtol=1e-4
        )


@pytest.mark.parametrize("batch_size", [4, 48])
def test_progress_counts_every_sequence(tiny_batch, batch_size):
    _, samples, answered = tiny_batch
    counts = []
    block_occlusion(answered, side=6, batch_size=batch_size, progress=counts.append)
    assert sum(counts) == 5 * len(samples)
    assert max(counts) <= batch_size
    counts.clear()
    insertion_deletion(
        answered, torch.zeros(len(samples), PATCHES), [0.2, 0.5], batch_size=batch_size, progress=counts.append
    )
    assert sum(counts) == 4 * len(samples)


def test_wrong_row_counts_and_nan_scores_are_explained(tiny_batch):
    _, _, answered = tiny_batch
    with pytest.raises(ValueError, match=r"4 rows of patches for 15 questions about 3 images"):
        kept_log_probability(answered, torch.ones(1, IMAGES + 1, PATCHES, dtype=torch.bool))
    scores = torch.zeros(IMAGES, PATCHES)
    scores[1, 7] = torch.nan
    with pytest.raises(ValueError, match=r"1 of 432 scores are NaN"):
        insertion_deletion(answered, scores, [0.5])


def test_removal_of_the_evidence_harms_the_reference_model_more_than_removal_of_as_many_other_patches(reference):
    loaded, samples, answered = reference
    shown = (evidence_of(samples, [Arrangement((loaded.adapter.tower.grid,))] * len(samples)) >= SHOWN).any(1)
    noise = torch.rand(shown.shape, generator=torch.Generator().manual_seed(6))
    rank = noise.masked_fill(shown, 2.0).argsort(1).argsort(1)
    others = rank < shown.sum(1, keepdim=True)
    usable = shown.any(1) & ~(others & shown).any(1)
    assert usable.sum() >= 60
    evidence, other = kept_log_probability(answered, ~torch.stack([shown, others]))
    worse = int((evidence < other)[usable].sum())
    assert binomtest(worse, int(usable.sum()), alternative="greater").pvalue < 1e-6
    assert (other - evidence)[usable].median() > 0.5
