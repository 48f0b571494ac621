"""People's own files: models with the same names and shapes, folders of training, wrappers, heads, old documents.

Each was made as its source makes it, and first opened as another model, refused, or advised what doesn't help.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from format_checks import parameters, small
from safetensors.numpy import save_file

from parity.checkpoints import Checkpoint, open_checkpoint
from parity.checkpoints.formats.timm import their_name
from parity.configs import Config


def lone(config: Config, architecture: str, tmp_path: Path, **said: Any) -> Checkpoint:
    """A file alone with the names that timm's architecture has."""
    tensors = {their_name(name, architecture): value for name, value in parameters(config).items()}
    save_file(tensors, tmp_path / "file.safetensors")
    return open_checkpoint(tmp_path / "file.safetensors", **said)


SAME_TENSORS = {
    "rotary positions as timm's DeiT III": ("vit_small_patch16_rope_ape_224", "rope", {}),
    "rotary positions as CLIP's tower": ("vit_pe_core_base_patch16_224", "rope", dict(act="gelu")),
    "no table of positions, and some said": ("vit_small_patch16_rope_224", "rope", dict(pos_embed="none")),
    "norms behind": ("vit_base_patch16_rpn_224", "block", {}),
    "norms behind, EVA's names": ("eva02_enormous_patch14_clip_224", "block", {}),
    "learned rotary positions": ("vit_small_patch16_rope_mixed_224", "image_size", {}),
}


@pytest.mark.parametrize("case", SAME_TENSORS)
def test_what_models_with_the_same_tensors_differ_in_is_listed(case, tmp_path):
    name, field, said = SAME_TENSORS[case]
    config = small(name, embed_dim=192, num_heads=3)
    found = lone(config, name, tmp_path, num_heads=3, **said)
    assert field in {item.field for item in found.assumed}
    assert getattr(found.config, field) != getattr(config, field)
    named = lone(config, name, tmp_path, model=config)
    assert getattr(named.config, field) == getattr(config, field)
    assert {item.field for item in named.assumed} <= {"image_size"}


@pytest.mark.parametrize("name", ["vit_base_patch16_224", "deit3_small_patch16_224", "beit_base_patch16_224"])
def test_what_no_other_model_has_is_not_listed(name, tmp_path):
    found = lone(small(name, embed_dim=192, num_heads=3), name, tmp_path, image_size=24)
    assert not {"rope", "block"} & {item.field for item in found.assumed}
