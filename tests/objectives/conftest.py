"""What tests of objectives share."""

from __future__ import annotations

import jax
import pytest


@pytest.fixture(autouse=True)
def quick_compile():
    """XLA without most of its optimisations: for models so small that compiling takes longest."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
