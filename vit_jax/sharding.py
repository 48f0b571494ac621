"""Meshes, and which axis of which array is split over them.

Layers name their parameters' axes (`logical_axes`); this file and `layers/constrain.py` alone know what a mesh is.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from flax import nnx
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from .layers.constrain import BATCH_AXES
from .state_dict import named_leaves

MESH_AXES = ("data", "fsdp", "tensor")
# Which mesh axis splits a logical axis. A size that the mesh doesn't divide stays whole.
RULES: dict[str, str] = {"embed": "fsdp", "mlp": "tensor", "heads": "tensor", "classes": "tensor"}


def make_mesh(*, data: int = -1, fsdp: int = 1, tensor: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh with the axes data, fsdp and tensor.

    Args:
        data: Copies of the parameters; -1, on one axis at most, takes what the others leave.
        fsdp: Parts of the parameters; the batch is split over data and fsdp together.
        tensor: Parts of heads, hidden units and classes.
        devices: All of JAX's by default.

    Raises:
        ValueError: The sizes don't multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else list(devices)
    shape: dict[str, int] = dict(zip(MESH_AXES, (data, fsdp, tensor), strict=True))
    got = ", ".join(f"{axis}={size}" for axis, size in shape.items())
    free = [axis for axis, size in shape.items() if size == -1]
    if len(free) > 1 or any(size < 1 and size != -1 for size in shape.values()):
        raise ValueError(f"mesh: got {got}, expected positive sizes, or -1 on one axis")
    known = math.prod(size for size in shape.values() if size != -1)
    if free:
        shape[free[0]] = len(devices) // known
    if math.prod(shape.values()) != len(devices):
        expected = f"a multiple of {known}" if free else f"{known}, their product"
        raise ValueError(f"mesh: got {got} for {len(devices)} devices, expected {expected}")
    auto = (AxisType.Auto,) * len(MESH_AXES)
    return jax.make_mesh(tuple(shape.values()), MESH_AXES, axis_types=auto, devices=devices)


def parameter_shardings(model: nnx.Module, mesh: Mesh) -> dict[str, NamedSharding]:
    """How each parameter is split, by canonical name, for its Flax shape; the model may be abstract."""
    shardings = {}
    for name, variable, rule, module in named_leaves(model):
        attributes = {leaf: attribute for attribute, leaf in getattr(type(module), "leaves", {}).items()}
        axes = dict(getattr(module, "logical_axes", ())).get(attributes.get(rule, rule.name), ())
        shardings[name] = NamedSharding(mesh, _spec(variable.shape, axes, mesh))
    return shardings


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Splits the first axis over the batch axes."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def process_rows(mesh: Mesh, batch_size: int) -> list[int]:
    """The rows of a global batch that this process's devices hold, in order.

    Processes between which the mesh splits parameters alone hold the same rows.
    """
    places = batch_sharding(mesh).addressable_devices_indices_map((batch_size,)).values()
    return sorted({row for place in places if place for row in range(*place[0].indices(batch_size))})


def put_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """A global batch over the mesh, of which each process gives the rows that `process_rows` says.

    Args:
        batch: The rows of this process, in order.
        mesh: The mesh.
    """
    sharding, parts = batch_sharding(mesh), _batch_parts(mesh)
    held = len(process_rows(mesh, parts))

    def put(value: np.ndarray) -> jax.Array:
        size = len(value) // held * parts
        rows = process_rows(mesh, size)

        def part(index: tuple[slice, ...] | None) -> np.ndarray:
            first, last, _ = (index or (slice(None),))[0].indices(size)
            start = bisect.bisect_left(rows, first)
            return value[start : start + last - first]

        return jax.make_array_from_callback((size, *value.shape[1:]), sharding, part)

    return {name: put(value) for name, value in batch.items()}


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def check_batch_size(batch_size: int, mesh: Mesh) -> None:
    """Raises ValueError unless the batch axes of the mesh divide the batch."""
    parts = _batch_parts(mesh)
    if batch_size % parts:
        raise ValueError(f"batch_size: got {batch_size}, expected a multiple of {parts}, the mesh's data times fsdp")


def _batch_parts(mesh: Mesh) -> int:
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def _spec(shape: tuple[int, ...], axes: Sequence[str | None], mesh: Mesh) -> PartitionSpec:
    mesh_axes = [RULES.get(axis) if axis else None for axis in axes]
    fits = [axis and size % mesh.shape[axis] == 0 for size, axis in zip(shape, mesh_axes, strict=bool(axes))]
    return PartitionSpec(*(axis if ok else None for axis, ok in zip(mesh_axes, fits, strict=True)))
