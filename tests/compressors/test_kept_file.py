"""`result.save`: what the file says is what the language model received."""

import json
import re
from pathlib import Path

import jsonschema
import pytest
import torch

from foveate.compressors import Blind, Compressor, DecoderCompressor, Identity, Pipeline, Pool, VisionCompressor
from foveate.core.errors import OutputError
from foveate.core.trace import EXTRA
from foveate.data.load import load_samples
from foveate.mergers import Clusters, Contextual, DroppedMean, Nearest
from foveate.methods import fastv, vtc_cls
from foveate.models.loading.load import load
from foveate.scorers import ClsAttention, PromptAttention, Random
from tests.tiers import parametrize

PAGE = Path(__file__).parents[2] / "docs/reference/kept_file.md"
LAYER = ClsAttention(-2)
KINDS = {
    "contextual": VisionCompressor(LAYER, 12, merger=Contextual(cls=True)),
    "pipeline": Pipeline((vtc_cls(20, start_layer=0), DecoderCompressor(PromptAttention(1), 6, 2))),
    "plain": vtc_cls(7, start_layer=0),
    "mean": VisionCompressor(LAYER, 8, merger=DroppedMean()),
    "pool": Pool(16),
    "full": Identity(),
    "blind": Blind(),
    "cut": fastv(9, layer=2),
}


@pytest.fixture(scope="module")
def loaded(tiny):
    return load(tiny)


@pytest.fixture(scope="module")
def schema():
    return json.loads(blocks()[1])


def blocks():
    return re.findall(r"```json\n(.*?)```", PAGE.read_text(), re.DOTALL)


def saved(loaded, compressor: Compressor, path: Path, prompts=((0,), (1,))):
    """The content of the file and the result of one pass over prompts about some images each."""
    samples = load_samples("scenes", "test", limit=12)
    images = list(dict.fromkeys(sample.image_id for sample in samples))
    first = [next(sample for sample in samples if sample.image_id == image) for image in images]
    texts = [loaded.chat_prompt([*[None] * len(numbers), "what?"]) for numbers in prompts]
    inputs = loaded.inputs(texts, [[first[number].image for number in numbers] for numbers in prompts])
    with torch.inference_mode(), compressor.attached(loaded) as result:
        loaded.model(**inputs)
    result.save(path)
    return json.loads(path.read_text()), result


def matrix(image, patches):
    rows = torch.zeros(len(image["sources"]), patches + 1)
    for row, source in zip(rows, image["sources"], strict=True):
        row[source["patches"]] = torch.tensor(source["weights"])
        row[-1] = source["cls"]
    return rows


def test_the_example_in_the_docs_fits_the_schema(schema):
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(json.loads(blocks()[0]), schema)


@parametrize("name", KINDS, fast=("contextual", "pipeline"))
def test_a_file_fits_the_schema_and_says_what_the_result_says(loaded, name, schema, tmp_path):
    compressor = KINDS[name]
    content, result = saved(loaded, compressor, tmp_path / "kept.json")
    jsonschema.validate(content, schema)
    assert content["recipe"] == repr(compressor)
    assert [image["kept"] for image in content["images"]] == [kept.tolist() for kept in result.kept]
    for image, scores in zip(content["images"], result.scores.tolist(), strict=True):
        assert image["views"] == [{"rows": 12, "columns": 12, "box": [0, 0, 1, 1]}]
        assert sorted(image["kept"] + image["merged"] + image["dropped"]) == list(range(144))
        assert image["scores"] == [score if score == score else None for score in scores]
        assert len(image["sources"]) == result.tokens.left[image["prompt"]]


@parametrize("merger", [Contextual(cls=True), DroppedMean()], ids=["contextual", "mean"])
def test_sources_of_the_vision_side_are_the_rows_of_its_matrix(loaded, merger, tmp_path):
    content, result = saved(loaded, VisionCompressor(LAYER, 12, merger=merger), tmp_path / "kept.json")
    compression = result.decisions[0].compression
    for image, origin, mixing in zip(content["images"], compression.origin, compression.mixing, strict=True):
        order = torch.where(origin == EXTRA, 1000, origin).argsort(stable=True)
        expected = torch.nn.functional.pad(mixing[order], (0, 145 - mixing.shape[1]))
        assert torch.equal(matrix(image, 144), expected)
        used = expected[:, :144].any(0).nonzero()[:, 0].tolist()
        assert image["merged"] == sorted(set(used) - set(image["kept"]))


def test_a_merger_of_a_cut_is_followed_to_the_patches(loaded, tmp_path):
    first = VisionCompressor(LAYER, 20, merger=DroppedMean())
    cut = DecoderCompressor(PromptAttention(1), 6, 2, merger=Clusters(1.0, 0.1))
    content, result = saved(loaded, Pipeline((first, cut)), tmp_path / "kept.json")
    vision = result.decisions[0].compression
    for row, image in enumerate(content["images"]):
        weights, given = matrix(image, 144)[:, :144], vision.mixing[row][:, :144]
        count = len(image["kept"])
        assert torch.equal(weights[:count], torch.eye(144)[image["kept"]])
        shares = torch.linalg.lstsq(given.T, weights[count:].T).solution.T  # of the tokens before the cut
        assert torch.allclose(shares @ given, weights[count:], atol=1e-5)
        assert torch.allclose(shares.sum(1), torch.ones(len(shares)), atol=1e-4)
        left = ~torch.isin(vision.origin[row], torch.tensor(image["kept"]))
        assert torch.equal((shares > 1e-4).sum(0), left.long())  # each token that the cut dropped is in one cluster
        assert image["dropped"] == []


def test_patches_of_several_images_in_a_prompt_are_numbered_by_image(loaded, schema, tmp_path):
    content, result = saved(loaded, fastv(30, layer=2), tmp_path / "kept.json", prompts=((0, 1), (1, 0)))
    jsonschema.validate(content, schema)
    assert [image["prompt"] for image in content["images"]] == [0, 0, 1, 1]
    assert [image["kept"] for image in content["images"]] == [kept.tolist() for kept in result.kept]
    assert all(source["patches"] == [source["patch"]] for image in content["images"] for source in image["sources"])


def test_what_a_cut_merges_into_a_patch_of_another_image_is_listed_with_its_own_image(loaded, schema, tmp_path):
    cut = DecoderCompressor(PromptAttention(1), 3, 2, merger=Nearest())  # the budget of an image
    content, result = saved(loaded, cut, tmp_path / "kept.json", prompts=((0, 1), (1, 0)))
    jsonschema.validate(content, schema)
    assert [image["kept"] for image in content["images"]] == [kept.tolist() for kept in result.kept]
    for images in (content["images"][:2], content["images"][2:]):
        assert [image["dropped"] for image in images] == [[], []]  # every patch is in one of the means
        weights = [matrix(image, 144)[:, :144] for image in images]
        assert all(((rows > 0).sum(0) == 1).all() for rows in weights)
        assert float(sum(rows.sum() for rows in weights)) == pytest.approx(6)  # those of each of 6 tokens sum to 1


def test_saving_again_replaces_the_file(loaded, tmp_path):
    path = tmp_path / "new" / "kept.json"
    saved(loaded, VisionCompressor(Random(0), 5), path)
    content, _ = saved(loaded, VisionCompressor(Random(0), 6), path)
    assert len(content["images"][0]["kept"]) == 6
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_is_refused_as_a_file(loaded, tmp_path):
    with pytest.raises(OutputError, match=r"expected the name of a file"):
        saved(loaded, Identity(), tmp_path)
