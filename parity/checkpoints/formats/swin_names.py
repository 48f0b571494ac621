"""What projects call the tensors of a Swin Transformer.

Canonical names are timm's, where a stage begins with the merging that all others have at the end of the one before.
Source: microsoft/Swin-Transformer `models/swin_transformer.py` and `swin_transformer_v2.py`; torchvision
`models/swin_transformer.py`; transformers `modeling_swin.py` and `modeling_swinv2.py`, and its `conversion_mapping.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ...configs.swin import SwinConfig
from .staged import STAGES, Theirs, block_entries
from .translate import Entry, Unused

UNUSED = (
    Unused(r"(?:.*\.)?(?:relative_position_index|relative_coords_table|attn_mask)", "follows from the windows"),
    Unused(r"(?:.*\.)?mask_token", "stands for masked patches in pretraining"),
)
# It shows the window, so a file of tensors alone is read by it.
_INDEX = "attn.relative_position_index"

Names = Mapping[str, Theirs]


def microsoft() -> tuple[Entry, ...]:
    """Those of Microsoft's own files, and of timm's before its version 0.9."""
    outer = {"patch_embed.proj": "patch_embed.proj", "patch_embed.norm": "patch_embed.norm", "norm": "norm"}
    same = ("relative_position_bias_table", "logit_scale", "q_bias", "v_bias", "cpb_mlp.0", "cpb_mlp.2", "qkv", "proj")
    block = {f"attn.{name}": f"attn.{name}" for name in same}
    block |= {name: name for name in ("norm1", "norm2", "mlp.fc1", "mlp.fc2", _INDEX)}
    return _table(outer | {"head.fc": "head"}, block, "layers.{}.blocks".format, "layers.{}.downsample".format)


def torchvision() -> tuple[Entry, ...]:
    """Those of torchvision: stages and mergings in turn; Swin V2's keys have a bias that its code sets to 0."""
    outer = {
        "patch_embed.proj": "features.0.0",
        "patch_embed.norm": "features.0.2",
        "norm": "norm",
        "head.fc": "head",
    }
    same = ("attn.relative_position_bias_table", "attn.logit_scale", "attn.cpb_mlp.0", "attn.cpb_mlp.2", "attn.proj")
    block: dict[str, Theirs] = {name: name for name in (*same, "norm1", "norm2", _INDEX)}
    block |= {"attn.qkv": "attn.qkv", "mlp.fc1": "mlp.0", "mlp.fc2": "mlp.3"}
    parts = {"attn.q_bias": (0, 1, 3), "attn.v_bias": (2, 3, 3)}
    entries = _table(outer, block, lambda stage: f"features.{2 * stage + 1}", lambda stage: f"features.{2 * stage + 2}")
    return entries + tuple(
        Entry(f"layers.{stage}.blocks.{{i}}.{ours}", f"features.{2 * stage + 1}.{{i}}.attn.qkv.bias", part=part)
        for stage in STAGES
        for ours, part in parts.items()
    )


def transformers(*, in_memory: bool = False) -> tuple[Entry, ...]:
    """Those of transformers' files, without a prefix; in memory its version 5 has other ones of Swin."""
    outer = {
        "patch_embed.proj": "embeddings.patch_embeddings.projection",
        "patch_embed.norm": "embeddings.norm",
        "norm": "layernorm",
    }
    attention = "attention" if in_memory else "attention.self"
    query, key, value = (
        f"{attention}.{name}" for name in (("q_proj", "k_proj", "v_proj") if in_memory else ("query", "key", "value"))
    )
    table = "relative_position_bias.relative_position_bias_table" if in_memory else "relative_position_bias_table"
    block: Names = {
        "attn.relative_position_bias_table": f"{attention}.{table}",
        "attn.logit_scale": f"{attention}.logit_scale",
        "attn.cpb_mlp.0": f"{attention}.continuous_position_bias_mlp.0",
        "attn.cpb_mlp.2": f"{attention}.continuous_position_bias_mlp.2",
        "attn.q_bias": f"{query}.bias",
        "attn.v_bias": f"{value}.bias",
        "attn.qkv": (query, key, value),
        "attn.proj": "attention.o_proj" if in_memory else "attention.output.dense",
        "norm1": "layernorm_before",
        "norm2": "layernorm_after",
        "mlp.fc1": "mlp.fc1" if in_memory else "intermediate.dense",
        "mlp.fc2": "mlp.fc2" if in_memory else "output.dense",
        _INDEX: f"{attention}.relative_position_index",
    }
    return _table(outer, block, "encoder.layers.{}.blocks".format, "encoder.layers.{}.downsample".format)


def _table(
    outer: Names, block: Names, blocks: Callable[[int], str], merging: Callable[[int], str]
) -> tuple[Entry, ...]:
    """Entries of all stages that a config may have.

    Args:
        outer: Theirs by ours, of what isn't in a stage.
        block: The same of what is in a block.
        blocks: What the names of a stage's blocks begin with.
        merging: The name of the merging at the end of a stage.
    """
    own = "layers.{}.blocks.{{i}}".format
    found = [Entry(ours, theirs) for ours, theirs in outer.items()]
    found += block_entries(own, lambda stage: f"{blocks(stage)}.{{i}}", block)
    for stage in STAGES:
        for part in ("norm", "reduction"):
            found.append(Entry(f"layers.{stage + 1}.downsample.{part}", f"{merging(stage)}.{part}"))
    return tuple(found)


def mlp_ratio(config: SwinConfig) -> float:
    """The ratio that projects give for the width of MLPs, which is int(dim * ratio) in each stage.

    Half a unit more in the last stage where it isn't whole, so that it can't be rounded down in any.
    """
    rest = 0.5**config.num_stages if config.mlp_dim % config.embed_dim else 0
    return (config.mlp_dim + rest) / config.embed_dim
