"""Modes of decoding beside places where tokens go: what works, what is refused."""

from foveate.testing.decoding.cells import MODES, USUAL, Mode, cell, exceptions, table
from foveate.testing.decoding.generating import beams_by_hand
from foveate.testing.decoding.setting import PLACES, Setting, Truth

__all__ = ["MODES", "PLACES", "USUAL", "Mode", "Setting", "Truth", "beams_by_hand", "cell", "exceptions", "table"]
