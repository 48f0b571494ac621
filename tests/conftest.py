"""Which tests an environment can run, and what every test runs under.

An environment without jax, torch or timm leaves out the directories that need it and says so in the header; `.ci/run`
has an environment for each.
"""

from __future__ import annotations

import atexit
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

# Before anything imports jax: an installed libtpu makes it look for a TPU, and several workers compile for one at once.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
# Many tests, and the processes that they start, compile the same programs. Each worker has a directory of its own, for
# JAX writes such a file in place, where another process could read half of it.
COMPILED = tempfile.mkdtemp(prefix="vit-parity-compiled-")
atexit.register(shutil.rmtree, COMPILED, ignore_errors=True)
os.environ["JAX_COMPILATION_CACHE_DIR"] = COMPILED
# Smaller programs are compiled as fast as they are read.
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

# What a directory of tests imports. One that isn't named here needs both frameworks.
NEEDS: dict[str, tuple[str, ...]] = {
    "cli": (),
    "configs": (),
    "containers": (),
    "contracts": (),
    "fuzz": (),
    "outputs": (),
    "data_pipeline": ("grain", "tensorflow_datasets"),
    "hub": ("jax", "torch", "huggingface_hub"),
    "jax_side": ("jax",),
    "jax_training": ("jax", "optax", "orbax"),
    "runs": ("jax", "torch", "optax", "orbax"),
    "resize": ("jax", "torch", "scipy"),
    "tpu": ("jax", "optax", "libtpu"),
    "torch_side": ("torch",),
    "peers": ("jax", "torch", "timm"),
}


def missing(directory: str) -> list[str]:
    """Packages that a directory of tests needs and this environment lacks."""
    return [package for package in NEEDS.get(directory, ("jax", "torch")) if not importlib.util.find_spec(package)]


def directories() -> list[str]:
    """Directories that hold tests."""
    return sorted({file.parent.name for file in Path(__file__).parent.glob("*/test_*.py")})


collect_ignore = [directory for directory in directories() if missing(directory)]


# Directories of files that take long, the longest file's first, so that no worker of pytest-xdist is left with one at
# the end.
LONG = ("families", "tpu", "demo", "parity_training", "jax_training", "parity")


# Directories whose models are so small that compiling them well would cost most of their time.
QUICK = ("api", "jax_side", "jax_training", "objectives", "parity", "parity_training", "peers")
# How fast float32 runs part is measured of what users compile.
NOT_QUICK = ("test_divergence.py",)


@pytest.fixture(autouse=True, scope="module")
def quick_compilation(request: pytest.FixtureRequest) -> Iterator[None]:
    """XLA without most of its optimisations."""
    if request.path.parent.name not in QUICK or request.path.name in NOT_QUICK:
        yield
        return
    import jax

    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


def pytest_configure(config: pytest.Config) -> None:
    """Keeps files in the order of the collection; pytest-xdist would begin with those of the most tests."""
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the long directories first."""
    order = {name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: order.get(item.path.parent.name, len(LONG)))


def pytest_report_header() -> list[str]:
    return [f"not collected: tests/{name} (needs {', '.join(missing(name))})" for name in collect_ignore]
