"""The test run uses one thread per worker and no hub; set before torch and transformers are imported."""

import os
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest

from tests.tiers import is_extended

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two workers of one thread beat one of two, also in subprocesses
os.environ.setdefault("HF_HUB_OFFLINE", "1")

pytest_plugins = ["tests.services"]
collected = pytest.StashKey[dict[str, bool]]()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Says of every test, before any is deselected, whether it is extended, and refuses a reason that is none."""
    config.stash[collected] = {item.nodeid: is_extended(item) for item in items}


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A checkpoint folder of a tiny random LLaVA; no test may change it."""
    from foveate.testing.tiny import save_tiny_llava

    return str(save_tiny_llava(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(scope="module")
def loaded_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """A function that returns a family's tiny model, or the model "reference", loaded once per module."""
    from foveate.models.loading.load import load
    from foveate.testing.checkpoints import save_family

    def loaded(family: str) -> Any:
        return load(family if family == "reference" else str(save_family(family, tmp_path_factory.mktemp("family"))))

    return cache(loaded)
