"""Files of pickles, read without PyTorch and without running anything that they name.

Since PyTorch 1.6, `torch.save` writes a zip archive of `NAME/data.pkl` and `NAME/data/KEY`; before, it wrote a stream
of pickles with the numbers behind it. `torch.jit.save` writes such an archive with a program beside it, the constants
of which are no weights. In these the pickle describes views of storages, and the numbers lie in the file as they are,
so each tensor can be read where it is. A plain pickle, of NumPy's arrays or of tensors, has the numbers within.
Source: PyTorch `torch/serialization.py` (`_save`, `_legacy_save`), `torch/storage.py` (`_load_from_bytes`).
"""

from __future__ import annotations

import io
import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..accounting import CheckpointError
from .pickle_machine import Call, Reference, read_pickle
from .pickle_numpy import bytes_in, held, numpy_array
from .pickle_torch import Storage, Storages, identity, is_size, is_storage, itemsize, torch_tensor, unwrapped, view
from .stored import FileTensors, StoredArray, short
from .tree import flatten
from .zip_file import Member, members

# How a file of the old layout starts: a pickled magic number.
LEGACY_MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
_MAX_PICKLE = 2**30
_PROTOCOLS = range(2, 6)
# A storage in a plain pickle: a file of the old layout as bytes.
_NESTED = "torch.storage._load_from_bytes"


def is_pickle(start: bytes) -> bool:
    """Whether a file that starts so is a pickle of a protocol that says so."""
    return len(start) > 1 and start[0] == 0x80 and start[1] in _PROTOCOLS


def read_torch_zip(file: Path, found: Mapping[str, Member]) -> FileTensors:
    """The tensors of an archive that `torch.save` or `torch.jit.save` wrote; its pickle alone is read.

    Args:
        file: The archive.
        found: Its members.

    Raises:
        CheckpointError: It holds no tensors, or describes tensors that don't fit it.
    """
    root, value = _described(file, found)

    def storage(of: tuple[Any, ...]) -> Storage:
        member = found.get(f"{root}data/{of[2]}")
        if member is None:
            raise ValueError(f"its storage {short(of[2])} isn't in the file")
        if not member.is_stored:
            raise ValueError(f"its storage {short(of[2])} is compressed, which torch.save never does")
        size = of[4] * itemsize(of)
        if size != member.size:
            raise ValueError(f"its storage {short(of[2])}: got {member.size} bytes, expected {short(size)}")
        return Storage(member.offset, member.size)

    return _tensors(file, value, storage, "torchscript" if f"{root}constants.pkl" in found else "torch")


def read_described(file: Path) -> Any:
    """What `torch.save` wrote to an archive, with a description of each tensor and object in its place; runs nothing.

    Raises:
        CheckpointError: It isn't such an archive.
    """
    return _described(file, members(file))[1]


def _described(file: Path, found: Mapping[str, Member]) -> tuple[str, Any]:
    """The path in an archive that names begin with, and what the archive's pickle describes."""
    pickles = [name for name in found if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise CheckpointError(f"{file}: got {len(pickles)} members data.pkl, expected one, as torch.save writes")
    root = pickles[0].removesuffix("data.pkl")
    if f"{root}byteorder" in found and (order := found[f"{root}byteorder"].start(16)) != b"little":
        raise CheckpointError(f"{file}: byteorder: got {short(order)}, expected little")
    described = found[pickles[0]]
    if described.size > _MAX_PICKLE or not described.is_stored:
        got = f"got {described.size} bytes{'' if described.is_stored else ', compressed'}"
        raise CheckpointError(f"{file}: {described.name}: {got}, expected at most {_MAX_PICKLE}, not compressed")
    value, _ = _unpickle(file, io.BytesIO(described.start(described.size)))
    return root, value


def read_torch_legacy(file: Path) -> FileTensors:
    """The tensors of a file in the layout before PyTorch 1.6; its pickles alone are read.

    Raises:
        CheckpointError: It holds no tensors, or describes tensors that don't fit it.
    """
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        value, storage = _legacy(file, mapped, mapped.size())
    return _tensors(file, value, storage, "torch")


def read_pickled(file: Path) -> FileTensors:
    """The arrays and tensors of a plain pickle, which are in memory from then on.

    Raises:
        CheckpointError: It isn't sound, or holds no tensors.
    """
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        value, _ = _unpickle(file, mapped)

    def storage(of: tuple[Any, ...]) -> Storage:
        raise ValueError(f"its storage {short(of[2])} isn't in the file")

    return _tensors(file, value, storage, "pickle")


def _legacy(file: Path, source: mmap.mmap | io.BytesIO, end: int, held: bytes | None = None) -> tuple[Any, Storages]:
    """What a file of the old layout describes, and where its storages are."""
    source.seek(len(LEGACY_MAGIC))
    _, (system, _), (value, references), (keys, _) = (_unpickle(file, source) for _ in range(4))
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise CheckpointError(f"{file}: got numbers of another byte order, expected little-endian ones")
    try:
        itemsizes = {of[2]: itemsize(of) for of in map(identity, filter(is_storage, references))}
    except ValueError as error:
        raise CheckpointError(f"{file}: {error}") from None
    storages: dict[str, Storage] = {}
    position = source.tell()
    for key in keys if isinstance(keys, list) else []:
        source.seek(min(position, end))
        count = int.from_bytes(source.read(8), "little")
        known = isinstance(key, str) and key in itemsizes
        size = count * itemsizes[key] if known else 0
        if not known or position + 8 + size > end:
            raise CheckpointError(f"{file}: storage {short(key)}: not described, or longer than the file")
        storages[key] = Storage(position + 8, size, held)
        position += 8 + size

    def storage(of: tuple[Any, ...]) -> Storage:
        whole = storages.get(of[2])
        if whole is None:
            raise ValueError(f"its storage {short(of[2])} isn't in the file")
        if len(of) < 6 or of[5] is None:
            return whole
        # A storage that was a part of another one: a key of its own, its first element and its size.
        match of[5]:
            case (_, first, count) if is_size(first) and is_size(count):
                pass
            case other:
                raise ValueError(f"its storage: got {short(other)}, expected a key, the first element and their number")
        if (first + count) * itemsizes[of[2]] > whole.size:
            raise ValueError(f"its storage ends at byte {short((first + count) * itemsizes[of[2]])} of {whole.size}")
        return Storage(whole.offset + first * itemsizes[of[2]], count * itemsizes[of[2]], held)

    return value, storage


def _unpickle(file: Path, source: mmap.mmap | io.BytesIO) -> tuple[Any, list[Reference]]:
    try:
        return read_pickle(source)
    except ValueError as error:
        raise CheckpointError(f"{file}: {error}") from None


def _tensors(file: Path, value: Any, storages: Storages, container: str) -> FileTensors:
    try:
        calls, ignored = flatten(value, _tensor_of)
    except ValueError as error:
        raise CheckpointError(f"{file}: {error}") from None
    arrays: dict[str, StoredArray] = {}
    nested = _Nested(file, storages)
    for name, call in calls.items():
        try:
            array = held(file, call) if numpy_array(call) else nested.view(call)
        except ValueError as error:
            raise CheckpointError(f"{file}: tensor {short(name)}: {error}") from None
        if isinstance(array, str):
            ignored[name] = array
        else:
            arrays[name] = array
    if not arrays:
        name = next(iter(calls))
        raise CheckpointError(f"{file}: tensor {short(name)}: {ignored[name]}")
    return FileTensors(file, arrays, ignored, container)


def _tensor_of(value: Any) -> Call | str | None:
    """The call that makes a tensor, or why that can't be read; None of anything else."""
    inner = unwrapped(value)
    return numpy_array(inner) or torch_tensor(inner) if isinstance(inner, Call) else None


class _Nested:
    """Storages that are in a pickle as files of the old layout; each is taken apart once."""

    def __init__(self, file: Path, outside: Storages):
        self.file = file
        self.outside = outside
        self.found: dict[int, tuple[Any, Storages]] = {}

    def view(self, call: Call) -> StoredArray | str:
        """Where a tensor is that views such a storage, or one outside of the pickle."""
        reference = call.arguments[0] if call.arguments else None
        if not isinstance(reference, Call) or str(reference) != _NESTED:
            return view(self.file, call, self.outside)
        content = bytes_in(reference.arguments[0]) if reference.arguments else None
        if id(content) not in self.found:
            plain = content.encode("latin1") if isinstance(content, str) else bytes(content or b"")
            if not plain.startswith(LEGACY_MAGIC):
                raise ValueError(f"storage: got {short(plain[:16])}, expected what torch.save made of one")
            self.found[id(content)] = _legacy(self.file, io.BytesIO(plain), len(plain), plain)
        inner, storages = self.found[id(content)]
        return view(self.file, Call(call.function, (inner, *call.arguments[1:])), storages)
