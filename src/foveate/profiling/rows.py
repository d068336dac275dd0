"""Rows of a table of timed rounds, for the core dependencies alone."""

from typing import Any, NamedTuple

from foveate.profiling.flops import CONVENTIONS
from foveate.profiling.speed import INPUTS, PARTS, Round

FULL, ONE_BY_ONE, TOTAL = "full", "one by one", "total"
FACTS = ("equivalent_tokens", "given_tokens", "left_tokens", "kv_bytes", "peak_bytes")


class Setting(NamedTuple):
    """Images or videos of a batch.

    Attributes:
        size: Side of the images or frames in pixels.
        frames: Frames of each video; 0 for images.
        batch: Questions per batch.
    """

    size: int
    frames: int
    batch: int

    @property
    def title(self) -> str:
        """The setting in words."""
        what = f"Videos of {self.frames} frames of" if self.frames else "Images of"
        return f"{what} {self.size} pixels, batch {self.batch}"


def round_row(setting: Setting, new_tokens: int, measured: Round) -> dict[str, Any]:
    """Returns a row of the parquet file, with times of the whole batch and None for unknown values.

    Args:
        setting: The images or videos.
        new_tokens: Number of tokens of every answer.
        measured: One round of one setting.
    """
    (method, budget), ms, taken = measured.key, measured.ms, measured.taken
    total = sum(ms.get(part, 0.0) for part in PARTS) if taken else ms[TOTAL]
    facts = {name: getattr(taken, name, None) for name in FACTS}
    counted = {f"gflops_{name}": taken.operations[name] / 1e9 if taken else None for name in CONVENTIONS}
    return (
        setting._asdict()
        | {"method": method, "budget": budget, "round": measured.number}
        | {"new_tokens": new_tokens, "total_ms": total}
        | {f"{part}_ms": ms.get(part, 0.0) if taken else None for part in (INPUTS, *PARTS)}
        | facts
        | counted
    )
