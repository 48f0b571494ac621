"""Google's `.npz` files: every way of naming that there is, with values that come back exactly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from format_checks import parameters, round_trip, small, without

from parity import configs
from parity.checkpoints import CheckpointError, open_checkpoint, parameter_shapes
from parity.checkpoints.assumed import Given
from parity.checkpoints.containers.tensors import open_tensors
from parity.checkpoints.formats import google
from parity.checkpoints.formats.translate import Theirs, fill
from parity.compare import not_identical
from parity.configs import Config

PATTERNS = json.loads((Path(__file__).parents[1] / "data" / "npz_names.json").read_text())
# What a file says beyond the sizes that all patterns share.
TOKEN = dict(class_token=True, global_pool="token", num_classes=1000)
GAP = dict(class_token=False, global_pool="avg", num_classes=1000)
MAP = dict(class_token=False, global_pool="map", num_classes=0)
BIT = dict(stem="bit", stem_norm_eps=1e-6, stem_conv_eps=1e-5, stem_conv_std="deviation")
EXPECTED = {
    "hybrid R+Ti/16 stem only": TOKEN | BIT | dict(patch_size=32),
    "hybrid R26 /32 (2,2,2,2)": TOKEN | BIT | dict(patch_size=32, stem_depths=(2, 2, 2, 2)),
    "hybrid R50 L/32 (3,4,6,3)": TOKEN | BIT | dict(patch_size=32, stem_depths=(3, 4, 6, 3)),
    "hybrid R50+B/16 (3,4,9)": TOKEN | BIT | dict(stem_depths=(3, 4, 9)),
    "MAP inlined (ViT-G dev era)": MAP,
    "SigLIP params/img/ MAP": MAP,
    "SigLIP params/img/ MAP scan": MAP,
    "big_vision linen gap, no prefix": GAP,
    "big_vision linen gap, top pos": GAP,
    "big_vision scan-stacked": GAP,
    "big_vision tok (pos w/o cls)": TOKEN | dict(pos_embed_prefix="none"),
    "gap-norep (no cls)": GAP,
    "img/ prefix, no params/ (LiT)": TOKEN,
    "mid-era Transformer/pos_embedding": TOKEN,
    "old pos + linen numbering": TOKEN,
    "prefix opt/target/": TOKEN,
    "vit_jax (pre-linen) token": TOKEN,
    "vit_jax orig_in21k w/ pre_logits": TOKEN | dict(pre_logits_dim=64),
}
GOOGLE = dict(act="gelu_tanh", norm_eps=1e-6, pos_embed_resize="zoom", patch_resize="bilinear")


def arrays(pattern: str) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in PATTERNS[pattern].items()}


def saved(path: Path, tensors: dict[str, np.ndarray]) -> Path:
    np.savez(path, **tensors)
    return path


def google_config(**fields: object) -> Config:
    return small("vit_base_patch16_224", **(GOOGLE | fields))


@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_config_of_each_pattern(pattern, tmp_path):
    found = open_checkpoint(saved(tmp_path / "file.npz", arrays(pattern)))
    assert found.source["format"] == "google"
    sizes: dict[str, Any] = dict(image_size=224, embed_dim=64, depth=2, num_heads=2, mlp_dim=256)
    images = found.config.preprocessing
    assert found.config == configs.get(
        "vit_base_patch16_224", **sizes, **GOOGLE, **EXPECTED[pattern], preprocessing=images
    )
    assert images.mean == images.std == (0.5, 0.5, 0.5)
    assert images.crop_mode == ("squash" if "img/" in pattern else "center")


def test_every_pattern_has_an_expectation():
    assert sorted(EXPECTED) == sorted(PATTERNS)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_array_of_each_pattern_comes_back_exactly(pattern, tmp_path):
    """Under the file's own names, and through the names that are written."""
    given = arrays(pattern)
    found = open_checkpoint(saved(tmp_path / "file.npz", given))
    assert "ignored" not in found.source
    assert sum(value.size for value in found.tensors.values()) == sum(value.size for value in given.values())
    prefix = found.source.get("prefix", "")
    named = {name.removeprefix(prefix): value for name, value in given.items()}
    names = google._names({name: value.shape for name, value in named.items()}, tmp_path)
    again = Theirs(fill(list(google._table(names)), found.config, source="test"), found.tensors)
    assert not_identical(dict(again), named) == ()
    google.write(tmp_path / "written.npz", found.config, found.tensors)
    reread = open_checkpoint(tmp_path / "written.npz")
    assert not_identical(dict(reread.tensors), dict(found.tensors)) == ()
    assert all(name.startswith("params/") for name in open_tensors(tmp_path / "written.npz"))


def test_where_each_value_goes(tmp_path):
    """Against indices written out: flax has (inputs, heads, width of a head), PyTorch (outputs, inputs)."""
    given = arrays("vit_jax (pre-linen) token")
    found = open_checkpoint(saved(tmp_path / "file.npz", given)).tensors
    block = "Transformer/encoderblock_1"
    attention = f"{block}/MultiHeadDotProductAttention_1"
    # Head 1 has the outputs 32 to 63 of each of query, key and value.
    assert found["blocks.1.attn.qkv.weight"][64 + 32 + 5, 7] == given[f"{attention}/key/kernel"][7, 1, 5]
    assert found["blocks.1.attn.qkv.bias"][128 + 5] == given[f"{attention}/value/bias"][0, 5]
    assert found["blocks.1.attn.proj.weight"][3, 32 + 9] == given[f"{attention}/out/kernel"][1, 9, 3]
    assert found["blocks.1.mlp.fc1.weight"][200, 3] == given[f"{block}/MlpBlock_3/Dense_0/kernel"][3, 200]
    assert found["blocks.1.norm2.weight"][3] == given[f"{block}/LayerNorm_2/scale"][3]
    assert found["patch_embed.proj.weight"][3, 2, 4, 15] == given["embedding/kernel"][4, 15, 2, 3]


def test_axes_of_one_in_group_norms(tmp_path):
    """Files from before Flax's Linen have them, newer ones don't."""
    given = arrays("hybrid R26 /32 (2,2,2,2)")
    found = open_checkpoint(saved(tmp_path / "file.npz", given))
    name = "patch_embed.backbone.stages.1.blocks.0.downsample.norm.bias"
    assert np.array_equal(found.tensors[name], given["block2/unit1/gn_proj/bias"][0, 0, 0])
    newer = {key: value.reshape(-1) if "/gn" in key or "gn_" in key else value for key, value in given.items()}
    again = open_checkpoint(saved(tmp_path / "newer.npz", newer))
    assert not_identical(dict(again.tensors), dict(found.tensors)) == ()


def test_a_hybrid_of_another_width_is_refused(tmp_path):
    given = arrays("hybrid R+Ti/16 stem only") | {"conv_root/kernel": np.zeros((7, 7, 3, 32), np.float32)}
    with pytest.raises(CheckpointError, match="conv_root/kernel: got 32 channels, expected 64"):
        open_checkpoint(saved(tmp_path / "file.npz", given))


def test_bfloat16_arrays(tmp_path):
    """NumPy has no name for them: a file has two bytes of anything."""
    given = {name: value.astype(ml_dtypes.bfloat16) for name, value in arrays("big_vision scan-stacked").items()}
    saved(tmp_path / "file.npz", {name: value.view("V2") for name, value in given.items()})
    found = open_checkpoint(tmp_path / "file.npz")
    assert found.tensors["head.weight"].dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(found.tensors["head.weight"].T, given["params/head/kernel"])
    google.write(tmp_path / "written.npz", found.config, found.tensors)
    again = open_checkpoint(tmp_path / "written.npz").tensors
    assert not_identical(dict(again), dict(found.tensors)) == ()


def test_a_position_for_no_token_is_ignored(tmp_path):
    given = arrays("big_vision linen gap, top pos")
    positions = given["params/pos_embedding"]
    extra = np.concatenate([positions[:, :1] + 1, positions], axis=1)
    found = open_checkpoint(saved(tmp_path / "file.npz", given | {"params/pos_embedding": extra}))
    np.testing.assert_array_equal(found.tensors["pos_embed"], positions)
    (name,) = found.source["ignored"]
    assert name == "params/pos_embedding[:, 0]"


def test_text_tower_and_optimiser_are_ignored_with_their_reasons(tmp_path):
    extra = {"params/txt/Embed_0/embedding": np.zeros((4, 4), np.float32), "params/t": np.zeros(1, np.float32)}
    found = open_checkpoint(saved(tmp_path / "file.npz", arrays("SigLIP params/img/ MAP") | extra))
    assert sorted(found.source["ignored"]) == ["params/t", "params/txt/Embed_0/embedding"]
    extra = {"opt/state/param_states/cls/grad_ema": np.zeros((1, 1, 64), np.float32)}
    found = open_checkpoint(saved(tmp_path / "file.npz", arrays("prefix opt/target/") | extra))
    assert found.source["ignored"] == {"opt/*": "state of the optimiser (1 tensor)"}


def test_without_positions_they_are_big_visions_sin_cos(tmp_path):
    given = without(arrays("big_vision linen gap, top pos"), "params/pos_embedding")
    config = open_checkpoint(saved(tmp_path / "file.npz", given)).config
    assert (config.pos_embed, config.image_size) == ("sincos2d_big_vision", (224, 224))


def test_a_named_model_says_which_grid_it_is(tmp_path):
    config = google_config(image_size=(24, 40), pos_embed_prefix="none")
    google.write(tmp_path / "file.npz", config, parameters(config))
    with pytest.raises(CheckpointError, match="got 14 positions of patches, expected a square grid"):
        open_checkpoint(tmp_path / "file.npz")
    siglip = small("vit_so400m_patch14_siglip_384", image_size=384, patch_size=14, num_classes=0, **GOOGLE)
    google.write(tmp_path / "siglip.npz", siglip, parameters(siglip))
    assert open_checkpoint(tmp_path / "siglip.npz").config.image_size == (378, 378)
    assert open_checkpoint(tmp_path / "siglip.npz", model=siglip).config.image_size == (384, 384)
    with pytest.raises(CheckpointError, match="embed_dim: named model: 1152, file: 48"):
        open_checkpoint(tmp_path / "siglip.npz", model="vit_so400m_patch14_siglip_384")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda given: without(given, "params/head/bias"), r"missing params/head/bias \[1000\]"),
        (lambda given: given | {"params/extra": np.zeros(3)}, r"unexpected params/extra \[3\]"),
        (
            lambda given: given | {"params/Transformer/encoder_norm/bias": np.zeros(63)},
            r"misshapen params/Transformer/encoder_norm/bias: got \[63\], expected \[64\]",
        ),
        (lambda given: without(given, "params/embedding/kernel"), "no Vision Transformer that is known"),
        (lambda given: given | {"params/embedding/kernel": np.zeros((768, 64))}, r"got \[768, 64\], expected 4 axes"),
        (
            lambda given: {name: value for name, value in given.items() if "encoderblock_0" not in name},
            "missing Transformer/encoderblock_0/.*/query/kernel",
        ),
    ],
)
def test_what_doesnt_fit_is_named(change, message, tmp_path):
    saved(tmp_path / "file.npz", change(arrays("big_vision linen gap, top pos")))
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(tmp_path / "file.npz", format="google")


def test_a_stacked_tensor_cant_ask_for_millions_of_blocks(tmp_path):
    given = arrays("big_vision scan-stacked")
    name = "params/Transformer/encoderblock/MultiHeadDotProductAttention_0/query/kernel"
    saved(tmp_path / "file.npz", given | {name: np.zeros((2_000_000, 1, 1, 1), np.int8)})
    with pytest.raises(CheckpointError, match="got 2000000 blocks, expected at most 1024"):
        open_checkpoint(tmp_path / "file.npz")


@pytest.mark.parametrize(
    "fields",
    [
        {},
        dict(pos_embed_prefix="none"),
        dict(class_token=False, global_pool="avg", pos_embed="sincos2d_big_vision", image_size=224, patch_size=16),
        dict(class_token=False, global_pool="map", attn_pool_mlp_dim=56),
        dict(pre_logits_dim=36),
        dict(in_chans=1, preprocessing=configs.Preprocessing(mean=(0.5,), std=(0.5,))),
    ],
)
def test_what_is_written_is_read_as_the_same_model(fields, tmp_path):
    config = google_config(**fields)
    found = round_trip(google, tmp_path / "file.npz", config)
    same = configs.replace(found.config, preprocessing=config.preprocessing)
    if not config.class_token:  # there are no positions of prefix tokens in either case
        same = configs.replace(same, pos_embed_prefix=config.pos_embed_prefix)
    assert same == config


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(act="gelu"), "act: got 'gelu', expected 'gelu_tanh'"),
        (dict(norm_eps=1e-5), "norm_eps: got 1e-05, expected 1e-06"),
        (dict(qkv_bias=False), "qkv_bias: got False, expected True"),
        (dict(block="res_post"), "block: got 'res_post', expected 'pre_norm'"),
        (dict(mlp="swiglu_packed"), "mlp: got 'swiglu_packed', expected 'mlp'"),
        (dict(reg_tokens=3), "no place for reg_token"),
        (dict(layer_scale_init=1e-5), r"no place for blocks\.0\.ls1\.gamma"),
    ],
)
def test_a_model_that_google_doesnt_have_isnt_written(fields, message, tmp_path):
    config = google_config(**fields)
    with pytest.raises(CheckpointError, match=message):
        google.write(tmp_path / "file.npz", config, parameters(config))
    assert list(tmp_path.iterdir()) == []


def test_a_file_needs_its_suffix(tmp_path):
    config = google_config()
    with pytest.raises(CheckpointError, match=r"expected a name that ends in \.npz"):
        google.write(tmp_path / "file", config, parameters(config))


def test_the_shapes_of_all_patterns_are_those_of_their_configs():
    """The table of names in the data directory wasn't cut down to what is understood."""
    assert len(PATTERNS) == 18
    for pattern in PATTERNS:
        prefix = next(name for name in PATTERNS[pattern] if name.endswith("embedding/kernel"))[
            : -len("embedding/kernel")
        ]
        shapes = {name.removeprefix(prefix): tuple(shape) for name, shape in PATTERNS[pattern].items()}
        config = google._config(shapes, google._names(shapes, Path()), Given(), Path())
        sizes = [int(np.prod(shape)) for shape in shapes.values()]
        assert sum(sizes) == sum(int(np.prod(shape)) for shape in parameter_shapes(config).values())
