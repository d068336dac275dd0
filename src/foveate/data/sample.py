"""One question about one picture, in the form that every data set is brought into."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool
from PIL.Image import Image

Scoring = Literal["exact", "set_f1"]


@dataclass(frozen=True, eq=False)
class VQASample:
    """A question with its reference answers.

    Attributes:
        id: Unique in its data set and split.
        image_id: Shared by all questions about the picture.
        image: The picture.
        kind: Question type.
        question: The question, without any prompt around it.
        references: Answers that count as right.
        scoring: "exact" compares whole answers, "set_f1" the items between commas.
        evidence: One mask in the picture's pixels for each thing that must be seen; none when unknown.
    """

    id: str
    image_id: str
    image: Image
    kind: str
    question: str
    references: tuple[str, ...]
    scoring: Scoring
    evidence: Bool[np.ndarray, "thing height width"]
