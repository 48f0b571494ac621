"""Blocks that are recomputed under `torch.func.functional_call` see the tensors of the forward pass again."""

from __future__ import annotations

import batch_norm_processes as torch_side
import numpy as np
import pytest
import torch
from torch.func import functional_call

from parity.compare import compare
from parity.configs import Execution
from parity.tolerances import GRADIENTS


def run(remat: str, *, training: bool) -> dict[str, np.ndarray]:
    """Gradients and statistics of a float32 net that runs on copies in float64, as training casts parameters."""
    net = torch_side.make_net(Execution(remat=remat)).float().train(training)
    params = {name: value.double() for name, value in net.named_parameters()}
    statistics = {name: value.double() + 1 for name, value in net.named_buffers()}
    x = torch.tensor(torch_side.images()[0].transpose(0, 3, 1, 2))
    output = functional_call(net, {**params, **statistics}, (x,))
    (output * torch.tensor(torch_side.cotangents())).sum().backward()
    gradients = {f"gradient of {name}": value.grad.numpy() for name, value in net.named_parameters()}
    own = {f"own {name}": value.numpy() for name, value in net.named_buffers()}
    return {"output": output.detach().numpy(), **gradients, **own, **{n: v.numpy() for n, v in statistics.items()}}


@pytest.mark.parametrize("training", [True, False])
def test_what_replaces_parameters_and_statistics_is_there_when_blocks_run_again(training):
    comparison = compare(run("block", training=training), run("none", training=training))
    assert comparison.ok(GRADIENTS["float32"].limit), comparison.worst
