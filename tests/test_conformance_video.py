"""The golden sets of methods for videos: recipes on arrays of the authors' code; see `test_conformance`."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from foveate.core.arrangement import Grid
from foveate.core.needs import PromptRows
from foveate.core.trace import Trace
from foveate.functional.pooling_head import mean_query_rows, pooled_by_head
from foveate.functional.segments import refined_labels, segments, starts_of, static_windows
from foveate.mergers import SegmentTrees
from foveate.methods import METHODS
from tests.golden_llava import GOLDEN, golden
from tests.test_conformance import MERGED
from tests.videos import golden_video, inputs_video

PATCHES = 196  # of a frame
VISUAL = slice(14, 314)  # the visual tokens of the golden prompt


def cases(name, ending):
    """The names of the golden set's arrays with an ending, without it."""
    return [key.removesuffix(ending) for key in golden(name) if key.endswith(ending) and key[:4] in SEEN]


SEEN = ("cuts", "stil", "ov_c", "ov_s", "qwen")


def share(word):
    """The number that a part of a name such as "r25" holds, in hundredths."""
    return int(word[1:]) / 100


def assert_equals(made, order, features=None):
    """Compares tokens with their golden places and the first channels of their features."""
    np.testing.assert_array_equal(made.decision.compression.origin[0], order)
    if features is not None:
        np.testing.assert_allclose(made.tokens[0][:, : features.shape[1]], features, **MERGED)


def features_of(name, case):
    """The golden features of a case, or None."""
    found = [value for key, value in golden(name).items() if key.startswith(f"{case}_features")]
    return found[-1] if found else None


def test_the_golden_videos_are_what_they_were():
    inputs_video.self_check()


@pytest.mark.parametrize("case", cases("vidcom2", "_keep"))
def test_vidcom2(case):
    video, budget = case.split("_")
    made = METHODS["vidcom2"](share(budget)).compress(golden_video(video))
    assert_equals(made, golden("vidcom2")[f"{case}_keep"])
    expected = golden("vidcom2")[f"{video}_video_score"] + golden("vidcom2")[f"{video}_frame_score"]
    np.testing.assert_allclose(-made.decision.scores[0], expected.ravel(), rtol=1e-5)


@pytest.mark.parametrize("case", cases("evs", "_keep"))
def test_evs(case):
    video, pruned = case.split("_")
    made = METHODS["evs"](1 - share(pruned)).compress(golden_video(video))
    assert_equals(made, golden("evs")[f"{case}_keep"])


@pytest.mark.parametrize("case", cases("dycoke", "_keep"))
def test_dycoke(case):
    video, merged = case.split("_")
    made = METHODS["dycoke"](1 - share(merged), as_published=True).compress(golden_video(video))
    assert_equals(made, golden("dycoke")[f"{case}_keep"])


@pytest.mark.parametrize("case", cases("fastvid", "_keep"))
def test_fastvid(case):
    family, video, *vectors, budget = case.split("_")
    variant = {"ov": "onevision", "qwen": "qwen2_5_vl"}[family]
    given = golden_video(video, *vectors)
    made = METHODS["fastvid"](share(budget), variant=variant).compress(given)
    assert_equals(made, golden("fastvid")[f"{case}_keep"], features_of("fastvid", case))


@pytest.mark.parametrize("case", cases("fastvid", "_segments"))
def test_fastvids_segments(case):
    family, video, *kind = case.split("_")
    vectors = torch.from_numpy(inputs_video.global_features(video))
    vectors = torch.from_numpy(inputs_video.video(video)).mean(1) if kind == ["mean"] else vectors
    similarity = nn.functional.cosine_similarity(vectors[:-1], vectors[1:], dim=1)
    assert segments(similarity, 0.84 if family == "qwen" else 0.9, 8) == golden("fastvid")[f"{case}_segments"].tolist()


def test_the_pooling_head_of_siglip():
    expected, weights = golden("siglip_pooling"), inputs_video.head_weights()
    parts = nn.ModuleDict({"attention": nn.MultiheadAttention(64, 4, batch_first=True), "layernorm": nn.LayerNorm(64)})
    parts["layernorm"].eps = 1e-6
    parts["mlp"] = nn.Sequential(nn.Linear(64, 128), nn.GELU("tanh"), nn.Linear(128, 64))
    renamed = {name.removeprefix("head.").replace("fc1", "0").replace("fc2", "2"): w for name, w in weights.items()}
    state = {name: torch.from_numpy(w) for name, w in renamed.items()}
    probe, scale, bias = (state.pop(name) for name in ("probe", "post_layernorm.weight", "post_layernorm.bias"))
    parts.load_state_dict(state)
    features = nn.functional.layer_norm(torch.from_numpy(inputs_video.raw_frames()), (64,), scale, bias, 1e-6)
    with torch.no_grad():
        vector, rows = pooled_by_head(features, probe, *(parts[name] for name in ("attention", "layernorm", "mlp")))
    np.testing.assert_allclose(vector, expected["head_pooled"], atol=1e-5)
    np.testing.assert_allclose(rows.mean(1), expected["head_attention"], atol=1e-7)


def test_the_mean_query_of_qwens_tower():
    rng = np.random.default_rng(9)
    query, key = (torch.from_numpy(rng.standard_normal((72, 4, 8)).astype(np.float32)) for _ in range(2))
    rows = mean_query_rows(query.unflatten(0, (3, 24)), key.unflatten(0, (3, 24)), merged=4).mean(1)
    np.testing.assert_allclose(rows, golden("fastvid")["qwen_attention_row"], atol=1e-6)


@pytest.mark.parametrize("case", cases("holitom", "_position"))
def test_holitom(case):
    video, budget, threshold = case.split("_")
    made = METHODS["holitom"](share(budget), threshold=share(threshold)).compress(golden_video(video))
    assert_equals(made, golden("holitom")[f"{case}_position"], features_of("holitom", case))


def test_the_windows_of_holitom():
    expected = golden("holitom")
    for number, (similarity, first) in enumerate(
        zip(expected["dp_similarity"], expected["dp_first_frames"], strict=True)
    ):
        lengths, _ = static_windows(torch.from_numpy(similarity) > 0.35, 4 if number >= 40 else 1024)
        assert [start for start, _ in starts_of(lengths)] == first.nonzero()[0].tolist()


def cut_of_the_golden_prompt(cut):
    """Returns the visual tokens of the golden prompt after a cut, and their states."""
    prompt = inputs_video.llm_row()
    states, rows = torch.from_numpy(prompt["hidden"])[None], torch.from_numpy(prompt["attn"])[None]
    trace = Trace({cut.needs[0]: rows[..., VISUAL]}, (Grid(15, 20),), 1)
    decision = cut.cut(states[:, VISUAL], trace)
    return decision.compression, decision.compression.apply(states[:, VISUAL])[0]


@pytest.mark.parametrize("merged", (50, 30))
def test_holitom_inside_the_language_model(merged):
    made, states = cut_of_the_golden_prompt(METHODS["holitom"](inside=1 - merged / 100).cuts[0])
    kept = golden("holitom")[f"inner_r{merged}_keep"]
    visual = (kept >= VISUAL.start) & (kept < VISUAL.stop)
    np.testing.assert_array_equal(made.origin[0] + VISUAL.start, kept[visual])
    np.testing.assert_allclose(states[:, :16], golden("holitom")[f"inner_r{merged}_hidden16"][visual], **MERGED)


def test_flashvid_inside_the_language_model():
    made, _ = cut_of_the_golden_prompt(METHODS["flashvid"]().cuts[0])
    kept = golden("flashvid")["inner_keep"]
    np.testing.assert_array_equal(made.origin[0] + VISUAL.start, kept[(kept >= VISUAL.start) & (kept < VISUAL.stop)])


FLASHVID = {
    "attn_div": {"by_segment": False},
    "segments3": {"cut": -1.0, "least": 3},
    "segments1": {"cut": -1.0, "least": 1},
    "segments3_tau3": {"cut": -1.0, "least": 3, "threshold": 0.3},
}


@pytest.mark.parametrize("case", [case for case in cases("flashvid", "_keep") if case.count("_") == 1])
def test_flashvid(case):
    video, budget = case.split("_")
    made = METHODS["flashvid"](share(budget), as_published=True).compress(golden_video(video))
    assert_stable_frames_equal(case, made.decision.compression, made.tokens[0].numpy())


@pytest.mark.parametrize("case", [case for case in cases("flashvid", "_keep") if case.count("_") > 1])
def test_the_settings_of_flashvid(case):
    video, budget, setting = case.split("_", 2)
    merger = SegmentTrees(share(budget), as_published=True, **FLASHVID[setting])
    features, trace = golden_video(video).encode(())
    scores = torch.from_numpy(inputs_video.received(video)).flatten()[None]
    made = merger.merge(features, torch.empty(1, 0, dtype=torch.long), scores, trace, 0)
    assert_stable_frames_equal(case, made, made.apply(features)[0].numpy())


def assert_stable_frames_equal(case, made, tokens):
    """Compares all frames but those whose order of equal scores is arbitrary, and twins of a token in any order."""
    expected, features = golden("flashvid"), features_of("flashvid", case)
    unstable, width = expected[f"{case}_unstable_frames"], features.shape[1]
    found = by_place(made.origin[0].numpy(), tokens[:, :width], unstable)
    wanted = by_place(expected[f"{case}_keep"], features, unstable)
    np.testing.assert_array_equal(found[0], wanted[0])
    np.testing.assert_allclose(found[1], wanted[1], **MERGED)


def by_place(places, features, unstable):
    stable = ~np.isin(places // PATCHES, unstable)
    order = np.lexsort([features[stable, 0], places[stable]])
    return places[stable][order], features[stable][order]


@pytest.mark.parametrize("video", ("cuts", "still"))
def test_prunevid(video):
    """Rows as a set: in "cuts" two peaks differ by 4e-7 and change places with the authors' noise."""
    made = METHODS["prunevid"]().compress(golden_video(video))
    expected = features_of("prunevid", video)
    found = made.tokens[0][:, : expected.shape[1]].numpy()
    np.testing.assert_allclose(found[found[:, 0].argsort()], expected[expected[:, 0].argsort()], **MERGED)


def test_the_refinement_of_labels_of_prunevid():
    expected = golden("prunevid")
    for given, refined in zip(expected["refine_in"].tolist(), expected["refine_out"].tolist(), strict=True):
        assert refined_labels(given) == refined


@pytest.mark.parametrize("video", ("cuts", "still"))
def test_prunevid_inside_the_language_model(video):
    """The choice alone, with the authors' groups of tokens: the static of a window, the dynamic of each frame."""
    expected = golden("prunevid")
    names = (expected[f"{video}_{name}"].tolist() for name in ("windows", "static", "dynamic"))
    sizes = [size for frames, one, other in zip(*names, strict=True) for size in (one, *[other // frames] * frames)]
    noise = np.random.default_rng(7).standard_normal((4, 6, sum(sizes)))
    rows = torch.from_numpy((noise * noise * noise * noise).astype(np.float32)).amax((0, 1))[None]
    trace = Trace({}, tuple(Grid(1, size) for size in sizes), 1)
    kept = METHODS["prunevid"]().cuts[0].selector.select(rows, trace, sum(sizes))
    np.testing.assert_array_equal(kept[0], expected[f"{video}_stage2_keep"])


@pytest.mark.parametrize("case", [case for case in cases("llava_scissor", "_features4") if "exact" not in case])
def test_llava_scissor(case):
    video, threshold = case.split("_")
    made = METHODS["llava_scissor"](threshold=int(threshold[3:]) / 100).compress(golden_video(video))
    np.testing.assert_allclose(made.tokens[0][:, :4], golden("llava_scissor")[f"{case}_features4"], **MERGED)


@pytest.mark.parametrize("case", cases("sttm", "_box"))
def test_sttm(case):
    video, spatial, temporal = case.split("_")
    temporal = 2.0 if temporal == "tnone" else share(temporal)
    cut = METHODS["sttm"](spatial=share(spatial), temporal=temporal, as_published=True).cuts[0]
    given = golden_video(video)
    trace = Trace({}, given.arrangement.views, 1)
    made = cut.cut(given.features, trace).compression
    frame, top, left = golden("sttm")[f"{case}_box"].T[:3].astype(int)
    np.testing.assert_array_equal(made.origin[0], frame * PATCHES + top * 14 + left)
    np.testing.assert_array_equal(made.size[0], golden("sttm")[f"{case}_patches"])
    features = features_of("sttm", case)
    np.testing.assert_allclose(made.apply(given.features)[0][:, : features.shape[1]], features, **MERGED)


def test_every_golden_set_of_a_method_for_videos_is_compared():
    """Or a new file would be of no use."""
    sets = {path.stem for path in GOLDEN.glob("*.json") if json.loads(path.read_text()).get("inputs")}
    found = {name for name in sets if "inputs_video" in json.loads((GOLDEN / f"{name}.json").read_text())["inputs"]}
    methods = "vidcom2 evs dycoke fastvid siglip_pooling holitom flashvid prunevid llava_scissor sttm".split()
    assert found == set(methods)
    assert isinstance(METHODS["prunevid"]().cuts[0].needs[0], PromptRows)
