"""Swin Transformers of both versions against timm, torchvision and transformers, in float64, with the same parameters.

What a source does about a map that windows don't divide, or that is smaller than one, is `window_fit`: each of its
values is held against the project that it is named after.
"""

from __future__ import annotations

import re
from functools import cache

import numpy as np
import pytest
import timm
import torch
import transformers
from timm.layers.pos_embed_rel import resize_rel_pos_bias_table
from torchvision.models.swin_transformer import PatchMerging, PatchMergingV2, SwinTransformerBlockV2
from torchvision.models.swin_transformer import SwinTransformer as OfTorchvision

import vit_torch
import vit_torch.state_dict
from parity import configs
from parity.checkpoints import convert, open_checkpoint, parameter_shapes
from parity.checkpoints.shapes import resized
from parity.checks.forward import run_flax, run_torch
from parity.checks.parameters import random_images, random_parameters
from parity.compare import compare
from parity.configs import Execution
from parity.configs.swin import SwinConfig
from parity.configs.windows import log_distances
from parity.tolerances import PEERS

NAMES = sorted(SwinConfig.registered)
SIZES = dict(depths=(2, 2, 2, 2), embed_dim=24, num_heads=(2, 2, 4, 4), num_classes=7)
# Maps of 15 x 13, 8 x 7, 4 x 4 and 2 x 2.
IMAGE = (60, 52)


def small(name: str, **changes) -> SwinConfig:
    return SwinConfig.of(configs.get(name, **dict(image_size=IMAGE, mlp_dim=96) | SIZES | changes))


@cache
def distinct() -> dict[SwinConfig, str]:
    """A name for each set of options."""
    return {small(name): name for name in reversed(NAMES)}


def exact(peer: torch.nn.Module) -> torch.nn.Module:
    """A peer in float64, whose logarithmic distances are so, too: timm and torchvision make them in float32."""
    peer = peer.double().eval()
    for module in peer.modules():
        table = getattr(module, "relative_coords_table", None)
        if table is not None:
            trained = getattr(module, "pretrained_window_size", (0, 0))[0]
            distances = torch.from_numpy(log_distances(tuple(module.window_size), trained).copy()).reshape(table.shape)
            # A float32 coordinate of 1 / 11 or 3 / 5, and a logarithm of it.
            assert (table - distances).abs().max() <= 4 * torch.finfo(torch.float32).eps
            module.relative_coords_table = distances
    return peer


def outputs_of(config: SwinConfig, tensors: dict[str, np.ndarray], images: np.ndarray):
    """Of both twins."""
    yield run_torch(config, tensors, images, Execution(), None)[0]
    yield run_flax(config, tensors, images, Execution())[0]


def held(config: SwinConfig, peer: torch.nn.Module, theirs) -> None:
    """Both twins give what a peer gives with the same numbers, whose names `theirs` translates."""
    tensors = random_parameters(parameter_shapes(config))
    images = random_images(config, batch_size=2)
    lacking = exact(peer).load_state_dict(
        {key: torch.from_numpy(value) for key, value in theirs(tensors).items()}, strict=False
    )
    assert not lacking.unexpected_keys
    # Buffers, which follow from the windows.
    assert all("relative_" in name for name in lacking.missing_keys)
    with torch.no_grad():
        logits = peer(torch.from_numpy(images.transpose(0, 3, 1, 2)))
    expected = {"logits": getattr(logits, "logits", logits).numpy()}
    for outputs in outputs_of(config, tensors, images):
        assert compare({"logits": outputs["logits"]}, expected).worst.relative_l2 <= PEERS.limit


def test_every_model_of_timms_modules_is_here():
    modules = ("swin_transformer", "swin_transformer_v2")
    assert sorted(name for module in modules for name in timm.list_models(module=module)) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_names_shapes_and_order_at_full_size(name):
    with torch.device("meta"):
        peer = timm.create_model(name, num_classes=1000)
    assert {key: tuple(value.shape) for key, value in peer.state_dict().items()} == parameter_shapes(configs.get(name))
    assert list(peer.state_dict()) == list(parameter_shapes(configs.get(name)))


@pytest.mark.parametrize("config", distinct(), ids=distinct().values())
def test_outputs_and_maps_of_timm(config):
    name = distinct()[config]
    peer = exact(timm.create_model(name, img_size=IMAGE, **SIZES))
    tensors, images = random_parameters(parameter_shapes(config)), random_images(config, batch_size=2)
    peer.load_state_dict({key: torch.from_numpy(value) for key, value in tensors.items()})
    given = torch.from_numpy(images.transpose(0, 3, 1, 2))
    with torch.no_grad():
        maps = peer.forward_intermediates(given, intermediates_only=True)
        expected = {f"layers.{i}": each.permute(0, 2, 3, 1).numpy() for i, each in enumerate(maps)}
        expected |= {"forward_features": peer.forward_features(given).numpy(), "logits": peer(given).numpy()}
    for outputs in outputs_of(config, tensors, images):
        assert compare({place: outputs[place] for place in expected}, expected).worst.relative_l2 <= PEERS.limit


def in_torchvision(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Names of torchvision's: stages and mergings in turn, and a bias of the key that Swin V2 sets to zero."""
    found = {}
    for name, value in tensors.items():
        name = re.sub(r"layers\.(\d)\.blocks", lambda match: f"features.{2 * int(match[1]) + 1}", name)
        name = re.sub(r"layers\.(\d)\.downsample", lambda match: f"features.{2 * int(match[1])}", name)
        for ours, theirs in {
            "patch_embed.proj": "features.0.0",
            "patch_embed.norm": "features.0.2",
            "mlp.fc1": "mlp.0",
            "mlp.fc2": "mlp.3",
            "head.fc": "head",
        }.items():
            name = name.replace(ours, theirs)
        found[name] = value
    for name in [name for name in found if name.endswith("q_bias")]:
        query, value = found.pop(name), found.pop(name.replace("q_bias", "v_bias"))
        found[name.replace("q_bias", "qkv.bias")] = np.concatenate([query, np.ones_like(query), value])
    return found


@pytest.mark.parametrize("image", [IMAGE, (64, 96), (36, 20)])
@pytest.mark.parametrize("version", [1, 2])
def test_torchvision_pads_small_maps(version, image):
    name = "swin_tiny_patch4_window7_224" if version == 1 else "swinv2_tiny_window8_256"
    config = small(name, image_size=image, window_fit="pad")
    window = list(config.window_sizes[:1] * 2)
    second = dict(block=SwinTransformerBlockV2, downsample_layer=PatchMergingV2)
    peer = OfTorchvision(
        [4, 4],
        config.embed_dim,
        list(config.depths),
        list(config.num_heads),
        window,
        num_classes=config.num_classes,
        **(second if version == 2 else dict(downsample_layer=PatchMerging)),
    )
    held(config, peer, in_torchvision)


def in_transformers(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Names of transformers' Swin: three projections, and the merging at the end of the stage before."""
    found = {}
    for name, value in tensors.items():
        name = re.sub(r"^layers\.(\d)\.downsample", lambda match: f"layers.{int(match[1]) - 1}.downsample", name)
        for ours, theirs in {
            r"^layers": "encoder.layers",
            r"^patch_embed\.proj": "embeddings.patch_embeddings.projection",
            r"^patch_embed\.norm": "embeddings.norm",
            r"^norm\.": "layernorm.",
            r"norm1": "layernorm_before",
            r"norm2": "layernorm_after",
            r"attn\.proj": "attention.o_proj",
            r"attn\.relative": "attention.relative_position_bias.relative",
            r"attn\.": "attention.",
        }.items():
            name = re.sub(ours, theirs, name)
        if "attention.qkv" in name:
            for part, each in zip("qkv", np.split(value, 3), strict=True):
                found[f"swin.{name.replace('qkv', f'{part}_proj')}"] = each
        else:
            found[name.replace("head.fc", "classifier") if "head.fc" in name else f"swin.{name}"] = value
    return found


@pytest.mark.parametrize("image", [(64, 96), (60, 116)])
def test_transformers_fills_up_before_it_moves(image):
    config = small(
        "swin_tiny_patch4_window7_224", image_size=image, window_fit="shrink_both", window_sizes=(2, 2, 2, 2)
    )
    theirs = transformers.SwinConfig(
        image_size=max(image),
        depths=list(config.depths),
        embed_dim=config.embed_dim,
        num_heads=list(config.num_heads),
        window_size=2,
        num_labels=config.num_classes,
        layer_norm_eps=config.norm_eps,
    )
    held(config, transformers.SwinForImageClassification(theirs), in_transformers)


def test_ways_to_fit_windows_differ():
    """Each of the three is another function of the same parameters, where windows don't divide the map."""
    config = small("swinv2_tiny_window8_256", window_sizes=(6, 6, 6, 2))
    tensors, images = random_parameters(parameter_shapes(config)), random_images(config, batch_size=1)
    found = []
    for fit in ("shrink", "shrink_both", "pad"):
        changed = configs.replace(config, window_fit=fit)
        found += [outputs["logits"] for outputs in outputs_of(changed, tensors, images)]
    ways = found[::2]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        difference = compare({"logits": ways[one]}, {"logits": ways[other]}).worst.relative_l2
        assert difference > 1e3 * PEERS.limit, (one, other)


@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence:UserWarning")  # timm's
@pytest.mark.filterwarnings("ignore:torch.searchsorted:UserWarning")  # timm's
@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "swin_s3_small_224"])
def test_tables_of_another_window_are_timms(name):
    old = SwinConfig.of(configs.get(name, depths=(2, 2, 2, 2)))
    new = configs.replace(old, image_size=(192, 288), window_sizes=(12, 9, 14, 7))
    tensors = random_parameters(parameter_shapes(old))
    found = dict(resized(tensors, old, new))
    assert {name: value.shape for name, value in (tensors | found).items()} == parameter_shapes(new)
    assert found
    for key, value in found.items():
        window = new.window(int(key.split(".")[1]), 0)[0]
        table = torch.from_numpy(tensors[key])
        expected = resize_rel_pos_bias_table(table, new_window_size=window, new_bias_shape=value.shape)
        # Theirs is made in float32.
        assert np.abs(value - expected.numpy()).max() <= 8 * np.finfo(np.float32).eps * np.abs(value).max()


CHANGED = [
    ("swin_tiny_patch4_window7_224", dict(window_sizes=(5, 4, 7, 3), image_size=(60, 52))),
    ("swinv2_base_window12to16_192to256", dict(act="silu", trained_windows=(), drop_path_rate=0.1)),
    ("swinv2_tiny_window8_256", dict(trained_windows=(6, 6, 6, 3), patch_size=(2, 2), in_chans=1)),
    ("swin_s3_tiny_224", dict(embed_dim=40, mlp_dim=130, num_classes=0)),
    ("swin_tiny_patch4_window7_224", dict(depths=(2, 2), num_heads=(2, 4), window_sizes=(7, 5))),
]


@pytest.mark.parametrize(("name", "changes"), CHANGED)
def test_a_directory_goes_to_timm_and_back(name, changes, tmp_path):
    config = small(name, **changes)
    if config.in_chans == 1:
        config = configs.replace(config, preprocessing=config.preprocessing.grey())
    tensors = {key: value.astype(np.float32) for key, value in random_parameters(parameter_shapes(config)).items()}
    images = random_images(config, batch_size=1)
    native, path = tmp_path / "native", tmp_path / "timm"
    model = vit_torch.create_model(config)
    vit_torch.state_dict.load_state_dict(model, tensors)
    vit_torch.save(model, native)
    convert(native, path, to="timm")
    peer = exact(timm.create_model(f"local-dir:{path}", pretrained=True))
    for key, value in tensors.items():  # which are kept in float32
        assert np.array_equal(peer.state_dict()[key].numpy(), value.astype(np.float32))
    with torch.no_grad():
        expected = {"logits": peer(torch.from_numpy(images.transpose(0, 3, 1, 2))).numpy()}
    back = open_checkpoint(path)
    assert back.config == config
    assert not back.assumed
    assert {key: np.array_equal(back.tensors[key], value) for key, value in tensors.items()} == dict.fromkeys(
        tensors, True
    )
    for outputs in outputs_of(back.config, {key: value.astype(np.float64) for key, value in tensors.items()}, images):
        assert compare({"logits": outputs["logits"]}, expected).worst.relative_l2 <= PEERS.limit


@pytest.mark.parametrize("name", NAMES)
def test_what_timm_saves_is_read(name, tmp_path):
    """timm's own directory, with the arguments that a user gave, and its file alone with the name of the model."""
    changes = dict(img_size=IMAGE, **SIZES)
    peer = timm.create_model(name, **changes)
    timm.models.save_for_hf(peer, tmp_path, model_args=changes, safe_serialization=True)
    found = open_checkpoint(tmp_path)
    assert found.config == small(name, rel_pos_resize="geometric")
    lone = open_checkpoint(tmp_path / "model.safetensors", model=small(name))
    assert lone.config == found.config
    for key, value in peer.state_dict().items():
        assert np.array_equal(found.tensors[key], value.numpy())
        assert np.array_equal(lone.tensors[key], value.numpy())
