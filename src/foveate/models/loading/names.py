"""What models are told by name."""

from typing import Literal, get_args

REFERENCE = "reference"
"""The model that is shipped."""
Dtype = Literal["float32", "bfloat16", "float16"]
DTYPES: tuple[Dtype, ...] = get_args(Dtype)
