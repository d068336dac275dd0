"""Which faults are injected how often into which command, and what became of them."""

import shutil
import signal
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

import numpy as np

from tests.faults.commands import COMMANDS
from tests.faults.injection import (
    Injection,
    Lost,
    Missed,
    Scene,
    damaged,
    full_disk,
    killed,
    large_files_forbidden,
    permission_removed,
    run_again,
    set_scene,
    two_at_once,
    weights_damaged,
)

ABLATE, SEARCH, BIAS, COMPARE = COMMANDS
TRIES = 5  # until a fault strikes before the command is done
_PARTS, _TABLES, _STORED = "records/*/part-*.parquet", "bias/*/part-*/*.parquet", "encodings/*.arrow"
_NOTES = "[rb]*/????????????????/config.json"

FAULTS: Mapping[str, Injection] = {
    "SIGKILL": killed(signal.SIGKILL),
    "SIGTERM": killed(signal.SIGTERM),
    "SIGINT": killed(signal.SIGINT),
    "file size limited": large_files_forbidden,
    "disk full": full_disk,
    "permission removed": permission_removed,
    "record part cut": damaged(_PARTS, cut=True),
    "record part flipped": damaged(_PARTS, cut=False),
    "record part of a killed run flipped": damaged(_PARTS, cut=False, half=True),
    "bias table cut": damaged(_TABLES, cut=True),
    "bias table flipped": damaged(_TABLES, cut=False),
    "run's config cut": damaged(_NOTES, cut=True),
    "run's config flipped": damaged(_NOTES, cut=False),
    "encodings cut": damaged(_STORED, cut=True, half=True),
    "encodings flipped": damaged(_STORED, cut=False, half=True),
    "study database cut": damaged("*/study.db", cut=True),
    "weights cut": weights_damaged(cut=True),
    "weights flipped": weights_damaged(cut=False),
    "two at once": two_at_once,
}

Plan = Mapping[str, Mapping[str, int]]
LONG: Plan = {
    "SIGKILL": {ABLATE: 26, SEARCH: 6, COMPARE: 6, BIAS: 3},
    "SIGTERM": {ABLATE: 10, SEARCH: 3, COMPARE: 3, BIAS: 1},
    "SIGINT": {ABLATE: 10, SEARCH: 3, COMPARE: 3, BIAS: 1},
    "file size limited": {ABLATE: 9, SEARCH: 2, COMPARE: 2, BIAS: 1},
    "disk full": {ABLATE: 7, SEARCH: 2, COMPARE: 2, BIAS: 1},
    "permission removed": {ABLATE: 7, SEARCH: 2, COMPARE: 2, BIAS: 1},
    "record part cut": {ABLATE: 9, SEARCH: 2, COMPARE: 2},
    "record part flipped": {ABLATE: 9, SEARCH: 2, COMPARE: 2},
    "record part of a killed run flipped": {ABLATE: 3, SEARCH: 1, COMPARE: 1},
    "bias table cut": {BIAS: 1},
    "bias table flipped": {BIAS: 2},
    "run's config cut": {ABLATE: 4, BIAS: 1},
    "run's config flipped": {ABLATE: 4, BIAS: 1},
    "encodings cut": {ABLATE: 4, SEARCH: 1, COMPARE: 1, BIAS: 1},
    "encodings flipped": {ABLATE: 4, SEARCH: 1, COMPARE: 1, BIAS: 1},
    "study database cut": {ABLATE: 6, SEARCH: 2, COMPARE: 1},
    "weights cut": {ABLATE: 4, SEARCH: 1, COMPARE: 1, BIAS: 1},
    "weights flipped": {ABLATE: 4, SEARCH: 1, COMPARE: 1, BIAS: 1},
    "two at once": {ABLATE: 3, SEARCH: 1, COMPARE: 1, BIAS: 1},
}
SHORT: Plan = {
    "SIGKILL": {ABLATE: 2},
    "SIGTERM": {ABLATE: 1},
    "SIGINT": {ABLATE: 1},
    "file size limited": {ABLATE: 1},
    "permission removed": {ABLATE: 1},
    "record part cut": {ABLATE: 4},
    "record part flipped": {ABLATE: 4},
    "run's config flipped": {ABLATE: 1},
    "encodings flipped": {ABLATE: 1},
    "study database cut": {ABLATE: 2},
    "weights cut": {ABLATE: 1},
    "weights flipped": {ABLATE: 1},
}
FIRST: Plan = {"SIGKILL": {ABLATE: 1}, "record part flipped": {ABLATE: 1}}


class Outcome(NamedTuple):
    """What became of a fault.

    Attributes:
        kind: A name in `FAULTS`.
        command: A name in `COMMANDS`.
        number: Which one of its kind.
        lost: Why it was not survived; empty if it was.
    """

    kind: str
    command: str
    number: int
    lost: str


def run(plan: Plan, folder: Path, seed: int, told: Callable[[str], object] = print) -> list[Outcome]:
    """Injects the faults of a plan, one after the other, into commands in this folder; what was lost stays there."""
    scene = cache(lambda command: set_scene(COMMANDS[command], folder / command))
    outcomes = []
    for kind, counts in plan.items():
        for command, count in counts.items():
            for number in range(count):
                place = folder / command / f"{kind.replace(' ', '_').replace(',', '')}-{number}"
                lost = inject(kind, scene(command), place, (number, count), seed)
                outcomes.append(Outcome(kind, command, number, lost))
                told(f"{'LOST ' if lost else 'survived'} {command}: {kind} {number} {lost}".strip())
    return outcomes


def inject(kind: str, scene: Scene, folder: Path, turn: tuple[int, int], seed: int) -> str:
    """Injects one fault and runs the command again; returns what is lost, or nothing.

    The moments of a kind are spread evenly over the run, each at random in its own stretch; a fault that comes too late
    is tried again earlier.

    Args:
        kind: A name in `FAULTS`.
        scene: Of the command.
        folder: Where; must not exist.
        turn: Number of this one among all of its kind, and how many they are.
        seed: Of all that chance decides.
    """
    number, count = turn
    rng = np.random.default_rng([seed, crc32(f"{kind} {scene.command.script}".encode()), number])
    when = (number + rng.random()) / count
    for _ in range(TRIES):
        try:
            with FAULTS[kind](scene, folder, rng, when) as aside:
                lost = run_again(scene, folder, aside)
        except Lost as error:
            return str(error)
        except Missed:
            when /= 2
        else:
            if not lost:
                shutil.rmtree(folder)
            return lost
        shutil.rmtree(folder)
    return f"the command was done before it could be disturbed, {TRIES} times"


def table(outcomes: Iterable[Outcome]) -> str:
    """Faults by kind, in Markdown."""
    outcomes = list(outcomes)
    kinds = list(dict.fromkeys(outcome.kind for outcome in outcomes))
    rows = [(kind, [outcome for outcome in outcomes if outcome.kind == kind]) for kind in kinds]
    lines = ["| fault | commands | injected | survived | lost |", "| :-- | :-- | --: | --: | --: |"]
    for kind, some in [*rows, ("all", outcomes)]:
        commands = " ".join(dict.fromkeys(outcome.command for outcome in some)) if kind != "all" else ""
        lost = sum(bool(outcome.lost) for outcome in some)
        lines.append(f"| {kind} | {commands} | {len(some)} | {len(some) - lost} | {lost} |")
    return "\n".join(lines)
