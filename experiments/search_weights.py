"""Searches weights of the vision layers, mixes of signals and budgets that keep what the model needs."""

from foveate.cli import run
from foveate.commands.search import main

if __name__ == "__main__":
    run(main)
