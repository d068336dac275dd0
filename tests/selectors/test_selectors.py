import numpy as np
import pytest
import torch

from foveate import selectors
from foveate.core.arrangement import Grid
from foveate.core.contracts import Selector
from foveate.core.needs import (
    Features,
    QuestionEmbeddings,
    ReceivedRows,
    Role,
    TokenKeys,
    TokenRoles,
    TokenStates,
)
from foveate.core.trace import EXTRA, PADDING, Trace
from foveate.selectors import (
    Anchors,
    AtLeastAFrame,
    ChunkQuota,
    Determinantal,
    FacilityLocation,
    FrameShares,
    ImportantDiverse,
    LeastAlike,
    LocalAndGlobal,
    LogDeterminant,
    MarginalRelevance,
    Mass,
    MaxCoverage,
    MaxMin,
    Nothing,
    Outliers,
    OutliersAndStride,
    PerTile,
    PrincipalGroups,
    Stride,
    TileShares,
    TopK,
    TopKPerView,
    TopShare,
    Union,
    WeightedMaxMin,
)
from foveate.testing.contracts import GRID, SelectorContract, random_trace
from tests.videos import SELECTORS as OF_VIDEOS

GROUPS = [PrincipalGroups(), PrincipalGroups(3, 1), PrincipalGroups(merged=True), PrincipalGroups(0, merged=True)]
EXACT = [
    TopK(),
    TopK("score"),
    MaxMin(),
    Determinantal(),
    LogDeterminant(),
    FacilityLocation(),
    FacilityLocation(0.5, "add"),
    MaxCoverage(),
    MarginalRelevance(),
    MarginalRelevance(0.3, True, 3),
    WeightedMaxMin(),
    ImportantDiverse(),
    ImportantDiverse(0.0),
    Anchors(),
    Anchors(0.9),
    PerTile(),
    PerTile(MaxMin()),
    *GROUPS,
    TopKPerView(),
]
RASTER = [
    *(selector for selector in EXACT if selector not in (TopK("score"), *GROUPS)),
    Mass(0.3),
    PerTile(Mass(0.3)),
    Outliers(0.2),
    Stride(),
    Union((TopK(), Stride(2), MaxMin())),
    LocalAndGlobal(windows=2),
    LeastAlike(),
    LeastAlike(pivots=1),
    TileShares(),
    TopShare(0.4),
    TopShare(20, 0.5),
    TopShare(0.4, 1, "up"),
    TopShare(0.4, 1, "nearest"),
    AtLeastAFrame(),
    FrameShares(0.3),
]
ORDERED = [
    OutliersAndStride(sampled=0.75),
    TopK("score"),
    Outliers(0.1, "score"),
    OutliersAndStride(0.1),
    OutliersAndStride(outliers=3, stride=5),
    OutliersAndStride(outliers=40),
    ChunkQuota(),
    ChunkQuota(5),
    *GROUPS,
]


class _Given(SelectorContract):
    @pytest.fixture(autouse=True)
    def _given(self, given):
        self.given = given

    def selector(self):
        return self.given


@pytest.mark.parametrize("given", RASTER, ids=repr)
class TestEverySelector(_Given):
    pass


@pytest.mark.parametrize("given", ORDERED, ids=repr)
class TestEverySelectorWithAnOrderOfItsOwn(_Given):
    raster_order = False


def real(row: torch.Tensor) -> list[int]:
    return [patch for patch in row.tolist() if patch != PADDING]


def trace(batch: int = 1, grid: Grid = GRID, places: list[list[int]] | None = None) -> Trace:
    return Trace({}, (grid,), batch, None if places is None else torch.tensor(places))


def random_scores(batch: int = 4, patches: int = GRID.patches, seed: int = 0) -> torch.Tensor:
    return torch.rand(batch, patches, generator=torch.Generator().manual_seed(seed))


def left_in_decoder(selector: Selector, places: list[int], padding: int) -> Trace:
    """One row of visual tokens that are still there, padded with tokens full of nonsense."""
    whole = random_trace(selector.needs, batch=1)
    tokens = [*range(3), *(3 + place for place in places), *range(3 + GRID.patches, 9 + GRID.patches)]
    values = {}
    for need, value in whole.values.items():
        match need:
            case TokenKeys() | TokenStates() | TokenRoles():
                nonsense = value.new_full((1, padding, *value.shape[2:]), Role.PADDING if value.ndim == 2 else 9)
                values[need] = torch.cat([nonsense, value[:, tokens]], 1)
            case Features():
                nonsense = torch.full((1, padding, value.shape[2]), 9.0)
                values[need] = torch.cat([value[:, places], nonsense], 1)
            case QuestionEmbeddings():
                values[need] = torch.cat([value, torch.zeros(1, padding, value.shape[2])], 1)
            case _:
                nonsense = torch.full((*value.shape[:-1], padding), 9.0)
                values[need] = torch.cat([value[..., places], nonsense], -1)
    return Trace(values, (GRID,), 1, torch.tensor([[*places, *[PADDING] * padding]]))


@pytest.mark.parametrize("selector", [*RASTER, *ORDERED], ids=repr)
def test_padding_at_a_cut_in_the_decoder_changes_no_choice(selector):
    places = [place for place in range(GRID.patches) if place % 5 not in (1, 3)]
    scores = random_scores(1, len(places))
    padded = torch.cat([scores, torch.full((1, 6), -torch.inf)], 1)
    for keep in (1, 8, 20):
        alone = selector.select(scores, left_in_decoder(selector, places, 0), keep)
        together = selector.select(padded, left_in_decoder(selector, places, 6), keep)
        assert real(together[0]) == real(alone[0])


@pytest.mark.parametrize("selector", EXACT, ids=repr)
def test_exactly_the_budget_is_kept_of_as_many_patches_as_there_are(selector):
    scores = random_scores(3)
    scores[1, 30:] = -torch.inf
    for keep in range(1, GRID.patches + 1):
        kept = selector.select(scores, random_trace(selector.needs), keep)
        assert (kept != PADDING).sum(1).tolist() == [keep, min(keep, 30), keep]


COUNTED = [
    *EXACT,
    Stride(2),
    Union((TopK(), Stride(2))),
    OutliersAndStride(outliers=5, stride=5),
    LocalAndGlobal(windows=2),
    LeastAlike(),
    LeastAlike(pivots=1),
    Nothing(),
]


@pytest.mark.parametrize("selector", COUNTED, ids=repr)
@pytest.mark.parametrize("keep", [9, 30, 64])
def test_as_many_are_kept_on_average_as_expected(selector, keep):
    grid = Grid(8, 8)
    kept = selector.select(random_scores(200, 64), random_trace(selector.needs, 200, grid=grid), keep)
    expected = selector.expected(keep, 64, 64)
    assert (kept != PADDING).sum(1).double().mean() == pytest.approx(expected, abs=0.4)


@pytest.mark.parametrize(
    ("selector", "keep", "expected"),
    [
        (OutliersAndStride(outliers=13, stride=11), 576, 64.8),
        (OutliersAndStride(outliers=40, stride=6), 576, 129.3),
        (OutliersAndStride(outliers=95, stride=3), 576, 255.3),
        (Union((TopK(), Stride(3))), 172, 172 + 64 * (1 - 172 / 576)),
        (LeastAlike(), 192, 196),
        (LeastAlike(), 64, 68),
        (LocalAndGlobal(), 288, 288),
        (LocalAndGlobal(), 100, 98),
    ],
    ids=repr,
)
def test_expected_counts_of_published_settings(selector, keep, expected):
    assert selector.expected(keep, 576, 576) == pytest.approx(expected, abs=0.05)


def test_expected_counts_follow_what_is_left():
    assert Stride(3).expected(5, 288, 576) == 32
    assert TopK().expected(5, 3, 576) == 3
    assert Union((TopK(), Stride(3))).expected(100, 288, 576) == pytest.approx(100 + 188 * 64 / 576)
    assert OutliersAndStride().expected(9, 5, 10) == 5


@pytest.mark.parametrize("selector", [TopK(), TopK("score"), Anchors(0.0)], ids=repr)
def test_equal_scores_go_to_the_lower_index(selector):
    kept = selector.select(torch.ones(2, GRID.patches), random_trace(selector.needs, 2), 7)
    assert kept.tolist() == [list(range(7))] * 2


@pytest.mark.parametrize(
    "selector", [MaxMin(), Determinantal(), LogDeterminant(), FacilityLocation(), MaxCoverage()], ids=repr
)
def test_equal_patches_are_kept_once_each_and_from_the_front(selector):
    values = {need: torch.ones(1, GRID.patches, 5) for need in selector.needs}
    kept = selector.select(torch.ones(1, GRID.patches), Trace(values, (GRID,), 1), 7)
    assert kept.tolist() == [list(range(7))]


def test_falling_scores_are_an_order():
    scores = torch.tensor([[0.1, 0.5, 0.3, 0.5], [0.1, -torch.inf, 0.3, -torch.inf]])
    assert TopK("score").select(scores, trace(2), 3).tolist() == [[1, 3, 2], [2, 0, PADDING]]
    assert TopK().select(scores, trace(2), 3).tolist() == [[1, 2, 3], [0, 2, PADDING]]


def test_mass_is_reached_by_the_fewest_patches():
    scores = random_scores(20).square()
    scores[:3, ::2] = -torch.inf
    scores[3, 5] = -3.0
    for share in (0.0, 0.2, 0.77, 1.0):
        for row, kept in zip(scores, Mass(share).select(scores, trace(20), GRID.patches), strict=True):
            values = row.double().clamp(min=0)
            best = values.argsort(descending=True, stable=True).tolist()
            count = next(n for n in range(1, 49) if values[best[:n]].sum() >= share * values.sum() - 1e-12)
            assert real(kept) == sorted(best[:count])
    assert Mass(0.9).select(scores, trace(20), 4).shape == (20, 4)


def test_mass_of_scores_that_are_all_zero_is_one_patch():
    assert Mass(0.5).select(torch.zeros(1, 8), trace(), 4).tolist() == [[0]]


@pytest.mark.parametrize("factor", [0.0, 0.5, 1.5])
def test_outliers_are_above_the_fence_of_their_own_image(factor):
    scores = torch.randn(20, 48, generator=torch.Generator().manual_seed(1)).exp()
    scores[:5, :11] = -torch.inf
    for row, kept in zip(scores.numpy(), Outliers(factor).select(scores, trace(20), 48), strict=True):
        lower, upper = np.percentile(row[np.isfinite(row)].astype(float), [25, 75])
        above = np.flatnonzero(row > upper + factor * (upper - lower)).tolist()
        assert real(kept) == (above or [int(row.argmax())])


def test_an_image_without_outliers_keeps_its_best_patch_and_outliers_are_bounded_by_the_budget():
    flat = torch.ones(1, 48)
    assert Outliers().select(flat, trace(), 48).tolist() == [[0]]
    assert OutliersAndStride().select(flat, trace(), 48).tolist() == [[0, 16, 32]]
    steep = torch.cat([torch.zeros(1, 40), torch.arange(1.0, 9)[None]], 1)
    assert Outliers(order="score").select(steep, trace(), 48).tolist() == [list(range(47, 39, -1))]
    assert Outliers(order="score").select(steep, trace(), 3).tolist() == [[47, 46, 45]]
    assert OutliersAndStride().select(steep, trace(), 10).tolist() == [[*range(47, 39, -1), 0, 2]]


def test_more_than_a_third_of_outliers_give_a_stride_of_one():
    scores = random_scores(1)
    kept = OutliersAndStride(outliers=40).select(scores, trace(), 48)[0].tolist()
    best = scores[0].argsort(descending=True).tolist()
    assert kept == best[:40] + sorted(set(best[40:]) - {47})


def test_strides_count_places_and_not_tokens():
    grid, places = Grid(4, 4), [[1, 2, 4, 8, 12, 15, 16, 24, EXTRA], [0, 8, 10, 30, 31, *[PADDING] * 4]]
    scores = torch.where(torch.tensor(places) == PADDING, -torch.inf, torch.zeros(2, 9))
    uniform = Stride(2).select(scores, Trace({}, (grid,) * 2, 2, torch.tensor(places)), 9)
    assert uniform.tolist() == [[1, 3, 6, 7], [0, 1, 2, PADDING]]
    kept = OutliersAndStride(outliers=1, stride=4).select(scores, Trace({}, (grid,) * 2, 2, torch.tensor(places)), 9)
    assert kept.tolist() == [[0, 2, 3, 4, 6, 7], [0, 1, *[PADDING] * 4]]


def test_a_uniform_grid_has_the_first_of_every_three_in_both_directions():
    kept = Stride(3).select(random_scores(2), trace(2), 1)
    assert kept.tolist() == [[0, 3, 6, 24, 27, 30]] * 2


def test_a_union_keeps_what_any_of_its_selectors_keeps_and_needs_what_they_need():
    union = Union((TopK(), Stride(3), MaxMin(), Determinantal()))
    assert union.needs == (Features(True),)
    answers = random_trace(union.needs, 4)
    parts = [each.select(random_scores(), answers, 5) for each in union.selectors]
    for i, row in enumerate(union.select(random_scores(), answers, 5)):
        assert real(row) == sorted({patch for part in parts for patch in real(part[i])})


def test_a_chunk_that_is_kept_whole_stays_in_raster_order():
    """Against a loop over the chunks, on an image whose quotas fill one of 16 chunks exactly and another one more."""
    grid, scores = Grid(24, 24), random_scores(3, 576).double() / 1000
    scores[0, 36 * 3 : 36 * 4] += 1.0
    scores[1, 36 * 5 : 36 * 6] += 0.013
    scores[1, 36 * 9 : 36 * 10] += 0.00233
    kept, whole = ChunkQuota().select(scores, trace(3, grid), 192), []
    for row, found in zip(scores.numpy(), kept, strict=True):
        chunks = row.reshape(16, 36)
        quota = np.floor(chunks.mean(1) / chunks.mean(1).sum() * 192).astype(int)
        quota[np.argsort(-chunks.mean(1), kind="stable")[: 192 - quota.sum()]] += 1
        expected = []
        for number, (chunk, count) in enumerate(zip(chunks, quota, strict=True)):
            best = np.arange(36) if count >= 36 else np.argsort(-chunk, kind="stable")[:count]
            expected += (36 * number + best).tolist()
            whole.append(int(count) - 36)
        assert real(found) == expected
    assert max(whole) > 0


def test_chunks_that_do_not_divide_the_image_differ_by_one_and_surplus_is_lost():
    scores = torch.full((1, 48), 1e-6)
    scores[0, 10:20] = 1.0  # the second of five chunks: 48 patches in runs of 10, 10, 9, 10, 9
    assert ChunkQuota(5).select(scores, trace(), 20).tolist() == [[*range(10, 20), *[PADDING] * 10]]
    assert ChunkQuota(5).select(torch.zeros(1, 48), trace(), 7).tolist() == [[0, 1, 10, 11, 20, 29, 39]]


def test_neighbours_of_anchors_are_those_that_are_still_there():
    grid, places = Grid(4, 4), [[0, 1, 4, 5, 6, 9, 15, 21, 16, 31, EXTRA], [0, 3, 12, 15, 16, 19, *[PADDING] * 5]]
    received = torch.zeros(2, 1, 11)
    received[0, 0, 3] = received[1, 0, 1] = 1
    answers = Trace({ReceivedRows(8): received}, (grid,) * 2, 2, torch.tensor(places))
    scores = torch.where(torch.tensor(places) == PADDING, -torch.inf, -torch.arange(11.0).flip(0).expand(2, -1))
    kept = Anchors(1.0).select(scores, answers, 5)
    assert kept.tolist() == [[1, 2, 3, 4, 5], [0, 1, 3, 4, 5]]  # above place 3 is -1, which becomes place 0
    kept = Anchors(1.0).select(scores, answers, 6)
    assert kept.tolist() == [[1, 2, 3, 4, 5, 10], [0, 1, 2, 3, 4, 5]]


def test_greedy_determinants_equal_explicit_ones():
    answers = random_trace((Features(True),), 3)
    scores = random_scores(3)
    for i in range(3):
        features = answers[Features(True)][i].double().numpy()
        unit = features / np.linalg.norm(features, axis=1, keepdims=True)
        quality = scores[i].double().numpy()
        channels = features / np.linalg.norm(features, axis=0)
        gram = channels @ channels.T
        for selector, kernel, keep in (
            (Determinantal(), quality[:, None] * (unit @ unit.T) * quality, 5),
            (LogDeterminant(0.5), np.eye(48) + 0.5 * gram @ gram.T, 12),
        ):
            chosen: list[int] = []
            for _ in range(keep):
                rest = [patch for patch in range(48) if patch not in chosen]
                chosen.append(max(rest, key=lambda p: np.linalg.slogdet(kernel[np.ix_([*chosen, p], [*chosen, p])])[1]))
            assert selector.select(scores, answers, keep)[i].tolist() == sorted(chosen)


def test_beyond_the_rank_of_the_features_a_determinantal_choice_goes_by_score():
    answers, scores = random_trace((Features(True),), 3), random_scores(3)
    spanning = Determinantal().select(scores, answers, 5)
    kept = Determinantal().select(scores, answers, 20)
    for few, many, row in zip(spanning.tolist(), kept.tolist(), scores, strict=True):
        by_score = [patch for patch in row.argsort(descending=True).tolist() if patch not in few]
        assert many == sorted([*few, *by_score[:15]])


@pytest.mark.parametrize("at_once", [1, 3])
@pytest.mark.parametrize("clamped", [False, True])
def test_marginal_relevance_equals_a_search_by_loops(clamped, at_once):
    selector = MarginalRelevance(0.7, clamped, at_once)
    answers, scores = random_trace(selector.needs, 3), random_scores(3).double()
    scores[1] *= 1e-6  # of such a range it matters how 1e-6 enters
    kept = selector.select(scores, answers, 10)
    for i in range(3):
        unit = torch.nn.functional.normalize(answers[Features(True)][i].double(), dim=-1).numpy()
        row = scores[i].numpy()
        span = max(np.ptp(row), 1e-6) if clamped else np.ptp(row) + 1e-6
        importance, chosen = (row - row.min()) / span, []
        while len(chosen) < 10:

            def value(patch, importance=importance, chosen=tuple(chosen), unit=unit):
                return importance[patch] - 0.7 * max((unit[patch] @ unit[other] for other in chosen), default=0)

            rest = sorted((patch for patch in range(48) if patch not in chosen), key=lambda p, v=value: -v(p))
            chosen += rest[: min(at_once, 10 - len(chosen))]
        assert kept[i].tolist() == sorted(chosen)


def test_marginal_relevance_without_its_penalty_is_the_best_scores():
    answers, scores = random_trace((Features(True),), 3), random_scores(3)
    assert torch.equal(MarginalRelevance(0.0).select(scores, answers, 9), TopK().select(scores, answers, 9))


def test_weighted_distances_equal_a_search_by_loops():
    answers, scores = random_trace((Features(True),), 3), random_scores(3)
    scores[2] = 0.5  # equal scores count as 1
    kept = WeightedMaxMin().select(scores, answers, 12)
    for i in range(3):
        unit = torch.nn.functional.normalize(answers[Features(True)][i].double(), dim=-1).numpy()
        row = scores[i].double().numpy()
        weight = (row - row.min()) / (np.ptp(row) + 1e-8) if np.ptp(row) else np.ones(48)
        chosen = [int(weight.argmax())]
        while len(chosen) < 12:
            rest = [patch for patch in range(48) if patch not in chosen]
            chosen.append(max(rest, key=lambda p: weight[p] * (1 - (unit[chosen] @ unit[p]).max())))
        assert kept[i].tolist() == sorted(chosen)


def test_facility_location_equals_a_search_by_loops():
    answers, scores = random_trace((Features(),), 2), random_scores(2)
    for i in range(2):
        unit = torch.nn.functional.normalize(answers[Features()][i].double(), dim=-1).numpy()
        cosines, chosen = np.maximum(unit @ unit.T, 0), []
        for _ in range(10):

            def gain(patch, i=i, cosines=cosines, chosen=chosen):
                before = cosines[:, chosen].max(1, initial=0)
                return (np.maximum(cosines[:, patch], before) - before).sum() * float(scores[i, patch]) ** 0.5

            chosen.append(max((patch for patch in range(48) if patch not in chosen), key=gain))
        assert FacilityLocation(0.5).select(scores, answers, 10)[i].tolist() == sorted(chosen)


def test_maximum_coverage_equals_a_search_by_loops_and_ignores_padded_words():
    selector = MaxCoverage(0.1, 0.3, 0.7)
    answers = random_trace(selector.needs, 3)
    values = dict(answers.values)
    values[QuestionEmbeddings()][1, 4:] = 0

    def spread(rows, columns, temperature):
        rows, columns = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (rows, columns))
        powers = np.exp(rows @ columns.T / temperature)
        return powers / powers.sum(1, keepdims=True) / len(rows)

    kept = selector.select(torch.zeros(3, 48), Trace(values, (GRID,), 3), 9)
    for i in range(3):
        words, projected, features = (values[need][i].double().numpy() for need in selector.needs)
        words = words[:4] if i == 1 else words
        cover = np.concatenate([spread(words, projected, 0.1), 0.7 * spread(features, features, 0.3)])
        chosen: list[int] = []
        for _ in range(9):
            rest = [patch for patch in range(48) if patch not in chosen]
            chosen.append(max(rest, key=lambda p: cover[:, [*chosen, p]].max(1).sum()))
        assert kept[i].tolist() == sorted(chosen)


def test_least_alike_tokens_equal_a_search_by_loops():
    selector = LeastAlike(layer=3, pivots=2)
    answers = random_trace(selector.needs, 3)
    keys, states, roles = (answers[need] for need in selector.needs)
    roles[1, -2:] = Role.BEFORE  # a question of four words
    kept = selector.select(torch.zeros(3, 48), answers, 13)
    for i in range(3):
        norms = keys[i].abs().sum((1, 2)).numpy()
        unit = torch.nn.functional.normalize(states[i].double(), dim=-1).numpy()
        visual = np.flatnonzero(roles[i].numpy() == Role.VISUAL)
        words = np.flatnonzero(roles[i].numpy() == Role.QUESTION)
        pivots = sorted(visual, key=lambda t: -norms[t])[:2]
        chosen = list(pivots)
        for pivot in [*pivots, *sorted(words, key=lambda t: -norms[t])[:2]]:
            pool = [token for token in visual if token not in chosen]
            chosen += sorted(pool, key=lambda t, pivot=pivot: unit[t] @ unit[pivot])[:3]
        assert kept[i].tolist() == sorted(token - visual[0] for token in chosen)
        assert len(chosen) == selector.expected(13, 48, 48) == 14


def test_nothing_is_an_empty_choice():
    assert Nothing().select(random_scores(3), trace(3), 5).shape == (3, 0)
    assert Nothing().expected(5, 48, 48) == 0


def test_every_selector_is_held_to_the_contract():
    assert {type(selector).__name__ for selector in (*RASTER, *ORDERED)} >= set(selectors.__all__) - {
        "Nothing"
    } - OF_VIDEOS


@pytest.mark.parametrize("keep", (1, 7, 24, 48, 0.3, 1.0))
@pytest.mark.parametrize("power", (1, 2, 0.5))
def test_a_share_of_what_is_left_is_kept_by_score(keep, power):
    scores = torch.rand(3, GRID.patches, generator=torch.Generator().manual_seed(3))
    scores[1, 10:] = -torch.inf
    share = keep if isinstance(keep, float) else keep / GRID.patches
    for row, kept in zip(scores, TopShare(keep, power).select(scores, random_trace(()), 48), strict=True):
        left = int((row > -torch.inf).sum())
        count = max(1, int(left * share**power + 1e-9))
        assert kept[kept >= 0].tolist() == sorted(row.argsort(descending=True)[:count].tolist())
        assert TopShare(keep, power).expected(48, left, GRID.patches) == count


@pytest.mark.parametrize("keep", (4, 10, 16, 36, 72, 100))
def test_a_sampled_share_meets_the_budget_on_average(keep):
    grid = Grid(12, 12)
    scores = torch.rand(400, 144, generator=torch.Generator().manual_seed(4))
    selector = OutliersAndStride(sampled=0.75)
    counts = (selector.select(scores, Trace({}, (grid,), 400), keep) != PADDING).sum(1).float()
    assert abs(counts.mean() - keep) < 1.5
    assert abs(selector.expected(keep, 144, 144) - counts.mean()) < 1


@pytest.mark.parametrize("keep", (1, 2, 9, 30, 60))
def test_views_have_budgets_in_proportion_to_their_patches(keep):
    views = (Grid(3, 4), Grid(6, 8))
    scores = random_scores(3, 60)
    kept = TopKPerView().select(scores, Trace({}, views, 3), keep)
    assert kept.shape == (3, keep)
    for row, line in zip(kept.tolist(), scores.numpy(), strict=True):
        first = [patch for patch in row if patch < 12]
        assert len(first) == round(keep * 12 / 60)
        assert first == sorted(np.argsort(-line[:12])[: len(first)])
        assert row[len(first) :] == sorted(12 + np.argsort(-line[12:])[: keep - len(first)])
