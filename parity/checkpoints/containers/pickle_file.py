"""PyTorch's `.bin`, `.pt` and `.pth` files, read without PyTorch and without running anything that they name.

Two layouts: a zip archive of `NAME/data.pkl` and `NAME/data/KEY` (PyTorch 1.6 and later), and before that one stream of
pickles with the numbers behind it. In both, the pickle describes views (offset, shape, strides) of storages, and the
numbers lie in the file as they are, so each tensor can be read where it is.
Source: PyTorch `torch/serialization.py` (`_save`, `_legacy_save`), `torch/_utils.py` (`_rebuild_tensor_v2`).
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from ..accounting import CheckpointError
from .pickle_machine import Call, Global, Reference, read_pickle
from .stored import FileTensors, StoredArray, check_shape, short
from .tree import flatten
from .zip_file import Member

# How a file of the old layout starts: a pickled magic number.
LEGACY_MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
_MAX_PICKLE = 32 * 1024**2

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
_DTYPES: dict[str, np.dtype] = {
    **{name: np.dtype(name) for name in ("float16", "float32", "float64", "complex64", "complex128", "bool")},
    **{f"{sign}int{bits}": np.dtype(f"{sign}int{bits}") for sign in ("", "u") for bits in (8, 16, 32, 64)},
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float8_e4m3fn": np.dtype(ml_dtypes.float8_e4m3fn),
    "float8_e5m2": np.dtype(ml_dtypes.float8_e5m2),
    "float8_e8m0fnu": np.dtype(ml_dtypes.float8_e8m0fnu),
}
_REBUILD = {"_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3"}
# Names that a file may have in it; all but those of tensors are words without a meaning here.
ALLOWED = {
    ("__builtin__", "set"),
    ("_codecs", "encode"),
    ("argparse", "Namespace"),
    ("builtins", "set"),
    ("collections", "OrderedDict"),
    ("collections", "defaultdict"),
    ("numpy", "dtype"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy.core.multiarray", "scalar"),
    ("pathlib", "PosixPath"),
    ("torch", "Size"),
    ("torch", "Tensor"),
    ("torch", "device"),
    ("torch", "strided"),
    ("torch._tensor", "_rebuild_from_type_v2"),
    ("torch._utils", "_rebuild_parameter"),
    ("torch.nn.parameter", "Parameter"),
    ("torch.serialization", "_get_layout"),
    ("torch.storage", "UntypedStorage"),
    *(("torch._utils", name) for name in _REBUILD),
    *(("torch", name) for name in _DTYPES),
    *((module, name) for module in ("torch", "torch.cuda") for name in _STORAGES),
}


@dataclass(frozen=True)
class _Storage:
    """Where the numbers of a storage are, in bytes."""

    offset: int
    size: int


def read_torch_zip(file: Path, found: Mapping[str, Member]) -> FileTensors:
    """The tensors of an archive that `torch.save` wrote; its pickle alone is read.

    Args:
        file: The archive.
        found: Its members.

    Raises:
        CheckpointError: It names something else than tensors, or describes tensors that don't fit it.
    """
    pickles = [name for name in found if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise CheckpointError(f"{file}: got {len(pickles)} members data.pkl, expected one, as torch.save writes")
    root = pickles[0].removesuffix("data.pkl")
    if f"{root}constants.pkl" in found:
        raise CheckpointError(f"{file}: a TorchScript program, expected a file of weights")
    if f"{root}byteorder" in found and (order := found[f"{root}byteorder"].start(16)) != b"little":
        raise CheckpointError(f"{file}: byteorder: got {short(order)}, expected little")
    described = found[pickles[0]]
    if described.size > _MAX_PICKLE or not described.is_stored:
        got = f"got {described.size} bytes{'' if described.is_stored else ', compressed'}"
        raise CheckpointError(f"{file}: {described.name}: {got}, expected at most {_MAX_PICKLE}, not compressed")
    value, _ = _unpickle(file, io.BytesIO(described.start(_MAX_PICKLE)))

    def storage(identity: tuple[Any, ...]) -> _Storage:
        member = found.get(f"{root}data/{identity[2]}")
        if member is None:
            raise ValueError(f"its storage {short(identity[2])} isn't in the file")
        if not member.is_stored:
            raise ValueError(f"its storage {short(identity[2])} is compressed, which torch.save never does")
        size = identity[4] * _itemsize(identity)
        if size != member.size:
            raise ValueError(f"its storage {short(identity[2])}: got {member.size} bytes, expected {short(size)}")
        return _Storage(member.offset, member.size)

    return _tensors(file, value, storage)


def read_torch_legacy(file: Path) -> FileTensors:
    """The tensors of a file in the layout before PyTorch 1.6; its pickles alone are read.

    Raises:
        CheckpointError: It names something else than tensors, or describes tensors that don't fit it.
    """
    with file.open("rb") as opened:
        end = file.stat().st_size
        start = io.BytesIO(opened.read(min(end, _MAX_PICKLE)))
        start.seek(len(LEGACY_MAGIC))
        _, (system, _), (value, references), (keys, _) = (_unpickle(file, start) for _ in range(4))
        if not isinstance(system, dict) or system.get("little_endian") is not True:
            raise CheckpointError(f"{file}: got numbers of another byte order, expected little-endian ones")
        try:
            identities = [_identity(reference) for reference in references]
        except ValueError as error:
            raise CheckpointError(f"{file}: {error}") from None
        itemsizes = {identity[2]: _itemsize(identity) for identity in identities}
        storages: dict[str, _Storage] = {}
        position = start.tell()
        for key in keys if isinstance(keys, list) else []:
            opened.seek(position)
            count = int.from_bytes(opened.read(8), "little")
            known = isinstance(key, str) and key in itemsizes
            size = count * itemsizes[key] if known else 0
            if not known or position + 8 + size > end:
                raise CheckpointError(f"{file}: storage {short(key)}: not described, or longer than the file")
            storages[key] = _Storage(position + 8, size)
            position += 8 + size

    def storage(identity: tuple[Any, ...]) -> _Storage:
        whole = storages.get(identity[2])
        if whole is None:
            raise ValueError(f"its storage {short(identity[2])} isn't in the file")
        if len(identity) < 6 or identity[5] is None:
            return whole
        # A storage that was a part of another one: a key of its own, its first element and its size.
        match identity[5]:
            case (_, first, count) if _is_size(first) and _is_size(count):
                pass
            case other:
                raise ValueError(f"its storage: got {short(other)}, expected a key, the first element and their number")
        itemsize = itemsizes[identity[2]]
        if (first + count) * itemsize > whole.size:
            raise ValueError(f"its storage ends at byte {short((first + count) * itemsize)} of {whole.size}")
        return _Storage(whole.offset + first * itemsize, count * itemsize)

    return _tensors(file, value, storage)


def _unpickle(file: Path, start: io.BytesIO) -> tuple[Any, list[Reference]]:
    try:
        return read_pickle(start, ALLOWED)
    except ValueError as error:
        raise CheckpointError(f"{file}: {error}") from None


def _tensors(file: Path, value: Any, storage: Callable[[tuple[Any, ...]], _Storage]) -> FileTensors:
    try:
        weights, ignored = flatten(value, _rebuilt)
    except ValueError as error:
        raise CheckpointError(f"{file}: {error}") from None
    arrays = {}
    for name, call in weights.items():
        try:
            arrays[name] = _view(file, call, storage)
        except ValueError as error:
            raise CheckpointError(f"{file}: tensor {short(name)}: {error}") from None
    return FileTensors(file, arrays, ignored)


def _rebuilt(value: Any) -> Call | None:
    """The call that makes a tensor, from under those that make it a parameter; None of anything else."""
    while isinstance(value, Call):
        match value.function.name, value.arguments:
            case name, _ if name in _REBUILD:
                return value
            case "_rebuild_parameter", (inner, *_):
                value = inner
            case "_rebuild_from_type_v2", (Global() as function, _, tuple() as arguments, *_):
                value = Call(function, arguments)
            case _:
                return None
    return None


def _view(file: Path, value: Any, storage: Callable[[tuple[Any, ...]], _Storage]) -> StoredArray:
    """Where a tensor is, checked against the storage that it views."""
    call = _rebuilt(value)
    if call is None or len(call.arguments) < 4:
        raise ValueError("got no storage, offset, shape and strides")
    reference, first, shape, strides = call.arguments[:4]
    identity = _identity(reference)
    dtype = _dtype(call, identity[1].name)
    if not _is_size(first):
        raise ValueError(f"offset: got {short(first)}, expected a whole number from 0 on")
    shape, strides = _sizes(shape, "shape"), _sizes(strides, "strides")
    size = check_shape(shape, dtype)
    if len(shape) != len(strides):
        raise ValueError(f"strides: got {short(strides)} for the shape {short(shape)}")
    found = storage(identity)
    last = first + sum((side - 1) * stride for side, stride in zip(shape, strides, strict=True))
    # More elements than the storage has would be copies of it, by which a small file could fill the memory.
    if size and ((last + 1) * dtype.itemsize > found.size or size > found.size):
        got = f"offset {short(first)}, shape {short(shape)} and strides {short(strides)} of {dtype}"
        raise ValueError(f"got {got}, expected a part of its storage of {found.size} bytes")
    steps = tuple(stride * dtype.itemsize for stride in strides)
    return StoredArray(file, found.offset + first * dtype.itemsize, dtype, shape, steps)


def _identity(reference: Any) -> tuple[Any, ...]:
    """Of a storage: the word, its type, its key, its device, its number of elements."""
    identity = reference.identity if isinstance(reference, Reference) else None
    match identity:
        case ("storage", Global(name=name), str(), _, int(), *_) if name in _STORAGES or name == "UntypedStorage":
            return tuple(identity)
    raise ValueError(f"storage: got {short(identity)}, expected its type, key, device and size")


def _itemsize(identity: tuple[Any, ...]) -> int:
    """Bytes of an element of a storage; one without a type counts bytes."""
    return _STORAGES.get(identity[1].name, np.dtype(np.uint8)).itemsize


def _dtype(call: Call, storage: str) -> np.dtype:
    given = call.arguments[6] if call.function.name == "_rebuild_tensor_v3" and len(call.arguments) > 6 else None
    dtype = _DTYPES.get(given.name) if isinstance(given, Global) else _STORAGES.get(storage)
    if dtype is None:
        raise ValueError(f"dtype: got {given or storage}, expected one of {', '.join(_DTYPES)}")
    return dtype


def _sizes(value: Any, what: str) -> tuple[int, ...]:
    if not isinstance(value, tuple | list) or not all(map(_is_size, value)):
        raise ValueError(f"{what}: got {short(value)}, expected whole numbers from 0 on")
    return tuple(value)


def _is_size(value: Any) -> bool:
    return type(value) is int and value >= 0
