"""Meshes, and which axis of which array is split over them.

Layers name their parameters' axes (`logical_axes`); this file alone knows what a mesh is.
"""

from __future__ import annotations

import jax
from jaxtyping import Array, Float

BATCH_AXES = ("data", "fsdp")


def constrain_batch(x: Float[Array, "b ..."]) -> Float[Array, "b ..."]:
    """Keeps the first axis split over the mesh's batch axes; outside of `jax.set_mesh`, the identity."""
    mesh = jax.sharding.get_abstract_mesh()
    axes = tuple(axis for axis in BATCH_AXES if axis in mesh.axis_names)
    if not axes:
        return x
    return jax.lax.with_sharding_constraint(x, jax.sharding.PartitionSpec(axes))


# Which mesh axis splits a logical axis. A size that the mesh doesn't divide stays whole.
RULES: dict[str, str] = {"embed": "fsdp", "mlp": "tensor", "heads": "tensor", "classes": "tensor"}
MESH_AXES = ("data", "fsdp", "tensor")


def parameter_shardings(model, mesh):
    """Shardings by canonical name (being written)."""
    from .state import named_leaves

    out = {}
    for name, variable, _, module in named_leaves(model):
        out[name] = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    return out
