"""Errors that ports really have, planted in the PyTorch twin to see whether a check notices, and where.

A check that can't fail proves nothing. Each error goes into the middle block (or the embedding) of one model, whose
options make room for all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from vit_torch.models import Model

# LayerScale, registers, a learned position grid of its own, and sizes of which no two are equal.
MODEL = "vit_test_reg_scale"
BLOCK = 1


@dataclass(frozen=True)
class Plant:
    """An error.

    Attributes:
        description: In a few words.
        place: The first place whose output it changes.
        apply: Changes a model in place.
    """

    description: str
    place: str
    apply: Callable[[Model], None]


def _block(model: Model) -> Any:
    """Any, because PyTorch's types say of a submodule's attributes only that they are tensors or modules."""
    return model.blocks[BLOCK]


def _norm_eps(model: Model) -> None:
    _block(model).norm1.eps = 1e-5


def _gelu_kind(model: Model) -> None:
    _block(model).mlp.act = "gelu_tanh"


def _swapped_q_and_k(model: Model) -> None:
    qkv = _block(model).attn.qkv
    for parameter in (qkv.weight, qkv.bias):
        q, k, v = parameter.chunk(3)
        parameter.copy_(torch.cat([k, q, v]))


def _transposed_kernel(model: Model) -> None:
    weight = _block(model).attn.proj.weight
    weight.copy_(weight.T.clone())


def _dropped_bias(model: Model) -> None:
    _block(model).mlp.fc2.bias.zero_()


def _attention_scale(model: Model) -> None:
    _block(model).attn.scale = model.config.embed_dim**-0.5


def _dropped_layer_scale(model: Model) -> None:
    _block(model).ls1 = None


def _float32_norm(model: Model) -> None:
    _block(model).norm2.register_forward_hook(lambda module, inputs, output: output.float().to(output.dtype))


def _permuted_positions(model: Model) -> None:
    positions = model.get_parameter("pos_embed")
    positions.copy_(positions.roll(1, dims=1))


def _transposed_positions(model: Model) -> None:
    positions = model.get_parameter("pos_embed")
    grid = positions.unflatten(1, model.config.grid_size)
    positions.copy_(grid.transpose(1, 2).flatten(1, 2).clone())


_AT = f"blocks.{BLOCK}"

PLANTS: dict[str, Plant] = {
    "norm_eps": Plant("one LayerNorm with epsilon 1e-5 for 1e-6", _AT, _norm_eps),
    "gelu_kind": Plant("tanh GELU for erf GELU in one block", _AT, _gelu_kind),
    "swapped_q_and_k": Plant("query and key of one block swapped", _AT, _swapped_q_and_k),
    "transposed_kernel": Plant("one square kernel transposed", _AT, _transposed_kernel),
    "dropped_bias": Plant("one bias dropped", _AT, _dropped_bias),
    "attention_scale": Plant("one attention scaled by the model's width for the head's", _AT, _attention_scale),
    "dropped_layer_scale": Plant("one LayerScale dropped", _AT, _dropped_layer_scale),
    "float32_norm": Plant("one LayerNorm rounded to float32", _AT, _float32_norm),
    "permuted_positions": Plant("positions shifted by one patch", "blocks.0", _permuted_positions),
    "transposed_positions": Plant("rows and columns of the position grid exchanged", "blocks.0", _transposed_positions),
}
