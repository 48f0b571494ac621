"""Arrays that Orbax keeps in a directory, as it wrote them: what Flax's training saves.

Orbax is loaded when the first directory is opened, and JAX with it; nothing else here needs either.
Source: Orbax `orbax/checkpoint/_src/handlers/pytree_checkpoint_handler.py`, through its public names alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ..accounting import CheckpointError
from .stored import Shape, Tensors

# Where an array is in the tree that was saved, such as ("opt_state", "1", "mu", "head.weight").
Keys = tuple[str, ...]


class OrbaxTensors(Tensors):
    """The arrays of one part of a tree by name, each read when it is asked for, in the layout that it was saved in.

    Args:
        path: The directory of the tree.
        part: A key of the tree, under which are arrays by name.

    Raises:
        CheckpointError: No readable Orbax checkpoint, or one without that part; or Orbax isn't installed.
    """

    def __init__(self, path: Path, part: str):
        self.path, self._part = path, part
        found = {name: tree for name, tree in _metadata(path).items() if tree is not None}
        if part not in found:
            raise CheckpointError(f"{path}: got {', '.join(found)}, expected {part} among them")
        self._found = found[part]
        self._handler = _orbax(path).PyTreeCheckpointHandler()

    def __getitem__(self, name: str) -> np.ndarray:
        """Reads one array."""
        ocp = _orbax(self.path)
        arguments = ocp.args.PyTreeRestore(
            item={self._part: {name: self._found[name]}},
            restore_args={self._part: {name: ocp.RestoreArgs(restore_type=np.ndarray)}},
            partial_restore=True,
        )
        return self._handler.restore(_epath(self.path), args=arguments)[self._part][name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)

    def shapes(self) -> dict[str, Shape]:
        """Shape of each array as it was saved; reads none."""
        return {name: tuple(found.shape) for name, found in self._found.items()}

    def dtypes(self) -> dict[str, np.dtype]:
        """Type of each array; reads none."""
        return {name: np.dtype(found.dtype) for name, found in self._found.items()}


def read_arrays(path: Path) -> dict[Keys, np.ndarray]:
    """Every array of a tree, whatever mesh wrote it, in the layout that it was saved in.

    Args:
        path: The directory of the tree.

    Raises:
        CheckpointError: No readable Orbax checkpoint; or Orbax isn't installed.
    """
    ocp, tree = _orbax(path), _metadata(path)
    as_numpy = _mapped(tree, lambda _: ocp.RestoreArgs(restore_type=np.ndarray))
    arguments = ocp.args.PyTreeRestore(item=tree, restore_args=as_numpy)
    return dict(_leaves(ocp.PyTreeCheckpointHandler().restore(_epath(path), args=arguments)))


def read_values(path: Path) -> dict[str, Any]:
    """JSON values that Orbax keeps in a directory.

    Raises:
        CheckpointError: No such directory of Orbax's; or Orbax isn't installed.
    """
    try:
        return dict(_orbax(path).JsonCheckpointHandler().restore(_epath(path)))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: no readable JSON of Orbax: {error}") from None


def _metadata(path: Path) -> dict[str, Any]:
    """The tree of a checkpoint, with what Orbax says of each array in the array's place."""
    handler = _orbax(path).PyTreeCheckpointHandler()
    try:
        return dict(handler.metadata(_epath(path)).tree)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not a readable Orbax checkpoint: {error}") from None


def _leaves(tree: Any, above: Keys = ()) -> Iterator[tuple[Keys, Any]]:
    """What is at the ends of a tree, without the None that stands for an empty part."""
    if isinstance(tree, dict | list | tuple):
        for key, child in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from _leaves(child, (*above, str(key)))
    elif tree is not None:
        yield above, tree


def _mapped(tree: Any, function: Any) -> Any:
    """The same tree with something else at its ends."""
    if isinstance(tree, dict):
        return {key: _mapped(child, function) for key, child in tree.items()}
    if isinstance(tree, list | tuple):
        return [_mapped(child, function) for child in tree]
    return None if tree is None else function(tree)


def _orbax(path: Path) -> ModuleType:
    try:
        import orbax.checkpoint
    except ImportError as error:
        raise CheckpointError(
            f"{path}: a checkpoint of Orbax needs {error.name}, which isn't installed: pip install 'vit-parity[jax]'"
        ) from None
    return orbax.checkpoint


def _epath(path: Path) -> Any:
    """The absolute path, as Orbax takes it."""
    from etils import epath

    return epath.Path(path.absolute())
