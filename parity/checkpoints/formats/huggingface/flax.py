"""transformers' Flax files, `flax_model.msgpack`, by the names and in the layout of its PyTorch ones.

transformers had Flax classes of ViT, BEiT, DINOv2 and CLIP up to version 4, and no version reads their files any more.
Modules are called alike on both sides, so what differs follows from the kind of layer: its last name and its axes.

    layernorm.scale                                  layernorm.weight
    encoder.layer.0.output.dense.kernel      i o     encoder.layer.0.output.dense.weight      o i
    embeddings.patch_embedding.kernel    h w i o     embeddings.patch_embedding.weight    o i h w

Source: transformers 4.49 `modeling_flax_pytorch_utils.py`.
"""

from __future__ import annotations

from dataclasses import replace

from ...containers.stored import FileTensors, StoredArray, c_strides
from ..weights import Weights

# Ours by the last name there.
_LAST_NAMES = {"kernel": "weight", "scale": "weight", "embedding": "weight"}
# Axes of a kernel in the order of PyTorch, by how many there are.
_KERNELS = {2: (1, 0), 4: (3, 2, 0, 1)}


def is_flax(weights: Weights) -> bool:
    """Whether a model's tensors have Flax's names."""
    return any(name.endswith(".kernel") for name in weights.tensors)


def as_torch(weights: Weights) -> Weights:
    """The same model by PyTorch's names; no tensor is read, since axes are moved by their strides in the file.

    Args:
        weights: Of a Flax class; others are given back as they are.
    """
    if not is_flax(weights):
        return weights
    arrays = dict(_as_torch(name, array) for name, array in weights.tensors.arrays.items())
    return replace(weights, tensors=FileTensors(weights.path, arrays, container=weights.tensors.container))


def _as_torch(name: str, array: StoredArray) -> tuple[str, StoredArray]:
    module, _, last = name.rpartition(".")
    if last == "kernel" and len(array.shape) in _KERNELS:
        axes = _KERNELS[len(array.shape)]
        strides = c_strides(array.shape, array.dtype.itemsize) if array.strides is None else array.strides
        shape = tuple(array.shape[axis] for axis in axes)
        array = replace(array, shape=shape, strides=tuple(strides[axis] for axis in axes))
    return f"{module}.{_LAST_NAMES.get(last, last)}" if module else name, array
