"""What a file is by its first bytes, whatever it is called; and of what isn't read, what to do with it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ..accounting import CheckpointError
from .msgpack_file import is_msgpack
from .pickle_file import LEGACY_MAGIC, is_pickle
from .stored import short

_HEAD = 512
_MAX_HEADER = 2**27  # of a safetensors file, in bytes
_TAR = slice(257, 262)

_UNPACK = "unpack it and name the file in it"
# What files start with that are no containers of ours, what they are, and what to do.
_OTHERS: tuple[tuple[bytes, str, str], ...] = (
    (b"version https://git-lfs", "a pointer of Git LFS, not the file itself", "fetch that: git lfs pull"),
    (
        b"\x89HDF\r\n\x1a\n",
        "an HDF5 file (Keras, tf_model.h5), which isn't read",
        "use the model's safetensors or PyTorch file, or save one with from_pretrained(..., from_tf=True)",
    ),
    (b"GGUF", "a GGUF file (llama.cpp), often quantised, which isn't read", "use the file that it was made from"),
    (b"\x93NUMPY", "a single array of NumPy, without a name", "save arrays by name: numpy.savez(file, **arrays)"),
    (b"\x1f\x8b", "a gzip archive", _UNPACK),
    (b"BZh", "a bzip2 archive", _UNPACK),
    (b"\xfd7zXZ\0", "an xz archive", _UNPACK),
    (b"\x28\xb5\x2f\xfd", "a zstd archive", _UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
)
_PAGES = (b"<!doctype", b"<html", b"<?xml", b"<head", b"<!--")
_PAGE = "an HTML or XML page, not weights: most likely the answer to a download that failed"
_TF = (
    "a part of a TensorFlow checkpoint, which isn't read; use the model's .npz, safetensors or PyTorch file, or save "
    "its variables with numpy.savez"
)
_TABLE_MAGIC = bytes.fromhex("57fb808b247547db")  # the last bytes of TensorFlow's `.index`
KNOWN = "safetensors, what torch.save or torch.jit.save writes, .npz, pickles and Flax's msgpack"


def kind_of(file: Path) -> str:
    """What kind of file it is: `safetensors`, `zip`, `legacy`, `pickle`, `msgpack` or `json`.

    Raises:
        CheckpointError: It can't be opened, is empty, or is something that isn't read; says what and what to do.
    """
    try:
        with file.open("rb") as opened:
            head = opened.read(_HEAD)
            opened.seek(max(file.stat().st_size - len(_TABLE_MAGIC), 0))
            tail = opened.read(len(_TABLE_MAGIC))
    except OSError as error:
        raise CheckpointError(f"{file}: {error.strerror}") from None
    if not head:
        raise CheckpointError(f"{file}: an empty file; fetch or save it again")
    # First, for the length of its header can look like the start of any other.
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < _MAX_HEADER:
        return "safetensors"
    if head[:2] == b"PK":
        return "zip"
    if head.startswith(LEGACY_MAGIC):
        return "legacy"
    if is_pickle(head):
        return "pickle"
    _refuse_others(file, head, tail)
    if is_msgpack(head):
        return "msgpack"
    if file.suffix == ".json" or head.lstrip()[:1] == b"{":
        return "json"
    if file.suffix == ".safetensors":
        return "safetensors"  # a broken one, whose reader says where
    if ".data-0" in file.name or file.suffix == ".meta":
        raise CheckpointError(f"{file}: {_TF}")
    raise CheckpointError(f"{file}: starts with {short(head[:8])}, which is no file of tensors; expected {KNOWN}")


def refuse_archive(file: Path, names: Iterable[str]) -> None:
    """Says what a zip archive is in which there are neither arrays nor tensors.

    Raises:
        CheckpointError: Always.
    """
    names = list(names)
    got = short(names)
    if any(name.rpartition("/")[2] in ("archive_format", "serialized_exported_program.json") for name in names):
        raise CheckpointError(
            f"{file}: a program of torch.export, expected weights; save them: torch.save(program.state_dict, file)"
        )
    if any(name.endswith("model.weights.h5") for name in names):
        raise CheckpointError(f"{file}: a model of Keras (.keras), which isn't read; expected {KNOWN}")
    raise CheckpointError(
        f"{file}: a zip archive of {got}, expected arrays or tensors; if it holds a file of them, {_UNPACK}"
    )


def _refuse_others(file: Path, head: bytes, tail: bytes) -> None:
    for start, what, advice in _OTHERS:
        if head.startswith(start):
            raise CheckpointError(f"{file}: {what}; {advice}")
    if head[_TAR] == b"ustar":
        raise CheckpointError(f"{file}: a tar archive; {_UNPACK}")
    if head.lstrip()[:9].lower().startswith(_PAGES):
        raise CheckpointError(f"{file}: {_PAGE}; fetch it again, logged in if it needs that")
    if tail == _TABLE_MAGIC:
        raise CheckpointError(f"{file}: {_TF}")
    # Of a protocol buffer: the field 1, a small number, then the field 2, 3 or 7, text.
    if head[:1] == b"\x08" and head[2:3] in (b"\x12", b"\x1a", b"\x3a"):
        raise CheckpointError(f"{file}: an ONNX program, which isn't read; use the file of weights it was made from")
