"""Reproduces a paper's numbers: VTC-CLS, FastV and PruMerge+ on eight benchmarks, with the published numbers."""

from foveate.cli import run
from foveate.commands.reproduce import main

if __name__ == "__main__":
    run(main)
