"""Prints the table of docs/reference/decoding.md: `python -m tests.oracle`, or only modes whose names hold a word."""

import sys

from foveate.testing.decoding import MODES, USUAL, exceptions, table
from foveate.testing.families import FAMILIES
from tests.oracle.reference import reference
from tests.oracle.test_decoding import QUICK

if __name__ == "__main__":
    if wanted := sys.argv[1:]:
        print(table(reference, [mode for mode in MODES if any(word in mode.name for word in wanted)]))
    else:
        print(table(reference), end="\n\n")
        for family in FAMILIES:
            if family != USUAL and (lines := exceptions(reference, family, QUICK)):
                print(*lines, sep="\n")
