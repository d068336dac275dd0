"""Answers benchmarks with a model whose images one method compresses."""

from foveate.cli import run
from foveate.commands.answer import main

if __name__ == "__main__":
    run(main)
