"""Notices of what a command will run, before it starts, and of how long that will take, soon after."""

import time

from foveate.evaluation import ranks
from foveate.evaluation.config import EvalConfig
from foveate.evaluation.run import cached_load, data_of

_WORTH_SAYING_S = 10
_LONG_S = 60
"""The first run includes what is done once, such as encoding the images; it decides alone only if it took this long."""


def announce(config: EvalConfig, what: str) -> None:
    """Says on one line what will be run: model, patches, dtype, device, questions and batch size.

    Args:
        config: The evaluation or measurement.
        what: What is done with it, the end of the line.
    """
    loaded = cached_load(config.model, config.device, config.dtype)
    samples, _ = data_of(config)
    frames = f", {config.frames} frames per video" if any(sample.video for sample in samples) else ""
    ranks.notice(
        f"model {config.model}: {loaded.adapter.tower.grid.patches} patches per image{frames}, {config.dtype} on "
        f"{config.device}; {len(samples):,} questions of {config.data}, {config.on(loaded).per_batch} per batch; {what}"
    )


class Announced:
    """A number of runs that are announced when they start, and whose duration is estimated from the first ones.

    Args:
        config: The evaluation that each run repeats with another compressor.
        runs: Number of runs that are left; nothing is announced if there are none.
        done: Number of runs that have ended before.
    """

    def __init__(self, config: EvalConfig, runs: int, done: int = 0) -> None:
        self._runs, self._last = runs, done + runs
        self._from, self._begun, self._first, self._estimated = done, time.monotonic(), True, False
        if runs:
            announce(config, f"{runs} run{'s' * (runs != 1)}, one per compressor")

    def ended(self, done: int) -> None:
        """Says once how long the other runs will take, as soon as that is worth a line; call when a run has ended.

        Args:
            done: Number of runs that have ended, in all processes, with those that had ended before.
        """
        ended, left, now = done - self._from, self._last - done, time.monotonic()
        if self._estimated or ended < 1 or left < 1:
            return
        if self._first and now - self._begun < _LONG_S:
            self._from, self._begun, self._first = done, now, False
            return
        others = (now - self._begun) / ended * left
        if others >= _WORTH_SAYING_S:
            self._estimated = True
            ranks.notice(f"{left} of {self._runs} runs are left; they need about {duration(others)}")


def duration(seconds: float) -> str:
    """Returns a duration in words of two units, such as "1 h 5 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
