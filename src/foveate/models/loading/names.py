"""The names of the shipped models and of the supported precisions."""

from importlib.resources import files
from pathlib import Path
from typing import Literal, get_args

REFERENCE = "reference"
"""The name of the shipped model that is used by default."""
REFERENCES = (REFERENCE, "reference-1", "reference-2")
"""The names of all shipped models: trainings of one recipe from different seeds."""
Dtype = Literal["float32", "bfloat16", "float16"]
AUTO: Literal["auto"] = "auto"
"""The value of an option that is chosen for the model and the machine; see `models.loading.automatic`."""
DTYPES: tuple[Dtype, ...] = get_args(Dtype)


def folder_of(name: str | Path, part: Literal["llava", "clip"] = "llava") -> str:
    """Returns the folder of a shipped model or of its CLIP, or else the name itself."""
    if str(name) not in REFERENCES:
        return str(name)
    return str(files("foveate.reference") / str(name).replace(REFERENCE, part))
