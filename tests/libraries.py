"""Everything that the experiments import, loaded once by the process of which every run of a script is a fork."""
# ruff: noqa: F401

import gc
import importlib
import pkgutil

import alembic.command
import alembic.config
import alembic.migration
import contourpy
import lightning_fabric.strategies.ddp
import matplotlib.backends.backend_agg
import optuna.storages._rdb.storage
import pyarrow.acero
import scipy.io
import sqlalchemy.dialects.sqlite
import sqlalchemy.orm
import tyro
from PIL import Image

import foveate
from foveate.models.loading.load import load
from foveate.options import Options

for package in (foveate,):
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if not module.name.startswith(("foveate.lmms_eval", "foveate.testing")):
            importlib.import_module(module.name)
Image.init()
tyro.cli(Options, default=Options("none"), args=())
load()  # what transformers does only once in a process
gc.collect()
gc.freeze()
