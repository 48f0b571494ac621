"""Files of tensors alone: what shapes show, what the user says, what is assumed, and what is asked for."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from format_checks import parameters, small
from safetensors.numpy import save_file

import vit_jax
import vit_torch
from parity import configs
from parity.checkpoints import AssumedWarning, CheckpointError, adapt, convert, open_checkpoint
from parity.checkpoints.formats import google
from parity.checkpoints.resize import resize_grid
from parity.compare import not_identical
from parity.configs import Config

# A published width, so that the number of heads is usual.
TINY = dict(embed_dim=192, num_heads=3)
# What a lone file leaves open besides its heads and its size.
OPEN = {"act", "norm_eps", "global_pool", "pos_embed_resize", "preprocessing"}


def config_of(name: str = "vit_tiny_patch16_224", **fields: Any) -> Config:
    return small(name, **(TINY | fields))


def lone(config: Config, tmp_path: Path, renamed: Mapping[str, str] | None = None) -> Path:
    values = parameters(config)
    for theirs, ours in (renamed or {}).items():
        values = {name.replace(ours, theirs): value for name, value in values.items()}
    save_file(values, tmp_path / "file.safetensors")
    return tmp_path / "file.safetensors"


def assumed(checkpoint) -> dict[str, Any]:
    return {item.field: item.value for item in checkpoint.assumed}


FINETUNED: dict[str, Config] = {
    "other classes": config_of(num_classes=7),
    "none": config_of(num_classes=0),
    "one": config_of(num_classes=1),
    "another size": config_of(image_size=40),
    "one channel": config_of(in_chans=1, preprocessing=configs.Preprocessing(mean=(0.5,), std=(0.5,))),
    "LayerScale": config_of(layer_scale_init=1e-5),
    "registers": config_of(reg_tokens=3),
    "the mean, with its norm": config_of(global_pool="avg", fc_norm=True, final_norm=False),
    "no class token": config_of(class_token=False, global_pool="avg"),
    "no biases": config_of(qkv_bias=False, proj_bias=False),
    "norms of query and key": config_of(qk_norm=True),
    "norms inside": config_of(attn_norm=True, mlp_norm=True),
    "a gate": config_of(mlp="swiglu_packed", act="silu"),
    "attention pooling": config_of(global_pool="map", class_token=False, num_classes=3),
}


@pytest.mark.parametrize("change", FINETUNED)
def test_a_fine_tuned_file_is_the_model_that_its_tensors_make(change, tmp_path):
    config = FINETUNED[change]
    found = open_checkpoint(lone(config, tmp_path))
    assert found.config == configs.replace(config, preprocessing=found.config.preprocessing)
    assert not_identical(dict(found.tensors), parameters(config)) == ()
    # Some options show what others leave open.
    assert {"act", "norm_eps", "preprocessing"} <= set(assumed(found))
    assert set(assumed(found)) <= OPEN | {"num_heads", "image_size", "pool_include_prefix"}


def test_a_model_that_is_named_ends_every_assumption(tmp_path):
    config = config_of(image_size=24, num_classes=4)
    file = lone(config, tmp_path)
    found = open_checkpoint(file, model=configs.replace(config, num_classes=1000, image_size=64))
    assert (found.config, set(assumed(found))) == (config, {"image_size"})
    assert open_checkpoint(file, model=config).assumed == ()
    said = {name: getattr(config, name) for name in (*OPEN, "num_heads", "image_size")}
    assert open_checkpoint(file, **said).assumed == ()


@pytest.mark.parametrize("heads", [2, 3, 4, 8])
def test_heads_of_a_published_width_are_assumed_and_said(heads, tmp_path):
    file = lone(config_of(num_heads=heads), tmp_path)
    assert assumed(open_checkpoint(file))["num_heads"] == 3
    found = open_checkpoint(file, num_heads=heads)
    assert found.config.num_heads == heads
    assert "num_heads" not in assumed(found)
    with pytest.raises(CheckpointError, match="num_heads: got 7, expected a divisor of embed_dim 192"):
        open_checkpoint(file, num_heads=7)


def test_heads_of_another_width_are_asked_for(tmp_path):
    file = lone(config_of(embed_dim=48, num_heads=4), tmp_path)
    with pytest.raises(CheckpointError, match=r"embed_dim 48 is none of 192, .*--set num_heads=N .*num_heads=N"):
        open_checkpoint(file)
    assert open_checkpoint(file, num_heads=4).config.num_heads == 4


def test_a_contradiction_names_both_values(tmp_path):
    file = lone(config_of(embed_dim=48, num_heads=4), tmp_path)
    with pytest.raises(CheckpointError, match=r"embed_dim: named model: 192, file: 48; .*--set num_heads=N"):
        open_checkpoint(file, model="vit_tiny_patch16_224")
    found = open_checkpoint(file, model="vit_tiny_patch16_224", num_heads=4)
    assert (found.config.embed_dim, found.name) == (48, "")
    with pytest.raises(CheckpointError, match="num_classes: got 5, but the file says 10"):
        open_checkpoint(file, num_heads=4, num_classes=5)
    with pytest.raises(CheckpointError, match=r"mlp: named model: 'swiglu_packed', file: 'mlp'"):
        open_checkpoint(file, model=config_of(embed_dim=48, num_heads=4, mlp="swiglu_packed"))
    with pytest.raises(ValueError, match=r"unknown config field 'num_head'; did you mean 'num_heads'"):
        open_checkpoint(file, num_head=4)
    with pytest.raises(ValueError, match=r"unknown model 'vit_tini_patch16_224'; did you mean"):
        open_checkpoint(file, model="vit_tini_patch16_224")


def test_pooling_without_a_norm_of_its_own(tmp_path):
    """timm's `global_pool="avg", fc_norm=False` has the tensors of a model that takes the class token."""
    file = lone(config_of(global_pool="avg"), tmp_path)
    assert assumed(open_checkpoint(file))["global_pool"] == "token"
    found = open_checkpoint(file, global_pool="avg")
    assert (found.config.global_pool, "global_pool" in assumed(found)) == ("avg", False)


# 48 patches and a class token, or 7 x 7 patches whose class token has no position.
TWO_READINGS = dict(image_size=(64, 48), patch_size=8)


@pytest.mark.parametrize("name", ["deit_tiny_patch16_224", "vit_tiny_patch16_224"])
def test_a_square_that_may_be_a_rectangle_and_a_class_token(name, tmp_path):
    config = config_of(name, **TWO_READINGS)
    file = lone(config, tmp_path)
    with pytest.raises(CheckpointError, match=r"49 positions .* 7 x 7 .*--set pos_embed_prefix=none .*image_size="):
        open_checkpoint(file)
    with pytest.raises(CheckpointError, match="49 positions"):
        open_checkpoint(file, model=name)
    assert open_checkpoint(file, image_size=(64, 48)).config.pos_embed_prefix == "all"
    assert open_checkpoint(file, image_size=(64, 48)).config.image_size == (64, 48)
    other = open_checkpoint(file, pos_embed_prefix="none").config
    assert (other.pos_embed_prefix, other.grid_size) == ("none", (7, 7))
    images = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 3, 64, 48)))
    with torch.inference_mode(), warnings.catch_warnings(action="ignore"):
        right = vit_torch.load(open_checkpoint(file, model=config), dtype=torch.float64)(images)
        assert torch.equal(vit_torch.load(file, image_size=(64, 48), dtype=torch.float64)(images), right)


def test_a_rectangular_grid_is_the_source_s_size_and_another_is_the_target(tmp_path):
    config = config_of(image_size=(16, 40))
    file = lone(config, tmp_path)
    with pytest.raises(CheckpointError, match="got 10 positions of patches, expected a square grid"):
        open_checkpoint(file)
    with warnings.catch_warnings(action="ignore"):
        assert vit_torch.load(file, image_size=(16, 40)).config.image_size == (16, 40)
    opened = open_checkpoint(file, image_size=(16, 40))
    with pytest.raises(CheckpointError, match=r"image_size: got \(16, 32\), a grid of 2 x 4, but the file has 10"):
        open_checkpoint(file, image_size=(16, 32))
    larger = vit_torch.load(opened, image_size=48)
    assert larger.config.image_size == (48, 48)
    grid = parameters(config)["pos_embed"][0, 1:].reshape(2, 5, -1)
    expected = resize_grid(grid, (6, 6), "bicubic_antialias").reshape(36, -1).astype(np.float32)
    np.testing.assert_array_equal(larger.pos_embed.detach().numpy()[0, 1:], expected)


def test_partial_patches_are_dropped_where_a_size_is_no_whole_number_of_them(tmp_path):
    config = config_of(image_size=27, drop_partial_patches=True)
    found = open_checkpoint(lone(config, tmp_path), image_size=27)
    assert (found.config.image_size, found.config.drop_partial_patches) == ((27, 27), True)


def test_gelu_of_a_clip_is_asked_for(tmp_path):
    config = config_of("vit_base_patch32_clip_224", image_size=24)
    file = lone(config, tmp_path)
    with pytest.raises(CheckpointError, match=r"--set act=gelu .*--set act=quick_gelu"):
        open_checkpoint(file)
    found = open_checkpoint(file, act="quick_gelu")
    assert (found.config.act, found.config.norm_eps, assumed(found)["norm_eps"]) == ("quick_gelu", 1e-5, 1e-5)


def test_rotary_positions_cant_be_seen(tmp_path):
    eva = config_of("eva02_tiny_patch14_224", image_size=24)
    file = lone(eva, tmp_path)
    with pytest.raises(CheckpointError, match=r"EVA-02 has rotary positions .*--model NAME"):
        open_checkpoint(file)
    assert open_checkpoint(file, model=eva).config == eva
    dinov3 = config_of("vit_small_patch16_dinov3", image_size=24, num_classes=0)
    with pytest.raises(CheckpointError, match=r"no position embedding: .*--model NAME"):
        open_checkpoint(lone(dinov3, tmp_path))
    assert open_checkpoint(lone(dinov3, tmp_path), model=dinov3).config == dinov3


def test_kernels_of_resizing_are_those_of_the_names(tmp_path):
    """MAE's decoder and DINO's head say whose file it is; a ViT alone doesn't."""
    values = parameters(config_of(num_classes=0))
    extras = {
        "bicubic": {
            "mask_token": np.zeros((1, 1, 8), np.float32),
            "decoder_embed.weight": np.zeros((8, 192), np.float32),
        },
        "bicubic_offset": {"head.last_layer.weight_g": np.zeros((4, 1), np.float32)},
    }
    for kernel, extra in extras.items():
        save_file(values | extra, tmp_path / "file.safetensors")
        found = open_checkpoint(tmp_path / "file.safetensors")
        assert (found.config.pos_embed_resize, "pos_embed_resize" in assumed(found)) == (kernel, False)
    found = open_checkpoint(lone(config_of(num_classes=0), tmp_path))
    assert assumed(found)["pos_embed_resize"] == "bicubic_antialias"


def test_a_warning_lists_what_is_assumed_and_saying_it_ends_it(tmp_path):
    config = config_of()
    file = lone(config, tmp_path)
    for side in (vit_torch, vit_jax):
        with pytest.warns(
            AssumedWarning, match=r"num_heads 3: from width 192[\s\S]*act gelu[\s\S]*num_heads="
        ) as caught:
            side.load(file)
        assert len(caught) == 1
    said = {name: getattr(config, name) for name in (*OPEN - {"global_pool"}, "num_heads")}
    with warnings.catch_warnings(action="error"):
        vit_torch.load(file, model=config)
        vit_torch.load(file, **said, image_size=24, global_pool="token")
        vit_torch.load(open_checkpoint(file))
    with pytest.warns(AssumedWarning, match="global_pool token"):
        vit_torch.load(file, **said, image_size=24)


def test_what_is_assumed_is_kept(tmp_path):
    convert(lone(config_of(), tmp_path), tmp_path / "native")
    document = json.loads((tmp_path / "native" / "config.json").read_text())
    assert {item["field"] for item in document["source"]["assumed"]} == {*OPEN, "num_heads", "image_size"}
    assert set(assumed(open_checkpoint(tmp_path / "native"))) == {*OPEN, "num_heads", "image_size"}
    assert "num_heads" not in assumed(open_checkpoint(tmp_path / "native", num_heads=6))


def test_tables_that_are_resized_are_rounded_once(tmp_path):
    file = lone(config_of(), tmp_path)
    checkpoint = open_checkpoint(file)
    exact = adapt(checkpoint, image_size=40, dtype=np.dtype(np.float64))[1]["pos_embed"]
    grid = parameters(config_of())["pos_embed"][0, 1:].reshape(3, 3, -1)
    np.testing.assert_array_equal(exact[0, 1:], resize_grid(grid, (5, 5), "bicubic_antialias").reshape(25, -1))
    loaded = vit_torch.load(checkpoint, image_size=40, dtype=torch.float64).pos_embed.detach().numpy()
    np.testing.assert_array_equal(loaded, exact)


@pytest.mark.parametrize("name", ["posembed_input", "top"])
def test_googles_names_say_whether_the_class_token_has_a_position(name, tmp_path):
    """`posembed_input` came after the class token, the model's own parameter before it."""
    numerics = dict(act="gelu_tanh", norm_eps=1e-6, pos_embed_resize="zoom", patch_resize="bilinear")
    config = config_of(**TWO_READINGS, **numerics)
    google.write(tmp_path / "written.npz", config, parameters(config))
    values = dict(np.load(tmp_path / "written.npz"))
    if name == "posembed_input":
        values["params/Transformer/posembed_input/pos_embedding"] = values.pop("params/pos_embedding")
    np.savez(tmp_path / "file.npz", **values)
    if name == "posembed_input":
        with pytest.raises(CheckpointError, match="got 48 positions of patches, expected a square grid"):
            open_checkpoint(tmp_path / "file.npz")
    else:
        assert open_checkpoint(tmp_path / "file.npz").config.pos_embed_prefix == "none"
    found = open_checkpoint(tmp_path / "file.npz", image_size=(64, 48))
    assert (found.config.pos_embed_prefix, found.config.grid_size) == ("all", (8, 6))


def test_a_row_too_many_may_be_a_rectangle(tmp_path):
    """50 positions and no class token: 7 x 7 and one for a token that there isn't, or 5 x 10."""
    numerics = dict(act="gelu_tanh", norm_eps=1e-6, pos_embed_resize="zoom", patch_resize="bilinear")
    config = config_of(class_token=False, global_pool="avg", image_size=(40, 80), **numerics)
    google.write(tmp_path / "file.npz", config, parameters(config))
    with pytest.raises(CheckpointError, match=r"7 x 7 patches and .*image_size=56x56.* or a grid of 50"):
        open_checkpoint(tmp_path / "file.npz")
    assert open_checkpoint(tmp_path / "file.npz", image_size=(40, 80)).config.grid_size == (5, 10)
    found = open_checkpoint(tmp_path / "file.npz", image_size=(56, 56))
    np.testing.assert_array_equal(found.tensors["pos_embed"], parameters(config)["pos_embed"][:, 1:])


def test_flexivit_has_a_kernel_of_its_own(tmp_path):
    numerics = dict(act="gelu_tanh", norm_eps=1e-6, pos_embed_resize="zoom", patch_resize="bilinear")
    config = config_of("flexivit_small", embed_dim=384, num_heads=6, **numerics)
    google.write(tmp_path / "file.npz", config, parameters(config))
    assert assumed(open_checkpoint(tmp_path / "file.npz"))["pos_embed_resize"] == "zoom"
    found = open_checkpoint(tmp_path / "file.npz", model="flexivit_small")
    assert found.config.pos_embed_resize == "bilinear_antialias"
