"""What projects call the tensors of a MobileViT.

Canonical names are timm's. Source: apple/ml-cvnets `cvnets/modules/mobilevit_block.py` and `mobilenetv2.py`;
transformers `modeling_mobilevit.py` and `modeling_mobilevitv2.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

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
