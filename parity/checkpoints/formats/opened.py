"""A path on its way to a checkpoint: the tensors of its files, each header parsed once, and what the user asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..containers.stored import FileTensors
from ..containers.tensors import open_tensors
from .weights import Weights, choose


@dataclass
class Opened:
    """What every format reads from.

    Attributes:
        path: A file, or a directory.
        prefix: What the names of the model begin with, where the user chose among several.
        ignore: Patterns of names that the user leaves out.
    """

    path: Path
    prefix: str | None = None
    ignore: Sequence[str] = ()
    _files: dict[Path, FileTensors] = field(default_factory=dict, repr=False)

    def tensors(self, file: Path | None = None) -> FileTensors:
        """Every tensor of the path, or of one of its files, under its whole name there."""
        file = self.path if file is None else file
        if file not in self._files:
            self._files[file] = open_tensors(file)
        return self._files[file]

    def weights(self, format: str | None = None, file: Path | None = None) -> Weights:
        """The model's tensors among them.

        Args:
            format: The format whose names they have; anybody's by default.
            file: A file of the directory, where it isn't one of the usual names.
        """
        return choose(self.tensors(file), format=format, prefix=self.prefix, ignore=self.ignore)
