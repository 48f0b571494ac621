"""Mistakes that ports make, each as a change to a PyTorch model that makes it wrong in the same way.

What is wrong with a model isn't guessed from its numbers: the change is tried, and the numbers become the other
side's, or not. Each function below takes one module and yields what may be wrong with it: a text, and the change.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vit_torch.layers.act import ACTIVATIONS
from vit_torch.layers.attention import Attention, AttentionCore
from vit_torch.layers.block import Block, ResPostBlock
from vit_torch.layers.cross_attention import CrossAttention
from vit_torch.layers.differential import DifferentialCore
from vit_torch.layers.grouped_query import GroupedQueryAttention
from vit_torch.layers.mlp import Mlp
from vit_torch.layers.norm import LayerScale, RmsNorm
from vit_torch.layers.parallel import ParallelScalingBlock
from vit_torch.models import VisionTransformer

from ..configs import Config
from . import wrong_hierarchy
from .rounding import MATMULS, SOFTMAX, Round, Rounded, run_in, run_rounded, to_mantissa
from .wrong_hierarchy import set_attribute
from .wrong_vit import (
    BranchNormBlock,
    PostNormBlock,
    images_changed,
    merged_otherwise,
    permute_tokens,
    positions_changed,
    prefix_changed,
    resized_otherwise,
    set_config,
)

# Changes a module in place.
Change = Callable[[Any], None]
Proposals = Iterator[tuple[str, Change]]
Stored = tuple[Config, Mapping[str, np.ndarray]]

_ACTIVATION = re.compile(r"gelu|silu|swish|relu|activation", re.IGNORECASE)
EPSILONS = (1e-3, 1e-5, 1e-6, 1e-8, 1e-12)


@dataclass(frozen=True, kw_only=True)
class Hypothesis:
    """One mistake at one place.

    Attributes:
        cause: Kind of mistake: of `CAUSES`, or `resize_kernel` or `normalisation`.
        text: What the other side does, and what the model does.
        path: The path of the module; empty for the model or its images.
        change: What changes the module there; None if the images are what is changed.
        images: What is done to the images, if anything.
    """

    cause: str
    text: str
    path: str
    change: Change | None = None
    images: Callable[[np.ndarray], np.ndarray] | None = None

    def apply(self, model: nn.Module) -> None:
        """Makes a model wrong in this way; changes it."""
        if self.change is not None:
            with torch.no_grad():
                self.change(model.get_submodule(self.path))


def propose(
    model: nn.Module, paths: Sequence[str], *, images: bool = False, stored: Stored | None = None
) -> list[Hypothesis]:
    """What may be wrong between two places of a model.

    Args:
        model: Ours, or any PyTorch model: of that, its layers of PyTorch's own kinds.
        paths: The paths of the modules that run there, and of those that call them.
        images: Whether the images may be what differs.
        stored: Config and tensors of the model's checkpoint before they were taken to another image size.
    """
    paths = [_that_runs(model, path) for path in paths]
    around = {_that_runs(model, path.rpartition(".")[0]) for path in paths}
    found = []
    for path in dict.fromkeys((*paths, *sorted(around))):
        module = model.get_submodule(path)
        for cause, proposals in CAUSES.items():
            if path in paths or cause in _OF_CALLERS:
                for text, change in proposals(module):
                    found.append(Hypothesis(cause=cause, text=text, path=path, change=change))
    if stored is not None and "" in paths and isinstance(model, VisionTransformer):
        for text, change in resized_otherwise(model, *stored):
            found.append(Hypothesis(cause="resize_kernel", text=text, path="", change=change))
    if images:
        for text, change in images_changed(model):
            found.append(Hypothesis(cause="normalisation", text=text, path="", images=change))
    return found


def _that_runs(model: nn.Module, path: str) -> str:
    """The path itself, or that of the module whose list of modules it is."""
    while path and isinstance(model.get_submodule(path), nn.ModuleList | nn.ModuleDict):
        path = path.rpartition(".")[0]
    return path


def _norm_eps(module: nn.Module) -> Proposals:
    current = getattr(module, "eps", getattr(module, "variance_epsilon", None))
    name = "eps" if hasattr(module, "eps") else "variance_epsilon"
    if isinstance(current, float):
        for eps in EPSILONS:
            if eps != current:
                yield f"epsilon {eps:g} for {current:g}", partial(set_attribute, name, eps)


def _norm_variance(module: nn.Module) -> Proposals:
    if isinstance(module, nn.LayerNorm):
        size = int(np.prod(module.normalized_shape))

        def unbiased(norm: Any) -> None:
            # The same as a larger scale and epsilon: x / sqrt(v n / (n - 1) + eps).
            ratio = (size - 1) / size
            norm.eps *= ratio
            norm.forward = lambda x: F.layer_norm(
                x, norm.normalized_shape, norm.weight * ratio**0.5, norm.bias, norm.eps
            )

        yield "variance divided by n - 1 for n", unbiased


def _norm_precision(module: nn.Module) -> Proposals:
    if isinstance(module, nn.LayerNorm | RmsNorm):
        for dtype in (torch.float32, torch.bfloat16):
            name = str(dtype).removeprefix("torch.")
            yield f"norm computed in {name}", partial(run_in, dtype=dtype)
            yield f"result of the norm rounded to {name}", partial(_round_result, dtype=dtype)


def _activation(module: nn.Module) -> Proposals:
    if isinstance(module, Mlp | ParallelScalingBlock):
        for name in ACTIVATIONS:
            if name != module.act:
                yield f"{name} for {module.act}", partial(set_attribute, "act", name)
    elif not list(module.children()) and _ACTIVATION.search(type(module).__name__):
        for name, function in {**ACTIVATIONS, "relu": F.relu}.items():
            yield f"{name} for {type(module).__name__}", partial(set_attribute, "forward", function)


def _attention_scale(module: nn.Module) -> Proposals:
    scale = getattr(module, "scale", None)
    if not isinstance(scale, float):
        return
    head_dim = round(scale**-2)
    scales = {"none": 1.0, "1 / head_dim": 1 / head_dim, "applied twice": scale**2}
    if isinstance(module, Attention):
        scales["1 / sqrt(embed_dim)"] = module.proj.in_features**-0.5
        scales["1 / sqrt(num_heads)"] = (module.proj.in_features // head_dim) ** -0.5
    for text, value in scales.items():
        if value != scale:
            yield f"scale of attention {text} for 1 / sqrt(head_dim)", partial(set_attribute, "scale", value)


def _qkv_order(module: nn.Module) -> Proposals:
    # An attention whose qkv agrees may still take it apart in another way.
    layer = getattr(module, "qkv", module)
    axes = getattr(layer, "out_axes", ())
    if isinstance(layer, nn.Linear) and (len(axes) == 3 or layer.out_features == 3 * layer.in_features):
        for order in itertools.permutations(range(3)):
            if order != (0, 1, 2):
                names = ", ".join("qkv"[i] for i in order)
                yield f"thirds of qkv taken as {names} for q, k, v", partial(_permute_thirds, order)
    elif isinstance(module, GroupedQueryAttention):
        for one, other in itertools.combinations(("q_proj", "k_proj", "v_proj"), 2):
            if module.get_submodule(one).out_axes == module.get_submodule(other).out_axes:
                yield f"{one} and {other} exchanged", partial(_exchange, one, other)


def _head_split(module: nn.Module) -> Proposals:
    layer = getattr(module, "qkv", module)
    axes = getattr(layer, "out_axes", ())
    if isinstance(layer, nn.Linear) and len(axes) == 3:
        for order in itertools.permutations(range(3)):
            if order != (0, 1, 2):
                names = ", ".join(("3", "heads", "head_dim")[i] for i in order)
                yield f"qkv split as ({names}) for (3, heads, head_dim)", partial(_split_rows, order)
    if isinstance(module, Attention) and not isinstance(module, DifferentialCore):
        inputs: Any = module.q_proj if isinstance(module, GroupedQueryAttention) else module.qkv
        heads = module.proj.in_features // inputs.out_axes[-1]
        yield "heads merged without moving them behind the tokens", partial(merged_otherwise, heads, (0, 2, 1, 3))
        yield "heads and head_dim exchanged where they are merged", partial(merged_otherwise, heads, (0, 1, 3, 2))


def _kernel_layout(module: nn.Module) -> Proposals:
    if isinstance(module, nn.Linear):
        rows, columns = module.weight.shape
        if rows == columns:
            yield "kernel transposed", partial(_change_weight, lambda w: w.T)
        else:
            yield "kernel reshaped for transposed", partial(_change_weight, lambda w: w.reshape(columns, rows).T)
        if rows == 3 * columns:
            yield (
                "each third of the kernel transposed",
                partial(_change_weight, lambda w: torch.cat([part.T for part in w.chunk(3)])),
            )
    if isinstance(module, nn.Conv2d):
        o, i, h, w = module.weight.shape
        yield "kernel rows and columns reversed", partial(_change_weight, lambda x: x.flip(2, 3))
        yield "channels of the images reversed (BGR for RGB)", partial(_change_weight, lambda x: x.flip(1))
        patches = "patches flattened as (h, w, c) for (c, h, w)"
        yield patches, partial(_change_weight, lambda x: x.reshape(o, h, w, i).permute(0, 3, 1, 2))
        back = "patches flattened as (c, h, w) for (h, w, c)"
        yield back, partial(_change_weight, lambda x: x.permute(0, 2, 3, 1).reshape(o, i, h, w))
        turned = "rows and columns within a patch exchanged"
        yield turned, partial(_change_weight, lambda x: x.reshape(o, i, w, h).transpose(2, 3))


def _rotation(module: nn.Module) -> Proposals:
    if isinstance(module, AttentionCore) and not isinstance(module, CrossAttention):
        pairs = ("neighbouring channels", "channels of both halves")
        text = f"rotary pairs of {pairs[not module.rotate_half]} for {pairs[module.rotate_half]}"
        yield text, partial(set_attribute, "rotate_half", not module.rotate_half)


def _padding(module: nn.Module) -> Proposals:
    if isinstance(module, nn.Conv2d):
        height, width = module.kernel_size
        for down, across in {(height // 2, width // 2), (height - 1, width - 1)}:
            for where, sides in (("around", (across, across, down, down)), ("in front", (across, 0, down, 0))):
                yield f"zeros {where}: {down} rows, {across} columns", partial(_pad, sides)


def _patch_order(module: nn.Module) -> Proposals:
    if isinstance(module, VisionTransformer) and min(module.config.grid_size) > 1:
        yield "patches taken column by column", partial(permute_tokens, module.config.grid_size)


def _positions(module: nn.Module) -> Proposals:
    if isinstance(module, VisionTransformer):
        yield from positions_changed(module)


def _prefix(module: nn.Module) -> Proposals:
    if isinstance(module, VisionTransformer):
        yield from prefix_changed(module)


def _bias(module: nn.Module) -> Proposals:
    for name in ("bias", "q_bias", "v_bias", "relative_position_bias_table"):
        if isinstance(getattr(module, name, None), nn.Parameter):
            yield f"without {name}", partial(_fill, name, 0.0)
    if isinstance(module, nn.LayerNorm | RmsNorm) and module.weight is not None:
        yield "without the norm's scale", partial(_fill, "weight", 1.0)


def _layer_scale(module: nn.Module) -> Proposals:
    if isinstance(module, LayerScale):
        yield "without LayerScale", partial(_fill, "gamma", 1.0)


def _norm_placement(module: nn.Module) -> Proposals:
    if type(module) in (Block, ResPostBlock):
        current = "before each branch" if type(module) is Block else "after each branch"
        kinds = {"before each branch": Block, "after each branch": BranchNormBlock, "after each sum": PostNormBlock}
        for text, kind in kinds.items():
            if text != current:
                yield f"norms {text} for {current}", partial(set_attribute, "__class__", kind)
    if isinstance(module, VisionTransformer):
        for name in ("norm", "norm_pre", "fc_norm"):
            if getattr(module, name) is not None:
                yield f"without {name}", partial(set_attribute, name, None)
        if module.norm is not None and module.fc_norm is None:
            yield "final norm behind pooling for before it", _norm_behind_pooling


def _pooling(module: nn.Module) -> Proposals:
    if isinstance(module, VisionTransformer) and module.config.global_pool in ("token", "avg"):
        config = module.config
        if config.class_token:
            pool = "avg" if config.global_pool == "token" else "token"
            yield f"{pool} pooling for {config.global_pool}", partial(set_config, global_pool=pool)
        prefix = not config.pool_include_prefix
        text = "mean of all tokens" if prefix else "mean without prefix tokens"
        yield text, partial(set_config, global_pool="avg", pool_include_prefix=prefix)


def _matmul_precision(module: nn.Module) -> Proposals:
    inner = isinstance(module, AttentionCore)
    if inner or isinstance(module, nn.Linear | nn.Conv2d):
        method = "attend" if inner else "forward"
        kinds = {
            "TF32 (10 bits of mantissa)": (to_mantissa(10), False),
            "bfloat16 products (a TPU's default)": (to_mantissa(7), False),
            "bfloat16, result too": (to_mantissa(7), True),
            "float32": (torch.float32, False),
        }
        for text, (to, result) in kinds.items():
            yield f"matmul in {text}", partial(_rounded, MATMULS, to, result, method)
    if inner:
        for dtype in (torch.float32, torch.bfloat16):
            text = f"softmax in {str(dtype).removeprefix('torch.')}"
            yield text, partial(_rounded, SOFTMAX, dtype, False, "attend")


CAUSES: dict[str, Callable[[nn.Module], Iterable[tuple[str, Change]]]] = {
    "norm_eps": _norm_eps,
    "norm_variance": _norm_variance,
    "norm_precision": _norm_precision,
    "activation": _activation,
    "attention_scale": _attention_scale,
    "qkv_order": _qkv_order,
    "head_split": _head_split,
    "rotation": _rotation,
    "kernel_layout": _kernel_layout,
    "padding": _padding,
    "patch_order": _patch_order,
    "positions": _positions,
    "prefix_tokens": _prefix,
    "bias": _bias,
    "layer_scale": _layer_scale,
    "norm_placement": _norm_placement,
    "pooling": _pooling,
    "matmul_precision": _matmul_precision,
    "windows": wrong_hierarchy.windows,
    "relative_positions": wrong_hierarchy.relative_positions,
    "logit_scale": wrong_hierarchy.logit_scale,
    "merge_order": wrong_hierarchy.merge_order,
    "reduction": wrong_hierarchy.reduction,
    "conv_padding": wrong_hierarchy.conv_padding,
}
# What is decided by the module that calls those at the place.
_OF_CALLERS = ("norm_placement", "reduction")


def _fill(name: str, value: float, module: Any) -> None:
    getattr(module, name).fill_(value)


def _change_weight(function: Callable[[Tensor], Tensor], module: Any) -> None:
    module.weight.copy_(function(module.weight.clone()))


def _permute_thirds(order: tuple[int, ...], module: Any) -> None:
    layer = getattr(module, "qkv", module)
    for parameter in layer.parameters():
        parts = parameter.clone().chunk(3)
        parameter.copy_(torch.cat([parts[i] for i in order]))


def _split_rows(order: tuple[int, ...], module: Any) -> None:
    """Takes rows whose axes are in another order for (3, heads, head_dim)."""
    layer = getattr(module, "qkv", module)
    shape = [layer.out_axes[i] for i in order]
    for parameter in layer.parameters():
        rows = parameter.clone().unflatten(0, shape)
        back = [order.index(i) for i in range(3)] + list(range(3, rows.ndim))
        parameter.copy_(rows.permute(back).reshape(parameter.shape))


def _exchange(one: str, other: str, module: Any) -> None:
    first, second = getattr(module, one), getattr(module, other)
    setattr(module, one, second)
    setattr(module, other, first)


def _pad(sides: tuple[int, int, int, int], module: Any) -> None:
    module.register_forward_pre_hook(lambda module, args: (F.pad(args[0], sides), *args[1:]))


def _round_result(module: Any, dtype: torch.dtype) -> None:
    module.register_forward_hook(lambda module, args, output: output.to(dtype).to(output.dtype))


def _rounded(operations: set[Any], to: Round | torch.dtype, result: bool, method: str, module: Any) -> None:
    run_rounded(module, lambda: Rounded(operations, to, result=result), method)


def _norm_behind_pooling(module: Any) -> None:
    module.norm, module.fc_norm = None, module.norm
