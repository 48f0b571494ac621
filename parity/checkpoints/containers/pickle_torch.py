"""PyTorch's tensors in pickles: calls that would rebuild a view (offset, shape, strides) of a storage.

Source: PyTorch `torch/_utils.py` (`_rebuild_tensor_v2` and its neighbours), `torch/storage.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from .pickle_machine import Call, Global, Reference
from .stored import HeldArray, Shape, StoredArray, check_shape, short

_STORAGES: dict[str, np.dtype] = {
    "FloatStorage": np.dtype(np.float32),
    "DoubleStorage": np.dtype(np.float64),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ShortStorage": np.dtype(np.int16),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
    "ComplexFloatStorage": np.dtype(np.complex64),
    "ComplexDoubleStorage": np.dtype(np.complex128),
}
# Bytes of an element of what NumPy has no type for, and no tensor here has.
_OTHER_STORAGES = {
    "QInt8Storage": 1,
    "QUInt8Storage": 1,
    "QInt32Storage": 4,
    "QUInt4x2Storage": 1,
    "QUInt2x4Storage": 1,
}
_BYTES = "UntypedStorage"
_DTYPES: dict[str, np.dtype] = {
    **{name: np.dtype(name) for name in ("float16", "float32", "float64", "complex64", "complex128", "bool")},
    **{f"{sign}int{bits}": np.dtype(f"{sign}int{bits}") for sign in ("", "u") for bits in (8, 16, 32, 64)},
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float8_e4m3fn": np.dtype(ml_dtypes.float8_e4m3fn),
    "float8_e5m2": np.dtype(ml_dtypes.float8_e5m2),
    "float8_e8m0fnu": np.dtype(ml_dtypes.float8_e8m0fnu),
}
_REBUILD = {f"torch._utils._rebuild_tensor{version}" for version in ("", "_v2", "_v3")}
# Calls around a tensor, or around an array of NumPy, that is their first argument.
_AROUND = {
    *("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state"),
    *("torch._utils._rebuild_device_tensor_from_numpy", "torch._utils._rebuild_device_tensor_from_cpu_tensor"),
    *("torch._utils._rebuild_xla_tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer"),
}
# Calls of another call that is their first argument, on arguments that are their third.
_INDIRECT = {"torch._tensor._rebuild_from_type_v2", "torch._tensor._rebuild_from_type"}
_UNREADABLE = {
    "torch._utils._rebuild_sparse_tensor": "sparse tensor",
    "torch._utils._rebuild_sparse_csr_tensor": "sparse tensor",
    "torch._utils._rebuild_nested_tensor": "nested tensor",
    "torch._utils._rebuild_qtensor": "quantised tensor",
    "torch._utils._rebuild_meta_tensor_no_storage": "tensor on the device meta, without numbers",
    "torch._utils._rebuild_wrapper_subclass": "tensor of a class of its own, without a storage",
}
_MAX_AROUND = 8


@dataclass(frozen=True)
class Storage:
    """Where the numbers of a storage are, in bytes: in the file, or in bytes that the file's pickle held."""

    offset: int
    size: int
    held: bytes | None = None


# Finds a storage by what `identity` gives.
Storages = Callable[[tuple[Any, ...]], Storage]


def unwrapped(value: Any) -> Any:
    """What is under the calls that make a tensor a parameter, or put it on a device."""
    for _ in range(_MAX_AROUND):
        if not isinstance(value, Call):
            break
        match str(value), value.arguments:
            case name, (inner, *_) if name in _AROUND:
                value = inner
            case name, (Global() as function, _, tuple() as arguments, *_) if name in _INDIRECT:
                value = Call(function, arguments)
            case _:
                break
    return value


def torch_tensor(value: Call) -> Call | str | None:
    """The call if it makes a tensor, or why that tensor can't be read; None of any other call."""
    name = str(value)
    return value if name in _REBUILD else _UNREADABLE.get(name)


def view(file: Path, call: Call, storages: Storages) -> StoredArray | str:
    """Where a tensor is, checked against the storage that it views; or why it can't be read.

    Raises:
        ValueError: It doesn't lie in its storage, or isn't described as tensors are.
    """
    if len(call.arguments) < 4:
        raise ValueError("got no storage, offset, shape and strides")
    reference, first, shape, strides = call.arguments[:4]
    of = identity(reference)
    dtype = _dtype(call, of[1].name)
    if not is_size(first):
        raise ValueError(f"offset: got {short(first)}, expected a whole number from 0 on")
    shape, strides = _sizes(shape, "shape"), _sizes(strides, "strides")
    size = check_shape(shape, dtype)
    if len(shape) != len(strides):
        raise ValueError(f"strides: got {short(strides)} for the shape {short(shape)}")
    found = storages(of)
    last = first + sum((side - 1) * stride for side, stride in zip(shape, strides, strict=True))
    if size and (last + 1) * dtype.itemsize > found.size:
        got = f"offset {short(first)}, shape {short(shape)} and strides {short(strides)} of {dtype}"
        raise ValueError(f"got {got}, expected a part of its storage of {found.size} bytes")
    # Copies of a few numbers, by which a small file could fill the memory.
    if size > found.size:
        return f"expanded tensor: shape {short(shape)} of {dtype} repeats a storage of {found.size} bytes"
    if any(isinstance(part, dict) and (part.get("conj") or part.get("neg")) for part in call.arguments[6:]):
        return "tensor of numbers that are conjugated or negated when they are read"
    steps = tuple(stride * dtype.itemsize for stride in strides)
    offset = found.offset + first * dtype.itemsize
    if found.held is not None:
        return HeldArray(file, offset, dtype, shape, steps, held=found.held)
    return StoredArray(file, offset, dtype, shape, steps)


def is_storage(reference: Reference) -> bool:
    """Whether a reference is to a storage and not to the class of a module, which old files have, too."""
    return not (isinstance(reference.identity, tuple) and reference.identity[:1] == ("module",))


def identity(reference: Any) -> tuple[Any, ...]:
    """What a storage is written as: the word, its type, its key, its device, its number of elements.

    Raises:
        ValueError: It is something else.
    """
    found = reference.identity if isinstance(reference, Reference) else None
    match found:
        case ("storage", Global(name=name), str(), _, int(), *_) if name in (*_STORAGES, *_OTHER_STORAGES, _BYTES):
            return tuple(found)
    raise ValueError(f"storage: got {short(found)}, expected its type, key, device and size")


def itemsize(of: tuple[Any, ...]) -> int:
    """Bytes of an element of a storage with some identity; one without a type counts bytes."""
    name = of[1].name
    return _STORAGES[name].itemsize if name in _STORAGES else _OTHER_STORAGES.get(name, 1)


def is_size(value: Any) -> bool:
    """Whether a value is a whole number from 0 on."""
    return type(value) is int and value >= 0


def _dtype(call: Call, storage: str) -> np.dtype:
    given = call.arguments[6] if str(call).endswith("_v3") and len(call.arguments) > 6 else None
    dtype = _DTYPES.get(given.name) if isinstance(given, Global) else _STORAGES.get(storage)
    if dtype is None:
        raise ValueError(f"dtype: got {short(str(given or storage))}, expected one of {', '.join(_DTYPES)}")
    return dtype


def _sizes(value: Any, what: str) -> Shape:
    if not isinstance(value, tuple | list) or not all(map(is_size, value)):
        raise ValueError(f"{what}: got {short(value)}, expected whole numbers from 0 on")
    return tuple(value)
