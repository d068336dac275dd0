"""Silence of libraries: tips, notes and warnings that say nothing about an evaluation."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_LIGHTNING = "accelerators callbacks core loggers loops plugins profilers strategies trainer tuner utilities".split()
_CHATTER = {  # imports set the levels of `lightning_fabric` and `pytorch_lightning` themselves
    **dict.fromkeys((f"lightning_fabric.{part}" for part in _LIGHTNING), logging.WARNING),
    **dict.fromkeys((f"pytorch_lightning.{part}" for part in _LIGHTNING), logging.WARNING),
    "pytorch_lightning.utilities.rank_zero": logging.WARNING,
    "pytorch_lightning.loggers.mlflow": logging.ERROR,  # warns of every table that it creates
    "torch.onnx._internal.exporter._registration": logging.ERROR,  # names torchvision, which nothing here needs
    "mlflow.store": logging.WARNING,
}
_NOISE = (
    ".*does not have many workers",  # questions are in memory
    "Couldn't infer the batch indices",  # records carry the ids of their samples
    ".*LeafSpec",  # between Lightning and torch
    ".*is experimental",
    ".*is an experimental feature",
)


def silence() -> None:
    """Silences these libraries in this process."""
    for name, level in _CHATTER.items():
        logging.getLogger(name).setLevel(level)
    for message in _NOISE:
        warnings.filterwarnings("ignore", message=message)


@contextmanager
def quiet() -> Iterator[None]:
    """Silences these libraries inside the block, and leaves levels and filters as they were."""
    levels = {name: logging.getLogger(name).level for name in _CHATTER}
    with warnings.catch_warnings():
        silence()
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)
