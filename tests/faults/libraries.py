"""Everything that the commands import, loaded once by the process of which every run of a command is a fork."""

import gc

import foveate.cli
import foveate.evaluation.bias
import foveate.studies.comparison
import foveate.studies.search  # noqa: F401
from foveate.models.load import load

load()  # what transformers does only once in a process
gc.collect()
gc.freeze()
