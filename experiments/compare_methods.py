"""Compares published methods at the same number of equivalent tokens."""

from foveate.cli import run
from foveate.commands.compare import main

if __name__ == "__main__":
    run(main)
