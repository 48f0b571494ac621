"""A small net with BatchNorm in Flax on several meshes of 8 devices: `batch_norm_meshes.py DIRECTORY`.

Writes an .npz for each mesh. A process of its own, because the number of simulated devices is fixed when JAX starts.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from batch_norm_data import CHANNELS, DEPTH, DIM, Arrays, cotangents, images, tensors
from flax import nnx

from parity.checkpoints.shapes import is_statistic
from parity.configs import Execution
from vit_jax.layers.batch_norm import BatchNorm
from vit_jax.layers.linear import Conv, Linear
from vit_jax.layers.stack import run_blocks
from vit_jax.sharding import batch_sharding, make_mesh, parameter_shardings
from vit_jax.state_dict import canonical_shapes, load_state_dict, named_leaves, state_dict

MESHES = [(8, 1, 1), (2, 4, 1), (1, 8, 1), (2, 2, 2)]


class Block(nnx.Module):
    def __init__(self, *, rngs: nnx.Rngs):
        self.norm = BatchNorm(DIM, rngs=rngs)
        self.linear = Linear(DIM, DIM, bias=False, axes=("embed", "mlp"), rngs=rngs)

    def __call__(self, x: jax.Array, **options: Any) -> jax.Array:
        return x + jnp.tanh(self.linear(self.norm(x)))


class Net(nnx.Module):
    def __init__(self, *, execution: Execution = Execution(), rngs: nnx.Rngs):
        self.execution = execution
        kernel = dict(kernel_size=(3, 3), stride=(1, 1), axes=(None, None, None, "embed"))
        self.conv = Conv(CHANNELS, DIM, bias=False, **kernel, rngs=rngs)
        self.norm = BatchNorm(DIM, rngs=rngs)
        self.blocks = nnx.List([Block(rngs=rngs) for _ in range(DEPTH)])
        self.out_norm = BatchNorm(DIM, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = jnp.tanh(self.norm(self.conv(x)))
        x = x.reshape(x.shape[0], -1, DIM)
        x, _ = run_blocks(self.blocks, x, drop_path_rates=[0.0] * DEPTH, execution=self.execution)
        return self.out_norm(x.mean(axis=1))


def make_net(execution: Execution = Execution()) -> Net:
    net = nnx.eval_shape(lambda: Net(execution=execution, rngs=nnx.Rngs(0)))
    load_state_dict(net, tensors(canonical_shapes(net)))
    return net


def step(graphdef: nnx.GraphDef, params: nnx.State, statistics: nnx.State, x: jax.Array) -> Any:
    """Outputs, statistics, and gradients of the parameters and of the images."""

    def loss(params: nnx.State, x: jax.Array) -> Any:
        net = nnx.merge(graphdef, params, statistics, copy=True)
        output = net(x)
        return (output * cotangents()).sum(), (output, nnx.state(net, nnx.BatchStat))

    gradients, (output, changed) = jax.grad(loss, argnums=(0, 1), has_aux=True)(params, x)
    return output, changed, gradients


def run(net: Net, mesh: jax.sharding.Mesh | None = None) -> Arrays:
    """What the last of some steps returns, in canonical names, and the statistics after it."""
    data = list(images())
    if mesh is not None:
        shardings = parameter_shardings(net, mesh)
        for name, variable, _, _ in named_leaves(net):
            variable.set_value(jax.device_put(variable[...], shardings[name]))
        data = [jax.device_put(x, batch_sharding(mesh)) for x in data]
    graphdef, params, statistics = nnx.split(net, nnx.Param, nnx.BatchStat)
    compiled = jax.jit(step, static_argnums=0)
    gradients = output = None
    for x in data:
        output, statistics, gradients = compiled(graphdef, params, statistics, x)
    # The compiler's own choice: nobody told it where statistics belong.
    assert all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(statistics))
    found = {"output": np.asarray(output), "gradient of images": np.asarray(gradients[1])}
    of_params = state_dict(nnx.merge(graphdef, gradients[0], statistics))
    return found | {name if is_statistic(name) else f"gradient of {name}": v for name, v in of_params.items()}


def main(directory: Path) -> None:
    jax.config.update("jax_num_cpu_devices", 8)
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_disable_most_optimizations", True)
    execution = Execution(scan=True, remat="block")
    for shape in MESHES:
        mesh = make_mesh(**dict(zip(("data", "fsdp", "tensor"), shape, strict=True)))
        with jax.set_mesh(mesh):
            np.savez(directory / f"{'x'.join(map(str, shape))}.npz", **run(make_net(execution), mesh))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
