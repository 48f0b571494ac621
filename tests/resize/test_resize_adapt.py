"""A checkpoint at another image or patch size: what is resized, by which kernel, and that both frameworks agree."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import pytest
import torch
from flax import nnx
from resize_sources import source

import vit_jax
import vit_torch
from parity import checkpoints, configs
from parity.checkpoints.resize import KERNELS, resize_patch_kernel, resize_rel_pos_table
from parity.checks.forward import exact_jax
from parity.checks.parameters import random_images, random_parameters
from parity.compare import compare, not_identical
from parity.tolerances import FORWARD, RESIZE

POSITIONS = "pos_embed"
PATCHES = "patch_embed.proj.weight"
TABLE = "relative_position_bias_table"

Tensors = dict[str, np.ndarray]


def written(directory: Path, config: configs.Config, dtype: type = np.float64) -> Tensors:
    tensors = random_parameters(checkpoints.parameter_shapes(config))
    tensors = {name: value.astype(dtype) for name, value in tensors.items()}
    checkpoints.write(directory, config, tensors)
    return tensors


def outputs(path: Path, **sizes: object) -> tuple[configs.Config, list[Tensors], list[np.ndarray]]:
    """Config, parameters and logits of both twins in float64."""
    twin = vit_torch.load(path, **sizes)
    images = random_images(twin.config, batch_size=2)
    with torch.inference_mode():
        right = twin(torch.from_numpy(images.transpose(0, 3, 1, 2))).numpy()
    with exact_jax(np.float64):
        model = vit_jax.load(path, **sizes)
        graphdef, state = nnx.split(model)
        left = np.asarray(jax.jit(lambda state, images: nnx.merge(graphdef, state)(images))(state, images))
        held = [vit_jax.state_dict.state_dict(model), vit_torch.state_dict.state_dict(twin)]
    assert model.config == twin.config
    return twin.config, held, [left, right]


# Learned positions with entries for all prefix tokens, for the class token alone and for none, tables in each block and
# a shared one, rotary positions, and patches that aren't square.
MODELS = {
    "all": configs.get("vit_test_dist"),
    "class": configs.get("vit_test_reg_scale", pos_embed_prefix="class", patch_resize="bilinear"),
    "none": configs.get("vit_test_reg_scale", pos_embed_resize="bicubic_offset"),
    "blocks": configs.get("vit_test_beit", rel_pos_resize="bilinear"),
    "shared": configs.get("vit_test_shared_bias"),
    "rope": configs.get("vit_test_rope", pos_embed_resize="zoom"),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_twins_agree_at_another_size(tmp_path, name):
    config = MODELS[name]
    assert config.pos_embed_prefix == (name if name in ("all", "class", "none") else config.pos_embed_prefix)
    tensors = written(tmp_path / "model", config)
    patch = tuple(side + change for side, change in zip(config.patch_size, (2, -1), strict=True))
    sizes = dict(image_size=(5 * patch[0], 9 * patch[1]), patch_size=patch)
    new, held, logits = outputs(tmp_path / "model", **sizes)
    assert new == configs.replace(config, **sizes)
    assert not_identical(held[0], held[1]) == ()
    assert compare({"logits": logits[0]}, {"logits": logits[1]}).ok(FORWARD["float64"].limit)
    changed = set(not_identical(held[0], tensors))
    assert changed == {
        key for key in tensors if key == PATCHES or (key == POSITIONS and config.pos_embed == "learned") or TABLE in key
    }
    prefix = config.num_pos_embed_prefix
    if POSITIONS in changed:
        assert np.array_equal(held[0][POSITIONS][:, :prefix], tensors[POSITIONS][:, :prefix])
        grid = tensors[POSITIONS][0, prefix:].reshape(*config.grid_size, -1)
        expected = source(grid, (5, 9), config.pos_embed_resize).reshape(45, -1)
        assert compare({"positions": held[0][POSITIONS][0, prefix:]}, {"positions": expected}).ok(RESIZE.limit)
    expected = resize_patch_kernel(tensors[PATCHES], patch, config.patch_resize)
    assert np.array_equal(held[0][PATCHES], expected)
    for key in changed - {POSITIONS, PATCHES}:
        expected = resize_rel_pos_table(tensors[key], config.grid_size, (5, 9), config.rel_pos_resize)
        assert np.array_equal(held[0][key], expected)


@pytest.mark.parametrize("kernel", KERNELS)
def test_positions_are_resized_by_the_kernel_of_the_config(tmp_path, kernel):
    config = configs.get("vit_test", pos_embed_resize=kernel)
    tensors = written(tmp_path / "model", config, np.float32)
    new_size = (3 * config.patch_size[0], 11 * config.patch_size[1])
    new, adapted = checkpoints.adapt(checkpoints.open_checkpoint(tmp_path / "model"), image_size=new_size)
    assert adapted[POSITIONS].dtype == np.float32
    prefix = config.num_pos_embed_prefix
    grid = tensors[POSITIONS][0, prefix:].astype(np.float64).reshape(*config.grid_size, -1)
    expected = source(grid, new.grid_size, kernel).reshape(33, -1)
    found = adapted[POSITIONS][0, prefix:].astype(np.float64)
    # Computed in float64 and rounded once: half a unit in the last place of float32.
    assert np.abs(found - expected).max() <= np.abs(expected).max() * np.finfo(np.float32).eps / 2


def test_the_same_grid_is_left_alone(tmp_path):
    """Also by a kernel that would change it: images and patches twice as large have the same grid."""
    config = configs.get("vit_test", pos_embed_resize="bicubic_offset")
    tensors = written(tmp_path / "model", config)
    sizes = {field: tuple(2 * side for side in getattr(config, field)) for field in ("image_size", "patch_size")}
    new, adapted = checkpoints.adapt(checkpoints.open_checkpoint(tmp_path / "model"), **sizes)
    assert new.grid_size == config.grid_size
    assert not_identical(dict(adapted), tensors) == (PATCHES,)


def test_the_shapes_are_those_of_the_new_config(tmp_path):
    config = MODELS["blocks"]
    written(tmp_path / "model", config)
    opened = checkpoints.open_checkpoint(tmp_path / "model")
    patch = config.patch_size[0]
    new, adapted = checkpoints.adapt(opened, image_size=4 * patch, patch_size=patch, num_classes=3)
    assert checkpoints.shapes_of(adapted) == checkpoints.parameter_shapes(new)
    with pytest.raises(ValueError, match=rf"image_size: got .*, expected multiples of patch_size \({patch}, {patch}\)"):
        checkpoints.adapt(opened, image_size=4 * patch + 1, patch_size=patch)
