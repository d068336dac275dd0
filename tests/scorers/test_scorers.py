from pathlib import Path

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch

from foveate import scorers
from foveate.core.arrangement import Grid
from foveate.core.layers import LayersFrom
from foveate.core.needs import (
    AlignedPatches,
    AlignedText,
    ClsQuery,
    ClsRows,
    EvidenceShare,
    Fingerprint,
    Keys,
    PixelStatistic,
    ReceivedRows,
)
from foveate.core.trace import EXTRA, PADDING, Trace
from foveate.functional.geometry import even
from foveate.functional.ranking import top_k
from foveate.scorers import (
    ClsAttention,
    ClsEnsemble,
    Constant,
    Contrast,
    CrossAndSelfAttention,
    Debiased,
    Distinctness,
    Edges,
    Evidence,
    Hybrid,
    PoolingAttention,
    ProjectorSensitivity,
    PromptAttention,
    PropagatedNorm,
    Random,
    ReceivedAttention,
    ReconstructionError,
    ResponseAttention,
    Saturation,
    TextSimilarity,
    Uniform,
    WideClsAttention,
    WithoutSinks,
)
from foveate.testing.contracts import ScorerContract, random_trace
from tests.videos import SCORERS as OF_VIDEOS

GOLDEN = Path(__file__).parents[1] / "golden"
CDPRUNER = TextSimilarity(negated=True, normalise="minmax")
TRIM = TextSimilarity(negated=True, cosine=False, normalise="softmax", truncated=True)

SCORERS = (
    ClsAttention(-2),
    ClsAttention(1, "max"),
    ClsAttention(1, (0, 2)),
    ClsEnsemble(),
    ClsEnsemble((0, 3), (0.2, 0.8)),
    ClsEnsemble(LayersFrom(1), reduce="max"),
    Random(3),
    Uniform(),
    Evidence(),
    Constant(),
    Contrast(),
    CrossAndSelfAttention(1),
    Edges(),
    Saturation(),
    Distinctness(),
    PoolingAttention(),
    Hybrid((ClsAttention(1), TextSimilarity())),
    ProjectorSensitivity(),
    PromptAttention(2),
    PropagatedNorm(),
    PropagatedNorm(0.1, 1.0, 2),
    ReceivedAttention(-1),
    ReceivedAttention(0, "max"),
    ReceivedAttention(1, others=True),
    Hybrid((ClsAttention(1), ReceivedAttention(1, others=True)), normalise="unit"),
    ReconstructionError(),
    ReconstructionError(60, inside=True),
    ResponseAttention((0, 1)),
    TextSimilarity(),
    CDPRUNER,
    TRIM,
    WideClsAttention(),
    Debiased(ClsAttention(-2), tuple(index / 1000 for index in range(48))),
    WithoutSinks(ClsEnsemble()),
    WithoutSinks(PromptAttention(1), 3.0),
)


def golden(name: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / f"{name}.npz") as arrays:
        return dict(arrays)


def golden_trace(answers: dict) -> Trace:
    return Trace({need: torch.from_numpy(value) for need, value in answers.items()}, (Grid(24, 24),), 1)


@pytest.mark.parametrize("given", SCORERS, ids=repr)
class TestEveryScorer(ScorerContract):
    @pytest.fixture(autouse=True)
    def _given(self, given):
        self.given = given

    def scorer(self):
        return self.given


@pytest.mark.parametrize(("reduce", "numpy"), [("sum", np.sum), ("mean", np.mean), ("max", np.max), ("min", np.min)])
def test_an_ensemble_reduces_weighted_layers(reduce, numpy):
    scorer = ClsEnsemble((0, 1, 2), (0.5, 1.0, 2.0), reduce)
    trace = random_trace(scorer.needs)
    rows = trace[ClsRows((0, 1, 2))].numpy().mean(2) * np.array([0.5, 1.0, 2.0])[:, None]
    np.testing.assert_allclose(scorer.score(trace), numpy(rows, axis=1), rtol=1e-5)


def test_the_wrong_number_of_weights_is_refused():
    scorer = ClsEnsemble((0, 1, 2), (1.0,))
    with pytest.raises(ValueError, match="1 weights for 3 layers"):
        scorer.score(random_trace(scorer.needs))


def test_random_scores_differ_by_seed_and_image():
    trace = random_trace((Fingerprint(),))
    first, second = Random(0).score(trace), Random(1).score(trace)
    assert not torch.equal(first, second)
    assert not torch.equal(first[0], first[1])


def test_evidence_gives_every_thing_its_best_patch_before_any_its_second():
    share = torch.zeros(1, 2, 48)
    share[0, 0, [3, 4, 5]] = torch.tensor([0.9, 1.0, 0.8])
    share[0, 1, [40, 41]] = torch.tensor([0.1, 0.2])
    trace = random_trace((), batch=1)
    trace = type(trace)({EvidenceShare(): share}, trace.views, 1)
    order = Evidence().score(trace)[0].argsort(descending=True).tolist()
    assert set(order[:2]) == {4, 41}
    assert set(order[2:4]) == {3, 40}
    assert order[4] == 5


def test_evidence_keeps_an_even_grid_where_nothing_is_known():
    trace = random_trace((), batch=2)
    maps = [Evidence().score(type(trace)({EvidenceShare(): torch.zeros(2, n, 48)}, trace.views, 2)) for n in (0, 3)]
    assert torch.equal(*maps)
    assert torch.equal(maps[0][0].argsort(descending=True), even(trace.views).argsort(descending=True))


@pytest.mark.parametrize(("layer", "array"), [(8, "global_attn_8"), (22, "global_attn_22")])
def test_received_attention_is_the_mean_over_heads(layer, array):
    expected = golden("trunk")[array]
    rows = np.stack([0.5 * expected, 1.5 * expected], 1)
    scores = ReceivedAttention(layer).score(golden_trace({ReceivedRows(layer): rows}))
    np.testing.assert_allclose(scores, expected, rtol=1e-6)


def test_attention_from_other_patches_is_another_need():
    everyone, others = ReceivedAttention(3), ReceivedAttention(3, others=True)
    assert (everyone.needs, others.needs) == ((ReceivedRows(3),), (ReceivedRows(3, others=True),))
    trace = random_trace(others.needs)
    np.testing.assert_allclose(others.score(trace), trace[others.needs[0]].numpy().mean(1), rtol=1e-6)


def test_a_sum_of_scores_of_length_1_by_hand():
    scorer = Hybrid((ClsAttention(0), ReceivedAttention(1)), (0.2, 0.8), "unit")
    trace = random_trace(scorer.needs)
    one, other = trace[ClsRows((0,))][:, 0].double().numpy().mean(1), trace[ReceivedRows(1)].double().numpy().mean(1)
    expected = 0.2 * one / np.linalg.norm(one, axis=1)[:, None] + 0.8 * other / np.linalg.norm(other, axis=1)[:, None]
    np.testing.assert_allclose(scorer.score(trace), expected, rtol=1e-5)


def test_relevance_is_that_of_the_authors_of_cdpruner():
    image, authors = golden("trunk")["image_embeds_m2"], golden("cdpruner")
    text = authors["text_embeds_img0"][None]
    scores = CDPRUNER.score(golden_trace({AlignedPatches(): image, AlignedText(): text}))
    # theirs is joint over three images: another scale and shift, which their formula leaves to each image
    ours, theirs = scores[0].double().numpy(), authors["relevance"][0].astype(np.float64)
    slope, shift = np.polyfit(theirs, ours, 1)
    np.testing.assert_allclose(ours, slope * theirs + shift, atol=2e-6)
    assert slope >= 1 - 1e-6  # float32; their range spans all three images, so it is never the narrower one
    assert scores.min() > 0
    assert scores.max().item() == pytest.approx(1, abs=1e-4)


def test_minus_the_cosine_from_0_to_1_by_hand():
    trace = random_trace(CDPRUNER.needs)
    patches, text = trace[AlignedPatches()].double().numpy(), trace[AlignedText()].double().numpy()
    cosine = np.einsum("bpd,bsd->bps", patches, text)
    cosine /= np.linalg.norm(patches, axis=2)[:, :, None] * np.linalg.norm(text, axis=2)[:, None]
    relevance = -cosine.mean(2)
    low, high = relevance.min(1, keepdims=True), relevance.max(1, keepdims=True)
    np.testing.assert_allclose(CDPRUNER.score(trace), (relevance - low + 1e-6) / (high - low), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(TextSimilarity().score(trace), -relevance, rtol=1e-5, atol=1e-6)


def test_scores_and_choice_are_those_of_the_authors_of_trim():
    image, authors = golden("trunk")["image_embeds_m2"], golden("trim")
    text = authors["text_embeds"][:, None]
    scores = TRIM.score(golden_trace({AlignedPatches(): image, AlignedText(truncated=True): text}))
    np.testing.assert_allclose(scores, authors["scores"], rtol=1e-5)
    for keep in (192, 128, 64, 32):
        kept = top_k(scores, keep)[0].sort().values
        np.testing.assert_array_equal(kept, authors[f"n{keep}_img0_idx"])


def test_rows_of_zeros_are_no_segments():
    trace = random_trace(TextSimilarity().needs)
    padded = torch.cat([trace[AlignedText()], torch.zeros(3, 4, 5)], 1)
    longer = Trace({AlignedPatches(): trace[AlignedPatches()], AlignedText(): padded}, trace.views, 3)
    for scorer in (TextSimilarity(), TextSimilarity(cosine=False), CDPRUNER):
        torch.testing.assert_close(scorer.score(longer), scorer.score(trace))


def test_relevance_stays_finite_where_all_patches_are_alike():
    alike = {AlignedPatches(): torch.ones(1, 48, 5), AlignedText(): torch.ones(1, 1, 5)}
    assert CDPRUNER.score(Trace(alike, (Grid(6, 8),), 1)).isfinite().all()


def test_wide_cls_attention_is_that_of_the_authors_of_prumerge():
    trunk, expected = golden("trunk"), golden("prumerge")["scores"]
    sources = np.roll(trunk["k23"], -1, 1)  # [CLS] comes last here
    for heads in (1, 4):
        query = trunk["cls_q23"].reshape(1, heads, -1)
        keys = sources.reshape(1, 577, heads, -1)
        scores = WideClsAttention(23).score(golden_trace({ClsQuery(23): query, Keys(23): keys}))
        np.testing.assert_allclose(scores, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("scorer", "name"), [(Saturation(), "saturation"), (Contrast(), "contrast"), (Edges(), "edges")]
)
def test_a_filter_of_pixels_reads_the_statistic_of_its_name_and_nothing_else(scorer, name):
    assert scorer.needs == (PixelStatistic(name),)
    trace = random_trace((PixelStatistic(name),))
    assert torch.equal(scorer.score(trace), trace[PixelStatistic(name)])


def test_constant_scores_every_patch_alike_and_padding_never():
    places = torch.tensor([[0, 2, 5], [7, EXTRA, PADDING]])
    scores = Constant().score(Trace({}, (Grid(2, 4),), 2, places))
    assert scores.tolist() == [[0, 0, 0], [0, 0, -torch.inf]]
    assert Constant().score(random_trace(())).unique().tolist() == [0]


def test_every_scorer_is_held_to_the_contract():
    assert {type(scorer).__name__ for scorer in SCORERS} == set(scorers.__all__) - OF_VIDEOS


@pytest.mark.parametrize(
    ("normalise", "oracle"),
    [
        ("none", lambda s: s),
        ("softmax", lambda s: scipy.special.softmax(s)),
        ("minmax", lambda s: (s - s.min()) / (s.max() - s.min())),
        ("rank", lambda s: (scipy.stats.rankdata(s) - 0.5) / len(s)),
    ],
)
def test_a_hybrid_is_the_weighted_sum_of_its_normalised_parts(normalise, oracle):
    scorer = Hybrid((ClsAttention(1), TextSimilarity()), (0.3, 0.7), normalise)
    trace = random_trace(scorer.needs)
    parts = [part.score(trace).numpy() for part in scorer.scorers]
    expected = [0.3 * oracle(one) + 0.7 * oracle(two) for one, two in zip(*parts, strict=True)]
    np.testing.assert_allclose(scorer.score(trace), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("normalise", ("none", "softmax", "minmax", "rank"))
def test_a_hybrid_does_not_look_at_padding(normalise):
    """Inside the language model a shorter row ends in padding, whose values may be anything."""
    scorer = Hybrid((PromptAttention(1), PromptAttention(2)), normalise=normalise)
    whole = random_trace(scorer.needs, batch=1)
    place = torch.arange(whole.patches)[None].clone()
    place[:, 40:] = PADDING
    nonsense = {need: value.clone() for need, value in whole.values.items()}
    for value in nonsense.values():
        value[..., 40:] = torch.rand(8) * 100 - 50
    padded = Trace(nonsense, whole.views, 1, place)
    cut = Trace({need: value[..., :40] for need, value in whole.values.items()}, whole.views, 1, place[:, :40])
    torch.testing.assert_close(scorer.score(padded)[:, :40], scorer.score(cut))


def test_equal_parts_are_the_default_and_wrong_weights_are_refused():
    parts = (ClsAttention(1), ClsAttention(2))
    trace = random_trace(Hybrid(parts).needs)
    torch.testing.assert_close(Hybrid(parts).score(trace), Hybrid(parts, (0.5, 0.5)).score(trace))
    with pytest.raises(ValueError, match="1 weights for 2 scorers: give one each, or none"):
        Hybrid(parts, (1.0,))


def test_the_strongest_heads_are_those_that_look_at_the_image_most():
    scorer = PromptAttention(2, strongest=2)
    trace = random_trace(scorer.needs)
    rows = trace[scorer.needs[0]].numpy()
    for found, heads in zip(scorer.score(trace), rows, strict=True):
        best = np.argsort(heads.sum(1))[-2:]
        np.testing.assert_allclose(found, heads[best].mean(0), rtol=1e-5)
