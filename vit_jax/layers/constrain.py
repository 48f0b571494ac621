"""Where activations are on a mesh: the batch stays split over its axes, also within a scanned stack of blocks.

One-sided: in PyTorch each process has its own rows of the batch. A layer knows of a mesh no more than these two names.
"""

from __future__ import annotations

import jax
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

BATCH_AXES = ("data", "fsdp")


def constrain_batch(x: Float[Array, "b ..."]) -> Float[Array, "b ..."]:
    """Keeps the first axis split over the mesh's batch axes; outside of `jax.set_mesh`, the identity."""
    mesh = jax.sharding.get_abstract_mesh()
    axes = tuple(axis for axis in BATCH_AXES if axis in mesh.axis_names)
    if not axes:
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(axes))
