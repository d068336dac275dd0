import hashlib

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from foveate.core.errors import LayerError
from foveate.functional.attention import attention_rows, causal, mean_attention, mean_greatest_attention, reduce_heads
from foveate.functional.fingerprint import fingerprints
from foveate.functional.geometry import evenness
from foveate.functional.ranking import top_k
from foveate.functional.sequence import padded_index, positions, repeat_left_padded


def test_attention_rows_equal_numpy_softmax_with_grouped_keys_and_a_mask():
    rng = np.random.default_rng(0)
    query, key = rng.normal(size=(2, 4, 3, 8)), rng.normal(size=(2, 2, 5, 8))
    allowed = rng.random((2, 1, 3, 5)) < 0.7
    allowed[..., 0] = True
    logits = np.einsum("bhqd,bhkd->bhqk", query, key.repeat(2, axis=1)) * 0.3
    expected = np.where(allowed, np.exp(logits), 0)
    expected /= expected.sum(-1, keepdims=True)
    rows = attention_rows(torch.tensor(query).float(), torch.tensor(key).float(), 0.3, torch.tensor(allowed))
    np.testing.assert_allclose(rows, expected, atol=1e-6)


def test_heads_are_averaged_maximised_or_picked():
    rows = torch.rand(2, 3, 4, 5)
    assert torch.equal(reduce_heads(rows, "max"), rows.max(2).values)
    torch.testing.assert_close(reduce_heads(rows, "mean"), rows.sum(2) / 4)
    torch.testing.assert_close(reduce_heads(rows, (1, 3)), (rows[:, :, 1] + rows[:, :, 3]) / 2)
    with pytest.raises(LayerError, match=r"heads \[4\].*4 heads"):
        reduce_heads(rows, (0, 4))


def test_top_k_equals_numpy_stable_argsort_with_many_ties():
    scores = np.random.default_rng(0).integers(0, 5, (20, 50)).astype(np.float32)
    expected = np.sort(np.argsort(-scores, axis=1, kind="stable")[:, :13], axis=1)
    np.testing.assert_array_equal(top_k(torch.from_numpy(scores), 13), expected)


def test_left_padding_keeps_order_and_allows_different_lengths():
    keep = torch.tensor([[True, False, True, True], [False, False, False, True]])
    index, real, _ = repeat_left_padded(keep.long())
    assert index[0].tolist() == [0, 2, 3]
    assert real.tolist() == [[True, True, True], [False, False, True]]
    assert index[1, -1] == 3
    assert positions(real).tolist() == [[0, 1, 2], [0, 0, 0]]


def test_repeating_left_padded_equals_lists():
    rng = np.random.default_rng(1)
    repeats = rng.integers(0, 4, (6, 9))
    index, real, nth = repeat_left_padded(torch.tensor(repeats))
    longest = repeats.sum(1).max()
    for row, times in enumerate(repeats):
        expected = [(token, which) for token, count in enumerate(times) for which in range(count)]
        pad = longest - len(expected)
        assert real[row].tolist() == [False] * pad + [True] * len(expected)
        assert list(zip(index[row, pad:].tolist(), nth[row, pad:].tolist(), strict=True)) == expected


def test_marked_tokens_are_listed_left_aligned():
    mask = torch.tensor([[False, True, True, False], [True, False, False, False], [False] * 4])
    index, real = padded_index(mask)
    assert real.tolist() == [[True, True], [True, False], [False, False]]
    assert index[0].tolist() == [1, 2]
    assert index[1, 0] == 0


def test_mean_attention_equals_the_full_matrix():
    query, key = torch.randn(2, 4, 150, 8), torch.randn(2, 2, 150, 8)
    real = torch.arange(150) >= torch.tensor([[0], [30]])
    allowed = torch.ones(150, 150).tril().bool() & real[:, None]
    weight = torch.randint(0, 3, (2, 150)).float()
    divisor = torch.rand(2, 150, 150) + 0.5
    full = attention_rows(query, key, 0.3, allowed[:, None]) / divisor[:, None]
    expected = torch.einsum("bhqk,bq->bhk", full, weight) / weight.sum(1)[:, None, None]
    for given in (allowed, lambda rows: causal(real, torch.arange(150)[rows])):
        torch.testing.assert_close(mean_attention(query, key, 0.3, weight, given, divisor), expected)


def test_fingerprints_depend_on_the_row_and_not_on_the_batch():
    rows = torch.rand(3, 2, 4)
    expected = int.from_bytes(hashlib.sha256(rows[1].numpy().tobytes()).digest()[:8], "big") >> 1
    assert fingerprints(rows)[1] == fingerprints(rows[1:2])[0] == expected
    assert len(set(fingerprints(rows).tolist())) == 3


def test_the_even_order_equals_a_greedy_search_by_loops():
    cells = [(row, column) for row in range(4) for column in range(5)]
    chosen = []

    def cost(extra):
        return sum(min((r - y) ** 2 + (c - x) ** 2 for y, x in [*chosen, extra]) for r, c in cells)

    while len(chosen) < len(cells):
        chosen.append(min((cell for cell in cells if cell not in chosen), key=cost))
    order = evenness(4, 5).argsort(descending=True).tolist()
    assert [cells[i] for i in order] == chosen


@pytest.mark.parametrize("keep", [7, 16, 36, 72])
def test_every_prefix_of_the_even_order_covers_the_grid_better_than_random_ones(keep):
    cells = np.stack(np.divmod(np.arange(144), 12), 1)

    def mean_gap(kept):
        return cdist(cells, cells[kept]).min(1).mean()

    rng = np.random.default_rng(0)
    randoms = [mean_gap(rng.permutation(144)[:keep]) for _ in range(200)]
    assert mean_gap(evenness(12, 12).argsort(descending=True)[:keep].numpy()) <= np.quantile(randoms, 0.01)


def test_the_greatest_heads_attention_is_averaged_over_queries():
    rng = np.random.default_rng(0)
    query, key = rng.normal(size=(2, 4, 70, 8)), rng.normal(size=(2, 2, 90, 8))
    weight, allowed = rng.random((2, 70)), rng.random((2, 70, 90)) < 0.7
    logits = np.einsum("bhqd,bhkd->bhqk", query, key.repeat(2, axis=1)) * 0.3
    rows = np.where(allowed[:, None], np.exp(logits), 0)
    rows /= rows.sum(-1, keepdims=True)
    expected = np.einsum("bq,bqk->bk", weight / weight.sum(1, keepdims=True), rows.max(1))
    given = (torch.tensor(part).float() for part in (query, key))
    found = mean_greatest_attention(*given, 0.3, torch.tensor(weight).float(), torch.tensor(allowed))
    np.testing.assert_allclose(found[:, 0], expected, atol=1e-6)
