"""Decoding of video files by PyAV: some frames of a file, with memory that does not grow with its length."""

from array import array
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
from av.container import InputContainer
from av.error import FFmpegError
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from PIL.Image import Image, Transpose

from foveate.core.errors import DataError, message_of, shown
from foveate.data.clip import Clip
from foveate.data.video import sampled

FORMATS = ("mov", "matroska", "webm", "avi", "mpegts", "mpeg", "flv", "asf", "ogg", "gif")
"""Formats of files that are read. Others are refused: a playlist or a list of parts would open other files."""
LARGEST_FRAME = 2**26  # pixels: twice those of 8K
_SECURE = {"format_whitelist": ",".join(FORMATS), "protocol_whitelist": "file"}
_TURNS = {90: Transpose.ROTATE_90, 180: Transpose.ROTATE_180, -180: Transpose.ROTATE_180, -90: Transpose.ROTATE_270}
_REPAIR = "play it to see whether it is whole, get it again, or convert it to MP4"
_SHARE = 0.9  # of the declared length: a file that ends earlier is cut


@dataclass(frozen=True)
class _Index:
    """Timestamps of the frames of a video in its own unit of time.

    Attributes:
        times: Those of all frames, ascending.
        keys: Those of the frames at which decoding can start, ascending.
    """

    times: array
    keys: array


def read_frames(path: Path, name: str, count: int) -> Clip:
    """Returns frames of a video file, those of `sampled` numbers, upright and in RGB.

    The first pass reads timestamps and decodes nothing. The second one decodes from the nearest earlier frame at which
    decoding can start to each frame that is returned. Files without times are decoded as a whole, frame by frame.

    Args:
        path: The file.
        name: Name of the video in errors.
        count: Number of frames; a video with fewer returns all of its own.

    Raises:
        DataError: The file is no video, is damaged or cut, or a frame cannot be decoded.
    """
    with _opened(path, name) as (container, stream):
        index = _index(container, stream, name)
    frames = _by_time(path, name, index, count) if index else _by_order(path, name, count)
    try:
        return Clip([image for image, _ in frames], [time for _, time in frames])
    except DataError as error:
        raise DataError(f"video {shown(name)}: {error}") from error


def _by_time(path: Path, name: str, index: _Index, count: int) -> list[tuple[Image, float]]:
    """Returns the frames of `sampled` numbers, each with its time in seconds, found by their timestamps."""
    wanted = [index.times[number] for number in sampled(len(index.times), count)]
    with _opened(path, name) as (container, stream):
        unit = stream.time_base or Fraction(1)
        found = [
            (_upright(frame, name), float(((frame.pts or 0) - index.times[0]) * unit))
            for frame in _chosen(container, stream, wanted, index.keys)
        ]
    if len(found) < len(wanted):
        raise _damaged(name, f"{len(wanted) - len(found)} of {len(wanted)} frames cannot be decoded")
    return found


def _by_order(path: Path, name: str, count: int) -> list[tuple[Image, float]]:
    """Returns the frames of `sampled` numbers of a file without times, as `_by_time` does.

    It is decoded twice, frame by frame, and times are at equal distances in its declared length.
    """
    with _opened(path, name) as (container, stream):
        total = sum(1 for _ in container.decode(stream))
    if not total:
        raise _damaged(name, "it has no frames")
    wanted = set(sampled(total, count))
    with _opened(path, name) as (container, stream):
        length = (stream.duration or 0) * (stream.time_base or Fraction(1))
        step = length / total or 1 / (stream.average_rate or Fraction(1))
        return [
            (_upright(frame, name), float(number * step))
            for number, frame in enumerate(container.decode(stream))
            if number in wanted
        ]


def read_last(path: Path, name: str) -> float:
    """Returns the time of the last frame of a video file in seconds, from the length and frame rate that it declares.

    Raises:
        DataError: The file is no video, or declares no length.
    """
    with _opened(path, name) as (container, stream):
        if stream.duration and stream.time_base:
            length = float(stream.duration * stream.time_base)
        elif container.duration:
            length = container.duration / av.time_base
        else:
            raise _damaged(name, "it does not declare its length")
        return max(length - float(1 / (stream.average_rate or 1)), 0.0)


@contextmanager
def _opened(path: Path, name: str) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Yields a file and its first video stream.

    Raises:
        DataError: The file has none, or cannot be read in this block.
    """
    try:
        with av.open(str(path), container_options=_SECURE) as container:
            streams = container.streams  # `type` of one of an unknown type ends the process
            kinds = [kind for kind in ("audio", "subtitles", "data") if getattr(streams, kind)]
            if kinds and not streams.video:
                raise DataError(
                    f"video {shown(name)} has no frames, only {', '.join(kinds)}: give a file with a video stream"
                )
            yield container, _checked(container.streams.video[0], name)
    except FileNotFoundError as error:
        raise DataError(f"video {shown(name)}: there is no such file: give its path") from error
    except (FFmpegError, OSError, ValueError, IndexError) as error:  # IndexError: a file without any stream
        raise _damaged(name, f"it cannot be decoded ({message_of(error).partition(': ')[0]})") from error


def _checked(stream: VideoStream, name: str) -> VideoStream:
    """Returns a stream that PyAV can decode into frames of a permitted size."""
    context = stream.codec_context
    if context is None:
        raise _damaged(name, "its codec is unknown")
    if context.width * context.height > LARGEST_FRAME:
        raise DataError(
            f"video {shown(name)} has frames of {context.width} x {context.height} pixels, expected at most "
            f"{LARGEST_FRAME:,}: make it smaller"
        )
    return stream


def _index(container: InputContainer, stream: VideoStream, name: str) -> _Index | None:
    """Returns the timestamps of all frames, from the packets of a file that was just opened.

    Returns:
        The timestamps; None if packets have none, or those of their order in an AVI file, which is not that of frames.
    """
    if container.format.name == "avi":
        return None
    times, keys = array("q"), array("q")
    hidden = end = 0
    for packet in container.demux(stream):
        if not packet.size:
            continue
        if packet.is_discard:  # an edit list hides the frame
            hidden += 1
            continue
        if packet.pts is None:
            return None
        times.append(packet.pts)
        end = max(end, packet.pts + (packet.duration or 0))
        if packet.is_keyframe:
            keys.append(packet.pts)
    if not times:
        raise _damaged(name, "it has no frames")
    if "mov" in container.format.name and stream.frames > len(times) + hidden:
        raise _damaged(name, f"it has {len(times) + hidden} of the {stream.frames} frames that it declares")
    _check_end(stream, float(end * (stream.time_base or 1)), name)
    return _Index(array("q", sorted(set(times))), array("q", sorted(keys)))


def _check_end(stream: VideoStream, end: float, name: str) -> None:
    """Raises `DataError` if a file, such as one of Matroska, declares a later end than that of its last frame."""
    declared = _seconds(stream.metadata.get("DURATION", ""))
    if end < _SHARE * declared:
        raise _damaged(name, f"it ends after {end:.1f} of the {declared:.1f} s that it declares")


def _seconds(text: str) -> float:
    """Returns the seconds of a time such as 00:01:02.5; 0 if it is none."""
    try:
        hours, minutes, seconds = text.split(":")
        return 3600 * int(hours) + 60 * int(minutes) + float(seconds)
    except ValueError:
        return 0.0


def _chosen(container: InputContainer, stream: VideoStream, wanted: list[int], keys: array) -> Iterator[VideoFrame]:
    """Yields the frames of ascending timestamps; a frame is decoded and released before the next one.

    Args:
        container: The file, at its start.
        stream: Its video stream.
        wanted: Timestamps of the frames.
        keys: Timestamps of the frames at which decoding can start.
    """
    reached, frames = None, container.decode(stream)
    for time in wanted:
        place = bisect_right(keys, time) - 1
        if place >= 0 and (reached is None or keys[place] > reached):
            container.seek(keys[place], stream=stream)
            frames = container.decode(stream)
        frame = _first_from(frames, time)
        if frame is None or frame.pts != time:  # the file was sought to a later frame: begin at the start
            container.seek(0)
            frames = container.decode(stream)
            frame = _first_from(frames, time)
        if frame is None:
            return
        reached = frame.pts
        yield frame


def _first_from(frames: Iterator[VideoFrame], time: int) -> VideoFrame | None:
    """Returns the first frame that is not shown before a timestamp; None if there is none."""
    return next((frame for frame in frames if frame.pts is not None and frame.pts >= time), None)


def _upright(frame: VideoFrame, name: str) -> Image:
    if frame.is_corrupt:
        place = "a frame" if frame.time is None else f"its frame at {frame.time:.2f} s"
        raise _damaged(name, f"{place} is damaged")
    image = frame.to_image()
    if not (turn := frame.rotation):
        return image
    if turn not in _TURNS:
        raise DataError(f"video {shown(name)} is rotated by {turn} degrees: expected a multiple of 90; convert it")
    return image.transpose(_TURNS[turn])


def _damaged(name: str, why: str) -> DataError:
    return DataError(f"video {shown(name)}: {why}; {_REPAIR}")
