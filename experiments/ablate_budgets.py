"""Measures how accuracy falls with the number of kept patches, for selected scorers."""

from foveate.cli import run
from foveate.commands.budgets import main

if __name__ == "__main__":
    run(main)
