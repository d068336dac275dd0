"""Measures which patches [CLS], the prompt and the answer attend to, and on which the answer depends."""

from foveate.cli import run
from foveate.commands.bias import main

if __name__ == "__main__":
    run(main)
