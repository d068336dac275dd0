"""Questions about videos are answered as the stock model with the method attached answers them."""

import numpy as np
import pytest
import torch
from PIL import Image

import foveate
from foveate.compressors import Identity
from foveate.core.errors import UnsupportedModel
from foveate.data.clip import Clip
from foveate.data.sample import FrameOfVideo, InMemoryImage, VQASample, media_of
from foveate.data.video import InMemoryVideo, sampled
from foveate.evaluation.encodings import Encodings
from foveate.evaluation.module import Answering
from foveate.methods import fastv, random, uniform
from foveate.testing.checkpoints import save_family
from foveate.testing.families import VIDEOS

FRAMES = 3
METHODS = {"full": Identity(), "uniform": uniform(3), "random": random(0.5), "fastv": fastv(3, 3)}


def picture(seed):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 56, 3), dtype=np.uint8))


def video(seed, frames=5):
    return InMemoryVideo(Clip([picture(10 * seed + n) for n in range(frames)], [0.5 * n for n in range(frames)]))


def question(name, text, **seen):
    return VQASample(name, name[0], seen.pop("sources", ()), "kind", text, ("a",), "exact", frames=FRAMES, **seen)


FIRST, SECOND = video(1), video(2)
SAMPLES = [
    question("v1", "what?", video=FIRST),
    question("v2", "where is it?", video=FIRST),
    question("w1", "what?", video=SECOND),
    question("i1", "what?", sources=(InMemoryImage(picture(99)),)),
]


def stock(loaded, sample, compressor):
    """Returns the answer of stock `generate` with the method attached, and the kept patches."""
    part = {"type": "video" if sample.video else "image"}
    text = loaded.conversation([{"role": "user", "content": [part, {"type": "text", "text": sample.question}]}])
    images, clips = [source.open() for source in sample.sources], [sample.clip] if sample.video else []
    inputs = loaded.inputs([text], [images], videos=[clips])
    with compressor.attached(loaded) as run:
        output = loaded.model.generate(**inputs, max_new_tokens=6, do_sample=False)
    return loaded.text(output[:, inputs["input_ids"].shape[1] :].tolist())[0], run.kept[0].tolist()


@torch.no_grad()
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", VIDEOS)
def test_answers_about_videos_and_images_are_those_of_stock_generate(family, method, loaded_of, tmp_path):
    loaded, compressor = loaded_of(family), METHODS[method]
    encodings = Encodings.of(loaded, media_of(SAMPLES), tmp_path / "encodings")
    frames = 2 if "Qwen" in family else FRAMES
    assert [encodings.arrangements[name].frames for name in "vwi"] == [frames, frames, 0]
    again = Encodings.of(loaded, media_of(SAMPLES), tmp_path / "encodings")
    assert again.arrangements == encodings.arrangements
    with torch.inference_mode():
        records = Answering(again, compressor, 6).predict_step(SAMPLES)
    found = {record.sample_id: record for record in records}
    for sample in SAMPLES:
        record = found[sample.id]
        answer, kept = stock(loaded, sample, compressor)
        assert (record.prediction, record.kept) == (answer, kept)
        assert record.has_image and not record.error


def test_frames_are_sampled_at_equal_distances_with_both_ends():
    assert sampled(10, 4) == [0, 3, 6, 9]
    assert sampled(3, 8) == [0, 1, 2]
    assert sampled(7, 1) == [0]
    clip = FIRST.open(3)
    assert clip.seconds == [0.0, 1.0, 2.0] and clip.fps == 1.0
    assert [frame.tobytes() for frame in clip.frames] == [FIRST.clip.frames[n].tobytes() for n in (0, 2, 4)]


@torch.no_grad()
def test_frames_are_given_as_images_to_models_without_videos(loaded_of, tmp_path):
    loaded = loaded_of("LLaVA-1.5")
    (about_frames,) = [SAMPLES[0].with_frames_as_images]
    assert [source.open().tobytes() for source in about_frames.sources] == [
        frame.tobytes() for frame in SAMPLES[0].clip.frames
    ]
    assert len({source.content() for source in about_frames.sources}) == FRAMES
    assert FrameOfVideo(FIRST, 300, 299).content() != FrameOfVideo(FIRST, 300, 298).content()
    assert SAMPLES[3].with_frames_as_images is SAMPLES[3]
    encodings = Encodings.of(loaded, media_of([about_frames]), tmp_path / "encodings")
    with torch.inference_mode():
        (record,) = Answering(encodings, uniform(3), 6).predict_step([about_frames])
    text = loaded.chat_prompt([None] * FRAMES + ["what?"])
    inputs = loaded.inputs([text], [about_frames.images])
    with uniform(3).attached(loaded) as run:
        output = loaded.model.generate(**inputs, max_new_tokens=6, do_sample=False)
    assert record.prediction == loaded.text(output[:, inputs["input_ids"].shape[1] :].tolist())[0]
    assert len(record.kept) == sum(len(kept) for kept in run.kept) == 3 * FRAMES
    with pytest.raises(UnsupportedModel, match=r"takes images, not videos: .*--frames-as images"):
        Encodings.of(loaded, media_of(SAMPLES), tmp_path / "others")


def test_budgets_of_videos_are_shares_of_all_frames_and_controls_over_frames_are_rows(tmp_path):
    """The table is that of `foveate.compare` on generated clips."""
    save_family("LLaVA-OneVision", tmp_path / "model")
    options = {"limit": 6, "frames": 2, "max_new_tokens": 2, "device": "cpu"}
    table = foveate.compare(["evs"], "clips", str(tmp_path / "model"), [0.5], tmp_path / "runs", **options)
    tokens = table.set_index("method")["equivalent_tokens"]
    assert tokens["full"] == 2 * 9 + 1  # with the separator after the last frame
    assert {"random_per_frame", "fewer_frames", "temporal_mean", "evs"} <= set(table["method"])
    assert (table.loc[table["method"] != "full", "budget"].isin([9, 0])).all()
    roles = table.set_index("method")["role"]
    assert roles["fewer_frames"] == "control" and roles["evs"] == "vision"
