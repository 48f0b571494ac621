"""Sample tensors, and the files that PyTorch, NumPy and Flax made of them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

DATA = Path(__file__).parents[1] / "data"
sys.path.insert(0, str(DATA))


@pytest.fixture
def tensors():
    from samples import samples

    return samples()


@pytest.fixture
def torch_files() -> Path:
    return DATA / "torch_files"


@pytest.fixture
def msgpack_files() -> Path:
    return DATA / "msgpack_files"
