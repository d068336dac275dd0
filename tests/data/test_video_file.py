import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from foveate.core.errors import DataError, MissingPackage
from foveate.data.video import sampled
from foveate.data.video_file import FrameFolder, VideoFile
from tests.data.video_files import SIZE, STEP, cut, pixels_of, turned, write_sound, write_video
from tests.tiers import extended, parametrize


def video(path):
    return VideoFile(path, path.name)


def numbers_of(clip):
    """The number of each frame, from its grey level at the bottom right."""
    return [round(np.asarray(frame)[-4, -4].mean() / STEP) for frame in clip.frames]


FORMATS = [
    ("a.mp4", "libx264"),
    ("a.mkv", "libx264"),
    ("a.avi", "libx264"),  # its packets have times in the order of decoding
    ("a.webm", "libvpx-vp9"),
    ("a.ts", "libx264"),
]


@parametrize(("name", "codec"), FORMATS, fast=[FORMATS[0], FORMATS[2], FORMATS[4]])
@pytest.mark.parametrize("count", [1, 3, 5, 12, 30])
def test_the_frames_of_sampled_numbers_are_returned_with_their_times(name, codec, count, tmp_path):
    clip = video(write_video(tmp_path / name, codec=codec)).open(count)
    assert numbers_of(clip) == sampled(12, count)
    assert clip.seconds == pytest.approx([number / 10 for number in sampled(12, count)])
    assert clip.frames[0].size == SIZE and clip.frames[0].mode == "RGB"


def test_a_variable_frame_rate_gives_the_timestamps_of_the_frames(tmp_path):
    times = [0, 20, 40, 900, 1500, 1510, 3000, 3010, 3020, 3030, 9000, 9900]
    clip = video(write_video(tmp_path / "a.mp4", milliseconds=times)).open(4)
    assert numbers_of(clip) == [0, 3, 7, 11]
    assert clip.seconds == pytest.approx([0, 0.9, 3.01, 9.9])


@pytest.mark.parametrize("frames", [1, 2])
def test_a_video_of_one_or_two_frames_returns_all_of_them(frames, tmp_path):
    clip = video(write_video(tmp_path / "a.mp4", frames)).open(8)
    assert (numbers_of(clip), clip.seconds) == (list(range(frames)), [0, 0.1][:frames])


def test_ten_identical_frames_are_ten_frames(tmp_path):
    clip = video(write_video(tmp_path / "a.mp4", [pixels_of(3)] * 10)).open(10)
    assert numbers_of(clip) == [3] * 10 and clip.fps == pytest.approx(10)


@pytest.mark.parametrize(("degrees", "corner"), [(90, (-4, 3)), (180, (-4, -4)), (270, (3, -4))])
def test_a_rotated_video_is_upright(degrees, corner, tmp_path):
    source = video(turned(write_video(tmp_path / "a.mp4"), degrees))
    column, row = corner
    assert tuple(np.asarray(source.open(1).frames[0])[row, column] > 128) == (True, False, False)
    assert source.size == source.open(1).frames[0].size == (SIZE[::-1] if degrees != 180 else SIZE)


def test_a_video_that_starts_late_begins_at_zero(tmp_path):
    times = [5000 + 100 * number for number in range(6)]
    assert video(write_video(tmp_path / "a.mkv", 6, times)).open(2).seconds == pytest.approx([0, 0.5])


def faststart_cut(path):
    write_video(path, 40)
    data = path.read_bytes()
    start, end = data.index(b"moov") - 4, len(data)
    size = int.from_bytes(data[start : start + 4])
    assert start + size == end  # the table of frames is last: the frames before it are lost
    path.write_bytes(data[: start // 4] + b"\0" * (start - start // 4) + data[start:])
    return path


BAD = {
    "empty": (lambda path: path.write_bytes(b""), "cannot be decoded"),
    "text": (lambda path: path.write_bytes(b"no video" * 99), "cannot be decoded"),
    "without an end": (lambda path: cut(write_video(path), 0.6), "cannot be decoded"),
    "zeros": (faststart_cut, "damaged|cannot be decoded"),
    "sound": (write_sound, "has no frames, only audio: give a file with a video stream"),
    "askew": (lambda path: turned(write_video(path), 45), "rotated by -45 degrees: expected a multiple of 90"),
    "lost": (lambda path: None, "there is no such file: give its path"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_file_is_one_line_that_names_it_and_what_to_do(kind, tmp_path):
    make, message = BAD[kind]
    make(tmp_path / "a.mp4")
    with pytest.raises(DataError, match=f"video 'a.mp4'.*({message})") as error:
        video(tmp_path / "a.mp4").open(8)
    assert "\n" not in str(error.value)


def test_a_matroska_file_that_is_cut_says_how_much_is_left(tmp_path):
    with pytest.raises(DataError, match=r"'a.mkv': it ends after \d.\d of the 4.0 s that it declares; play it to see"):
        video(cut(write_video(tmp_path / "a.mkv", 40), 0.5)).open(8)


def test_a_playlist_opens_no_other_file(tmp_path):
    write_video(tmp_path / "b.ts", 30)
    playlist = tmp_path / "a.m3u8"
    playlist.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nb.ts\n#EXT-X-ENDLIST\n")
    with pytest.raises(DataError, match=r"video 'a.m3u8': it cannot be decoded"):
        video(playlist).open(1)


@parametrize(("name", "codec"), FORMATS, reason="moments")
def test_a_file_with_changed_bytes_gives_frames_or_one_line(name, codec, tmp_path):
    path = write_video(tmp_path / name, codec=codec)
    whole, rng = path.read_bytes(), np.random.default_rng(1)
    errors = 0
    for _ in range(60):
        data = bytearray(whole)
        for place in rng.integers(0, len(data), rng.integers(1, 50)):
            data[place] = rng.integers(256)
        path.write_bytes(data)
        try:
            assert 1 <= len(video(path).open(5).frames) <= 5
        except DataError as error:
            errors += 1
            assert name in str(error) and "\n" not in str(error)
    assert 0 < errors < 60


def test_frames_that_are_too_large_are_refused_before_they_are_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr("foveate.data.decoding.LARGEST_FRAME", 1000)
    with pytest.raises(DataError, match=r"'a.mp4' has frames of 64 x 48 pixels, .* at most 1,000: make it smaller"):
        video(write_video(tmp_path / "a.mp4")).open(8)


def test_content_is_that_of_the_file(tmp_path):
    first, same = (video(write_video(tmp_path / name)).content() for name in ("a.mp4", "b.mp4"))
    assert first == same != video(write_video(tmp_path / "c.mp4", 11)).content()
    assert len(first) == 32


def test_a_missing_package_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.delitem(sys.modules, "foveate.data.decoding", raising=False)
    monkeypatch.setattr("foveate.core.extras.requires", lambda _: ["av>=18; extra == 'video'"])
    with pytest.raises(MissingPackage, match=r"this needs av, which is not installed: pip install 'foveate\[video\]'"):
        video(tmp_path / "a.mp4").open(8)


def test_a_folder_of_frames_is_a_video(tmp_path):
    for number in range(12):
        Image.fromarray(pixels_of(number)).save(tmp_path / f"{number:05d}.png")
    source = FrameFolder(tmp_path, "a", fps=4)
    assert numbers_of(source.open(3)) == [0, 5, 11] and source.open(3).seconds == [0, 1.25, 2.75]
    content = source.content()
    (tmp_path / "00011.png").unlink()
    assert source.size == SIZE and source.content() != content
    (tmp_path / "b").mkdir()
    with pytest.raises(DataError, match="video 'b': its folder holds no images of frames: unpack it again"):
        FrameFolder(tmp_path / "b", "b", fps=4).open(8)


def test_the_time_of_the_last_frame_is_that_which_the_file_declares(tmp_path):
    for name in ("a.mp4", "a.mkv"):
        assert video(write_video(tmp_path / name)).last == pytest.approx(1.1)


PEAK = """
import resource, sys
from pathlib import Path
from foveate.data.decoding import read_frames
read_frames(Path(sys.argv[1]), "warm", 8)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
read_frames(Path(sys.argv[2]), "long", 8)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


@extended("memory")
def test_memory_is_flat_in_the_length_of_a_file(tmp_path):
    size = (640, 480)
    short, long = (write_video(tmp_path / f"{n}.mp4", n, size=size) for n in (20, 1000))
    found = subprocess.run([sys.executable, "-c", PEAK, short, long], capture_output=True, text=True, check=True)
    assert float(found.stdout) < 100  # MiB; all frames in RGB are 879
