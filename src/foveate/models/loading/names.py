"""The names of models and of the supported precisions."""

from importlib.resources import files
from pathlib import Path
from typing import Literal, get_args

from foveate.core.errors import UnsupportedModel, shown

REFERENCE = "reference"
"""The name of the shipped model that is used by default."""
REFERENCES = (REFERENCE, "reference-1", "reference-2")
"""The names of the shipped models that take images: trainings of one recipe from different seeds."""
REFERENCE_VIDEO = "reference-video"
"""The name of the shipped model that takes videos; its tower is that of `reference`."""
SHIPPED = (*REFERENCES, REFERENCE_VIDEO)
"""The names of all shipped models."""
VIDEO_FAMILIES = "LLaVA-OneVision, LLaVA-NeXT-Video, InternVL, Qwen2.5-VL or Qwen3-VL"
"""The families that take videos, for messages."""
Dtype = Literal["float32", "bfloat16", "float16"]
AUTO: Literal["auto"] = "auto"
"""The value of an option that is chosen for the model and the machine; see `models.loading.automatic`."""
DTYPES: tuple[Dtype, ...] = get_args(Dtype)


def folder_of(name: str | Path, part: Literal["llava", "clip"] = "llava") -> str:
    """Returns the folder of a shipped model or of its CLIP, or else the name itself."""
    if str(name) not in SHIPPED:
        return str(name)
    if name == REFERENCE_VIDEO and part == "clip":
        name = REFERENCE
    return str(files("foveate.reference") / str(name).replace(REFERENCE, part))


def check_model(name: str | Path) -> None:
    """Checks that a name that can only be a path, and no hub ID, is that of a folder.

    Args:
        name: See `load`.

    Raises:
        UnsupportedModel: There is no such folder.
    """
    text = str(name)
    if not text.startswith((".", "/", "~")) and text.count("/") < 2:
        return
    try:
        there, file = Path(text).is_dir(), Path(text).is_file()
    except ValueError:  # no file can have such a name
        there = file = False
    if there:
        return
    if file:
        raise UnsupportedModel(f"model {shown(text)} is a file: expected the folder of a checkpoint, which holds it")
    place = "" if text.startswith("/") else f" in {Path.cwd()}"
    raise UnsupportedModel(
        f"model {shown(text)}: there is no such folder{place}; expected {REFERENCE!r}, the folder of a checkpoint, or "
        "a hub ID such as llava-hf/llava-1.5-7b-hf"
    )
