"""What projects call the tensors of a Pyramid Vision Transformer.

Canonical names are timm's. SegFormer's encoder (Xie et al. 2021, arXiv:2105.15203) is the same network. Source:
whai362/PVT `v2/pvt_v2.py`; transformers `modeling_pvt_v2.py`, `modeling_segformer.py` and `conversion_mapping.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from .staged import STAGES, Theirs, block_entries
from .translate import Entry


def original(names: Mapping[str, str]) -> dict[str, str]:
    """A file's names by canonical ones, where they are those of the authors' files, of PVT v2 and of SegFormer."""
    return {_renamed(name): their for name, their in names.items()}


def _renamed(name: str) -> str:
    def stage(match: re.Match[str]) -> str:
        return f"stages.{int(match[1]) - 1}."

    name = name.replace("dwconv.dwconv", "dwconv")
    name = re.sub(r"^patch_embed1\.", "patch_embed.", name)
    name = re.sub(r"^patch_embed(\d)\.", lambda match: f"{stage(match)}downsample.", name)
    name = re.sub(r"^block(\d)\.", lambda match: f"{stage(match)}blocks.", name)
    return re.sub(r"^norm(\d)\.", lambda match: f"{stage(match)}norm.", name)


def pvt() -> tuple[Entry, ...]:
    """Those of PvtV2 in transformers, without a prefix."""
    attention: dict[str, Theirs] = {
        "q": "attention.query",
        "kv": ("attention.key", "attention.value"),
        "proj": "attention.proj",
        "sr": "attention.spatial_reduction",
        "norm": "attention.layer_norm",
    }
    mlp = {"fc1": "mlp.dense1", "dwconv": "mlp.dwconv.dwconv", "fc2": "mlp.dense2"}
    return _table(
        "encoder.layers.{s}.blocks.{{i}}",
        attention,
        mlp,
        norms=("layer_norm_1", "layer_norm_2", "encoder.layers.{s}.layer_norm"),
        embedding="encoder.layers.{s}.patch_embedding",
    )


def segformer(*, in_memory: bool = False) -> tuple[Entry, ...]:
    """Those of SegFormer's encoder in transformers; in memory its version 5 has other ones."""
    if in_memory:
        reduction = "attention.sequence_reduction"
        return _table(
            "stages.{s}.blocks.{{i}}",
            {
                "q": "attention.q_proj",
                "kv": ("attention.k_proj", "attention.v_proj"),
                "proj": "attention.o_proj",
                "sr": f"{reduction}.sequence_reduction",
                "norm": f"{reduction}.layer_norm",
            },
            {"fc1": "mlp.fc1", "dwconv": "mlp.dwconv.dwconv", "fc2": "mlp.fc2"},
            norms=("layernorm_before", "layernorm_after", "stages.{s}.layer_norm"),
            embedding="stages.{s}.patch_embeddings",
        )
    inside = "attention.self"
    return _table(
        "encoder.block.{s}.{{i}}",
        {
            "q": f"{inside}.query",
            "kv": (f"{inside}.key", f"{inside}.value"),
            "proj": "attention.output.dense",
            "sr": f"{inside}.sr",
            "norm": f"{inside}.layer_norm",
        },
        {"fc1": "mlp.dense1", "dwconv": "mlp.dwconv.dwconv", "fc2": "mlp.dense2"},
        norms=("layer_norm_1", "layer_norm_2", "encoder.layer_norm.{s}"),
        embedding="encoder.patch_embeddings.{s}",
    )


def _table(
    block: str,
    attention: Mapping[str, Theirs],
    mlp: Mapping[str, str],
    *,
    norms: tuple[str, str, str],
    embedding: str,
) -> tuple[Entry, ...]:
    """Entries of all stages that a config may have.

    Args:
        block: What names of a block begin with, with `{s}` for the stage.
        attention: Theirs by ours, of what is in an attention.
        mlp: The same of an MLP.
        norms: The names of a block's norms, and of a stage's.
        embedding: The name of what a stage begins with.
    """
    inside: dict[str, Theirs] = {"norm1": norms[0], "norm2": norms[1]}
    inside |= {f"attn.{ours}": theirs for ours, theirs in attention.items()}
    inside |= {f"mlp.{ours}": theirs for ours, theirs in mlp.items()}
    found = [*block_entries("stages.{}.blocks.{{i}}".format, lambda stage: block.format(s=stage), inside)]
    for stage in STAGES:
        own = f"stages.{stage}.downsample" if stage else "patch_embed"
        found += [
            Entry(f"{own}.proj", f"{embedding.format(s=stage)}.proj"),
            Entry(f"{own}.norm", f"{embedding.format(s=stage)}.layer_norm"),
            Entry(f"stages.{stage}.norm", norms[2].format(s=stage)),
        ]
    return tuple(found)
