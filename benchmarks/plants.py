"""Errors that ports really have, planted in the PyTorch twin to see whether a check notices, and where.

A check that can't fail proves nothing. Each error goes into the middle block (or the embedding) of one model, whose
options make room for all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import MethodType
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from vit_torch.models import Model

# LayerScale, registers, a learned position grid of its own, and sizes of which no two are equal.
MODEL = "vit_test_reg_scale"
BLOCK = 1


@dataclass(frozen=True)
class Plant:
    """An error.

    Attributes:
        description: What it is, in a few words.
        place: The first block, or other place of the forward check, whose output it changes.
        at: The first intermediate that it changes.
        cause: The hypothesis of `parity.diagnosis.hypotheses` that says what it is.
        apply: Changes a model in place.
    """

    description: str
    place: str
    at: str
    cause: str
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


def _quick_gelu(model: Model) -> None:
    _block(model).mlp.act = "quick_gelu"


def _final_norm_eps(model: Model) -> None:
    model.get_submodule("norm").eps = 1e-12  # type: ignore[assignment]


def _heads_first(model: Model) -> None:
    qkv = _block(model).attn.qkv
    for parameter in (qkv.weight, qkv.bias):
        rows = parameter.reshape(model.config.num_heads, 3, model.config.head_dim, -1)
        parameter.copy_(rows.transpose(0, 1).reshape(parameter.shape).clone())


def _merged_heads(model: Model) -> None:
    heads = model.config.num_heads

    def merge(module: nn.Module, args: tuple[torch.Tensor]) -> torch.Tensor:
        (x,) = args
        return torch.stack(x.chunk(heads, dim=-1), dim=1).reshape(x.shape)

    _block(model).attn.proj.register_forward_pre_hook(merge)


def _norms_behind(model: Model) -> None:
    def forward(block: Any, x: torch.Tensor, **_: Any) -> torch.Tensor:
        x = x + block.ls1(block.norm1(block.attn(x)))
        return x + block.ls2(block.norm2(block.mlp(x)))

    _block(model).forward = MethodType(forward, _block(model))


def _tf32(model: Model) -> None:
    """Operands with the bits that tensor cores keep of float32."""
    fc1 = _block(model).mlp.fc1

    def rounded(x: torch.Tensor) -> torch.Tensor:
        bits = (x.float().view(torch.int32) + 0x1000) & ~0x1FFF
        return bits.view(torch.float32).to(x.dtype)

    fc1.forward = MethodType(lambda layer, x: rounded(x) @ rounded(layer.weight).T + layer.bias, fc1)


def _float32_softmax(model: Model) -> None:
    def attend(attn: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **_: Any) -> torch.Tensor:
        scores = torch.einsum("bnhd,bmhd->bhnm", q * attn.scale, k)
        weights = torch.softmax(scores.float(), dim=-1).to(v.dtype)
        return torch.einsum("bhnm,bmhd->bnhd", weights, v).flatten(2)

    _block(model).attn.attend = MethodType(attend, _block(model).attn)


def _channels_last_patches(model: Model) -> None:
    kernel = model.get_parameter("patch_embed.proj.weight")
    out, channels, height, width = kernel.shape
    kernel.copy_(kernel.reshape(out, height, width, channels).permute(0, 3, 1, 2).clone())


def _bgr(model: Model) -> None:
    model.patch_embed.register_forward_pre_hook(lambda module, args: args[0].flip(1))


def _dropout_left_on(model: Model) -> None:
    def drop(module: nn.Module, args: tuple[torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.dropout(x, 0.5, module.training)

    model.train()
    _block(model).mlp.fc1.register_forward_hook(drop)


_AT = f"blocks.{BLOCK}"
_GRID = ("blocks.0", "blocks.0:input", "positions")
_PATCHES = ("patch_embed", "patch_embed.proj", "kernel_layout")


def _in_block(description: str, at: str, cause: str, apply: Callable[[Model], None]) -> Plant:
    return Plant(description, _AT, f"{_AT}.{at}", cause, apply)


PLANTS: dict[str, Plant] = {
    "norm_eps": _in_block("one LayerNorm with epsilon 1e-5 for 1e-6", "norm1", "norm_eps", _norm_eps),
    "norm_eps_of_final_norm": Plant(
        "the last LayerNorm with epsilon 1e-12 for 1e-6", "forward_features", "norm", "norm_eps", _final_norm_eps
    ),
    "gelu_kind": _in_block("tanh GELU for erf GELU in one block", "mlp.fc2:input", "activation", _gelu_kind),
    "quick_gelu": _in_block("CLIP's GELU for erf GELU in one block", "mlp.fc2:input", "activation", _quick_gelu),
    "swapped_q_and_k": _in_block("query and key of one block swapped", "attn.qkv", "qkv_order", _swapped_q_and_k),
    "heads_first": _in_block(
        "qkv split into heads, then into query, key and value", "attn.qkv", "head_split", _heads_first
    ),
    "merged_heads": _in_block(
        "heads merged without moving them behind the tokens", "attn.proj:input", "head_split", _merged_heads
    ),
    "transposed_kernel": _in_block("one square kernel transposed", "attn.proj", "kernel_layout", _transposed_kernel),
    "dropped_bias": _in_block("one bias dropped", "mlp.fc2", "bias", _dropped_bias),
    "attention_scale": _in_block(
        "one attention scaled by the model's width for the head's",
        "attn.proj:input",
        "attention_scale",
        _attention_scale,
    ),
    "dropped_layer_scale": _in_block("one LayerScale dropped", "norm2:input", "layer_scale", _dropped_layer_scale),
    "norms_behind": _in_block("one block with norms behind its branches", "norm1", "norm_placement", _norms_behind),
    "float32_norm": _in_block("one LayerNorm rounded to float32", "norm2", "norm_precision", _float32_norm),
    "tf32": _in_block("one matmul in TF32", "mlp.fc1", "matmul_precision", _tf32),
    "float32_softmax": _in_block("one softmax in float32", "attn.proj:input", "matmul_precision", _float32_softmax),
    "permuted_positions": Plant("positions shifted by one patch", *_GRID, _permuted_positions),
    "transposed_positions": Plant("rows and columns of the position grid exchanged", *_GRID, _transposed_positions),
    "channels_last_patches": Plant("a patch kernel for pixels with channels last", *_PATCHES, _channels_last_patches),
    "bgr": Plant("channels of the images reversed", *_PATCHES, _bgr),
    "dropout_left_on": _in_block("dropout in training mode", "mlp.fc1", "training_mode", _dropout_left_on),
}
