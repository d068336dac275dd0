import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import LlamaConfig, LlamaForCausalLM

from foveate import mergers
from foveate.core.arrangement import Grid
from foveate.core.errors import UnsupportedNeed
from foveate.core.needs import AlignedPatches, AlignedWords, Fingerprint, Keys
from foveate.core.trace import EXTRA, PADDING, Trace
from foveate.functional.spanning import drawn, furthest
from foveate.mergers import (
    BasisAndNearest,
    Clusters,
    Contextual,
    Drop,
    DroppedMean,
    Nearest,
    RunningMean,
    TextCentres,
    WeightedNeighbours,
    WithCls,
    ZeroFill,
)
from foveate.testing.contracts import GRID, MergerContract, random_trace
from tests.golden_llava import golden, inputs
from tests.videos import MERGERS as OF_VIDEOS

MERGERS = [
    Drop(),
    ZeroFill(),
    Nearest(),
    Contextual(),
    Contextual(share=0.4, cls=False),
    WeightedNeighbours(),
    WeightedNeighbours(neighbours=3),
    DroppedMean(),
    WithCls(),
    TextCentres(),
    TextCentres(share=0.4, rounds=1),
    Clusters(),
    Clusters(share=0.9, ratio=0.4),
    RunningMean(),
    BasisAndNearest(),
    BasisAndNearest(basis=2, seed=3, mix=0.5, order="score"),
]


@pytest.mark.parametrize("given", MERGERS, ids=repr)
class TestEveryMerger(MergerContract):
    @pytest.fixture(autouse=True)
    def _given(self, given):
        self.given = given

    def merger(self):
        return self.given


@pytest.mark.parametrize("given", MERGERS, ids=repr)
@pytest.mark.parametrize("seed", range(20))
def test_tokens_of_an_image_that_kept_fewer_are_what_they_are_alone(given, seed):
    kept = torch.tensor([[0, 3, 9, 12], [40, 2, 4, 7], [5, 20, PADDING, PADDING]])
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(3, GRID.patches + 1, 5, generator=generator)
    scores = torch.rand(3, GRID.patches, generator=generator)
    scores[2, 44:] = -torch.inf  # the third image has fewer patches
    trace = random_trace(given.needs)
    together = given.merge(features, kept, scores, trace, 8)
    for row in range(3):
        one = Trace({need: value[row : row + 1] for need, value in trace.values.items()}, (GRID,), 1)
        own = kept[row : row + 1] if given == ZeroFill() else kept[row : row + 1, : (kept[row] >= 0).sum()]
        alone = given.merge(features[row : row + 1], own, scores[row : row + 1], one, 8)
        count = int(together.count[row])
        assert together.origin[row, :count].tolist() == alone.origin[0].tolist()
        assert (together.origin[row, count:] == PADDING).all()
        tokens = together.apply(features)[row]
        torch.testing.assert_close(tokens[:count], alone.apply(features[row : row + 1])[0])
        assert (tokens[count:] == 0).all()


@pytest.mark.parametrize("given", [m for m in MERGERS if not isinstance(m, Contextual | WithCls)], ids=repr)
def test_where_nothing_was_dropped_nothing_changes(given):
    kept = torch.arange(GRID.patches).expand(2, -1)
    features, scores = torch.randn(2, GRID.patches, 5), torch.rand(2, GRID.patches)
    compression = given.merge(features, kept, scores, random_trace(given.needs, 2), GRID.patches)
    assert torch.equal(compression.origin, kept)
    assert given.extra(0) == 0
    if not isinstance(given, WeightedNeighbours):  # adds neighbours that were kept, too
        assert torch.equal(compression.apply(features), features)


def test_drop_leaves_kept_features_bit_by_bit():
    features = torch.rand(2, 48, 5)
    kept = torch.tensor([[1, 7], [0, 47]])
    tokens = Drop().merge(features, kept, torch.rand(2, 48), random_trace(()), 2).apply(features)
    assert torch.equal(tokens, torch.stack([features[0, [1, 7]], features[1, [0, 47]]]))


def test_budgets_that_are_not_used_up_are_filled_with_zeros():
    features = torch.rand(2, 48, 5)
    kept = torch.tensor([[9, 7, PADDING], [0, PADDING, PADDING]])
    compression = ZeroFill().merge(features, kept, torch.rand(2, 48), random_trace(()), 3)
    assert compression.origin.tolist() == [[9, 7, EXTRA], [0, EXTRA, EXTRA]]
    expected = torch.zeros(2, 3, 5)
    expected[0, 0], expected[0, 1], expected[1, 0] = features[0, 9], features[0, 7], features[1, 0]
    assert torch.equal(compression.apply(features), expected)


@pytest.mark.parametrize("rounds", [0, 1, 3])
def test_dropped_patches_gather_around_those_that_the_question_names_as_in_a_loop(rounds):
    merger = TextCentres(share=0.4, rounds=rounds)
    trace = random_trace(merger.needs, 2)
    trace[AlignedWords()][1, 4:] = 0  # a shorter question
    features, scores = torch.randn(2, 48, 5), torch.rand(2, 48)
    scores[1, 40:] = -torch.inf
    kept = torch.tensor([[1, 7, 30, 31, 32, 40], [0, 5, 9, 10, 11, 12]])
    compression = merger.merge(features, kept, scores, trace, 10)
    assert compression.origin.tolist() == [[*row, *[EXTRA] * 4] for row in kept.tolist()]
    tokens = compression.apply(features)
    for image in range(2):
        words = trace[AlignedWords()][image].double().numpy()[: 4 if image else 6]
        aligned = trace[AlignedPatches(normed=False)][image].double().numpy()

        def cosines(vector, words=words):
            return words @ vector / np.linalg.norm(words, axis=1) / np.linalg.norm(vector)

        left = [patch for patch in range(40 if image else 48) if patch not in kept[image]]
        centres = sorted(sorted(left, key=lambda p: -cosines(aligned[p]).mean())[:4])
        weights = {centre: np.eye(48)[centre] for centre in centres}
        for _ in range(rounds):
            named, joined = {c: cosines(row @ aligned) for c, row in weights.items()}, {c: [] for c in centres}
            for patch in (patch for patch in left if patch not in centres):
                best = max(centres, key=lambda c: cosines(aligned[patch]) @ named[c])
                joined[best].append(np.eye(48)[patch])
            for centre, members in joined.items():
                weights[centre] = weights[centre] + (np.mean(members, 0) if members else 0)
        expected = np.stack(list(weights.values())) @ features[image].double().numpy()
        np.testing.assert_allclose(tokens[image, 6:], expected, atol=1e-5)
        assert torch.equal(tokens[image, :6], features[image, kept[image]])


def test_cls_is_the_first_token_and_the_others_are_kept_patches():
    features, kept = torch.rand(2, 49, 5), torch.tensor([[9, 7, 8], [0, PADDING, PADDING]])
    compression = WithCls().merge(features, kept, torch.rand(2, 48), random_trace(()), 4)
    assert compression.origin.tolist() == [[EXTRA, 9, 7, 8], [EXTRA, 0, PADDING, PADDING]]
    tokens = compression.apply(features)
    assert torch.equal(tokens[0], features[0, [48, 9, 7, 8]])
    assert torch.equal(tokens[1], torch.stack([features[1, 48], features[1, 0], *torch.zeros(2, 5)]))
    with pytest.raises(UnsupportedNeed, match="no \\[CLS\\] to keep as a token"):
        WithCls().merge(features[:, :48], kept, torch.rand(2, 48), random_trace(()), 4)


def test_dropped_patches_join_the_nearest_kept_one_like_in_a_loop():
    features, kept = torch.randn(2, 48, 5), torch.tensor([[1, 7, 30], [0, 5, 47]])
    tokens = Nearest().merge(features, kept, torch.rand(2, 48), random_trace(()), 3).apply(features)
    for image in range(2):
        members = {k: [features[image, k]] for k in kept[image].tolist()}
        for patch in sorted(set(range(48)) - set(members)):
            best = max(members, key=lambda k: float(F.cosine_similarity(features[image, k], features[image, patch], 0)))
            members[best].append(features[image, patch])
        expected = torch.stack([torch.stack(group).mean(0) for group in members.values()])
        torch.testing.assert_close(tokens[image], expected)


def trunk():
    """Features as sources, patches first and [CLS] last, of the golden tower."""
    arrays = {name: torch.from_numpy(value) for name, value in golden("trunk").items()}
    return arrays, torch.cat([arrays["hidden_m2"][:, 1:], arrays["hidden_m2"][:, :1]], 1)


def keys_trace(layer, keys):
    patches_first = torch.cat([keys[:, 1:], keys[:, :1]], 1)
    return Trace({Keys(layer): patches_first[:, :, None]}, (Grid(24, 24),), 1)


@pytest.mark.parametrize("budget", [192, 128, 64, 32])
def test_contextual_tokens_equal_visionzip(budget):
    arrays, features = trunk()
    expected = golden("visionzip")
    kept = torch.from_numpy(expected[f"n{budget}_dominant"]).long()
    merger = Contextual()
    assert merger.reserved(budget) == budget - kept.shape[1]
    trace = keys_trace(-2, arrays["k22_headmean"])
    compression = merger.merge(features, kept, torch.rand(1, 576), trace, budget)
    np.testing.assert_allclose(compression.apply(features), expected[f"n{budget}_out"], atol=1e-5)
    contextual = compression.mixing[0, -len(expected[f"n{budget}_context_targets"][0]) :]
    targets = expected[f"n{budget}_context_targets"][0].tolist()
    assert (contextual[torch.arange(len(targets)), targets] == 1).all()
    torch.testing.assert_close(contextual.sum(1), torch.full((len(targets),), 2.0))


def test_without_cls_token_contextual_says_what_to_do():
    trace = random_trace((Keys(-2),), 1)
    features, kept, scores = torch.rand(1, GRID.patches, 5), torch.tensor([[0, 3]]), torch.rand(1, GRID.patches)
    with pytest.raises(UnsupportedNeed, match="cls=False"):
        Contextual().merge(features, kept, scores, trace, 8)
    assert Contextual(cls=False).merge(features, kept, scores, trace, 8).count.tolist() == [3]


def test_contextual_reserves_its_share_of_any_budget():
    assert [Contextual().reserved(budget) for budget in (64, 144)] == [11, 24]
    assert [Contextual(cls=False).reserved(budget) for budget in (64, 144)] == [10, 23]


PRUMERGE = [("prumerge", key) for key in ("base", "plus", "base_n192", "base_n128", "base_n64", "base_n32")]
PRUMERGE += [("prumerge_vtc", key) for key in ("plus_n192", "plus_n128", "plus_n64")]


@pytest.mark.parametrize(("name", "key"), PRUMERGE)
def test_weighted_neighbours_equal_prumerge(name, key):
    arrays, features = trunk()
    expected = golden(name)
    kept = torch.from_numpy(expected[f"{key}_img0_idx"]).long()[None]
    trace = keys_trace(-1, arrays["k23"])
    compression = WeightedNeighbours().merge(features, kept, torch.from_numpy(expected["scores"]), trace, kept.shape[1])
    np.testing.assert_allclose(compression.apply(features)[0], expected[f"{key}_img0_out"], atol=1e-5)
    assert compression.origin[0].tolist() == [*kept[0].tolist(), EXTRA]


@pytest.mark.parametrize("key", ["n64", "auto"])
def test_the_mean_of_the_dropped_equals_trim(key):
    _, features = trunk()
    expected = golden("trim")
    kept = torch.from_numpy(expected[f"{key}_img0_idx"]).long()[None]
    scores, trace = torch.from_numpy(expected["scores"]), random_trace(())
    compression = DroppedMean().merge(features, kept, scores, trace, kept.shape[1])
    np.testing.assert_allclose(compression.apply(features)[0], expected[f"{key}_img0_out"], atol=1e-5)


@pytest.fixture(scope="module")
def sparse_states():
    """What layer 2 of the golden language model writes for the visual tokens."""
    language = {name: value for name, value in inputs.LLAMA_SPARSE.items() if name != "rope_theta"}
    language["num_hidden_layers"] = 3
    config = LlamaConfig(**language, rope_parameters={"rope_type": "default", "rope_theta": 1e4})
    model = LlamaForCausalLM(config).eval()
    weights = inputs.llama_weights(sparse=True)
    model.load_state_dict({name: torch.from_numpy(weights[name]) for name in model.state_dict()})
    prompt = inputs.prompts(dim=128)[0]
    embeds = torch.from_numpy(inputs.prompt_embeds(prompt, weights["model.embed_tokens.weight"]))[None]
    captured = []
    model.model.layers[2].register_forward_hook(lambda module, args, output: captured.append(output))
    with torch.no_grad():
        model(inputs_embeds=embeds)
    states = captured[0][0] if isinstance(captured[0], tuple) else captured[0]
    return states[:, 35:611]


@pytest.mark.parametrize("budget", [192, 128, 96, 64])
def test_clusters_equal_sparsevlm_in_its_first_stage(sparse_states, budget):
    arrays = golden("sparsevlm")
    stage = {name: arrays[f"v1_0_n{budget}_p0_stage0_{name}"] for name in ("score", "idx", "centers", "cluster")}
    kept, scores = torch.from_numpy(stage["idx"]).long()[None], torch.from_numpy(stage["score"])[None]
    compression = Clusters().merge(sparse_states, kept, scores, random_trace(()), kept.shape[1])
    rows = compression.mixing[0, kept.shape[1] :]
    assert len(rows) == len(stage["centers"]) == Clusters().extra(576 - kept.shape[1])
    dropped = scores[0].clone()
    dropped[kept[0]] = -torch.inf
    best = dropped.argsort(descending=True, stable=True)[: len(stage["cluster"])]
    expected = F.one_hot(torch.from_numpy(stage["cluster"]).long(), len(rows)).T.float()
    np.testing.assert_allclose(rows[:, best], expected / expected.sum(1, keepdim=True), atol=1e-6)
    np.testing.assert_allclose(rows.sum(1), 1, atol=1e-6)
    if budget == 64:
        merged = compression.apply(sparse_states)[0, kept.shape[1] :]
        np.testing.assert_allclose(merged, arrays["v1_0_n64_p0_stage0_merged"], atol=1e-4)


@pytest.mark.parametrize("dropped", [0, 1, 3, 4, 33, 34, 276, 510])
def test_clusters_announce_as_many_tokens_as_sparsevlm_makes(dropped):
    assert Clusters().extra(dropped) == (int((int(0.3 * dropped) + 1) / 10) + 1 if dropped else 0)


def test_every_merger_is_held_to_the_contract():
    assert {type(merger).__name__ for merger in MERGERS} == set(mergers.__all__) - OF_VIDEOS


@pytest.mark.parametrize("order", ("raster", "score"))
def test_basis_tokens_stand_at_the_worst_kept_patches_and_the_others_absorb(order):
    generator = torch.Generator().manual_seed(3)
    features, scores = torch.randn(1, 48, 5, generator=generator), torch.rand(1, 48, generator=generator)
    trace, kept = random_trace((Fingerprint(),), 1), torch.tensor([[2, 5, 11, 17, 30, 41]])
    given = BasisAndNearest(basis=3, seed=1, mix=0.75, order=order)
    everything = torch.ones(1, 48, dtype=torch.bool)
    basis = furthest(features, drawn(1, trace[Fingerprint()], everything), everything, 3)[0].tolist()
    tokens = given.merge(features, kept, scores, trace, 6).apply(features)[0].numpy()
    rows, held = features[0].numpy(), scores[0].numpy()
    falling = sorted(kept[0].tolist(), key=lambda patch: -held[patch])
    absorbing, replaced = falling[:3], falling[3:] if order == "score" else sorted(falling[3:])
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    groups = {patch: [patch] for patch in absorbing}
    for patch in sorted(set(range(48)) - set(kept[0].tolist())):
        groups[max(absorbing, key=lambda other: unit[patch] @ unit[other])].append(patch)
    expected = {patch: rows[members].mean(0) for patch, members in groups.items()}
    expected |= {at: 0.75 * rows[new] + 0.25 * rows[at] for at, new in zip(replaced, basis, strict=True)}
    np.testing.assert_allclose(tokens, [expected[patch] for patch in kept[0].tolist()], atol=1e-5)
