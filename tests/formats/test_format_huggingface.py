"""Files of Hugging Face transformers, made without it: every class both ways, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from format_checks import parameters, small
from huggingface_files import CONFIG, NAMES, WEIGHTS, changed, made, saved, settings, tensors_of
from safetensors.numpy import load_file

from parity import configs
from parity.checkpoints import CheckpointError, convert, open_checkpoint, parameter_shapes
from parity.checkpoints.formats import foreign, huggingface
from parity.checkpoints.formats.huggingface.registry import ARCHITECTURES, architecture_of, choose
from parity.compare import not_identical
from parity.configs import Rope
from parity.configs.sincos import sincos2d

DINOV2_REGISTERS = "Dinov2WithRegistersModel"


def essence(config: configs.Config) -> dict[str, Any]:
    return foreign.essence(config, free=("dynamic_image_size",))  # `config.json` can't say it


@pytest.mark.parametrize("kind", ARCHITECTURES, ids=NAMES)
def test_what_a_class_has_comes_back_exactly(kind, tmp_path):
    data = settings(kind)
    theirs = tensors_of(kind, data)
    found = open_checkpoint(saved(tmp_path / "theirs", data, theirs))
    assert found.source["architecture"] == kind.name
    assert found.source.get("labels", ["cat", "dog", "newt"]) == ["cat", "dog", "newt"]
    assert found.tensors.shapes() == parameter_shapes(found.config) == {k: v.shape for k, v in found.tensors.items()}
    assert set(found.tensors.dtypes().values()) == {np.dtype(np.float32)}
    convert(tmp_path / "theirs", tmp_path / "ours")
    convert(tmp_path / "ours", tmp_path / "back", to="huggingface")
    back = open_checkpoint(tmp_path / "back")
    assert essence(back.config) == essence(found.config)
    assert not_identical(dict(back.tensors), dict(found.tensors)) == ()
    if kind.written != "never":
        written, constants = load_file(tmp_path / "back" / WEIGHTS), kind.added(found.config)
        kept = {name: value for name, value in theirs.items() if name.removeprefix(kind.prefix) not in constants}
        assert back.source["architecture"] == kind.name
        assert not_identical({name: written.pop(name) for name in kept}, kept) == ()
        expected = {
            kind.prefix + name: np.full(shape, value, np.int64 if isinstance(value, int) else np.float32)
            for name, (shape, value) in constants.items()
        }
        assert not_identical(written, expected) == ()


@pytest.mark.parametrize("kind", ARCHITECTURES, ids=NAMES)
def test_names_with_and_without_the_prefix(kind, tmp_path):
    """Classes around an encoder put a prefix before its names, and some versions leave it out."""
    data = settings(kind)
    theirs = tensors_of(kind, data)
    heads = {name for entry in kind.head for name in theirs if name.startswith(entry.theirs)}
    bare = {name if name in heads else name.removeprefix(kind.base): value for name, value in theirs.items()}
    other = {name if name in heads else kind.base + name: value for name, value in bare.items()}
    expected = dict(open_checkpoint(saved(tmp_path / "as it is", data, theirs)).tensors)
    for number, tensors in enumerate((bare, other)):
        found = open_checkpoint(saved(tmp_path / str(number), data, tensors))
        assert not_identical(dict(found.tensors), expected) == ()


EXPRESSED = {
    "vit": ("ViTForImageClassification", small("vit_base_patch16_224")),
    "vit-no-classes": ("ViTForImageClassification", small("vit_base_patch16_224", num_classes=0)),
    "vit-pooler": ("ViTModel", small("vit_base_patch16_224", num_classes=0, pre_logits_dim=7)),
    "vit-tokens": ("ViTMSNModel", small("vit_base_patch16_224", num_classes=0, global_pool="none")),
    "vit-apart": ("ViTForImageClassification", small("vit_base_patch16_224", qkv_fused=False)),
    "deit": ("DeiTForImageClassificationWithTeacher", small("deit_tiny_distilled_patch16_224")),
    "dinov2": ("Dinov2Model", small("vit_small_patch14_dinov2", mlp_dim=96, num_classes=0)),
    "giant": ("Dinov2Model", small("vit_giant_patch14_dinov2", mlp_dim=128, num_classes=0)),
    "siglip": ("SiglipVisionModel", small("vit_base_patch16_siglip_224", num_classes=0)),
    "siglip-classes": (
        "IJepaForImageClassification",
        small("vit_base_patch16_siglip_224", global_pool="avg"),
    ),
    "clip": ("CLIPVisionModelWithProjection", small("vit_base_patch32_clip_224", head_bias=False)),
    "dinov3": (
        "DINOv3ViTModel",
        small(
            "vit_base_patch16_224",
            num_classes=0,
            reg_tokens=4,
            pos_embed="none",
            rope=Rope(kind="centered", temperature=100.0, rotate_half=True, rescale=2.0),
            layer_scale_init=1e-5,
            k_bias=False,
            mlp="swiglu",
            act="silu",
        ),
    ),
    "beit": (
        "BeitForImageClassification",
        small(
            "vit_base_patch16_224",
            pos_embed="none",
            rel_pos_bias="block",
            k_bias=False,
            layer_scale_init=0.1,
            final_norm=False,
            fc_norm=True,
            global_pool="avg",
        ),
    ),
}


@pytest.mark.parametrize("case", EXPRESSED)
def test_configs_of_other_sources(case, tmp_path):
    name, config = EXPRESSED[case]
    tensors = parameters(config)
    huggingface.write(tmp_path, config, tensors, source={"format": "timm"})
    assert json.loads((tmp_path / CONFIG).read_text())["architectures"] == [name]
    found = open_checkpoint(tmp_path)
    assert essence(found.config) == essence(config)
    if config.qkv_fused:
        assert not_identical(dict(found.tensors), tensors) == ()
    else:
        for kind in ("weight", "bias"):
            parts = [tensors[f"blocks.1.attn.{part}_proj.{kind}"] for part in "qkv"]
            assert np.array_equal(found.tensors[f"blocks.1.attn.qkv.{kind}"], np.concatenate(parts))


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        (dict(pos_embed_prefix="none"), "ViTForImageClassification"),
        (dict(pos_embed="sincos2d", pos_embed_prefix="none"), "ViTForImageClassification"),
        (
            dict(reg_tokens=3, num_classes=0, layer_scale_init=1.0, pos_embed_prefix="none", mlp_dim=96),
            DINOV2_REGISTERS,
        ),
        (dict(class_token=False, global_pool="avg", pos_embed="sincos2d_big_vision"), "IJepaForImageClassification"),
    ],
)
def test_positions_are_spelled_out(fields, name, tmp_path):
    """All classes store them, and the class token has one."""
    config = small("vit_base_patch16_224", **fields)
    tensors = parameters(config)
    huggingface.write(tmp_path, config, tensors)
    found = open_checkpoint(tmp_path)
    assert found.source["architecture"] == name
    positions = found.tensors["pos_embed"]
    assert positions.shape == (1, config.class_token + config.num_patches, config.embed_dim)
    assert not positions[:, : config.class_token].any()
    big_vision = config.pos_embed == "sincos2d_big_vision"
    fixed = sincos2d(config.grid_size, config.embed_dim, big_vision=big_vision).astype(np.float32)[None]
    expected = tensors.pop("pos_embed", fixed)
    assert np.array_equal(positions[:, config.class_token :], expected)
    assert not_identical({key: found.tensors[key] for key in tensors}, tensors) == ()


def test_a_bias_of_zeros_is_left_out_of_a_projection(tmp_path):
    config = small("vit_base_patch32_clip_224", head_bias=True)
    tensors = parameters(config)
    with pytest.raises(CheckpointError, match="has no class for this model"):
        huggingface.write(tmp_path, config, tensors)
    bias = np.zeros_like(tensors.pop("head.bias"))
    huggingface.write(tmp_path, config, tensors | {"head.bias": bias})
    found = open_checkpoint(tmp_path)
    assert found.source["architecture"] == "CLIPVisionModelWithProjection"
    assert not_identical(dict(found.tensors), tensors) == ()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(norm="rmsnorm"), "norm: got 'rmsnorm', there 'layernorm'"),
        (dict(qk_norm=True), "qk_norm: got True, there False"),
        (dict(block="parallel_scaling"), "block: got 'parallel_scaling', there 'pre_norm'"),
        (dict(final_norm=False, fc_norm=True), "final_norm: got False, there True"),
        (dict(global_pool="avg"), "global_pool: got 'avg', there 'token'"),
        (dict(qkv_fused=False, num_kv_heads=(2, 2)), r"num_kv_heads: got \(2, 2\), there None"),
        (
            dict(image_size=(24, 32), pre_norm=True, patch_bias=False, head_bias=False),
            r"image_size: got \(24, 32\), there",
        ),
    ],
)
def test_configs_that_no_class_can_hold(fields, message, tmp_path):
    config = small("vit_base_patch16_224", **fields)
    with pytest.raises(CheckpointError, match=message):
        huggingface.write(tmp_path / "new", config, parameters(config))
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("ViTForImageClassification", {"architectures": ["ViTForImageClasification"]}, "did you mean 'ViTForImageC"),
        ("ViTForImageClassification", {"architectures": None, "model_type": "vitt"}, "did you mean 'vit'"),
        (
            "ViTForImageClassification",
            {"hidden_act": "gelu_newer"},
            "hidden_act: got 'gelu_newer'.*did you mean 'gelu_new'",
        ),
        ("ViTForImageClassification", {"hidden_act": ["gelu"]}, "unhashable"),
        ("ViTForImageClassification", {"hidden_size": None}, "hidden_size: got null"),
        ("ViTForImageClassification", {"hidden_size": "24"}, "embed_dim: got '24', expected an integer"),
        ("ViTForImageClassification", {"head_dim": 16}, "head_dim: got 16, expected hidden_size / num_attention_heads"),
        ("ViTForImageClassification", {"image_size": [24, 24, 3]}, "image_size: got"),
        ("ViTForImageClassification", {"num_hidden_layers": 10**9}, "depth: got 1000000000"),
        ("ViTModel", {"pooler_act": "gelu"}, "pooler_act: got 'gelu', expected 'tanh'"),
        ("BeitModel", {"image_size": [24, 32]}, r"image_size: got \[24, 32\], expected a square"),
        (
            "BeitModel",
            {"use_relative_position_bias": True, "use_shared_relative_position_bias": True},
            "use_shared_relative_position_bias: got true",
        ),
        ("BeitForMaskedImageModeling", {"use_mean_pooling": False}, "use_mean_pooling: got False, expected True"),
        ("DINOv3ViTModel", {"pos_embed_jitter": 1.5}, "pos_embed_jitter: got 1.5, expected null"),
        ("DINOv3ViTModel", {"value_bias": False}, "query_bias, key_bias, value_bias: got True, False, False"),
        ("Siglip2VisionModel", {"num_patches": 10}, "num_patches: got 10, expected a square number"),
    ],
)
def test_settings_that_are_refused(name, changes, message, tmp_path):
    with pytest.raises(CheckpointError, match=message) as raised:
        open_checkpoint(made(tmp_path / "model", name, **changes))
    assert str(tmp_path / "model") in str(raised.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vit.layernorm.bias": None}, r"missing vit.layernorm.bias \[24\]"),
        ({"vit.new.weight": np.zeros(3)}, r"unexpected vit.new.weight \[3\]"),
        ({"classifier.bias": np.zeros(4)}, r"misshapen classifier.bias: got \[4\], expected \[3\]"),
    ],
)
def test_tensors_that_do_not_fit(change, message, tmp_path):
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(changed(made(tmp_path / "model"), change))


@pytest.mark.parametrize(
    ("name", "tensor", "reason"),
    [
        ("ViTModel", "embeddings.mask_token", "left out in pre-training"),
        ("ViTForMaskedImageModeling", "decoder.0.weight", "decoder of pre-training"),
        ("BeitModel", "encoder.layer.0.attention.attention.relative_position_bias.relative_position_index", "places"),
        ("CLIPVisionModel", "vision_model.embeddings.position_ids", "0, 1, 2"),
        ("CLIPModel", "text_model.final_layer_norm.weight", "text tower"),
        ("SiglipModel", "logit_bias", "compares images with texts"),
        ("SiglipForImageClassification", "vision_model.head.probe", "the mean of the tokens"),
    ],
)
def test_tensors_that_are_left_out_have_a_reason(name, tensor, reason, tmp_path):
    path = changed(made(tmp_path / "model", name), {tensor: np.ones(2, np.float32)})
    assert reason in open_checkpoint(path).source["ignored"][tensor]


def test_a_file_without_its_class_is_the_model_of_its_type(tmp_path):
    assert open_checkpoint(made(tmp_path / "a", "ViTModel", architectures=None)).source["architecture"] == "ViTModel"
    assert architecture_of({"model_type": "siglip"}, ()).name == "SiglipModel"


def test_an_image_tower_may_have_the_settings_of_a_whole_model(tmp_path):
    kind = next(kind for kind in ARCHITECTURES if kind.name == "CLIPVisionModelWithProjection")
    flat = settings(kind) | {"projection_dim": 9}
    nested = {"architectures": [kind.name], "model_type": "clip", "vision_config": {}, "vision_config_dict": flat}
    assert kind.config(nested) == kind.config(flat)
    assert kind.config(flat).num_classes == 9


def test_preprocessing_and_labels_go_along(tmp_path):
    name = "Dinov2Model"
    kind = next(kind for kind in ARCHITECTURES if kind.name == name)
    images = dict(
        image_processor_type="BitImageProcessor",
        size={"shortest_edge": 20},
        crop_size={"height": 16, "width": 16},
        image_mean=[0.1, 0.2, 0.3],
        image_std=[0.4, 0.5, 0.6],
    )
    data = settings(kind)
    path = saved(tmp_path / "theirs", data, tensors_of(kind, data), preprocessor_config=images)
    found = open_checkpoint(path)
    assert found.config.preprocessing.mean == (0.1, 0.2, 0.3)
    assert found.source["input_size"] == [16, 16]
    convert(path, tmp_path / "back", to="huggingface")
    written = json.loads((tmp_path / "back" / "preprocessor_config.json").read_text())
    assert {key: written[key] for key in images} == images
    convert(made(tmp_path / "labelled"), tmp_path / "again", to="huggingface")
    document = json.loads((tmp_path / "again" / CONFIG).read_text())
    assert document["id2label"] == {"0": "cat", "1": "dog", "2": "newt"}
    assert document["label2id"] == {"cat": 0, "dog": 1, "newt": 2}


def test_another_directory_is_not_replaced(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    config = small("vit_base_patch16_224")
    with pytest.raises(CheckpointError, match="exists and is no such checkpoint that vit-parity wrote"):
        huggingface.write(tmp_path, config, parameters(config))
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]


def test_what_came_from_a_class_goes_back_to_it():
    config = configs.replace(small("vit_base_patch16_224"), num_classes=0, global_pool="none")
    assert choose(config, {}, path="").name == "ViTMSNModel"
    assert choose(config, {"architecture": "ViTModel", "model_type": "vit"}, path="").name == "ViTModel"
    assert (
        choose(config, {"architecture": "ViTMAEForPreTraining", "model_type": "vit_mae"}, path="").name == "ViTMAEModel"
    )


@pytest.mark.parametrize("name", ["ViTForImageClassification", "SiglipForImageClassification"])
def test_what_is_said_counts_before_the_document(name, tmp_path):
    right = open_checkpoint(made(tmp_path / "right", name))
    heads, act = right.config.num_heads, "quick_gelu"
    changes = {"num_attention_heads": 7, "layer_norm_eps": "x"}
    path = made(tmp_path / "wrong", name)
    document = json.loads((path / "config.json").read_text())
    tower = document.get("vision_config", document)
    tower |= changes
    (path / "config.json").write_text(json.dumps(document))
    with pytest.raises(CheckpointError, match=r"num_heads|norm_eps"):
        open_checkpoint(path)
    found = open_checkpoint(path, num_heads=heads, norm_eps=right.config.norm_eps, act=act)
    assert found.config == configs.replace(right.config, act=act)
