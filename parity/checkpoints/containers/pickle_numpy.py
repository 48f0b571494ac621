"""NumPy's arrays in pickles: calls that would rebuild an array from its type, shape and bytes.

The bytes are in the pickle itself, so arrays are held where the pickle is; they are views of what was read.
Source: NumPy `ndarray.__reduce_ex__`, `dtype.__reduce__`; JAX `jax/_src/array.py` (`_reconstruct_array`).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from .pickle_machine import Call, Global
from .stored import HeldArray, c_strides, check_shape, short

_RECONSTRUCT = {f"numpy.{core}.multiarray._reconstruct" for core in ("core", "_core")}
_FROM_BUFFER = {f"numpy.{core}.numeric._frombuffer" for core in ("core", "_core")}
_OF_JAX = {"jax._src.array._reconstruct_array", "jax._src.device_array.reconstruct_device_array"}
_NUMBERS = re.compile(r"[biufc]\d{1,2}")
_OF_BYTES = {
    "_codecs.encode",
    *(f"{module}.{name}" for module in ("builtins", "__builtin__") for name in ("bytes", "bytearray")),
}
# What may follow the text that they make bytes of.
_CODECS = ((), ("latin1",), ("latin-1",), ("iso-8859-1",))


def numpy_array(call: Call) -> Call | None:
    """The call if it makes an array of numbers."""
    described = _described(call)
    return call if described and _dtype(described[1]) is not None else None


def held(file: Path, call: Call) -> HeldArray:
    """An array that a call would make.

    Raises:
        ValueError: It isn't as large as its shape says.
    """
    described = _described(call)
    dtype = _dtype(described[1]) if described else None
    if described is None or dtype is None:
        raise ValueError(f"got {call}, expected an array")
    shape, _, is_fortran, content = described
    if not isinstance(shape, tuple):
        raise ValueError(f"shape: got {short(shape)}, expected a tuple")
    size = check_shape(shape, dtype)
    content = bytes_in(content)
    if content is None or len(content) != size:
        got = short(described[3]) if content is None else f"{len(content)} bytes"
        raise ValueError(f"got {got}, expected {size} bytes for {dtype} {short(shape)}")
    strides = c_strides(shape[::-1], dtype.itemsize)[::-1] if is_fortran else None
    return HeldArray(file, 0, dtype, shape, strides, held=content)


def bytes_in(value: Any) -> bytes | bytearray | str | None:
    """Bytes that a pickle has as such, or, in old protocols, as text with a character for each of them."""
    if isinstance(value, Call) and str(value) in _OF_BYTES and value.arguments[1:] in _CODECS:
        value = value.arguments[0] if value.arguments else b""
    return value if isinstance(value, bytes | bytearray | str) else None


def _described(call: Call) -> tuple[Any, Any, bool, Any] | None:
    """Shape, type, whether in Fortran's order, and bytes."""
    name, arguments, state = str(call), call.arguments, call.state
    if name in _OF_JAX and len(arguments) >= 3 and isinstance(arguments[0], Global):
        name, state = str(arguments[0]), arguments[2]
    if name in _FROM_BUFFER and len(arguments) == 4:
        content, dtype, shape, order = arguments
        return shape, dtype, order == "F", content
    if name in _RECONSTRUCT and isinstance(state, tuple) and len(state) in (4, 5):
        shape, dtype, is_fortran, content = state[-4:]
        return shape, dtype, is_fortran is True, content
    return None


def _dtype(value: Any) -> np.dtype | None:
    """The type that a call describes; None of one that isn't of numbers."""
    if not isinstance(value, Call) or str(value) != "numpy.dtype":
        return None
    name = value.arguments[0] if value.arguments else None
    order = value.state[1] if isinstance(value.state, tuple) and len(value.state) > 1 else "="
    if isinstance(name, Global) and name.module == "ml_dtypes" and re.fullmatch("b?float[0-9a-z_]+", name.name):
        return np.dtype(getattr(ml_dtypes, name.name)) if hasattr(ml_dtypes, name.name) else None
    if not isinstance(name, str) or not _NUMBERS.fullmatch(name) or order not in ("<", ">", "=", "|"):
        return None
    try:
        return np.dtype(name).newbyteorder(order)
    except TypeError:
        return None
