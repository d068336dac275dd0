"""Prints what `docs/decoding.md` holds: `python -m tests.oracle`, or only the modes whose names hold an argument."""

import sys

from foveate.testing.decoding import MODES, USUAL, exceptions, table
from foveate.testing.families import FAMILIES
from tests.oracle.reference import truth
from tests.oracle.test_decoding import QUICK

if __name__ == "__main__":
    if wanted := sys.argv[1:]:
        print(table(truth, [mode for mode in MODES if any(word in mode.name for word in wanted)]))
    else:
        print(table(truth), end="\n\n")
        for family in FAMILIES:
            if family != USUAL and (lines := exceptions(truth, family, QUICK)):
                print(*lines, sep="\n")
