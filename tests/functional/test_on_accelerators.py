"""Functions on a device that counts kernels and waits, against the same on the CPU; see `tests.accelerator`."""

import pytest
import torch
from torch import Tensor

from foveate.core.arrangement import Grid
from foveate.core.needs import FrameVectors
from foveate.core.trace import PADDING, Trace
from foveate.functional import clustering
from foveate.functional.attention import attention_rows, mean_attention
from foveate.functional.clustering import peaks_of
from foveate.functional.diversity import by_nearest, coverage, determinantal, max_min, thinned
from foveate.functional.matching import cosine
from foveate.functional.spanning import furthest
from foveate.functional.suppression import group_quotas, survivors
from foveate.mergers.components import Components
from foveate.mergers.quadtree import Quadtree
from foveate.mergers.segment_anchors import SegmentAnchors
from foveate.mergers.segment_trees import SegmentTrees
from foveate.mergers.static_and_dynamic import StaticAndDynamic
from foveate.mergers.window_clusters import WindowClusters
from tests.accelerator import Count, counting, on_device, on_host

IMAGES, PATCHES = 3, 120


def by_score(similarity: Tensor) -> Tensor:
    return torch.arange(PATCHES, device=similarity.device).expand(IMAGES, -1)


CHOICES = {
    "max-min": lambda s, q, free, keep: max_min(s, free, keep),
    "marginal relevance": lambda s, q, free, keep: by_nearest(s, q, lambda near: q - 0.7 * near, free, keep),
    "marginal relevance, three at once": lambda s, q, free, keep: by_nearest(s, q, lambda n: q - n, free, keep, 3),
    "weighted max-min": lambda s, q, free, keep: by_nearest(s, q, lambda near: q * (1 - near), free, keep),
    "determinantal": lambda s, q, free, keep: determinantal(q[:, :, None] * s * q[:, None], free, keep),
    "coverage": lambda s, q, free, keep: coverage(s * free[..., None], q, 0 * q, free, keep),
    "coverage and a bonus": lambda s, q, free, keep: coverage(s, torch.ones_like(q), q, free, keep),
    "thinning": lambda s, q, free, keep: thinned(s, by_score(s), keep),
    "farthest points": lambda s, q, free, keep: furthest(s, s[:, 0].argmax(1), free, keep),
}
"""Functions of similarities, qualities, free patches and a number of patches to greedy choices."""


def inputs(rank: int, doubled: bool, missing: int) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(rank)
    features = torch.randn(IMAGES, PATCHES, rank, generator=draw).double()
    if doubled:
        features[:, PATCHES // 2 :] = features[:, : PATCHES // 2]
    free = torch.ones(IMAGES, PATCHES, dtype=torch.bool)
    free[0, PATCHES - missing :] = False
    return cosine(features, features), torch.rand(IMAGES, PATCHES, generator=draw).double(), free


def counted(function, *values: Tensor) -> tuple[Tensor, Count]:
    """Returns the result of a function of tensors on the device, and what it took."""
    values = tuple(map(on_device, values))
    with counting() as count:
        found = function(*values)
    return on_host(found), count


@pytest.mark.parametrize(("rank", "doubled", "missing"), [(40, False, 0), (200, False, 90), (30, True, 0)])
@pytest.mark.parametrize("choose", CHOICES.values(), ids=CHOICES)
def test_greedy_choices_are_those_of_the_cpu_and_wait_for_nothing(choose, rank, doubled, missing):
    given = inputs(rank, doubled, missing)
    for keep in (1, 7, 60):
        wanted = choose(*given, keep)
        found, count = counted(lambda *values, keep=keep: choose(*values, keep), *given)
        assert torch.equal(found[:, : wanted.shape[1]], wanted)
        assert (found[:, wanted.shape[1] :] == PADDING).all()
        assert not count.waits


@pytest.mark.parametrize("choose", CHOICES.values(), ids=CHOICES)
def test_a_greedy_choice_takes_at_most_six_kernels_per_patch(choose):
    kernels = []
    for keep in (20, 50):
        kernels.append(
            counted(lambda *values, keep=keep: choose(*values, keep), *inputs(60, False, 0))[1].kernels.total()
        )
    assert abs(kernels[1] - kernels[0]) <= 6 * 30


@pytest.mark.parametrize("clusters", [1, 7, PATCHES])
def test_density_peaks_of_one_set_of_points_are_those_of_the_cpu_without_padding(clusters):
    points = torch.randn(PATCHES, 16, generator=torch.Generator().manual_seed(clusters)).double()
    for wanted, part in zip(peaks_of(points, clusters, 5), (0, 1), strict=True):
        found, count = counted(lambda values, part=part: peaks_of(values, clusters, 5)[part], points)
        assert torch.equal(found, wanted)
        assert not count.waits


OF_VIDEOS = {
    Components(0.5): 4,
    Quadtree(0.3, 0.2): 2,
    SegmentTrees(0.25): 2,
    SegmentTrees(0.25, by_segment=False, as_published=True): 2,
    SegmentAnchors(0.25): 2,
    SegmentAnchors(0.25, parallel=False, alike=0.95): 2,
    WindowClusters(0.5): 2,
    StaticAndDynamic(0.25): 1,
}
"""Mergers of videos, and the greatest number of their waits per video."""


@pytest.mark.parametrize(("merger", "most"), OF_VIDEOS.items(), ids=map(str, OF_VIDEOS))
def test_mergers_of_videos_wait_as_often_for_many_frames_as_for_two_and_make_the_tokens_of_the_cpu(
    merger, most, monkeypatch
):
    monkeypatch.setattr(clustering, "open_ended", lambda values: True)  # which decides the order of equal peaks
    for videos, frames in ((1, 1), (1, 2), (1, 12), (2, 9)):
        draw = torch.Generator().manual_seed(frames)
        still = torch.randn(videos, 20, 3, generator=draw).repeat(1, frames, 1)
        features = still + 0.3 * torch.randn(videos, frames * 20, 3, generator=draw)
        scores, vectors = torch.rand(videos, frames * 20, generator=draw), features.unflatten(1, (frames, 20)).mean(2)

        def merged(values, scores, vectors, videos=videos, frames=frames):
            trace = Trace({FrameVectors(): vectors}, (Grid(4, 5),) * frames, videos, frames=frames)
            made = merger.merge(values, torch.empty(videos, 0).long(), scores, trace, 0)
            return torch.cat([made.origin[..., None], made.mixing], 2)

        wanted = merged(features, scores, vectors)
        found, count = counted(merged, features, scores, vectors)
        torch.testing.assert_close(found, wanted)
        assert count.waits.total() <= most * videos


def test_suppression_is_that_of_the_cpu_and_looks_at_the_device_every_eight_rounds():
    similarity, scores, _ = inputs(3, False, 0)
    group, threshold = by_score(similarity) % 4, torch.full((IMAGES,), 0.5).double()
    wanted = survivors(similarity, scores, group, threshold)
    found, count = counted(survivors, similarity, scores, group, threshold)
    assert torch.equal(found, wanted)
    assert wanted.sum() < wanted.numel() / 2
    assert count.waits.total() == 1


def test_quotas_grow_by_one_for_all_groups_until_they_suffice():
    """The oracle is a loop; with few survivors the limits have to grow several times."""
    draw = torch.Generator().manual_seed(0)
    sizes = torch.randint(0, 30, (6, 9), generator=draw)
    surviving = torch.minimum(sizes, torch.randint(0, 4, (6, 9), generator=draw))
    for keep, total in ((20, 24), (60, 64), (100, 130), (400, 400)):
        most = torch.minimum(surviving, sizes).clamp(max=5 * -(-total // 64))
        while (short := (most.sum(1) < sizes.sum(1).clamp(max=total))).any():
            most = torch.where(short[:, None], torch.minimum(most + 1, sizes), most)
        quota = group_quotas(sizes, surviving, keep, total)
        assert (quota <= most).all()
        assert torch.equal(quota.sum(1), most.sum(1).clamp(max=keep).maximum(sizes.clamp(max=1).sum(1)))


def test_rows_of_many_tiles_take_as_many_kernels_as_those_of_one():
    draw = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 26, 4, 150, 8, generator=draw)
    weight = torch.ones(26, 150)
    for function in (
        lambda q, k, w: attention_rows(q[:, :, :1], k, 0.3),
        lambda q, k, w: mean_attention(q, k, 0.3, w),
    ):
        found, count = counted(function, query, key, weight)
        torch.testing.assert_close(found, function(query, key, weight))
        assert count.kernels.total() == counted(function, query[:1], key[:1], weight[:1])[1].kernels.total() <= 16
        assert not count.waits
