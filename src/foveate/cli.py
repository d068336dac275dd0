"""Runs a typed function as a command line."""

import logging
import sys
import warnings
from collections.abc import Callable

import tyro

from foveate.core.errors import FoveateError


def run(main: Callable[..., None]) -> None:
    """Parses the command line into the arguments of `main`; what a user can mend is said in one line, exit status 2."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")  # prediction waits for no data here
    warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)  # between Lightning and torch
    warnings.filterwarnings("ignore", category=UserWarning, module="optuna.*")
    try:
        tyro.cli(main)
    except FoveateError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
