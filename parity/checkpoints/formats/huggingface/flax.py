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

# Ours by the last name there.
_LAST_NAMES = {"kernel": "weight", "scale": "weight", "embedding": "weight"}
# Axes of a kernel in the order of PyTorch, by how many there are.
_KERNELS = {2: (1, 0), 4: (3, 2, 0, 1)}


def as_torch(tensors: FileTensors) -> FileTensors:
    """The same tensors by PyTorch's names; none is read, since axes are moved by their strides in the file.

    Args:
        tensors: The tensors of a file; where none has Flax's names, they are given back as they are.
    """
    if not any(name.endswith(".kernel") for name in tensors):
        return tensors
    return replace(tensors, arrays=dict(_as_torch(name, array) for name, array in tensors.arrays.items()))


def _as_torch(name: str, array: StoredArray) -> tuple[str, StoredArray]:
    module, _, last = name.rpartition(".")
    if last == "kernel" and len(array.shape) in _KERNELS:
        axes = _KERNELS[len(array.shape)]
        strides = c_strides(array.shape, array.dtype.itemsize) if array.strides is None else array.strides
        shape = tuple(array.shape[axis] for axis in axes)
        array = replace(array, shape=shape, strides=tuple(strides[axis] for axis in axes))
    return f"{module}.{_LAST_NAMES.get(last, last)}" if module else name, array
