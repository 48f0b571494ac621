"""What projects call the tensors of a MobileViT.

Canonical names are timm's. Source: apple/ml-cvnets `cvnets/modules/mobilevit_block.py` and `mobilenetv2.py`;
transformers `modeling_mobilevit.py` and `modeling_mobilevitv2.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from .staged import STAGES, Theirs, prefixed
from .translate import Entry

# What the authors' code calls what is in a stage's last block, by pattern; both versions.
_INSIDE = (
    (r"local_rep\.(?:conv_3x3|0)\.block\.conv\.", "conv_kxk.conv."),
    (r"local_rep\.(?:conv_3x3|0)\.block\.norm\.", "conv_kxk.bn."),
    (r"local_rep\.(?:conv_1x1|1)\.block\.conv\.", "conv_1x1."),
    (r"global_rep\.(\d+)\.pre_norm_(?:mha|attn)\.0\.", r"transformer.\1.norm1."),
    (r"global_rep\.(\d+)\.pre_norm_mha\.1\.qkv_proj\.", r"transformer.\1.attn.qkv."),
    (r"global_rep\.(\d+)\.pre_norm_mha\.1\.out_proj\.", r"transformer.\1.attn.proj."),
    (r"global_rep\.(\d+)\.pre_norm_attn\.1\.(\w+)\.block\.conv\.", r"transformer.\1.attn.\2."),
    (r"global_rep\.(\d+)\.pre_norm_ffn\.0\.", r"transformer.\1.norm2."),
    (r"global_rep\.(\d+)\.pre_norm_ffn\.1\.(?:block\.conv\.)?", r"transformer.\1.mlp.fc1."),
    (r"global_rep\.(\d+)\.pre_norm_ffn\.(?:4\.|3\.block\.conv\.)", r"transformer.\1.mlp.fc2."),
    (r"global_rep\.\d+\.(?=\w+$)", "norm."),
    (r"conv_proj\.block\.conv\.", "conv_proj.conv."),
    (r"conv_proj\.block\.norm\.", "conv_proj.bn."),
    (r"fusion\.block\.conv\.", "conv_fusion.conv."),
    (r"fusion\.block\.norm\.", "conv_fusion.bn."),
)
_RESIDUAL = {"exp_1x1": "conv1_1x1", "conv_3x3": "conv2_kxk", "red_1x1": "conv3_1x1"}
_PARTS = {"conv": "conv", "norm": "bn"}

# What transformers calls the convolutions of an inverted residual, and of a stage's last block.
_EXPANDED = {"conv1_1x1": "expand_1x1", "conv2_kxk": "conv_3x3", "conv3_1x1": "reduce_1x1"}
_AROUND = {"conv_kxk": "conv_kxk", "conv_proj": "conv_projection", "conv_fusion": "fusion"}


def original(names: Mapping[str, str]) -> dict[str, str]:
    """A file's names by canonical ones, where they are those of the authors' files, of both versions."""
    return {_renamed(name): their for name, their in names.items()}


def _renamed(name: str) -> str:
    name = re.sub(r"^classifier\.(?:fc\.|1\.)?(?=\w+$)", "head.fc.", name)
    for theirs, ours in (("conv_1", "stem"), ("conv_1x1_exp", "final_conv")):
        for part, own in _PARTS.items():
            name = re.sub(rf"^{theirs}\.block\.{part}\.", f"{ours}.{own}.", name)
    match = re.match(r"layer_(\d)\.(\d+)\.", name)
    if match is None:
        return name
    rest = name.removeprefix(match[0])
    for pattern, ours in _INSIDE:
        rest = re.sub(f"^{pattern}", ours, rest)
    rest = re.sub(
        r"^block\.(exp_1x1|conv_3x3|red_1x1)\.block\.(conv|norm)\.",
        lambda part: f"{_RESIDUAL[part[1]]}.{_PARTS[part[2]]}.",
        rest,
    )
    return f"stages.{int(match[1]) - 1}.{match[2]}.{rest}"


def mobilevit() -> tuple[Entry, ...]:
    """Those of MobileViT in transformers, without a prefix."""
    inside: dict[str, Theirs] = {
        "norm1": "layernorm_before",
        "attn.qkv": tuple(f"attention.attention.{part}" for part in ("query", "key", "value")),
        # A tensor that no model of ours has, by which shapes show whether there are biases.
        "attn.query": "attention.attention.query",
        "attn.proj": "attention.output.dense",
        "norm2": "layernorm_after",
        "mlp.fc1": "intermediate.dense",
        "mlp.fc2": "output.dense",
    }
    return tuple(_table(inside))


def mobilevitv2() -> tuple[Entry, ...]:
    """Those of MobileViTV2 in transformers, without a prefix."""
    inside: dict[str, Theirs] = {
        "norm1": "layernorm_before",
        "attn.qkv_proj": "attention.qkv_proj.convolution",
        "attn.out_proj": "attention.out_proj.convolution",
        "norm2": "layernorm_after",
        "mlp.fc1": "ffn.conv1.convolution",
        "mlp.fc2": "ffn.conv2.convolution",
    }
    return tuple(_table(inside))


def _table(inside: Mapping[str, Theirs]) -> Iterator[Entry]:
    """Entries of all stages that a config may have.

    There one convolution that shrinks the map is in the same layer as the transformer blocks.

    Args:
        inside: Theirs by ours, of what is in a transformer block.
    """
    yield from _conv_norm("stem", "conv_stem")
    yield from _conv_norm("final_conv", "conv_1x1_exp")
    for stage in STAGES:
        ours, theirs = f"stages.{stage}", f"encoder.layer.{stage}"
        for own, other in _AROUND.items():
            yield from _conv_norm(f"{ours}.1.{own}", f"{theirs}.{other}")
        yield Entry(f"{ours}.1.conv_1x1", f"{theirs}.conv_1x1.convolution")
        yield Entry(f"{ours}.1.norm", f"{theirs}.layernorm")
        for own, other in inside.items():
            yield Entry(f"{ours}.1.transformer.{{i}}.{own}", prefixed(other, f"{theirs}.transformer.layer.{{i}}."))
        for own, other in _EXPANDED.items():
            if stage < 2:
                yield from _conv_norm(f"{ours}.{{i}}.{own}", f"{theirs}.layer.{{i}}.{other}")
            else:
                yield from _conv_norm(f"{ours}.0.{own}", f"{theirs}.downsampling_layer.{other}")


def _conv_norm(ours: str, theirs: str) -> Iterator[Entry]:
    yield Entry(f"{ours}.conv", f"{theirs}.convolution")
    yield Entry(f"{ours}.bn", f"{theirs}.normalization")
