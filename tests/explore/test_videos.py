"""Videos on the page: what is shown of them, and which are refused."""

from dataclasses import replace

import numpy as np
import pytest

from foveate.compressors import Identity
from foveate.core.errors import DataError, UnsupportedModel
from foveate.data.load import load_samples
from foveate.explore.choice import Choice
from foveate.explore.drawing import Column, as_image, map_figure
from foveate.explore.export import Answered, export
from foveate.explore.frames import curves_of, frame_image, sheet_figure
from foveate.explore.inspection import Prompt, inspect
from foveate.explore.plan import USUAL_OF_VIDEOS, Plan
from foveate.explore.session import Session
from foveate.explore.texts import answer_of, status_of
from foveate.methods.registry import VIDEO
from foveate.models.loading.load import load
from foveate.testing.checkpoints import save_family
from foveate.testing.families import VIDEOS
from tests.data.video_files import write_video
from tests.tiers import parametrize

FRAMES = 4
PLAN = Plan((), data="clips", frames=FRAMES, limit=3, new_tokens=2)


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    model = save_family("LLaVA-NeXT-Video", tmp_path_factory.mktemp("family") / "model")
    return Session.opened(replace(PLAN, model=str(model)))


@pytest.fixture(scope="module")
def seen(session):
    return session.see(None, 0, session.question(0))


@parametrize("family", list(VIDEOS), fast=("Qwen2.5-VL",))
def test_a_question_about_a_clip_is_inspected_and_drawn_frame_by_frame(family, tmp_path):
    session = Session.opened(replace(PLAN, model=str(save_family(family, tmp_path / "model"))))
    assert session.plan.methods == USUAL_OF_VIDEOS and set(VIDEO) <= set(session.names)
    seen = session.see(None, 0, session.question(0))
    shown = session.inspected(seen, Choice("random_per_frame", 0.5))
    video, clip = seen.prompt.arrangement, session.samples[0].clip
    together = FRAMES // video.frames
    assert len(seen.panes) == len(seen.prompt.frames) == len(seen.prompt.seconds) == video.frames
    assert [frame.tobytes() for frame in seen.prompt.frames] == [frame.tobytes() for frame in clip.frames[::together]]
    assert seen.prompt.seconds == tuple(clip.seconds[::together])
    assert [number for pane in seen.panes for number in pane.patches.flat] == list(range(video.patches))
    assert 0 < len(shown.kept) < video.patches and f"{video.patches} patches of {video.frames}" in status_of(seen)
    for values in (seen.maps.tower, seen.maps.answer):
        assert values.shape[-1] == video.patches
        assert min(as_image(map_figure(seen.panes_at(1), [("one", values.mean((0, 1)))])).size) > 200
    assert frame_image(seen, shown, 1).width == seen.panes[1].pixels.shape[1]
    assert sheet_figure(seen, [Column("random", shown, False)]).axes[0].get_ylabel().startswith("random\n")


def test_a_frame_has_dropped_patches_in_grey_and_the_line_of_the_curves_is_at_its_time(seen):
    inspection = replace(inspect(seen.prompt, Identity()), kept=(9, 11), merged=(10,))
    image = np.asarray(frame_image(seen, inspection, 1), float) / 255
    pane = seen.panes[1]
    down, across = pane.scale
    for number, share in ((9, 1), (10, 0.5), (11, 1), (12, 0)):
        row, column = divmod(number - 9, 3)
        part = np.s_[row * down + 9 : (row + 1) * down - 9, column * across + 9 : (column + 1) * across - 9]
        own = pane.pixels[part]
        expected = share * own + (1 - share) * (0.66 + 0.3 * own.mean(-1, keepdims=True))
        assert np.abs(image[part] - expected).max() < 0.01
    curves = curves_of(seen, {"one": inspection})
    assert len(curves.lines) == FRAMES and [x for x, *_ in curves.lines] == sorted(x for x, *_ in curves.lines)
    changed = np.abs(np.asarray(curves.at(1), int) - np.asarray(curves.image, int)).sum((0, 2)).nonzero()[0]
    assert abs(changed - curves.lines[1][0]).max() <= 2


def test_evidence_is_outlined_in_its_frames_alone(seen):
    marked = seen.clip.evidence.any((1, 2))
    assert marked.any() and not marked.all()
    inspection = inspect(seen.prompt, Identity())
    shown = [np.asarray(frame_image(seen, inspection, frame), float) / 255 for frame in range(FRAMES)]
    height = seen.panes[0].pixels.shape[0]
    same = [np.allclose(one[:height], pane.pixels, atol=0.01) for one, pane in zip(shown, seen.panes, strict=True)]
    assert same == (~marked).tolist()


def test_a_video_that_is_uploaded_is_asked_about_and_its_frames_are_exported(session, tmp_path):
    path = write_video(tmp_path / "mine.mp4", 10)
    seen = session.see(path, 0, "what?")
    assert len(seen.panes) == FRAMES and seen.reference == "" and seen.clip.evidence is None
    choice = Choice("evs", 9)
    shown = session.inspected(seen, choice)
    assert "scores" in answer_of(seen, shown) and "--frames 4" in seen.plan.command
    (tmp_path / "out").mkdir()
    files = [file.name for file in export(seen, [Answered(choice, shown)], tmp_path / "out")]
    assert files == ["command.txt", "kept.pdf", "kept.png", "kept_1_evs.json"]
    (tmp_path / "broken.mp4").write_bytes(path.read_bytes()[:300])
    with pytest.raises(DataError, match=r"video 'broken.mp4'"):
        session.see(tmp_path / "broken.mp4", 0, "what?")


def test_a_model_without_videos_refuses_them_and_offers_no_methods_for_them(seen):
    loaded = load("reference")
    with pytest.raises(UnsupportedModel, match="takes images, not videos"):
        Prompt.of(loaded, load_samples("clips", "test", limit=1)[0].clip, "what?", 2)
    with pytest.raises(DataError, match="are about videos, which LlavaForConditionalGeneration does not take"):
        Session.opened(PLAN)
    assert not set(VIDEO) & set(Session(replace(PLAN, data="scenes"), loaded, ()).names)
