"""Matching, clusters and pooling, against loops and goldens."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from foveate.core.trace import PADDING
from foveate.functional.clustering import density_peaks
from foveate.functional.geometry import nearest_grid, pooling_matrix
from foveate.functional.matching import bipartite, neighbours
from foveate.functional.mixing import group_rows
from tests.golden_llava import golden


def merged(group, outputs, size, values):
    rows = group_rows(group, torch.ones_like(group, dtype=torch.bool), outputs).double() * size[:, None]
    return rows @ values / rows.sum(-1, keepdim=True), rows.sum(-1)


def tome(metric, values, removed, steps=1):
    size = torch.ones(values.shape[:2], dtype=torch.double)
    groups = torch.arange(values.shape[1])[None]
    for _ in range(steps):
        group, origin = bipartite(metric, removed, protected=True)
        metric, _ = merged(group, origin.shape[1], size, metric)
        values, size = merged(group, origin.shape[1], size, values)
        groups = group.gather(1, groups)
    return groups, size, values


@pytest.mark.parametrize(
    ("key", "removed", "steps"), [*((f"r{r}", r, 1) for r in (16, 64, 128, 288)), ("chain96x3", 96, 3)]
)
def test_pairs_equal_tome(key, removed, steps):
    trunk, expected = golden("trunk"), golden("tome")
    metric, values = torch.from_numpy(trunk["k22_headmean"]).double(), torch.from_numpy(trunk["hidden_m2"]).double()
    groups, size, out = tome(metric, values, removed, steps)
    np.testing.assert_array_equal(groups, expected[f"{key}_group"])
    np.testing.assert_array_equal(size, expected[f"{key}_size"])
    np.testing.assert_allclose(out, expected[f"{key}_out"], atol=1e-6)


@pytest.mark.parametrize("tokens", [2, 7, 8])
@pytest.mark.parametrize("protected", [False, True])
def test_pairs_say_where_each_output_stands(tokens, protected):
    metric = torch.randn(3, tokens, 4)
    merged_count = (tokens - protected) // 2
    group, origin = bipartite(metric, merged_count, protected)
    assert origin.shape[1] == tokens - merged_count
    assert torch.equal(group.gather(1, origin), torch.arange(origin.shape[1]).expand(3, -1))
    assert not protected or (origin[:, 0] == 0).all()
    for image in range(3):
        for token in set(range(tokens)) - set(origin[image].tolist()):
            goal = int(origin[image, group[image, token]])
            similarity = F.cosine_similarity(metric[image, token], metric[image, 1::2], dim=-1)
            assert token % 2 == 0
            assert goal == 2 * int(similarity.argmax()) + 1


def test_neighbours_equal_a_sorted_list_without_the_token_itself():
    features, tokens = torch.randn(2, 12, 3), torch.tensor([[0, 5], [11, 2]])
    real = torch.ones(2, 12, dtype=torch.bool)
    real[1, 7:10] = False
    found = neighbours(features, tokens, real, 4)
    for image in range(2):
        for slot, token in enumerate(tokens[image].tolist()):
            similarity = F.cosine_similarity(features[image, token], features[image], dim=-1).tolist()
            others = [p for p in range(12) if p != token and real[image, p]]
            assert found[image, slot].tolist() == sorted(others, key=lambda p: -similarity[p])[:4]


def naive_density_peaks(points, clusters):
    """Like the paper's formulas, one number at a time."""
    count, dim = points.shape
    distance = [[float(np.linalg.norm(a - b)) / dim**0.5 for b in points] for a in points]
    density = [np.exp(-np.mean([d**2 for d in sorted(row)[:clusters]])) for row in distance]
    gap = []
    for i in range(count):
        to_denser = [distance[i][j] for j in range(count) if density[j] > density[i]]
        gap.append(min(to_denser) if to_denser else max(map(max, distance)))
    centres = sorted(range(count), key=lambda i: -density[i] * gap[i])[:clusters]
    group = [
        centres.index(i) if i in centres else int(np.argmin([distance[i][c] for c in centres])) for i in range(count)
    ]
    return centres, group


def test_density_peaks_equal_a_naive_version_in_ragged_batches():
    points = torch.randn(4, 40, 6, generator=torch.Generator().manual_seed(3), dtype=torch.double)
    counts, clusters = torch.tensor([40, 23, 5, 0]), torch.tensor([5, 3, 3, 0])
    centres, group = density_peaks(points, torch.arange(40) < counts[:, None], clusters)
    for image, (count, number) in enumerate(zip(counts.tolist(), clusters.tolist(), strict=True)):
        if count:
            expected = naive_density_peaks(points[image, :count].numpy(), number)
            assert (centres[image, :number].tolist(), group[image, :count].tolist()) == expected
        assert (centres[image, number:] == PADDING).all()


@pytest.mark.parametrize("shape", [(24, 24, 8, 8), (24, 24, 12, 16), (7, 5, 3, 4), (6, 8, 6, 8), (9, 4, 1, 1)])
def test_pooling_matrix_equals_adaptive_average_pooling(shape):
    rows, columns, *pooled = shape
    patches = torch.randn(2, 3, rows, columns)
    expected = F.adaptive_avg_pool2d(patches, pooled).flatten(2)
    torch.testing.assert_close(patches.flatten(2) @ pooling_matrix(*shape).T, expected)


@pytest.mark.parametrize("shape", [(6, 8), (8, 6), (7, 7), (1, 9), (12, 3)])
def test_a_remembered_grid_is_the_one_that_is_found_by_looking_at_all(shape):
    rows, columns = shape

    def found(keep):
        best, least = None, None
        for r in range(1, rows + 1):
            for c in range(1, columns + 1):
                shape, like = math.log(r / c), math.log(rows / columns)
                stretch = round(abs(shape - like), 9)
                bad = (stretch > math.log(2) + 1e-9, abs(r * c - keep), stretch, round(abs(shape), 9), r * c, -r)
                if least is None or bad < least:
                    best, least = (r, c), bad
        return best

    for _ in range(2):
        assert [nearest_grid(keep, rows, columns) for keep in range(1, rows * columns + 1)] == [
            found(keep) for keep in range(1, rows * columns + 1)
        ]


def test_the_nearest_grid_is_nearest_in_number_and_then_in_shape():
    given = [
        (64, 24, 24),
        (192, 24, 24),
        (128, 24, 24),
        (32, 24, 24),
        (576, 24, 24),
        (1, 24, 24),
        (8, 8, 2),
        (35, 6, 6),
    ]
    found = [nearest_grid(*each) for each in given]
    assert found == [(8, 8), (16, 12), (16, 8), (8, 4), (24, 24), (1, 1), (4, 2), (6, 6)]
    for keep in range(1, 49):
        rows, columns = nearest_grid(keep, 6, 8)
        assert rows <= 6
        assert columns <= 8
        alike = [r * c for r in range(1, 7) for c in range(1, 9) if 3 / 8 <= r / c <= 6 / 4]
        assert abs(rows * columns - keep) == min(abs(cells - keep) for cells in alike)
