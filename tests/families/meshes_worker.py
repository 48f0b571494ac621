"""Run in the laid-over copy, on eight simulated devices: a training pass of both families on every kind of mesh."""

from __future__ import annotations

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import vit_jax
import vit_jax.state_dict
from parity import checkpoints, configs
from parity.checks import random_parameters
from parity.checks.parameters import random_inputs
from parity.compare import compare
from vit_jax.functional import bind, params_of, statistics_of
from vit_jax.sharding import batch_sharding, make_mesh, parameter_shardings

MESHES = {
    "one device": None,
    "data 8": dict(data=8),
    "fsdp 8": dict(fsdp=8, data=1),
    "fsdp 4, tensor 2": dict(data=1, fsdp=4, tensor=2),
    "data 2, fsdp 2, tensor 2": dict(data=2, fsdp=2, tensor=2),
}


def passes(name: str) -> dict[str, Any]:
    """How far every mesh is from one device: outputs, gradients and statistics of a pass in training mode."""
    config = configs.get(name)
    tensors = random_parameters(checkpoints.parameter_shapes(config), seed=1)
    model = nnx.eval_shape(lambda: vit_jax.create_model(config, rngs=nnx.Rngs(params=0)))
    vit_jax.state_dict.load_state_dict(model, tensors)
    model.train()
    inputs = random_inputs(config, 8, seed=2)

    def loss(params: Any, statistics: Any, inputs: list[jax.Array]) -> tuple[jax.Array, Any]:
        bound = bind(model, params, statistics)
        outputs = bound(*inputs)
        return jnp.sum(outputs * jnp.cos(jnp.arange(outputs.size)).reshape(outputs.shape)), (
            outputs,
            statistics_of(bound),
        )

    run = jax.value_and_grad(loss, has_aux=True)
    given = (params_of(model), statistics_of(model))
    results, split = {}, {}
    for label, sizes in MESHES.items():
        mesh = make_mesh(data=1, devices=jax.devices()[:1]) if sizes is None else make_mesh(**sizes)
        rules = parameter_shardings(model, mesh)
        split[label] = sum(not rule.is_fully_replicated for rule in rules.values())
        with jax.set_mesh(mesh):
            placed = [{key: jax.device_put(value, rules[key]) for key, value in part.items()} for part in given]
            batch = [jax.device_put(value, batch_sharding(mesh)) for value in inputs.values()]
            (_, (outputs, statistics)), grads = jax.jit(run)(*placed, batch)
            found = {"outputs": outputs, **{f"gradient {key}": value for key, value in grads.items()}, **statistics}
            results[label] = {key: np.asarray(value) for key, value in found.items()}
    reference = results["one device"]
    apart = {label: compare(found, reference).worst for label, found in results.items()}
    return {
        "apart": {label: [worst.name, worst.relative_l2] for label, worst in apart.items() if worst is not None},
        "split": split,
        "statistics": [key for key in reference if "running" in key],
    }


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 8)
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_disable_most_optimizations", True)
    print(json.dumps({name: passes(name) for name in ("toy_pyramid", "toy_towers")}))
