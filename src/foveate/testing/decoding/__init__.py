"""The table of decoding modes and ways of compression: which work and which are refused."""

from foveate.testing.decoding.cells import MODES, USUAL, Mode, cell, exceptions, table
from foveate.testing.decoding.generating import beams_by_hand
from foveate.testing.decoding.setting import COMPRESSIONS, Reference, Setting

__all__ = [
    "COMPRESSIONS",
    "MODES",
    "USUAL",
    "Mode",
    "Reference",
    "Setting",
    "beams_by_hand",
    "cell",
    "exceptions",
    "table",
]
