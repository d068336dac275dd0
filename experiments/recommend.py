"""Recommends the cheapest setting of a method that surely loses at most so many points of accuracy."""

from foveate.cli import run
from foveate.commands.recommend import main

if __name__ == "__main__":
    run(main)
