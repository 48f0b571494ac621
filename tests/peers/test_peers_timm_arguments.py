"""timm's own directories of random models: every argument that its `config.json` can have is understood."""

from __future__ import annotations

import json
import random
from typing import Any

import numpy as np
import pytest
import timm
import torch
from people import is_same, randomised
from people_models import some
from safetensors.torch import save_file
from timm.models import save_for_hf

from benchmarks import timm_peer
from parity.checkpoints import open_checkpoint


def options_of(name: str, rng: random.Random) -> dict[str, Any]:
    width, heads = rng.choice(((48, 4), (64, 2), (192, 3)))
    patch = rng.choice((8, 16))
    options: dict[str, Any] = dict(
        img_size=(2 * patch, 3 * patch), patch_size=patch, depth=2, num_classes=rng.choice((0, 4))
    )
    options |= dict(embed_dim=width, num_heads=heads, mlp_ratio=rng.choice((4.0, 2.5)))
    common = (
        (0.3, dict(global_pool=rng.choice(("avg", "token")))),
        (0.3, dict(init_values=1e-4)),
        (0.2, dict(drop_rate=0.1)),
    )
    if name == "vit_tiny_patch16_224":
        own: tuple[tuple[float, dict[str, Any]], ...] = (
            (0.3, dict(pre_norm=True)),
            (0.3, dict(proj_bias=False)),
            (0.3, dict(pos_embed=rng.choice(("learn", "none")))),
            (0.3, dict(norm_layer=rng.choice(("layernorm", "rmsnorm")))),
            (0.3, dict(weight_init="skip")),
            (0.2, dict(dynamic_img_size=True, dynamic_img_pad=True)),
            (0.3, dict(act_layer=rng.choice(("quick_gelu", "gelu_tanh", "silu")))),
            (0.2, dict(qk_norm=True)),
            (0.2, dict(reg_tokens=2, no_embed_class=True)),
            (0.2, dict(fc_norm=rng.choice((True, False)))),
            (0.2, dict(embed_norm_layer="layernorm")),
        )
    elif name.startswith("beit"):
        own = ((0.4, dict(use_abs_pos_emb=True)), (0.3, dict(scale_mlp=True)), (0.3, dict(use_fc_norm=False)))
    else:
        own = (
            (0.3, dict(use_abs_pos_emb=False)),
            (0.3, dict(use_rot_pos_emb=rng.choice((True, False)))),
            (0.3, dict(rope_temperature=50.0)),
            (0.3, dict(ref_feat_shape=(5, 5))),
            (0.3, dict(swiglu_mlp=rng.choice((True, False)))),
            (0.3, dict(scale_mlp=True)),
            (0.3, dict(scale_attn_inner=True)),
            (0.2, dict(num_reg_tokens=2)),
            (0.2, dict(use_pre_transformer_norm=True)),
            (0.2, dict(qkv_fused=False)),
            (0.2, dict(use_fc_norm=True)),
        )
    return options | some(rng, *common, *own)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "eva02_tiny_patch14_224", "beit_base_patch16_224"])
def test_a_directory_of_timm_is_its_model(name, seed, tmp_path):
    options = options_of(name, random.Random(f"{name} {seed}"))
    with timm_peer.float64_rope():
        peer = randomised(timm.create_model(name, **options))
    save_for_hf(peer, str(tmp_path), safe_serialization=True)
    save_file({key: value.float() for key, value in peer.state_dict().items()}, tmp_path / "model.safetensors")
    found = open_checkpoint(tmp_path)
    assert found.assumed == ()
    images = np.random.default_rng(0).standard_normal((2, *options["img_size"], 3))
    with torch.inference_mode(), timm_peer.float64_rope():
        expected = peer(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
    assert is_same(found, images, expected, flax=seed == 0), (options, found.config)


def test_the_pooling_of_an_older_directory(tmp_path):
    """Before `model_args` were written, the root said how the model pooled."""
    peer = randomised(timm.create_model("vit_tiny_patch16_224", img_size=32, depth=1, global_pool="avg", num_classes=3))
    save_for_hf(peer, str(tmp_path), safe_serialization=True)
    save_file({key: value.float() for key, value in peer.state_dict().items()}, tmp_path / "model.safetensors")
    document = json.loads((tmp_path / "config.json").read_text())
    document["model_args"] = {"img_size": 32, "depth": 1}
    (tmp_path / "config.json").write_text(json.dumps(document))
    found = open_checkpoint(tmp_path)
    images = np.random.default_rng(0).standard_normal((2, 32, 32, 3))
    with torch.inference_mode():
        expected = peer(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
    assert is_same(found, images, expected, flax=False)
