import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image, ImageSequence

from foveate.analysis.clips import contact_sheet, draw_tokens_per_frame, kept_clip, tokens_per_frame, write_gif
from foveate.core.arrangement import Arrangement, Grid
from foveate.core.errors import DataError
from foveate.data.clip import Clip

WHOLE = (0.0, 0.0, 1.0, 1.0)
RED = np.array([1.0, 0, 0])


def clip_of(frames):
    return Clip([Image.new("RGB", (30, 20), (255, 10 * n, 0)) for n in range(frames)], [0.5 * n for n in range(frames)])


def arranged(frames, box=WHOLE):
    return Arrangement((Grid(2, 3),) * frames, (box,) * frames, frames=frames)


def shares(*patches, count=18):
    share = torch.zeros(1, count)
    share[0, list(patches)] = 1
    return share


def test_kept_patches_have_their_colour_dropped_ones_are_grey_and_merged_ones_pale():
    clip = kept_clip(clip_of(3), arranged(3), [0, 7], [1])
    first, second = clip.marked(0), clip.marked(1)
    np.testing.assert_allclose(first[:10, :10], np.broadcast_to(RED, (10, 10, 3)))
    grey = 0.66 + 0.3 * first[0, 0].mean()
    np.testing.assert_allclose(first[10:], np.full((10, 30, 3), grey))
    np.testing.assert_allclose(first[0, 10], (RED + grey) / 2)
    np.testing.assert_allclose(second[0, 10], [1, 10 / 255, 0])
    assert np.ptp(second[0, 0]) < 1e-9


def test_frames_that_are_merged_are_shown_by_the_first_of_them():
    clip = kept_clip(clip_of(5), arranged(3), [0])
    assert clip.seconds == (0, 1, 2) and [round(255 * frame[0, 0, 1]) for frame in clip.frames] == [0, 20, 40]


def test_the_part_of_a_frame_that_the_model_sees_is_shown():
    frames = Image.new("RGB", (40, 20))
    frames.paste((255, 0, 0), (10, 0, 30, 20))
    clip = kept_clip(Clip([frames], [0.0]), arranged(1, (0.0, 0.25, 1.0, 0.75)), range(6))
    assert np.allclose(clip.frames[0], RED, atol=0.01)


def test_tokens_are_counted_in_each_frame():
    clip = kept_clip(clip_of(3), arranged(3), torch.tensor([0, 1, 7, 17]), (), shares(1, 2, 17))
    counts = {name: values.tolist() for name, values in tokens_per_frame(clip).items()}
    assert counts == {"kept": [2, 1, 1], "evidence": [2, 0, 1], "kept_evidence": [1, 0, 1]}


def test_without_evidence_none_is_counted():
    assert tokens_per_frame(kept_clip(clip_of(3), arranged(3), [0]))["evidence"].tolist() == [0, 0, 0]


UNKNOWN = Arrangement((Grid(2, 3),) * 3, (), frames=3)


@pytest.mark.parametrize("video", [arranged(4), Arrangement((Grid(2, 3),)), UNKNOWN])
def test_an_arrangement_of_other_frames_is_refused(video):
    with pytest.raises(DataError, match="for a clip of 3 frames: expected the arrangement"):
        kept_clip(clip_of(3), video, [0])


def test_the_contact_sheet_has_a_row_per_compression_and_a_column_per_frame():
    one, other = (kept_clip(clip_of(3), arranged(3), kept, (), shares(1)) for kept in ([0, 7], [2]))
    axes = contact_sheet({"one": one, "other": other}, "what?", "Kept patches.").axes
    assert [ax.get_title() for ax in axes] == ["0 s: 1", "0.5 s: 1", "1 s: 0", "0 s: 1", "0.5 s: 0", "1 s: 0"]
    assert [axes[n].get_ylabel() for n in (0, 3)] == ["one\n2 tokens", "other\n1 tokens"]
    np.testing.assert_allclose(np.asarray(axes[3].images[0].get_array()), other.marked(0))


def test_curves_show_the_tokens_of_each_frame_above_those_of_its_evidence():
    above, below = Figure().subplots(2)
    kept = {"a": [1, 7], "b": [2]}
    clips = {name: kept_clip(clip_of(3), arranged(3), patches, (), shares(1)) for name, patches in kept.items()}
    draw_tokens_per_frame(clips, above, below)
    curves = {line.get_label(): np.asarray(line.get_ydata()).tolist() for line in above.lines}
    assert curves == {"a": [1, 1, 0], "b": [1, 0, 0]}
    assert [np.asarray(line.get_ydata()).tolist() for line in below.lines] == [[1, 0, 0], [0, 0, 0]]


def test_a_gif_has_the_frames_with_dropped_patches_grey(tmp_path):
    clip = kept_clip(clip_of(3), arranged(3), [0, 6], (), shares(0, 1))
    write_gif(clip, tmp_path / "clip.gif", fps=4)
    with Image.open(tmp_path / "clip.gif") as gif:
        assert (len(list(ImageSequence.Iterator(gif))), gif.size) == (3, (240, 160))
        gif.seek(0)
        assert gif.info["duration"] == 250
        first = np.asarray(gif.convert("RGB"), float)
    assert abs(first[40, 40] - [255, 0, 0]).max() < 4 and np.ptp(first[40, 120]) < 4
    assert np.ptp(first[0, 120]) > 20, "the outline of the evidence is missing"
    assert list(tmp_path.iterdir()) == [tmp_path / "clip.gif"]
