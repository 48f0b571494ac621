"""What `diff` holds against each other: a model of ours, a checkpoint, or anything else that takes images."""

from __future__ import annotations

import copy
import importlib
import importlib.util
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from torch import nn

import vit_jax.state_dict
import vit_torch.state_dict
from vit_jax.models import MODELS as FLAX_MODELS
from vit_torch.models import MODELS as TORCH_MODELS

from .. import checkpoints, configs
from ..checkpoints import adapt
from ..checkpoints.formats import hub
from ..checkpoints.formats.timm import our_name
from ..checks.capture import OUTPUT, Captured, capture_flax, capture_torch, first_array
from ..checks.parameters import random_parameters
from ..checks.twins import DTYPES, exact_jax, flax_model, torch_model
from ..configs import Config, Execution
from .align import Arrays

ImageLayout = Literal["NHWC", "NCHW"]
FRAMEWORKS = ("flax", "torch", "numpy")


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of the two.

    Attributes:
        name: What was given, as it was given.
        framework: What it runs in.
        config: The config of a model of ours; else None.
        tensors: The tensors of a model of ours by canonical name; None until they are known.
        stored: Its checkpoint, as it was before it was taken to another image size.
        target: The model or function that runs; None for a model of ours that is made of config and tensors.
        layout: The layout of the images that a function takes.
        assumed: What nothing says of a checkpoint, and what it was taken for.
    """

    name: str
    framework: str
    config: Config | None = None
    tensors: Arrays | None = None
    stored: checkpoints.Checkpoint | None = None
    target: Any = None
    layout: ImageLayout | None = None
    assumed: tuple[str, ...] = ()

    @property
    def module(self) -> nn.Module | None:
        """The PyTorch module that runs, if it is one that isn't ours."""
        return self.target if self.config is None and isinstance(self.target, nn.Module) else None

    def run(self, images: np.ndarray, dtype: str) -> Captured:
        """Its intermediates and output of images (b, h, w, c) in a precision."""
        target = self.twin(self.framework) if self.target is None else self.target
        if isinstance(target, nnx.Module):
            return capture_flax(target, images, dtype=dtype)
        if isinstance(target, nn.Module):
            return capture_torch(target, images, dtype=dtype)
        return capture_function(target, images, framework=self.framework, layout=self.layout, dtype=dtype)

    def twin(self, framework: str) -> Any:
        """A new model of ours with this one's config and parameters, in either framework.

        Raises:
            ValueError: It has none.
        """
        if self.config is None or self.tensors is None:
            raise ValueError(f"{self.name}: no model of ours with parameters")
        if framework == "flax":
            with exact_jax(np.float64):
                return flax_model(self.config, self.tensors, Execution())[0]
        return torch_model(self.config, self.tensors, Execution(), None)[0]

    def in_evaluation(self) -> Side | None:
        """The same without dropout, if it is a model in training mode."""
        if isinstance(self.target, nn.Module) and any(module.training for module in self.target.modules()):
            return replace(self, target=copy.deepcopy(self.target).eval())
        if isinstance(self.target, nnx.Module):
            switches = [vars(module) for _, module in nnx.iter_modules(self.target)]
            if any(s.get("deterministic") is False or s.get("use_running_average") is False for s in switches):
                still = nnx.clone(self.target)
                still.eval()
                return replace(self, target=still)
        return None


@dataclass(frozen=True, kw_only=True)
class Captures:
    """What two models computed on the same images.

    Attributes:
        sides: The left model and the right one.
        places: Intermediates and output of each by the name of their place, in the order of computation.
        images: The images (b, h, w, c).
        dtype: The precision in which both ran.
        notes: Why that isn't the one that was asked for, if it isn't.
    """

    sides: tuple[Side, Side]
    places: tuple[Captured, Captured]
    images: np.ndarray
    dtype: str
    notes: tuple[str, ...] = ()


def capture_both(left: Side, right: Side, images: np.ndarray, dtype: str) -> Captures:
    """Runs both models on the same images, in float32 where not both can run in float64.

    Args:
        left: One model.
        right: The other.
        images: Images (b, h, w, c).
        dtype: The precision.
    """
    sides, notes = (left, right), ()
    try:
        places = (left.run(images, dtype), right.run(images, dtype))
    except Exception as error:  # foreign code may raise anything where it is given float64
        if dtype != "float64":
            raise
        dtype = "float32"
        notes = (f"compared in float32, since not both run in float64: {type(error).__name__}: {error}",)
        places = (left.run(images, dtype), right.run(images, dtype))
    return Captures(sides=sides, places=places, images=images, dtype=dtype, notes=notes)


def open_sides(
    a: Any,
    b: Any,
    *,
    layouts: tuple[ImageLayout | None, ImageLayout | None] = (None, None),
    image_size: int | tuple[int, int] | None = None,
    seed: int = 0,
    said: tuple[Mapping[str, Any], Mapping[str, Any]] = ({}, {}),
) -> tuple[Side, Side]:
    """Both sides, with parameters: a name or a config takes them from the other side, or both have random ones.

    Args:
        a: A registered name, a config, a checkpoint's path, `module:attribute`, `file.py:attribute`, or a model or
            function itself. In front of a string, `flax:`, `torch:` or `numpy:` chooses the framework; models of ours
            on the left run in Flax, on the right in PyTorch.
        b: The other one, likewise.
        layouts: The layout of the images that each function takes; by default NCHW in PyTorch and NHWC elsewhere.
        image_size: Another input size of models of ours.
        seed: The seed of random parameters.
        said: What each checkpoint doesn't say of itself, as keywords of `open_checkpoint`.

    Raises:
        ValueError: Nothing of that name, or one side has no parameters and the other none that fit.
    """
    given = zip((a, b), ("flax", "torch"), layouts, said, strict=True)
    left, right = (_side(item, default, layout, image_size, known) for item, default, layout, known in given)
    return _with_tensors(left, right, seed), _with_tensors(right, left, seed)


def capture_function(
    function: Callable[..., Any], images: np.ndarray, *, framework: str, layout: ImageLayout | None, dtype: str
) -> Captured:
    """What a function of images returns: an output, or an output and intermediates by name.

    Args:
        function: A function of images alone.
        images: Images (b, h, w, c).
        framework: `flax` (a JAX array), `torch` or `numpy`: what it is given.
        layout: The layout of its images; NCHW in PyTorch and NHWC elsewhere by default.
        dtype: The type of its images.

    Raises:
        ValueError: It returns no array.
    """
    first = (layout or ("NCHW" if framework == "torch" else "NHWC")) == "NCHW"
    images = np.ascontiguousarray(images.transpose(0, 3, 1, 2) if first else images).astype(DTYPES[dtype])
    if framework == "torch":
        with torch.no_grad():
            result = function(vit_torch.state_dict.from_numpy(images))
    elif framework == "flax":
        with exact_jax(images.dtype):
            result = function(jnp.asarray(images))
    else:
        result = function(images)
    named = isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], Mapping)
    output, intermediates = result if named else (result, {})
    found = {str(name): _array(value) for name, value in intermediates.items()} | {OUTPUT: _array(output)}
    for name, value in found.items():
        if value is None:
            raise ValueError(f"{name}: got no array from the function; expected outputs, or (outputs, {{name: array}})")
    return {name: value for name, value in found.items() if value is not None}


def _array(value: Any) -> np.ndarray | None:
    value = first_array(value, (np.ndarray, jax.Array, torch.Tensor))
    if value is None:
        return None
    return vit_torch.state_dict.to_numpy(value) if isinstance(value, torch.Tensor) else np.asarray(value)


def _side(
    given: Any,
    framework: str,
    layout: ImageLayout | None,
    image_size: int | tuple[int, int] | None,
    said: Mapping[str, Any],
) -> Side:
    if isinstance(given, checkpoints.Checkpoint):
        return _ours(str(given.path), framework, given.config, given, image_size)
    if isinstance(given, Config):
        return _ours(configs.name_of(given) or "a config", framework, given, None, image_size)
    if not isinstance(given, str | Path):
        return _object(type(given).__name__, given, None, layout)
    text = str(given)
    prefix, colon, rest = text.partition(":")
    chosen = prefix if colon and prefix in FRAMEWORKS else None
    text = rest if chosen else text
    if text in configs.names():
        return _ours(str(given), chosen or framework, configs.get(text), None, image_size)
    if text.startswith(hub.PREFIX) or Path(text).exists():
        checkpoint = checkpoints.open_checkpoint(text, target_size=image_size, **said)
        return _ours(str(given), chosen or framework, checkpoint.config, checkpoint, image_size)
    if ":" in text:
        return _object(str(given), _attribute(text), chosen, layout)
    known = configs.close_match(text, configs.names())
    raise ValueError(
        f"{text!r}: got neither a registered model{known} nor an existing path; expected one of these, "
        "hf-hub:owner/name, package.module:attribute or file.py:attribute"
    )


def _ours(
    name: str,
    framework: str,
    config: Config,
    checkpoint: checkpoints.Checkpoint | None,
    image_size: int | tuple[int, int] | None,
) -> Side:
    if framework == "numpy":
        raise ValueError(f"{name}: got the framework 'numpy', expected 'flax' or 'torch'")
    if checkpoint is None:
        config = config if image_size is None else configs.replace(config, image_size=image_size)
        return Side(name=name, framework=framework, config=config)
    config, tensors = adapt(checkpoint, image_size=image_size)
    assumed = tuple(map(str, checkpoint.assumed))
    return Side(name=name, framework=framework, config=config, tensors=tensors, stored=checkpoint, assumed=assumed)


def _object(name: str, target: Any, framework: str | None, layout: ImageLayout | None) -> Side:
    """A model, or a function of images; what needs no argument makes one."""
    target = _made(target)
    if _is_of(TORCH_MODELS, target):
        tensors = vit_torch.state_dict.state_dict(target)
        return Side(name=name, framework="torch", config=target.config, tensors=tensors, target=target)
    if _is_of(FLAX_MODELS, target):
        tensors = vit_jax.state_dict.state_dict(target)
        return Side(name=name, framework="flax", config=target.config, tensors=tensors, target=target)
    if isinstance(target, nn.Module | nnx.Module):
        return Side(name=name, framework="torch" if isinstance(target, nn.Module) else "flax", target=target)
    if not callable(target):
        raise ValueError(f"{name}: got {type(target).__name__}, expected a model or a function of images")
    return Side(name=name, framework=framework or _framework_of(target), target=target, layout=layout)


def _made(target: Any) -> Any:
    """What a class or function without arguments makes; anything else as it is."""
    return target() if not isinstance(target, nn.Module | nnx.Module) and _needs_nothing(target) else target


def _is_of(models: Mapping[str, Any], target: Any) -> bool:
    """Whether something is a model of ours."""
    return isinstance(target, tuple(models.values()))


def _needs_nothing(target: Any) -> bool:
    """Whether a class or function can be called without arguments."""
    try:
        parameters = inspect.signature(target).parameters.values()
    except (TypeError, ValueError):
        return False
    return all(
        parameter.default is not parameter.empty or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        for parameter in parameters
    )


def _framework_of(function: Callable[..., Any]) -> str:
    """The framework whose modules a function's own code names."""
    code, names = getattr(function, "__code__", None), getattr(function, "__globals__", {})
    used = [names.get(name) for name in (code.co_names if code else ())]
    roots = {value.__name__.partition(".")[0] for value in used if isinstance(value, ModuleType)}
    return "torch" if "torch" in roots else "flax" if roots & {"jax", "flax"} else "numpy"


def _attribute(text: str) -> Any:
    """What `package.module:attribute` or `file.py:attribute` names.

    Raises:
        ValueError: No such module, file or attribute.
    """
    source, _, attribute = text.rpartition(":")
    if source.endswith(".py"):
        spec = importlib.util.spec_from_file_location(Path(source).stem, source)
        if spec is None or spec.loader is None or not Path(source).is_file():
            raise ValueError(f"{text!r}: no file {source}")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    else:
        try:
            module = importlib.import_module(source)
        except ModuleNotFoundError as error:
            raise ValueError(f"{text!r}: {error}") from error
    try:
        return getattr(module, attribute)
    except AttributeError:
        known = configs.close_match(attribute, [name for name in dir(module) if not name.startswith("_")])
        raise ValueError(f"{text!r}: {source} has no {attribute!r}{known}") from None


def _with_tensors(side: Side, other: Side, seed: int) -> Side:
    if side.config is None or side.tensors is not None:
        return side
    if other.tensors is not None:
        tensors = other.tensors
    elif other.module is not None:
        state = other.module.state_dict()
        tensors = {our_name(name): vit_torch.state_dict.to_numpy(value) for name, value in state.items()}
    elif other.config is not None:
        tensors = random_parameters(checkpoints.parameter_shapes(side.config), seed)
    else:
        raise ValueError(f"{side.name}: has no parameters, and {other.name} none to share; expected a checkpoint")
    checkpoints.account(
        checkpoints.parameter_shapes(side.config),
        checkpoints.shapes_of(tensors),
        source=f"parameters of {other.name} in {side.name}",
    )
    return replace(side, tensors=tensors)
