"""Fixtures of several files: a tiny random LLaVA, and questions about scenes."""

import pytest

from foveate.data.load import load_samples
from foveate.models.loading.load import LoadedModel, load
from foveate.testing.tiny import save_tiny_llava


@pytest.fixture(scope="module")
def loaded(tmp_path_factory) -> LoadedModel:
    return load(save_tiny_llava(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(scope="module")
def samples():
    return load_samples("scenes", "search", limit=33)
