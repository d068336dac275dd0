"""Exports trace sizes as symbols, which the shape checks of `make test-all` would refuse as numbers."""

import jaxtyping
import pytest


@pytest.fixture(autouse=True, scope="module")
def without_checks_of_shapes():
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)
