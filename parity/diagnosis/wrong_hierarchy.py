"""What `hypotheses` tries in hierarchies: windows, merging, reduced attention, convolutions made wrong on purpose."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from vit_torch.layers.merge import PatchMerging
from vit_torch.layers.mlp import ConvMlp
from vit_torch.layers.reduction import ReducedAttention
from vit_torch.layers.window import CosineWindowAttention, WindowAttention

Proposals = Iterator[tuple[str, Callable[[Any], None]]]

# What takes the place of -100 elsewhere, and the absence of any. Numbers below -200 can't be told from each other, for
# scores are at most about 116.
_MASKS = {"-200 or less, such as minus infinity,": -1e9, "nothing": -1e-300}


def windows(module: nn.Module) -> Proposals:
    """How windows are moved, filled up, and kept from seeing what a shift brought beside them."""
    if not isinstance(module, WindowAttention):
        return
    if any(module.shift):
        yield "windows moved the other way", _shifted_back
        yield "windows not moved", partial(set_attribute, "shift", (0, 0))
        for text, value in _MASKS.items():
            if value != module.shift_mask:
                yield f"a mask of {text} for {module.shift_mask:g}", partial(set_attribute, "shift_mask", value)
    else:
        height, width = module.window_size
        yield "windows moved by half", partial(set_attribute, "shift", (height // 2, width // 2))
    first, then = ("before", "after") if module.pad_first else ("after", "before")
    yield f"filled up {then} the map is moved, not {first}", partial(set_attribute, "pad_first", not module.pad_first)


def relative_positions(module: nn.Module) -> Proposals:
    """How a table's rows belong to pairs of tokens, and what is made of Swin V2's."""
    if not isinstance(module, WindowAttention):
        return
    size = module.window_size
    yield "relative positions from key to query", partial(_of_pairs, lambda bias: bias.transpose(-1, -2))
    if size[0] == size[1]:
        yield "relative positions across before down", partial(_of_pairs, partial(_across_first, size))
    yield "no relative positions", partial(_of_pairs, torch.zeros_like)
    if isinstance(module, CosineWindowAttention):
        yield "positions without 16 sigmoid(...)", _plain_positions
        for trained in {0, *size, 8, 12, 16} - {module.trained_window}:
            text = f"of a window of {trained}" if trained else "of its own window"
            yield f"distances in parts {text}", partial(set_attribute, "trained_window", trained)


def logit_scale(module: nn.Module) -> Proposals:
    """The factor of cosine scores."""
    if isinstance(module, CosineWindowAttention):
        yield "temperatures without their bound", partial(set_attribute, "max_logit_scale", math.inf)
        yield "no temperature", lambda module: module.logit_scale.fill_(0)
        if bool((module.logit_scale > 0).all()):
            yield "temperatures not taken the exponential of", lambda module: module.logit_scale.log_()


def merge_order(module: nn.Module) -> Proposals:
    """The order of four tokens that become one."""
    if isinstance(module, PatchMerging):
        for order in ("down across c", "across c down", "c down across"):
            yield f"four tokens as ({order}) for (across down c)", partial(_merged, order)


def reduction(module: nn.Module) -> Proposals:
    """What keys and values come from, and the MLP of the linear variant."""
    if isinstance(module, ReducedAttention) and module.sr is not None:
        yield "no norm of the smaller map", partial(set_attribute, "norm", nn.Identity())
        yield "keys and values of the whole map", partial(set_attribute, "sr", None)
        yield f"{'no ' if module.linear else ''}means and GELU", partial(set_attribute, "linear", not module.linear)
    if isinstance(module, ConvMlp):
        yield (
            f"{'no ' if module.relu else 'a '}ReLU before the convolution",
            partial(set_attribute, "relu", not module.relu),
        )


def conv_padding(module: nn.Module) -> Proposals:
    """Zeros around a map on other sides, as TensorFlow's `SAME` has them with a stride."""
    if not isinstance(module, nn.Conv2d) or not any(side for side in module.padding if isinstance(side, int)):
        return
    yield "zeros as TensorFlow's SAME has them", _same
    yield "no zeros around the map", partial(set_attribute, "padding", (0, 0))


def set_attribute(name: str, value: Any, module: Any) -> None:
    """Gives a module another attribute: `value` under `name`."""
    setattr(module, name, value)


def _shifted_back(module: Any) -> None:
    """Attention on a map that lies twice the shift further, which is then moved back, is one with the other shift."""
    forward, (down, across) = module.forward, module.shift

    def moved(x: Tensor, **options: Any) -> Tensor:
        x = forward(torch.roll(x, (2 * down, 2 * across), (1, 2)), **options)
        return torch.roll(x, (-2 * down, -2 * across), (1, 2))

    module.forward = moved


def _of_pairs(change: Callable[[Tensor], Tensor], module: Any) -> None:
    own = module._of_pairs
    module._of_pairs = lambda table: change(own(table))


def _across_first(size: tuple[int, int], bias: Tensor) -> Tensor:
    height, width = size
    pattern = "nh (a b) (c d) -> nh (b a) (d c)"
    return rearrange(bias, pattern, a=height, b=width, c=height, d=width)


def _plain_positions(module: Any) -> None:
    own = module._positions

    def plain() -> Tensor:
        share = own() / 16
        return torch.log(share / (1 - share))

    module._positions = plain


def _merged(order: str, module: Any) -> None:
    def forward(x: Tensor) -> Tensor:
        x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        x = rearrange(x, f"b (h down) (w across) c -> b h w ({order})", down=2, across=2)
        return module.norm(module.reduction(x)) if module.norm_last else module.reduction(module.norm(x))

    module.forward = forward


def _same(module: Any) -> None:
    """As many zeros as the stride asks for, the greater half of them behind."""

    def padded(module: Any, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        sides: list[int] = []
        for size, kernel, stride in zip(
            reversed(args[0].shape[2:]), reversed(module.kernel_size), reversed(module.stride), strict=True
        ):
            total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
            sides += [total // 2, total - total // 2]
        return (F.pad(args[0], sides),)

    module.padding = (0, 0)
    module.register_forward_pre_hook(padded)
