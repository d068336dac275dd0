"""Tasks about videos: files, frames, placeholders, and videos beside images in one prompt."""

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from foveate.core.errors import DataError, UnsupportedModel
from foveate.data.clip import Clip
from foveate.data.video_file import VideoFile
from foveate.models.loading.load import load
from foveate.testing.checkpoints import save_family
from foveate.testing.families import VIDEOS

pytest.importorskip("lmms_eval", reason="lmms-eval is not installed: docs/how_to/lmms_eval.md")
from foveate.lmms_eval.model import Foveate
from foveate.lmms_eval.visuals import opened
from tests.data.video_files import pixels_of, write_video
from tests.lmms_eval.asking import generating, weighing
from tests.tiers import extended

FRAMES, NEW = 4, 4
FAST = "LLaVA-NeXT-Video"
FAMILIES = [FAST, *(pytest.param(name, marks=extended("every")) for name in VIDEOS if name != FAST)]
PICTURE = Image.effect_noise((50, 40), 90).convert("RGB")


class Read:
    """A video as decord opens it."""

    def __init__(self, count, fps):
        self.count, self.fps = count, fps

    def __len__(self):
        return self.count

    def get_avg_fps(self):
        return self.fps

    def get_batch(self, indices):
        return _Array(np.stack([pixels_of(number) for number in indices]))


class _Array:
    def __init__(self, pixels):
        self.pixels = pixels

    def asnumpy(self):
        return self.pixels


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    noise = np.random.default_rng(0).integers(0, 255, (9, 48, 64, 3), dtype=np.uint8)
    long = write_video(folder / "long.mp4", list(noise))
    return {"long": str(long), "short": write_video(folder / "short.mkv", 3), "broken": _cut(folder, long)}


def _cut(folder, path):
    (folder / "broken.mp4").write_bytes(path.read_bytes()[:200])
    return str(folder / "broken.mp4")


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request, tmp_path_factory):
    return save_family(request.param, tmp_path_factory.mktemp("checkpoint") / "model")


@pytest.fixture(scope="module")
def docs(files):
    """Questions about a video, a shorter one, a video and an image, an image, and text."""
    both = "w3 <image> w4 <video> w5"
    rows = [
        ("w1 w2", [files["long"]]),
        ("w6", [files["short"]]),
        (both, [PICTURE, files["long"]]),
        ("w7", [PICTURE]),
        ("w8 w9", []),
        ("w2 w1", [files["long"]]),
    ]
    return [{"text": text, "images": visuals} for text, visuals in rows]


def stock(loaded, doc, compressor):
    """Returns the answer of stock `generate` with the method attached, and its prompt tokens per block."""
    clips = [VideoFile(Path(v), "video").open(FRAMES) for v in doc["images"] if not isinstance(v, Image.Image)]
    images = [visual for visual in doc["images"] if isinstance(visual, Image.Image)]
    if "<video>" in doc["text"]:
        content = [("text", "w3"), ("image", ""), ("text", "w4"), ("video", ""), ("text", "w5")]
    else:
        content = [("video", "")] * len(clips) + [("image", "")] * len(images) + [("text", doc["text"])]
    parts = [{"type": kind, **({"text": text} if text else {})} for kind, text in content]
    inputs = loaded.inputs([loaded.conversation([{"role": "user", "content": parts}])], [images], videos=[clips])
    with compressor.attached(loaded) if doc["images"] else nullcontext() as result:
        output = loaded.model.generate(**inputs, max_new_tokens=NEW, do_sample=False)
    text = int((~loaded.adapter.is_placeholder(inputs["input_ids"])).sum())
    visual = float(result.tokens.equivalent.sum()) if result else 0
    return loaded.text([output[0, inputs["input_ids"].shape[1] :].tolist()])[0], round(text + visual)


@torch.inference_mode()
@pytest.mark.parametrize(("method", "keep"), [("full", None), ("uniform", 3), ("fastv", 3)])
def test_videos_beside_images_are_answered_as_by_stock_generate_at_any_batch_size(folder, docs, method, keep):
    loaded = load(folder)
    for batch_size in (1, 4):
        more = {"layer": 2} if method == "fastv" else {}
        model = Foveate(str(folder), method, keep, "cpu", batch_size=batch_size, max_frames_num=FRAMES, **more)
        found = model.generate_until(generating(model, docs, max_new_tokens=NEW))
        expected = [stock(loaded, doc, model.compressor) for doc in docs]
        assert [(answer.text, answer.token_counts.input_tokens) for answer in found] == expected
    assert len({answer for answer, _ in expected}) >= 4


def test_choices_about_a_video_have_losses(files, tmp_path):
    folder = save_family(FAST, tmp_path / "model")
    model = Foveate(str(folder), device="cpu", max_frames_num=2)
    doc = {"text": "w1", "images": [files["long"]]}
    (one, _), (other, _) = model.loglikelihood(weighing(model, [doc], ["w2", "w3 w4"]))
    assert one > 0 and one != other


def test_frames_are_at_equal_distances_and_a_shorter_video_shows_all(files):
    clip = opened(files["long"], FRAMES, "it")
    assert isinstance(clip, Clip) and np.allclose(clip.seconds, [0, 0.2, 0.5, 0.8])
    assert len(opened(files["short"], FRAMES, "it").frames) == 3
    read = opened(Read(9, 2.0), 3, "it")
    assert read.seconds == [0, 2, 4] and np.array_equal(np.asarray(read.frames[1]), pixels_of(4))
    assert opened(PICTURE, 3, "it") is PICTURE


def test_what_cannot_be_shown_is_named(folder, files):
    model = Foveate(str(folder), device="cpu")
    refused = [
        ("w1", [files["broken"]], r"the question 'w1': video 'broken.mp4'"),
        ("w1", ["nowhere.mp4"], "there is no such file"),
        ("<video> or <video>", [files["short"]], "2 placeholders .* for 0 images and 1 videos"),
    ]
    for text, visuals, told in refused:
        with pytest.raises(DataError, match=told):
            model.generate_until(generating(model, [{"text": text, "images": visuals}]))
    model = Foveate(device="cpu")
    with pytest.raises(UnsupportedModel, match="'w1' is about a video, and LlavaForConditionalGeneration takes images"):
        model.generate_until(generating(model, [{"text": "w1", "images": [files["short"]]}]))
