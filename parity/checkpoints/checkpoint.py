"""An opened checkpoint, whichever format it is in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..configs import Config
from .assumed import Assumption


@dataclass(frozen=True)
class Checkpoint:
    """A model's config and tensors; no tensor is read before it is asked for.

    Attributes:
        path: Its directory or file.
        config: Architecture, numerics and preprocessing.
        name: The registered name that the config started from; empty if none.
        source: Where the weights came from, such as the framework that wrote them.
        tensors: The tensors by canonical name; they are read when asked for.
        assumed: What nothing says of the model, and what it was taken for.
    """

    path: Path
    config: Config
    name: str
    source: dict[str, Any] = field(repr=False)
    tensors: Mapping[str, np.ndarray] = field(repr=False)
    assumed: tuple[Assumption, ...] = ()
