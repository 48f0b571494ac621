"""What has to hold for any file whatever: an error that says where, or what the file says; and nothing else happens."""

from __future__ import annotations

import os
import signal
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, Phase, settings

from parity.checkpoints import CheckpointError, Tensors, open_tensors

# Cases of all tests of this directory together; CI sets it to 10,000 and more.
CASES = int(os.environ.get("VIT_PARITY_FUZZ", "600"))
IN_CI = "VIT_PARITY_FUZZ" in os.environ
SECONDS = 5  # of processor time for one case, each of which takes milliseconds
# What a case may allocate: Python's objects for a few kilobytes of JSON, pickle or zip directory, and the tensors.
BYTES, BYTES_PER_BYTE = 3_000_000, 100
MESSAGE = 3000  # characters

counted: Counter[str] = Counter()


class BrokenError(Exception):
    """An invariant doesn't hold."""


def fuzz(share: float) -> settings:
    """Settings of a test that runs a share of all cases."""
    return settings(
        max_examples=round(CASES * share),
        deadline=None,
        database=None,
        derandomize=not IN_CI,
        print_blob=True,
        report_multiple_bugs=False,
        phases=(Phase.explicit, Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )


def attempt(read: Callable[[], Any], path: Path, *, size: int, extra: int = 0) -> Any:
    """The result of reading, or the error that it ends in.

    Args:
        read: The case.
        path: Which the error has to name.
        size: Bytes of the files that are read.
        extra: Bytes that may be allocated for what the files rightly hold in compressed form.
    """
    tracemalloc.start(1)
    try:
        with _processor_time():
            result = read()
    except ValueError as error:
        result = error
    except Exception as error:
        raise BrokenError(f"{type(error).__name__} instead of a CheckpointError: {error}") from error
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    if peak > BYTES + BYTES_PER_BYTE * size + extra:
        raise BrokenError(f"{peak} bytes were allocated for a file of {size}")
    if isinstance(result, ValueError):
        if not isinstance(result, CheckpointError):
            raise BrokenError(f"{type(result).__name__} instead of a CheckpointError: {result}") from result
        if str(path) not in str(result):
            raise BrokenError(f"the error doesn't name {path}: {result}")
        if len(str(result)) > MESSAGE:
            raise BrokenError(f"a message of {len(str(result))} characters: {str(result)[:200]}")
    return result


def read_case(
    kind: str, path: Path, *, names: str | list[str] | None = None
) -> dict[str, np.ndarray] | CheckpointError:
    """One counted case: opens a file, then reads each tensor.

    Args:
        kind: What to count it as.
        path: The file.
        names: An error has to hold one of these.
    """
    counted[kind] += 1
    size = sum(file.stat().st_size for file in [path, *path.parent.glob("*")] if file.is_file())
    opened = attempt(lambda: open_tensors(path), path.parent, size=size)
    found: dict[str, np.ndarray] | CheckpointError = {}
    if isinstance(opened, Tensors):
        shapes, dtypes = opened.shapes(), opened.dtypes()
        for name in opened:
            declared = int(np.prod(shapes[name], dtype=object)) * dtypes[name].itemsize
            value = attempt(lambda name=name: opened[name], path.parent, size=size, extra=2 * declared)
            if isinstance(value, CheckpointError):
                found = value
                break
            if value.shape != shapes[name] or value.dtype != dtypes[name]:
                raise BrokenError(f"{name}: got {value.dtype} {value.shape}, announced {dtypes[name]} {shapes[name]}")
            found[name] = value
    else:
        found = opened
    if isinstance(found, CheckpointError) and names and not any(name in str(found) for name in names):
        raise BrokenError(f"the error names none of {names}: {found}")
    return found


def same(left: np.ndarray, right: np.ndarray) -> bool:
    """Equal to the bit."""
    return left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes()


@contextmanager
def _processor_time() -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise BrokenError(f"more than {SECONDS} seconds")

    previous = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, previous)
