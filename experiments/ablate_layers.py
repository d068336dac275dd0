"""Measures which layers' [CLS] attention predicts what the model needs, alone and summed, at several budgets."""

from foveate.cli import run
from foveate.commands.ablate import main

if __name__ == "__main__":
    run(main)
