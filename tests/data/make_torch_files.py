"""Writes `torch_files/`: what `torch.save` of PyTorch 2.13 makes of `samples`, for environments without PyTorch.

`python tests/data/make_torch_files.py`
"""

from __future__ import annotations

import argparse
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from samples import samples

from vit_torch.state import from_numpy

DIRECTORY = Path(__file__).with_name("torch_files")


def tensors() -> dict[str, torch.Tensor]:
    found = {name: from_numpy(value) for name, value in samples().items()}
    # The same numbers as views: transposed, and from the middle of a larger storage.
    found["blocks.0.attn.qkv.weight"] = found["blocks.0.attn.qkv.weight"].T.contiguous().T
    padded = torch.full((4, 3, 4), -1.0)
    padded[1:2, :, :] = found["pos_embed"]
    found["pos_embed"] = padded[1:2]
    found["head.bias"] = torch.nn.Parameter(found["head.bias"])
    return found


def training() -> dict[str, object]:
    return {
        "epoch": 3,
        "model": OrderedDict((f"module.{name}", tensor) for name, tensor in tensors().items()),
        "model_ema": {name: torch.zeros_like(tensor) for name, tensor in tensors().items()},
        "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-3, "betas": (0.9, 0.99)}]},
        "args": argparse.Namespace(model="vit", blr=np.float64(1e-3), device=torch.device("cpu"), dtype=torch.float32),
    }


def main() -> None:
    DIRECTORY.mkdir(exist_ok=True)
    for name, value in {"weights": tensors(), "training": training()}.items():
        torch.save(value, DIRECTORY / f"{name}.pt")
        torch.save(value, DIRECTORY / f"{name}_legacy.pt", _use_new_zipfile_serialization=False)


if __name__ == "__main__":
    main()
