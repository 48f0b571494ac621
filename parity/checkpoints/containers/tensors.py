"""Opening the files that checkpoints keep their tensors in, whichever container it is.

| container | recognised by |
| --- | --- |
| safetensors | the length of its header, and the header |
| PyTorch (`torch.save`) | a zip archive with `data.pkl`, or the magic number of the older layout |
| TorchScript (`torch.jit.save`) | such an archive with `constants.pkl` |
| NumPy (`.npz`) | any other zip archive of `.npy` files |
| plain pickles | the byte that says the protocol |
| Flax (`.msgpack`, `checkpoint_1000`) | a map of msgpack |
| shards of any of these | an index in JSON, whose `weight_map` names the file of each tensor |

A name's suffix says nothing: people call any of these `.bin`, `.pth`, `.ckpt` or nothing at all.
"""

from __future__ import annotations

import itertools
from pathlib import Path

from ..accounting import CheckpointError, cut
from .document import read_json
from .msgpack_file import read_msgpack
from .npz_file import read_npz
from .pickle_file import read_pickled, read_torch_legacy, read_torch_zip
from .recognise import kind_of, refuse_archive
from .safetensors_file import INDEX, SHARD_BYTES, WEIGHTS, read_safetensors, write_tensors
from .stored import FileTensors, StoredArray, Tensors, dtypes_of, shapes_of, short, slice_of
from .zip_file import members

__all__ = [
    "INDEX",
    "SHARD_BYTES",
    "WEIGHTS",
    "FileTensors",
    "StoredArray",
    "Tensors",
    "dtypes_of",
    "open_tensors",
    "shapes_of",
    "slice_of",
    "write_tensors",
]

# What a directory is searched for, in this order: the safe container first. The last is refused, with what to do.
CANDIDATES = (
    *(WEIGHTS, INDEX, "pytorch_model.bin", "pytorch_model.bin.index.json"),
    *("flax_model.msgpack", "flax_model.msgpack.index.json", "tf_model.h5"),
)
_LOOKED_AT = 1000  # of a directory's files, for an error
_READERS = {
    "safetensors": read_safetensors,
    "legacy": read_torch_legacy,
    "pickle": read_pickled,
    "msgpack": read_msgpack,
}


def open_tensors(path: str | Path) -> FileTensors:
    """The tensors of a file, of shards with an index, or of a directory with either; none of them is read yet.

    Args:
        path: A file of tensors of any name, an index of such files, or a directory with one of `CANDIDATES`.

    Returns:
        Every tensor under its whole path in the file (`state_dict.module.head.bias`), whatever it is for; and `ignored`
        says why each part without one is left out.

    Raises:
        CheckpointError: No such file, or one that isn't what it should be; names the file and the tensor.
    """
    path = Path(path)
    if path.is_dir():
        found = next((path / name for name in CANDIDATES if (path / name).is_file()), None)
        if found is None:
            names = sorted(child.name for child in itertools.islice(path.iterdir(), _LOOKED_AT))
            others = [name for name in names if not name.endswith(".json")]
            what = f"; found {cut(others)}: if one of them is the file of weights, name it" if others else ""
            raise CheckpointError(f"{path / WEIGHTS}: no such file{what}")
        path = found
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    return _open_shards(path) if (kind := kind_of(path)) == "json" else _open_file(path, kind)


def _open_file(path: Path, kind: str) -> FileTensors:
    if kind != "zip":
        return _READERS[kind](path)
    found = members(path)
    if any(name.rpartition("/")[2] == "data.pkl" for name in found):
        return read_torch_zip(path, found)
    if not any(name.endswith(".npy") for name in found):
        refuse_archive(path, found)
    return read_npz(path, found)


def _open_shards(index: Path) -> FileTensors:
    weight_map = _weight_map(index)
    arrays: dict[str, StoredArray] = {}
    ignored: dict[str, str] = {}
    container = ""
    for file in dict.fromkeys(weight_map.values()):
        shard = _open_shard(index, file)
        container = shard.container
        # Flax's index has slashes where its files have dictionaries in dictionaries.
        expected = {name.replace("/", ".") if container == "msgpack" else name: name for name in weight_map}
        for name, array in shard.arrays.items():
            if weight_map.get(expected.get(name, name)) != file:
                other = f"expected {weight_map[expected[name]]}" if name in expected else "expected none"
                raise CheckpointError(f"{index}: tensor {short(name)}: found in {file}, {other} by the index")
            arrays[name] = array
        for name in (name for name, original in expected.items() if weight_map[original] == file):
            if name not in shard.arrays:
                raise CheckpointError(f"{index}: tensor {short(name)}: expected in {file}, which doesn't have it")
        ignored |= shard.ignored
    return FileTensors(index, arrays, ignored, container)


def _open_shard(index: Path, file: str) -> FileTensors:
    path = index.parent / file
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file, which {index.name} names")
    if (kind := kind_of(path)) == "json":
        raise CheckpointError(f"{path}: got JSON, expected a file of tensors, as {index.name} names it")
    return _open_file(path, kind)


def _weight_map(index: Path) -> dict[str, str]:
    document = read_json(index)
    found = document.get("weight_map")
    if not isinstance(found, dict):
        got = f"got the keys {short(list(document))}" if found is None else f"weight_map: got {short(found)}"
        raise CheckpointError(f"{index}: {got}, expected an index with a weight_map of names to files")
    for name, file in found.items():
        # A name with a path in it could read a file outside of the checkpoint, and an index one that never ends.
        if not isinstance(file, str) or Path(file).name != file or Path(file).suffix in ("", ".json"):
            got = f"weight_map: {short(name)}: got {short(file)}"
            raise CheckpointError(f"{index}: {got}, expected the name of a file of tensors beside it")
    return found
