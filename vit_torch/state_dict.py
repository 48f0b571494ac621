"""A model's parameters and statistics by canonical name, as NumPy arrays in the canonical layout.

Twin: `vit_jax/state_dict.py`.
"""

from __future__ import annotations

from collections.abc import Mapping

import ml_dtypes
import numpy as np
import torch

from parity.checkpoints import Tensors, account, dtypes_of, expect_floats, shapes_of

from .models import Model

_NOT_IN_NUMPY = {
    torch.bfloat16: np.dtype(ml_dtypes.bfloat16),
    torch.float8_e4m3fn: np.dtype(ml_dtypes.float8_e4m3fn),
    torch.float8_e5m2: np.dtype(ml_dtypes.float8_e5m2),
}


def canonical_shapes(model: Model) -> dict[str, tuple[int, ...]]:
    """Canonical name and shape of each parameter and statistic; allocates nothing, so the model may be on `meta`."""
    return {name: tuple(value.shape) for name, value in model.state_dict(keep_vars=True).items()}


def state_dict(model: Model) -> dict[str, np.ndarray]:
    """Each parameter and statistic in the canonical layout."""
    return {name: to_numpy(value) for name, value in model.state_dict(keep_vars=True).items()}


def load_state_dict(
    model: Model,
    tensors: Mapping[str, np.ndarray],
    *,
    source: str = "the tensors",
    device: torch.device | str | None = None,
) -> None:
    """Sets every parameter and statistic, in the precision of the tensors.

    Args:
        model: A model on a device or on `meta`; it is changed in place.
        tensors: The tensors by canonical name, in the canonical layout; read one after another, so they may be lazy.
        source: What to call the tensors in an error.
        device: Where the parameters go.

    Raises:
        CheckpointError: Missing, unexpected or misshapen tensors, or tensors of whole numbers, all in one report; the
            model is unchanged.
    """
    account(canonical_shapes(model), shapes_of(tensors), source=source)
    expect_floats(dtypes_of(tensors), source=source)
    for name, old in model.state_dict(keep_vars=True).items():
        owner, _, attribute = name.rpartition(".")
        # What was read from a file belongs to nobody else.
        value = from_numpy(np.asarray(tensors[name]), copy=not isinstance(tensors, Tensors)).to(device)
        value = torch.nn.Parameter(value) if isinstance(old, torch.nn.Parameter) else value
        setattr(model.get_submodule(owner), attribute, value)


def numpy_dtype(dtype: torch.dtype) -> np.dtype:
    """The type of NumPy, or of `ml_dtypes`, with the same numbers."""
    return _NOT_IN_NUMPY.get(dtype) or np.dtype(str(dtype).removeprefix("torch."))


def to_numpy(tensor: torch.Tensor) -> np.ndarray:
    """A copy as a NumPy array; bfloat16 and float8 as those of `ml_dtypes`, which NumPy itself lacks."""
    tensor = tensor.detach().cpu().contiguous().clone()
    if tensor.dtype in _NOT_IN_NUMPY:
        bits = torch.int16 if tensor.itemsize == 2 else torch.int8
        return tensor.view(bits).numpy().view(_NOT_IN_NUMPY[tensor.dtype])
    return tensor.numpy()


def from_numpy(array: np.ndarray, *, copy: bool = True) -> torch.Tensor:
    """The inverse of `to_numpy`, also a copy unless the array may be kept."""
    array = np.array(array, order="C", copy=copy or None)
    for theirs, ours in _NOT_IN_NUMPY.items():
        if array.dtype == ours:
            return torch.from_numpy(array.view(f"i{array.itemsize}")).view(theirs)
    return torch.from_numpy(array)
