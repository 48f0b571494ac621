"""Writes `torch_files/`: what PyTorch 2.13 and NumPy 2 make of `samples`, for environments without PyTorch.

`python tests/data/make_torch_files.py`
"""

from __future__ import annotations

import argparse
import pickle
import warnings
from collections import Counter, OrderedDict
from pathlib import Path

import numpy as np
import torch
from samples import samples

from vit_torch.state_dict import from_numpy

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


class Model(torch.nn.Module):
    """The samples as what their names say in a module of modules."""

    def __init__(self):
        super().__init__()
        for name, tensor in tensors().items():
            *above, last = name.split(".")
            inside: torch.nn.Module = self
            for part in above:
                if part not in dict(inside.named_children()):
                    inside.add_module(part, torch.nn.Module())
                inside = inside.get_submodule(part)
            if last == "weight":
                inside.register_parameter(last, torch.nn.Parameter(tensor))
            else:
                inside.register_buffer(last, tensor.detach())
        self.register_buffer("volatile", torch.ones(2), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """What it computes is of no interest."""
        return x + 1


def main() -> None:
    DIRECTORY.mkdir(exist_ok=True)
    for name, value in {"weights": tensors(), "training": training()}.items():
        torch.save(value, DIRECTORY / f"{name}.pt")
        torch.save(value, DIRECTORY / f"{name}_legacy.pt", _use_new_zipfile_serialization=False)
    torch.save({"model": Model(), "counts": Counter("aab")}, DIRECTORY / "module.pt")
    warnings.simplefilter("ignore")  # of a deprecation
    model = Model()
    del model.volatile  # which a program can't leave out
    torch.jit.trace(model, torch.ones(1)).save(str(DIRECTORY / "torchscript.pt"))
    arrays = {name: np.array(value, order="F") for name, value in samples().items()}
    for protocol in (2, 5):
        whole = {"model": arrays, "__author__": "somebody", "seen": {(1, "a"): arrays["steps"].dtype}}
        (DIRECTORY / f"arrays_{protocol}.pkl").write_bytes(pickle.dumps(whole, protocol))
    (DIRECTORY / "tensors.pkl").write_bytes(pickle.dumps(tensors(), 4))


if __name__ == "__main__":
    main()
