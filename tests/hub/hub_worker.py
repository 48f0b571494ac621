"""Loads checkpoints by name in a process of its own, since huggingface_hub reads its environment when it is imported.

One JSON line for each command: `jax NAME`, `torch NAME`, `info NAME` or `path NAME`.
"""

from __future__ import annotations

import hashlib
import json
import sys

import numpy as np

from parity.checkpoints import CheckpointError, open_checkpoint
from parity.checkpoints.formats import hub


def digest(tensors: dict[str, np.ndarray]) -> str:
    joined = hashlib.sha256()
    for name in sorted(tensors):
        joined.update(name.encode() + tensors[name].tobytes())
    return joined.hexdigest()


def run(command: str, name: str) -> object:
    if command == "jax":
        import vit_jax

        return digest(vit_jax.state_dict.state_dict(vit_jax.load(name)))
    if command == "torch":
        import vit_torch

        return digest(vit_torch.state_dict.state_dict(vit_torch.load(name)))
    if command == "path":
        path = hub.download(name)
        return [path.name] if path.is_file() else sorted(file.name for file in path.iterdir())
    return digest(dict(open_checkpoint(name).tensors))


if __name__ == "__main__":
    for command, name in zip(sys.argv[1::2], sys.argv[2::2], strict=True):
        try:
            print(json.dumps({"result": run(command, name)}))
        except CheckpointError as error:
            print(json.dumps({"error": str(error)}))
