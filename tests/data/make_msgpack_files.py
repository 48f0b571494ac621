"""Writes `msgpack_files/`: what `flax.serialization` of Flax 0.12 makes of `samples`, for environments without Flax.

`python tests/data/make_msgpack_files.py`
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import serialization
from flax.core import freeze
from samples import samples

DIRECTORY = Path(__file__).with_name("msgpack_files")


def parameters() -> dict[str, Any]:
    """The samples as dictionaries within dictionaries; some of them JAX's arrays, and one in Fortran's order."""
    nested: dict[str, Any] = {}
    for place, (name, value) in enumerate(samples().items()):
        *above, last = name.split(".")
        inside = nested
        for part in above:
            inside = inside.setdefault(part, {})
        inside[last] = jnp.asarray(value) if value.dtype.itemsize < 8 and place % 2 else np.array(value, order="F")
    return nested


def main() -> None:
    DIRECTORY.mkdir(exist_ok=True)
    (DIRECTORY / "model.msgpack").write_bytes(serialization.to_bytes(freeze(parameters())))
    state = {
        "step": np.int64(1000),
        "lr": 1e-3,
        "done": False,
        "params": parameters(),
        "opt_state": {"0": {"count": 3}},
    }
    state["opt_state"]["0"]["mu"] = {"pos_embed": samples()["pos_embed"]}
    # Pieces of a few elements instead of a gigabyte.
    serialization.MAX_CHUNK_SIZE = 20
    (DIRECTORY / "checkpoint_1000").write_bytes(serialization.msgpack_serialize(state))


if __name__ == "__main__":
    main()
