"""Everything that the commands import, loaded once by the process of which every run of a command is a fork."""
# ruff: noqa: F401

import gc

import alembic.command
import alembic.config
import alembic.migration
import matplotlib.backends.backend_agg
import optuna.storages._rdb.storage

import analysis.benchmarks
import analysis.bias_report
import analysis.comparison_report
import analysis.overlays
import analysis.report
import analysis.search_report
import foveate.cli
import foveate.evaluation.bias
import foveate.studies.comparison
import foveate.studies.search
from foveate.models.load import load

load()  # what transformers does only once in a process
gc.collect()
gc.freeze()
