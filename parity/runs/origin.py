"""What a run started from, which its directory keeps in `init.json`: a run that goes on doesn't need the source.

The file is there where the recipe has an `init_from`. It holds the model's config (the checkpoint's, at the recipe's
image size, with the classes of its data), the registered name it began as, and a record of the source:

| field | what it says |
| --- | --- |
| `path`, `options`, `format` | what was opened, and how |
| `files`, `config_sha256` | size and SHA-256 of each of its files, and of its config before it was adapted |
| `step`, `goes_on`, `differs` | of a run: after which step, whether optimiser and step were taken too, why not |
| `tensors`, `new`, `resized` | how many tensors there are, and which of them aren't as they were in the file |
| `not_used`, `assumed` | what of the file is left out, and what nothing in it says |
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import outputs
from ..checkpoints import CheckpointError
from ..checkpoints.containers.document import read_json
from ..checkpoints.formats.run import INIT
from ..configs import Config, from_dict, to_dict
from ..recipes import Recipe


@dataclass(frozen=True, kw_only=True)
class Origin:
    """The model of a run that started from a checkpoint, and what is known of that.

    Attributes:
        config: The config of the model.
        name: The registered name that the config began as; empty if none.
        record: What is known of the source, JSON values.
    """

    config: Config
    name: str
    record: Mapping[str, Any] = field(repr=False)

    def write(self, run: Path) -> None:
        """Writes `init.json` to a run's directory, whole or not at all."""
        data = {"name": self.name, "config": to_dict(self.config), "source": dict(self.record)}
        outputs.write_text(run / INIT, json.dumps(data, indent=2) + "\n")


def read_origin(run: Path, recipe: Recipe) -> Origin | None:
    """What a run started from; None if from values of the seed.

    Args:
        run: The directory of the run.
        recipe: The recipe of the run.

    Raises:
        CheckpointError: The recipe has an `init_from`, and the directory no sound `init.json`.
    """
    if not recipe.init_from:
        return None
    file = run / INIT
    data = read_json(file)
    try:
        return Origin(config=from_dict(data["config"]), name=str(data["name"]), record=dict(data["source"]))
    except (ValueError, LookupError, TypeError) as error:
        raise CheckpointError(f"{file}: doesn't say what the run started from: {error}") from None
