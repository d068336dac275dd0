"""Measures how long the parts of an answer take, and whether compression saves time, on one model and machine."""

from foveate.cli import run
from foveate.commands.speed import main

if __name__ == "__main__":
    run(main)
