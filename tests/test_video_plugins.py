"""Plug-ins and recipes for videos: what holds of all of them, and of the mechanisms that only they use."""

import math

import numpy as np
import pytest
import scipy.sparse.csgraph
import torch
import torch.nn.functional as F

from foveate import mergers, scorers, selectors
from foveate.core.arrangement import Grid
from foveate.core.errors import FoveateError, UnsupportedNeed
from foveate.core.needs import Features
from foveate.core.trace import PADDING, Trace
from foveate.functional.clustering import peaks_of
from foveate.functional.components import components, cosines, twice_grouped
from foveate.functional.quadtree import cell_weights, contained, grouped, least_cosines, nodes
from foveate.functional.segments import refined_labels, segments, static_windows
from foveate.functional.temporal_trees import distinct, parents, trees
from foveate.mergers import Quadtree, RunningMean, SegmentTrees, TemporalMean
from foveate.methods import METHODS
from foveate.methods.fitting import options_on
from foveate.methods.registry import PLACES, VIDEO
from foveate.scorers import FrameChange
from foveate.selectors import AtLeastAFrame, ChangedInGroups, EvenFrames, FrameShares
from foveate.studies.plan import RecommendationPlan
from foveate.testing.matrix import OF_VIDEOS, family_inputs, load_family
from tests import videos
from tests.videos import alone, drawn_videos

FROM_TWO = ("evs", "dycoke", "fewer_frames", "temporal_mean")  # the methods that compare frames with each other
WEIGHING = ("fastvid", "llava_scissor", "prunevid", "holitom", "flashvid", "temporal_mean", "sttm")


def made(name, given, keep=0.4):
    """The tokens of videos before the language model, or of the cut of `sttm`, and their decision."""
    compressor = METHODS[name](keep)
    if name != "sttm":
        found = compressor.compress(given)
        return found.tokens, found.decision.compression
    compression = (
        compressor.cuts[0].cut(given.features, Trace({}, given.arrangement.views, len(given.features))).compression
    )
    return compression.apply(given.features), compression


@pytest.mark.parametrize("name", VIDEO)
def test_a_video_is_compressed_in_a_batch_as_alone(name):
    together = drawn_videos(7)
    tokens, compression = made(name, together)
    for row in range(2):
        own, single = made(name, alone(together, row))
        count = int(compression.count[row])
        assert compression.origin[row, :count].tolist() == single.origin[0].tolist()
        torch.testing.assert_close(tokens[row, :count], own[0])


@pytest.mark.parametrize("name", VIDEO)
@pytest.mark.parametrize("frames", (2, 5, 9))
def test_a_short_video_keeps_about_its_budget(name, frames):
    _, compression = made(name, drawn_videos(frames))
    share = {"dycoke": 0.55, "flashvid": 0.5}.get(name, 0.4)
    least = 0 if name == "prunevid" else share * 30 * frames - 15 - 2 * frames  # which merges static patches first
    most = share * 30 * frames + 15 + 2 * frames  # half a frame, and rounding in each
    assert ((compression.count >= least) & (compression.count <= most)).all()
    assert (compression.origin < 30 * frames).all()


@pytest.mark.parametrize("name", VIDEO)
def test_equal_frames_are_compressed(name):
    tokens, compression = made(name, drawn_videos(10, still=True))
    assert (compression.count >= 1).all() and (compression.count < 300).all()
    assert tokens.isfinite().all()


@pytest.mark.parametrize("name", [name for name in VIDEO if name not in FROM_TWO])
def test_a_video_of_one_frame_is_compressed(name):
    _, compression = made(name, drawn_videos(1))
    assert ((compression.count - (15 if name == "flashvid" else 12)).abs() <= 3).all()


@pytest.mark.parametrize("name", FROM_TWO)
def test_a_video_of_one_frame_has_nothing_to_compare_with(name):
    with pytest.raises(
        UnsupportedNeed, match=r"compares the frames of a video, and an image is a single frame: give a"
    ):
        made(name, drawn_videos(1))


@pytest.mark.parametrize("name", WEIGHING)
def test_every_token_is_a_mean(name):
    _, compression = made(name, drawn_videos(9))
    sums = compression.mixing.sum(2)
    torch.testing.assert_close(sums, compression.real.float())
    assert (compression.mixing >= 0).all()
    assert (compression.mixing.gather(2, compression.origin.clamp(min=0)[..., None]) > 0)[compression.real].all()


@pytest.mark.parametrize("name", ("llava_scissor", "sttm"))
def test_without_a_budget_thresholds_decide(name):
    given = drawn_videos(4)
    tight = made(name, given, None)[1].count
    assert (tight != made(name, given, 0.2)[1].count).any()


@pytest.mark.parametrize("name", ("llava_scissor", "sttm"))
@pytest.mark.parametrize("keep", (20, 60, 119))
def test_a_budget_of_a_method_with_thresholds_is_nearly_used_and_not_exceeded(name, keep):
    count = made(name, drawn_videos(4), keep)[1].count
    assert (count <= keep).all() and (count >= keep - 6).all()


def test_every_plug_in_for_videos_is_known():
    """The tests of all plug-ins leave these out, and this file has them."""
    read = [METHODS[name](0.5) for name in VIDEO]
    text = repr(read)
    for names, package in ((videos.SCORERS, scorers), (videos.SELECTORS, selectors), (videos.MERGERS, mergers)):
        assert names <= set(package.__all__)
        assert all(f"{name}(" in text for name in names)


def test_methods_for_videos_do_not_take_part_in_studies_of_images_unless_named():
    assert PLACES["evs"] and not set(VIDEO) & set(RecommendationPlan().methods)


def test_the_first_frame_is_whole_and_changes_follow():
    given = drawn_videos(3)
    _, trace = given.encode((Features(True),))
    scores = FrameChange().score(trace)
    clip = given.features.unflatten(1, (3, -1)).double()
    expected = 1 - F.cosine_similarity(clip[:, 1:], clip[:, :-1], dim=3)
    torch.testing.assert_close(scores[:, 30:], expected.flatten(1))
    assert (scores[:, :30] > scores[:, 30:].max()).all()
    kept = AtLeastAFrame().select(scores, trace, 40)
    assert kept[0, :30].tolist() == list(range(30))
    assert sorted(kept[0, 30:].tolist()) == sorted((30 + expected[0].flatten().argsort()[-10:]).tolist())
    assert AtLeastAFrame().select(scores, trace, 4).tolist() == [list(range(30))] * 2


def test_a_frame_unlike_the_others_has_more_patches():
    given = drawn_videos(5, videos=1, still=True)
    clip = given.features.unflatten(1, (5, -1)).clone()
    clip[0, 3] = -clip[0, 3]
    values = {Features(True): clip.flatten(1, 2)}
    trace = Trace(values, given.arrangement.views, 1, frames=5)
    kept = FrameShares(0.2).select(torch.rand(1, 150), trace, 0)[0]
    assert (kept // 30).bincount(minlength=5).tolist() == [5, 5, 5, 11, 5]


@pytest.mark.parametrize(
    ("frames", "counts"), [(2, (30, 9)), (3, (30, 9, 9)), (8, (30, 9, 9, 9) * 2), (5, (30, 9, 9, 9, 30))]
)
def test_groups_of_four_frames_have_one_whole_frame(frames, counts):
    given = drawn_videos(frames)
    _, trace = given.encode((Features(True),))
    kept = ChangedInGroups().select(torch.zeros(2, 30 * frames), trace, 9 * frames)
    assert (kept[0] // 30).bincount().tolist() == list(counts)
    assert (kept[0] // 30).tolist() == sorted((kept[0] // 30).tolist())
    clip = given.features[0].unflatten(0, (frames, -1))
    similarity = F.cosine_similarity(clip[0], clip[1], dim=1)
    assert kept[0, 30:39].tolist() == (30 + similarity.argsort()[:9]).tolist()


def test_as_published_the_last_group_has_two_whole_frames_and_an_odd_frame_goes():
    given = drawn_videos(9)
    _, trace = given.encode((Features(True),))
    kept = ChangedInGroups(as_published=True).select(torch.zeros(2, 270), trace, 81)
    assert (kept[0] // 30).bincount(minlength=9).tolist() == [30, 9, 9, 9, 30, 9, 9, 9, 0]
    given = drawn_videos(8)
    _, trace = given.encode((Features(True),))
    kept = ChangedInGroups(as_published=True).select(torch.zeros(2, 240), trace, 72)
    assert (kept[0] // 30).bincount(minlength=8).tolist() == [30, 9, 9, 9, 30, 9, 30, 9]
    with pytest.raises(UnsupportedNeed, match="needs five frames, and this video has 4"):
        made_as_published = METHODS["dycoke"](0.3, as_published=True)
        made_as_published.compress(drawn_videos(4))


def test_fewer_frames_are_whole_and_evenly_spaced():
    _, trace = drawn_videos(9).encode(())
    kept = EvenFrames().select(torch.zeros(2, 270), trace, 100)
    assert (kept[0] // 30).bincount(minlength=9).tolist() == [0, 30, 0, 0, 30, 0, 0, 30, 0]
    assert EvenFrames().select(torch.zeros(2, 270), trace, 3).tolist() == [list(range(120, 150))] * 2


def test_frames_are_averaged_over_runs_of_equal_length():
    given = drawn_videos(6)
    _, trace = given.encode(())
    made = TemporalMean(0.5).merge(given.features, torch.empty(2, 0).long(), torch.zeros(2, 180), trace, 180)
    clip = given.features.unflatten(1, (6, -1))
    expected = clip.unflatten(1, (3, 2)).mean(2).flatten(1, 2)
    torch.testing.assert_close(made.apply(given.features), expected)
    assert made.origin[0, ::30].tolist() == [0, 60, 120]


def test_random_patches_are_equally_many_in_each_frame():
    _, compression = made("random_per_frame", drawn_videos(6), 48)
    assert (compression.origin[0] // 30).bincount().tolist() == [8] * 6


def test_an_even_grid_is_the_same_in_every_frame():
    _, compression = made("uniform", drawn_videos(6), 48)
    kept = compression.origin[0].unflatten(0, (6, 8))
    assert (kept - 30 * torch.arange(6)[:, None] == kept[0]).all()


def test_later_tokens_weigh_more_in_a_running_mean():
    states = torch.tensor([[[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.8, 0.1]]])
    merged = RunningMean().merge(states, torch.tensor([[0, 2]]), torch.zeros(1, 4), Trace({}, (Grid(2, 2),), 1), 2)
    assert merged.mixing[0].tolist() == [[0.25, 0.25, 0, 0.5], [0, 0, 1, 0]]


def test_segments_end_where_frames_differ_and_at_the_least_similar_ones():
    similarity = torch.tensor([0.99, 0.5, 0.97, 0.98, 0.95])
    assert segments(similarity, 0.9) == [2, 4]
    assert segments(similarity, 0.9, least=3) == [2, 3, 1]
    assert segments(similarity, 0.0, least=20) == [1] * 6
    assert segments(torch.empty(0), 0.9, least=8) == [1]


def test_labels_without_a_run_are_one_segment():
    assert refined_labels([0, 1, 2, 3]) == [0, 0, 0, 0]
    assert refined_labels([5]) == [0]
    assert refined_labels([1, 1, 0, 2, 2, 2]) == [1, 1, 2, 2, 2, 2]


def test_windows_save_as_much_as_the_best_of_all_partitions():
    still = torch.rand(6, 5, generator=torch.Generator().manual_seed(1)) > 0.3

    def saved(lengths):
        starts = np.cumsum([0, *lengths[:-1]])
        return sum(
            (n - 1) * int(still[s : s + n - 1].all(0).sum()) for s, n in zip(starts, lengths, strict=True) if n > 1
        )

    def partitions(frames):
        return [[]] if not frames else [[n, *rest] for n in range(1, frames + 1) for rest in partitions(frames - n)]

    lengths, most = static_windows(still, 100)
    assert most == saved(lengths) == max(map(saved, partitions(7)))
    assert max(static_windows(still, 2)[0]) <= 2


def test_components_are_those_of_scipy():
    draw = torch.Generator().manual_seed(2)
    chain = torch.diag(torch.ones(59), 1).bool()[torch.randperm(60, generator=draw)]
    edges = torch.stack([*(torch.rand(3, 60, 60, generator=draw) < 0.015), chain])
    edges |= edges.mT | torch.eye(60, dtype=torch.bool)
    for one, found in zip(edges.numpy(), components(edges).tolist(), strict=True):
        count, label = scipy.sparse.csgraph.connected_components(one)
        assert len(set(zip(found, label.tolist(), strict=True))) == count == len(set(found))
        assert all(found[node] == found.index(found[node]) for node in range(60))


@pytest.mark.parametrize("threshold", [-1.1, 0.5, 0.8, 1.1])
@pytest.mark.parametrize("shape", [(1, 1, 4), (3, 20, 4), (5, 7, 2)], ids=str)
def test_components_of_frames_and_of_their_means_are_those_of_a_loop(shape, threshold):
    clip = torch.randn(shape, generator=torch.Generator().manual_seed(5)).double()

    def parts(points):
        """Returns for each component its nodes and its leader, in the order of leaders."""
        unit = F.normalize(points.float(), dim=1)
        edges = (unit @ unit.T > threshold).numpy() | np.eye(len(points), dtype=bool)
        label = scipy.sparse.csgraph.connected_components(edges)[1]
        nodes = [np.flatnonzero(label == one) for one in set(label)]
        return sorted((min(own, key=lambda node: (-edges[node].sum(), node)), own) for own in nodes)

    first = [(f * shape[1] + lead, f * shape[1] + own) for f, frame in enumerate(clip) for lead, own in parts(frame)]
    points = clip.flatten(0, 1)
    second = parts(torch.stack([points[own].mean(0) for _, own in first]))
    origin, owner, weight = twice_grouped(clip, cosines(clip), threshold)
    assert origin.tolist() == [first[lead][0] for lead, _ in second]
    for number, (_, members) in enumerate(second):
        for own in (first[member][1] for member in members):
            assert set(owner[own].tolist()) == {number}
            torch.testing.assert_close(weight[own], torch.full((len(own),), 1 / len(own) / len(members)).double())


def test_groups_of_nodes_are_complete_unless_as_published():
    chain = torch.tensor([[0, 7], [7, 1], [1, 6], [6, 2], [2, 5], [5, 3], [3, 4]])
    assert grouped(chain, 9, as_published=False).tolist() == [0] * 8 + [8]
    assert len(grouped(chain, 9, as_published=True).unique()) > 2
    assert grouped(chain[:0], 2, as_published=False).tolist() == [0, 1]


@pytest.mark.parametrize("grid", [Grid(1, 1), Grid(1, 7), Grid(5, 6), Grid(13, 13), Grid(14, 3)], ids=str)
def test_nodes_of_a_quadtree_partition_a_frame(grid):
    frame = torch.randn(grid.patches, 3, generator=torch.Generator().manual_seed(3)).double()
    for threshold in (-1.1, 0.3, 0.9, 1.1):
        owner = nodes(least_cosines(frame[None], grid, as_published=False), grid, threshold)
        owner, weight = owner[0], cell_weights(owner, grid)[0]
        assert (owner[owner] == owner).all()
        sums = torch.zeros(grid.patches).double().index_add_(0, owner, weight)
        torch.testing.assert_close(sums[owner.unique()], torch.ones(len(owner.unique())).double())
    assert owner.tolist() == list(range(grid.patches))


def _halves(length):
    """Returns the places of the level below for each place; an odd number leaves the first alone."""
    odd = length % 2
    return [[0]] * odd + [[i, i + 1] for i in range(odd, length, 2)]


@pytest.mark.parametrize("as_published", [False, True])
@pytest.mark.parametrize("grid", [Grid(1, 1), Grid(2, 2), Grid(1, 7), Grid(5, 6), Grid(7, 3)], ids=str)
def test_least_cosines_and_nodes_are_those_of_a_recursion(grid, as_published):
    frames = torch.randn(3, grid.patches, 3, generator=torch.Generator().manual_seed(7)).double()
    levels = least_cosines(frames, grid, as_published)
    found = nodes(levels, grid, 0.2)
    for frame, owner, *least in zip(frames, found, *levels, strict=True):
        below = {
            (r, c): (frame[r * grid.columns + c], math.inf, []) for r in range(grid.rows) for c in range(grid.columns)
        }
        rows, columns = grid.rows, grid.columns
        for level in least[1:]:
            down, right = _halves(rows), _halves(columns)
            cells, rows, columns = {}, len(down), len(right)
            for r in range(rows):
                for c in range(columns):
                    parts = [(i, j) for i in down[r] for j in right[c]]
                    halves = [torch.stack([below[i, j][0] for j in right[c]]).mean(0) for i in down[r]]
                    mean = torch.stack(halves).mean(0)
                    others = [*parts, *[(0, 0)] * (as_published and len(parts) < 4)]
                    cosine = min(float(F.cosine_similarity(mean, below[part][0], dim=0)) for part in others)
                    assert float(level[r * columns + c]) == pytest.approx(cosine)
                    cells[r, c] = mean, cosine, [below[part] for part in parts]
            below = cells
        assert len(owner.unique()) == sum(map(_count, below.values()))


def _count(cell):
    """Returns the number of nodes of a cell of a quadtree with the threshold 0.2."""
    _, cosine, parts = cell
    return 1 if cosine >= 0.2 else sum(map(_count, parts))


def test_a_constant_frame_is_its_roots():
    grid = Grid(14, 14)
    owner = nodes(least_cosines(torch.ones(1, grid.patches, 2).double(), grid, as_published=False), grid, 0.9)
    assert len(owner.unique()) == 16
    assert cell_weights(owner, grid).sum() == pytest.approx(16)


def test_nodes_that_share_a_patch_contain_one_another():
    coarse, fine = torch.tensor([0, 0, 0, 0]), torch.tensor([1, 2, 2, 3])
    assert contained([coarse, fine]).tolist() == [[0, 1], [0, 2], [0, 3]]
    assert contained([coarse]).shape == (0, 2)


def test_a_quadtree_refuses_what_is_left_of_an_image():
    trace = Trace({}, (Grid(2, 2),), 1, torch.tensor([[0, 2, 3]]))
    with pytest.raises(UnsupportedNeed, match="needs all patches, and some were dropped or merged before"):
        Quadtree().merge(torch.randn(1, 3, 2), torch.empty(1, 0).long(), torch.zeros(1, 3), trace, 4)


def test_views_of_several_images_have_quadtrees_of_their_own():
    states = torch.ones(1, 18, 2)
    for images, count in ((1, 4), (2, 8)):
        trace = Trace({}, (Grid(3, 3), Grid(3, 3)), 1, images=images)
        made = Quadtree().merge(states, torch.empty(1, 0).long(), torch.zeros(1, 18), trace, 18)
        assert made.count.tolist() == [count * 9 // 4 if count == 4 else 18]


def test_a_tree_is_the_mean_of_its_tokens_and_as_published_grows_along_chains():
    parent = torch.tensor([-1, -1, 0, -1, 2, 2])
    root, weight = trees(parent, 3, as_published=False)
    assert root.tolist() == [0, 1, 0, 3, 0, 0]
    assert weight.tolist() == [0.25, 1, 0.25, 1, 0.25, 0.25]
    assert trees(parent, 3, as_published=True)[1].tolist() == [0.5, 1, 0.5, 1, 0.5, 0.5]


def test_tokens_hang_below_the_most_similar_free_token_of_the_frame_before():
    clip = torch.tensor([[[1.0, 0], [0, 1], [1, 1]], [[1, 0.1], [0.1, 1], [1, -1]]]).double()
    free = torch.ones(2, 3, dtype=torch.bool)
    assert parents(clip, free, 0.8, 6).tolist() == [-1, -1, -1, 0, 1, -1]
    free[0, 0] = free[1, 1] = False
    assert parents(clip, free, 0.7, 6).tolist() == [-1, -1, -1, 2, -1, -1]
    assert parents(clip, torch.ones(2, 3, dtype=torch.bool), 0.8, 1).tolist() == [-1] * 6


@pytest.mark.parametrize(("frames", "patches"), [(1, 1), (1, 2), (4, 9)])
def test_distinct_tokens_of_each_frame_are_those_of_a_loop(frames, patches):
    draw = torch.Generator().manual_seed(6)
    clip = torch.randn(frames, patches, 5, generator=draw).double()
    weights = torch.rand(frames, patches, generator=draw).double()
    for count in range(patches + 1):
        for points, weight, found in zip(clip, weights, distinct(clip, weights, count, repeat=False), strict=True):
            away = (1 - F.cosine_similarity(points[:, None], points[None], dim=2)) * weight
            chosen: list[int] = []
            for _ in range(count):
                rows = away[chosen].amin(0) if chosen else away.sort(0).values[min(1, patches - 1)]
                chosen.append(max((j for j in range(patches) if j not in chosen), key=lambda j: float(rows[j])))
            assert found.nonzero()[:, 0].tolist() == sorted(chosen)


def test_a_token_may_be_chosen_again_if_all_others_are_at_negative_distances():
    points = torch.eye(4).double()[None]
    weights = torch.tensor([[1.0, -1, -2, -3]]).double()
    assert int(distinct(points, weights, 3, repeat=True).sum()) == 1
    assert int(distinct(points, weights, 3, repeat=False).sum()) == 3


def test_the_only_frame_of_a_segment_repeats_tokens_only_as_published():
    given = drawn_videos(1, videos=1)
    scores = torch.rand(1, 30, generator=torch.Generator().manual_seed(4))
    _, trace = given.encode(())
    for published in (False, True):
        merger = SegmentTrees(0.8, as_published=published)
        origin = merger.merge(given.features, torch.empty(1, 0).long(), scores, trace, 30).origin[0]
        origin = origin[origin != PADDING]
        assert (len(origin.unique()) < len(origin)) == published


def test_density_peaks_with_fixed_neighbours_equal_the_formula():
    points = np.random.default_rng(5).normal(size=(20, 3))
    away = np.linalg.norm(points[:, None] - points, axis=2) / np.sqrt(3)
    density = np.exp(-(np.sort(away, 1)[:, :4] ** 2).mean(1))
    reach = [min((away[i, j] for j in range(20) if density[j] > density[i]), default=away.max()) for i in range(20)]
    expected = np.argsort(-(density * reach))[:5]
    centres, group = peaks_of(torch.from_numpy(points), 5, 4)
    assert centres.tolist() == expected.tolist()
    nearest = away[:, expected].argmin(1)
    nearest[expected] = range(5)
    assert group.tolist() == nearest.tolist()


@pytest.mark.parametrize("variant", ("onevision", "llava_video", "qwen2_5_vl"))
def test_the_variants_of_fastvid_use_their_budget(variant):
    compression = METHODS["fastvid"](0.3, variant=variant).compress(drawn_videos(12)).decision.compression
    assert ((compression.count >= 0.8 * 108) & (compression.count <= 108)).all()


def test_a_budget_of_no_video_is_refused():
    for name in ("vidcom2", "fastvid", "holitom", "flashvid", "temporal_mean"):
        with pytest.raises(FoveateError, match=r"keep=1\.5: a fraction lies in"):
            made(name, drawn_videos(3), 1.5)


@pytest.mark.parametrize("family", ("LLaVA-OneVision", "Qwen2.5-VL"))
@pytest.mark.parametrize("name", ("flashvid", "dycoke", "sttm"))
def test_what_is_as_published_runs_in_a_model_and_is_written(name, family, tmp_path):
    """Also where one token appears twice, and where tokens stand in another order."""
    video, loaded = OF_VIDEOS + family, load_family(family)
    compressor = METHODS[name](0.5, as_published=name != "dycoke", **options_on(METHODS[name], loaded.adapter))
    with torch.no_grad(), compressor.attached(loaded) as run:
        loaded.model.generate(**family_inputs(video), max_new_tokens=2, min_new_tokens=2, do_sample=False)
    run.save(tmp_path / "kept.json")
    origin = run.decisions[0].compression.origin[0]
    assert (len(origin.unique()) < len(origin)) == (name == "flashvid")
    tokens = run.decisions[0].compression.count if name != "sttm" else run.decisions[1].compression.count
    assert run.tokens.per_block[0, -1] <= float(tokens) + 1  # a separator may stay
