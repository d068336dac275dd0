"""Runs a typed function as a command line."""

import logging
import sys
import warnings
from collections.abc import Callable

import tyro

from foveate.core.errors import FoveateError

_NOISE = (
    ".*does not have many workers",  # prediction does not wait for data here
    "Couldn't infer the batch indices",  # records carry the ids of their samples
    ".*LeafSpec",  # between Lightning and torch
    ".*is experimental",
    ".*is an experimental feature",
)


def run(main: Callable[..., None]) -> None:
    """Parses the command line into the arguments of `main`; what a user can mend is said in one line, exit status 2."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)
    for message in _NOISE:
        warnings.filterwarnings("ignore", message=message)
    try:
        tyro.cli(main)
    except FoveateError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
