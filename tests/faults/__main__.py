"""`python -m tests.faults`: disturbs the real commands, prints what became of it, and fails when something was lost."""

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp

import tyro

from tests.faults.matrix import LONG, SHORT, run, table

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported, which the commands' server does
os.environ.setdefault("HF_HUB_OFFLINE", "1")


@dataclass(frozen=True)
class Arguments:
    """What is injected.

    Attributes:
        short: Only what the test run injects.
        only: Only faults with one of these words in their name.
        commands: Only into these commands.
        most: At most so many of one kind into one command; None means as many as are planned.
        seed: Of moments, sizes, files and places in them.
        folder: Where the commands run; None means a temporary folder. What was lost stays there.
    """

    short: bool = False
    only: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    most: int | None = None
    seed: int = 0
    folder: Path | None = None


def main(arguments: Arguments) -> int:
    """Injects the faults; returns the exit status."""
    plan = {
        kind: {
            name: n if arguments.most is None else min(n, arguments.most)
            for name, n in counts.items()
            if not arguments.commands or name in arguments.commands
        }
        for kind, counts in (SHORT if arguments.short else LONG).items()
        if not arguments.only or any(word in kind for word in arguments.only)
    }
    if "disk full" in plan and os.geteuid() != 0:
        del plan["disk full"]
        print("Only root may mount a small disk: without the faults 'disk full'.")
    folder = arguments.folder or Path(mkdtemp(prefix="foveate-faults-"))
    outcomes = run(plan, folder.resolve(), arguments.seed, lambda line: print(line, flush=True))
    print(f"\n{table(outcomes)}")
    lost = [outcome for outcome in outcomes if outcome.lost]
    if lost or not outcomes:
        print(f"\n{len(lost)} of {len(outcomes)} faults were not survived; what they left: {folder}", file=sys.stderr)
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Arguments)))
