"""Evidence of videos on the patches of each frame, against a loop over pixels."""

import numpy as np
import pytest
import torch

from foveate.core.arrangement import Arrangement, Grid
from foveate.data.load import load_samples
from foveate.data.sample import Boxes, Masks
from foveate.evaluation.evidence import evidence_of
from foveate.models.loading.load import load
from foveate.testing.checkpoints import save_family
from foveate.testing.families import VIDEOS
from tests.tiers import parametrize

SAMPLES = load_samples("clips", "test", limit=6)
WHOLE = (0.0, 0.0, 1.0, 1.0)


def arranged(frames, rows=12, columns=12, box=WHOLE):
    return Arrangement((Grid(rows, columns),) * frames, (box,) * frames, frames=frames)


def counted(masks, groups, rows, columns):
    """Counts the pixels of each patch that any frame of a group shows, (thing, patch)."""
    things, _, height, width = masks.shape
    shares = np.zeros((things, len(groups), rows, columns))
    for thing in range(things):
        for number, group in enumerate(groups):
            for y in range(height):
                for x in range(width):
                    shown = any(masks[thing, frame, y, x] for frame in group)
                    shares[thing, number, y * rows // height, x * columns // width] += shown
    return torch.tensor(shares.reshape(things, -1) / (height / rows * (width / columns)), dtype=torch.float32)


@pytest.mark.parametrize("frames, groups", [(8, [[n] for n in range(8)]), (4, [[0, 1], [2, 3], [4, 5], [6, 7]])])
def test_each_patch_has_its_share_of_the_frames_that_it_shows(frames, groups):
    sample = next(sample for sample in SAMPLES if sample.kind == "change")  # one thing in two colours
    share = evidence_of([sample], [arranged(frames, 6, 8)])[0]
    torch.testing.assert_close(share, counted(sample.frame_evidence, groups, 6, 8))


def test_the_last_of_an_odd_number_of_frames_is_alone_in_its_pair():
    (sample,) = load_samples("clips", "test", limit=1, frames=5)
    share = evidence_of([sample], [arranged(3)])[0]
    torch.testing.assert_close(share, counted(sample.frame_evidence, [[0, 1], [2, 3], [4]], 12, 12))


def test_a_frame_that_is_cut_has_the_evidence_of_its_middle():
    sample = SAMPLES[0]
    share = evidence_of([sample], [arranged(8, 6, 12, (0.25, 0.0, 0.75, 1.0))])[0]
    middle = sample.frame_evidence[:, :, 24:72]
    torch.testing.assert_close(share, counted(middle, [[n] for n in range(8)], 6, 12))


@pytest.mark.parametrize("frames", [5, 6, 16])
def test_frames_that_no_equal_merging_explains_have_unknown_evidence(frames):
    assert evidence_of([SAMPLES[0]], [arranged(frames)]).shape == (1, 0, frames * 144)


def test_questions_about_images_and_videos_stand_in_one_batch():
    (image,) = load_samples("scenes", "test", limit=1)
    found = evidence_of([image, SAMPLES[0]], [Arrangement((Grid(12, 12),)), arranged(8)])
    assert found.shape[2] == 8 * 144 and not found[0, :, 144:].any()
    torch.testing.assert_close(found[1, : len(SAMPLES[0].frame_evidence)], evidence_of(SAMPLES[:1], [arranged(8)])[0])


@pytest.mark.parametrize("things", [Boxes((WHOLE,)), Masks(np.ones((1, 4, 4), bool))])
def test_evidence_of_images_says_nothing_about_a_video(things):
    assert things.frame_masks(8).shape == (0, 8, 1, 1)


@parametrize("family", VIDEOS, fast=("LLaVA-NeXT-Video", "Qwen2.5-VL"))
def test_models_show_the_evidence_in_their_own_arrangement(family, tmp_path):
    loaded = load(save_family(family, tmp_path))
    (video,) = loaded.video_inputs([SAMPLES[0].clip])[1]
    together = 8 // video.frames
    assert together == (2 if "Qwen" in family else 1)
    groups = [list(range(start, start + together)) for start in range(0, 8, together)]
    expected = counted(SAMPLES[0].frame_evidence, groups, video.views[0].rows, video.views[0].columns)
    torch.testing.assert_close(evidence_of([SAMPLES[0]], [video], loaded)[0], expected)
