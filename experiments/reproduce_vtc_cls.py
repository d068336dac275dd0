"""Reproduces published numbers: the grid of the VTC-CLS paper, or the rows of any paper that are known."""

from foveate.cli import run
from foveate.commands.reproduce import main

if __name__ == "__main__":
    run(main)
