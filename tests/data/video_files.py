"""Small video files, written by PyAV."""

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

SIZE = (64, 48)
STEP = 8  # grey levels between a frame and the next one
_ONE = 1 << 16
_TURNED = {
    90: (0, _ONE, 0, -_ONE, 0, 0, 0, 0, 1 << 30),
    180: (-_ONE, 0, 0, 0, -_ONE, 0, 0, 0, 1 << 30),
    270: (0, -_ONE, 0, _ONE, 0, 0, 0, 0, 1 << 30),
    45: (_ONE, _ONE, 0, -_ONE, _ONE, 0, 0, 0, 1 << 30),
}
"""Display matrices of MP4 by the degrees that a player turns the frames clockwise."""


def pixels_of(number: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Returns a frame: a grey level of its own, and a red quarter at the top left."""
    pixels = np.full((size[1], size[0], 3), number * STEP % 256, np.uint8)
    pixels[: size[1] // 2, : size[0] // 2] = (255, 0, 0)
    return pixels


def write_video(
    path: Path,
    frames: int | Sequence[np.ndarray] = 12,
    milliseconds: Sequence[int] | None = None,
    codec: str = "libx264",
    size: tuple[int, int] = SIZE,
) -> Path:
    """Writes a video with a frame at which decoding can start every 5 frames, and frames that refer to later ones.

    Args:
        path: The file; its ending decides the format.
        frames: The frames, or how many of `pixels_of`.
        milliseconds: The time of each; None means 10 frames per second.
        codec: Name of the encoder.
        size: Width and height of the frames of `pixels_of`.
    """
    count = frames if isinstance(frames, int) else len(frames)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        stream.gop_size = 5
        if codec == "libx264":
            stream.options = {"qp": "4", "bf": "2"}
        for number in range(count):
            pixels = pixels_of(number, size) if isinstance(frames, int) else frames[number]
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = (milliseconds[number] if milliseconds else 100 * number), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_sound(path: Path) -> Path:
    """Writes a file with sound alone."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def turned(path: Path, degrees: int) -> Path:
    """Writes into an MP4 file that players turn its frames clockwise."""
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 44
    data[start : start + 36] = struct.pack(">9i", *_TURNED[degrees])
    path.write_bytes(data)
    return path


def cut(path: Path, share: float) -> Path:
    """Cuts a file after a share of its bytes."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path
