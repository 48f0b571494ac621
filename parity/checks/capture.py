"""What every submodule of a model takes and returns, by the submodule's path.

A place is `blocks.0.attn.qkv` (what that module returns), `blocks.0.attn.proj:input` (what it is given, where that is
no module's result: so attention and activations, which are functions, are seen too) or `output`. The second call of
one module is `norm#2`. The twins have the same places in the same order.

PyTorch has hooks. Flax NNX has none: every module of a copy is told its path, which survives `nnx.split` and
`nnx.merge` as a part of the graph, and `__call__` of its classes is wrapped while the copy runs.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from torch import nn

import vit_jax.layers.drop
import vit_torch.layers.drop
import vit_torch.state_dict

from .twins import DTYPES, channels_first, channels_last, exact_jax, in_precision

OUTPUT = "output"
INPUT = ":input"

_PATH = "_captured_path"
# PyTorch's own modules whose arrays with four axes are maps (b, c, h, w); ours say which: `channels_first`.
_ON_MAPS = (
    nn.Conv2d,
    nn.ConvTranspose2d,
    nn.BatchNorm2d,
    nn.GroupNorm,
    nn.MaxPool2d,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool2d,
    nn.Upsample,
)

# Ours that return what they are given, so that they would name places of their caller.
_TRANSPARENT = (
    vit_jax.layers.drop.Dropout,
    vit_jax.layers.drop.DropPath,
    vit_torch.layers.drop.Dropout,
    vit_torch.layers.drop.DropPath,
)

Captured = dict[str, np.ndarray]
# Called with a model and its inputs; what it returns is the output.
Call = Callable[..., Any]
# Images (b, h, w, c), or every input in the order of the arguments.
Given = np.ndarray | Sequence[np.ndarray]


def capture_flax(model: nnx.Module, images: Given, *, dtype: str | None = None, call: Call | None = None) -> Captured:
    """The intermediates of a Flax NNX model, ours or any other, in the order in which they are computed.

    The model is unchanged and runs compiled, its blocks one by one.

    Args:
        model: A model in the mode that it is to run in.
        images: Float (b, h, w, c); all inputs in a sequence for a model of more than one.
        dtype: `float64`, `float32` or `bfloat16`, for the floating-point parameters; None leaves them.
        call: How to run it; `model(*inputs)` by default.

    Raises:
        ValueError: A module runs inside a scan or another transformation, so that its values can't be taken out.
    """
    model, inputs = nnx.clone(model), _listed(images)
    if hasattr(model, "execution"):
        model.execution = dataclasses.replace(model.execution, scan=False, remat="none")  # pyright: ignore
    modules = [(".".join(map(str, path)), module) for path, module in nnx.iter_modules(model)]
    for path, module in modules:
        setattr(module, _PATH, path)
    graphdef, state = nnx.split(model)
    given = next((leaf.dtype for leaf in jax.tree.leaves(state) if jnp.issubdtype(leaf.dtype, jnp.floating)), None)
    number = np.dtype(DTYPES[dtype]) if dtype else given or inputs[0].dtype
    places: list[tuple[str, bool]] = []

    def run(state: Any, inputs: Sequence[jax.Array]) -> list[jax.Array]:
        """Values of the places, which tracing appends to the list."""
        places.clear()
        values: list[jax.Array] = []

        def record(module: nnx.Module, value: Any, *, is_input: bool) -> None:
            array = first_array(value, jax.Array)
            if array is not None:
                places.append((getattr(module, _PATH), is_input))
                values.append(array)

        model = nnx.merge(graphdef, state)
        with _wrapped({type(module) for _, module in modules}, record):
            output = model(*inputs) if call is None else call(model, *inputs)  # pyright: ignore
        if call is not None:
            record(model, output, is_input=False)
        return values

    with exact_jax(number):
        state = jax.tree.map(lambda x: x.astype(number) if jnp.issubdtype(x.dtype, jnp.floating) else x, state)
        try:
            values = jax.jit(run)(state, [jnp.asarray(in_precision(value, number)) for value in inputs])
        except jax.errors.UnexpectedTracerError as error:
            raise ValueError(
                "model: a module runs inside of scan, vmap or remat, from where no value can be taken; expected "
                "modules that are called one by one"
            ) from error
        recorder = _Recorder([in_precision(value, number) for value in inputs])
        for (path, is_input), value in zip(places, values, strict=True):
            recorder.add(path, partial(np.asarray, value), is_input=is_input)
    return recorder.captured


def capture_torch(
    model: nn.Module,
    images: Given,
    *,
    dtype: str | None = None,
    call: Call | None = None,
    places: Collection[str] | None = None,
) -> Captured:
    """The intermediates of a PyTorch model, ours or any other, in the order in which they are computed.

    Of outputs that are tuples, dictionaries or dataclasses the first tensor is taken. Arrays with four axes of a module
    that has convolutions in it are brought to (b, h, w, c).

    Args:
        model: A model in the mode that it is to run in; it isn't changed.
        images: Float (b, h, w, c), whatever the model takes: it is given (b, c, h, w); all inputs in a sequence for a
            model of more than one.
        dtype: `float64`, `float32` or `bfloat16`, for the floating-point parameters; None leaves them.
        call: How to run it; `model(*inputs)` by default.
        places: Keep these alone; those too that repeat others, which are left out by default.
    """
    if dtype is not None:
        model = in_dtype(model, getattr(torch, dtype))
    parameter = next((p for p in model.parameters() if p.is_floating_point()), None)
    number = parameter.dtype if parameter is not None else getattr(torch, dtype) if dtype is not None else None
    inputs = [_placed(value, number, None if parameter is None else parameter.device) for value in _listed(images)]
    given = [vit_torch.state_dict.to_numpy(value) for value in inputs]
    recorder = _Recorder([*given, *map(channels_last, given)], places=places)
    on_maps = {module for module in model.modules() if is_on_maps(module)}

    def record(path: str, module: nn.Module, value: Any, *, is_input: bool) -> None:
        tensor = first_array(value, torch.Tensor)
        if tensor is not None:
            tensor = channels_last(tensor) if module in on_maps else tensor
            recorder.add(path, partial(vit_torch.state_dict.to_numpy, tensor), is_input=is_input)

    with ExitStack() as stack, torch.no_grad():
        for path, module in model.named_modules():
            if isinstance(module, _TRANSPARENT):
                continue
            before = module.register_forward_pre_hook(
                lambda module, args, kwargs, path=path: record(path, module, (args, kwargs), is_input=True),
                with_kwargs=True,
            )
            after = module.register_forward_hook(
                lambda module, args, output, path=path: record(path, module, output, is_input=False)
            )
            stack.callback(before.remove)
            stack.callback(after.remove)
        output = model(*inputs) if call is None else call(model, *inputs)
        if call is not None:
            record("", model, output, is_input=False)
    return recorder.captured


def in_dtype(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The model itself if its floating-point parameters and buffers are of a type, else a copy of which they are."""
    tensors = (*model.parameters(), *model.buffers())
    if all(tensor.dtype == dtype for tensor in tensors if tensor.is_floating_point()):
        return model
    return copy.deepcopy(model).to(dtype)


def _listed(images: Given) -> list[np.ndarray]:
    return [images] if isinstance(images, np.ndarray) else list(images)


def _placed(value: np.ndarray, number: torch.dtype | None, device: torch.device | None) -> torch.Tensor:
    """An input as a PyTorch model takes it: floats in its precision, images (b, c, h, w)."""
    tensor = vit_torch.state_dict.from_numpy(channels_first(value)).to(device)
    return tensor.to(number) if tensor.is_floating_point() else tensor


def is_on_maps(module: nn.Module) -> bool:
    """Whether a module's arrays with four axes are maps (b, c, h, w): it says so, or a part of it has no others."""
    said = getattr(module, "channels_first", None)
    if said is not None:
        return said
    return isinstance(module, _ON_MAPS) or any(map(is_on_maps, module.children()))


def first_array(value: Any, kind: type | tuple[type, ...]) -> Any:
    """The first array of a kind in nested tuples, lists, mappings and dataclasses; None if there is none."""
    if isinstance(value, kind):
        return value
    if isinstance(value, Mapping):
        parts: Any = value.values()
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        parts = value
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = (getattr(value, field.name) for field in dataclasses.fields(value))
    else:
        return None
    return next((found for found in (first_array(part, kind) for part in parts) if found is not None), None)


class _Recorder:
    """Names what is recorded and leaves out what repeats.

    That is an input that some module returned, and a result that is the one before it: of a module whose last step is
    another module.

    Args:
        seen: The images, in each layout.
        places: What alone is kept, repeated or not; None for all that doesn't repeat.
    """

    def __init__(self, seen: Sequence[np.ndarray], *, places: Collection[str] | None = None):
        self.captured: Captured = {}
        self._places = places
        self._calls: Counter[str] = Counter()
        self._seen = {_digest(array) for array in seen}
        self._last = b""

    def add(self, path: str, value: Callable[[], np.ndarray], *, is_input: bool) -> None:
        """Records a value, which is taken to NumPy only if it is kept."""
        if not path and is_input:  # the images
            return
        place = (path or OUTPUT) + (INPUT if is_input else "")
        self._calls[place] += 1
        place = f"{place}#{self._calls[place]}" if path and self._calls[place] > 1 else place
        if self._places is not None:
            if place in self._places:
                self.captured[place] = value()
            return
        array = value()
        digest = _digest(array)
        if path and (digest in self._seen if is_input else digest == self._last):
            return
        self.captured[place] = array
        self._seen.add(digest)
        self._last = digest


def _digest(array: np.ndarray) -> bytes:
    """Equal for arrays of the same bytes in any shape."""
    return hashlib.blake2b(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data, digest_size=16).digest()


@contextmanager
def _wrapped(classes: set[type], record: Callable[..., None]) -> Iterator[None]:
    """Classes of modules whose `__call__` records what it takes and returns."""

    def wrap(cls: type, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            # Neither what a subclass reaches through `super()`, nor a module that the model makes as it runs.
            known = type(self) is cls and hasattr(self, _PATH) and cls not in _TRANSPARENT
            if known:
                record(self, (args, kwargs), is_input=True)
            output = original(self, *args, **kwargs)
            if known:
                record(self, output, is_input=False)
            return output

        return call

    with ExitStack() as stack:
        for cls in classes:
            original = next((vars(base)["__call__"] for base in cls.__mro__ if "__call__" in vars(base)), None)
            if original is not None:
                stack.enter_context(mock.patch.object(cls, "__call__", wrap(cls, original)))
        yield
