"""Questions whose choices serve other questions about the same image."""

from collections.abc import Sequence
from itertools import groupby

from foveate.data.sample import VQASample


def leaders_of(samples: Sequence[VQASample], turns: int) -> dict[str, VQASample]:
    """Returns by question ID the first of every `turns` questions about an image; empty if each stands for itself.

    Args:
        samples: The questions; those about an image follow each other. Those that cannot be asked are not counted.
        turns: Number of questions that share a choice.
    """
    leaders: dict[str, VQASample] = {}
    if turns > 1:
        usable = [sample for sample in samples if not sample.problem and sample.single]
        for _, group in groupby(usable, key=lambda sample: sample.image_id):
            about = list(group)
            leaders |= {sample.id: about[place - place % turns] for place, sample in enumerate(about)}
    return leaders
