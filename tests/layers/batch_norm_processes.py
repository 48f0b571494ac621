"""The net of `batch_norm_meshes.py` in PyTorch in several processes: `batch_norm_processes.py DIRECTORY`.

Writes an .npz for each case. The processes are copies of this one, which has loaded PyTorch once for all.
"""

from __future__ import annotations

import multiprocessing
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from batch_norm_data import CHANNELS, DEPTH, DIM, ROWS, Arrays, cotangents, images, tensors
from torch import Tensor, nn

from parity.checkpoints.shapes import is_statistic
from parity.configs import Execution
from vit_torch import parallel
from vit_torch.layers import batch_norm
from vit_torch.layers.batch_norm import BatchNorm
from vit_torch.layers.linear import Conv, Linear
from vit_torch.layers.stack import run_blocks
from vit_torch.state_dict import canonical_shapes, load_state_dict, state_dict

# The first row of each process: parts are unequal, and the last norm of one process has one value for each channel.
CASES = {"1": [0], "2": [0, 5], "4": [0, 1, 4, 11]}
# What is wrong, and must be noticed.
WRONG = {"statistics of each process": [0, 5], "gradients of each process": [0, 5]}


class Block(nn.Module):
    def __init__(self, norm: type[nn.Module] = BatchNorm):
        super().__init__()
        self.norm = norm(DIM)
        self.linear = Linear(DIM, DIM, bias=False)

    def forward(self, x: Tensor, **options: Any) -> Tensor:
        return x + torch.tanh(self.linear(self.norm(x.transpose(1, 2)).transpose(1, 2)))


class Net(nn.Module):
    def __init__(self, *, execution: Execution = Execution(), norms: tuple[type[nn.Module], ...] = (BatchNorm,) * 3):
        super().__init__()
        self.execution = execution
        self.conv = Conv(CHANNELS, DIM, kernel_size=(3, 3), stride=(1, 1), bias=False)
        self.norm = norms[0](DIM)
        self.blocks = nn.ModuleList([Block(norms[1]) for _ in range(DEPTH)])
        self.out_norm = norms[2](DIM)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.norm(self.conv(x)))
        x = x.flatten(2).transpose(1, 2)
        x, _ = run_blocks(self.blocks, x, drop_path_rates=[0.0] * DEPTH, execution=self.execution)
        return self.out_norm(x.mean(dim=1))


def make_net(execution: Execution = Execution()) -> Net:
    net = Net(execution=execution)
    load_state_dict(net, tensors(canonical_shapes(net)))
    return net


def run(net: Net, rows: slice = slice(None)) -> Arrays:
    """What the last of some steps returns, of some rows, and the statistics after it."""
    output = inputs = torch.empty(0)
    for x in images():
        net.zero_grad()
        inputs = torch.tensor(x[rows].transpose(0, 3, 1, 2)).requires_grad_()
        output = net(inputs)
        (output * torch.tensor(cotangents()[rows])).sum().backward()
    assert inputs.grad is not None
    found = {"output": output.detach().numpy(), "gradient of images": inputs.grad.numpy().transpose(0, 2, 3, 1)}
    gradients = {f"gradient of {name}": value.grad.numpy() for name, value in net.named_parameters()}
    return found | gradients | {name: value for name, value in state_dict(net).items() if is_statistic(name)}


def process(name: str, rank: int, starts: list[int], directory: Path) -> None:
    """One process of a case; the first one writes what all of them found."""
    store = f"file://{directory / name.replace(' ', '_')}.store"
    torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=len(starts))
    rows = slice(starts[rank], [*starts, ROWS][rank + 1])
    if name == "statistics of each process":
        mock.patch.object(batch_norm, "sum_over_processes", lambda x: x).start()
    if name == "gradients of each process":
        mock.patch.object(parallel._Sum, "backward", lambda ctx, grad: grad).start()
    found: list[Any] = [None] * len(starts)
    torch.distributed.all_gather_object(found, run(make_net(Execution(remat="block")), rows))
    if rank == 0:
        joined = {}
        for key in found[0]:
            parts = [part[key] for part in found]
            if key in ("output", "gradient of images"):
                joined[key] = np.concatenate(parts)
            elif key.startswith("gradient of"):
                joined[key] = sum(parts)
            else:
                joined |= {f"{key} in process {i}": part for i, part in enumerate(parts)}
        np.savez(directory / f"{name}.npz", **joined)
    torch.distributed.destroy_process_group()


def main(directory: Path) -> None:
    torch.set_num_threads(1)
    # What PyTorch loads when a block is first recomputed is loaded before the processes part.
    make_net(Execution(remat="block"))(torch.zeros(2, CHANNELS, 3, 3, dtype=torch.float64))
    context = multiprocessing.get_context("fork")
    for name, starts in (CASES | WRONG).items():
        workers = [context.Process(target=process, args=(name, i, starts, directory)) for i in range(len(starts))]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(60)
        assert [worker.exitcode for worker in workers] == [0] * len(starts), name


if __name__ == "__main__":
    main(Path(sys.argv[1]))
