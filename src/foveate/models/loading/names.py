"""The names of the shipped model and of the supported precisions."""

from typing import Literal, get_args

REFERENCE = "reference"
"""The name of the shipped model."""
Dtype = Literal["float32", "bfloat16", "float16"]
DTYPES: tuple[Dtype, ...] = get_args(Dtype)
