"""Lone files of open_clip's and OpenAI's, runs of open_clip's training, and what stands beside them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from format_checks import parameters, small
from safetensors.numpy import load_file, save_file

from parity import configs
from parity.checkpoints import CheckpointError, open_checkpoint
from parity.checkpoints.assumed import Assumption
from parity.checkpoints.formats import open_clip, open_clip_models
from parity.checkpoints.formats.open_clip_config import named, understood
from parity.checkpoints.formats.open_clip_tensors import CLIP_IMAGES, SCALARS
from parity.compare import not_identical
from parity.configs import Config

IMAGES = configs.get("vit_base_patch32_clip_448").preprocessing


def native(**fields: object) -> Config:
    """A tower of open_clip's own."""
    return small("vit_base_patch32_clip_224", head_bias=False, preprocessing=IMAGES, **fields)


def lone(directory: Path, config: Config, **others: np.ndarray) -> Path:
    """A file of a tower's tensors with no document beside it."""
    open_clip.write(directory / "whole", config, parameters(config))
    (directory / "lone").mkdir()
    save_file(load_file(directory / "whole" / open_clip.WEIGHTS) | others, directory / "lone" / "tower.safetensors")
    return directory / "lone" / "tower.safetensors"


def resaved(file: Path, change: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]) -> Path:
    save_file(change(load_file(file)), file)
    return file


def fields_of(assumed: tuple[Assumption, ...]) -> list[str]:
    return [assumption.field for assumption in assumed]


def test_a_lone_file_asks_for_the_gelu_and_assumes_what_is_usual(tmp_path):
    config = native(embed_dim=128, num_heads=2)
    file = lone(tmp_path, config)
    with pytest.raises(CheckpointError, match=r"which GELU it has: --set act=gelu .* --set act=quick_gelu .*gelu_tanh"):
        open_checkpoint(file)
    found = open_checkpoint(file, act="quick_gelu")
    assert configs.replace(found.config, preprocessing=IMAGES) == configs.replace(config, act="quick_gelu")
    assert fields_of(found.assumed) == ["num_heads", "norm_eps", "global_pool", "image_size", "preprocessing"]
    said: dict[str, Any] = dict(
        act="gelu", num_heads=4, norm_eps=1e-3, global_pool="token", image_size=24, preprocessing=IMAGES
    )
    found = open_checkpoint(file, **said)
    assert (found.config, found.assumed) == (configs.replace(config, num_heads=4, norm_eps=1e-3), ())


def test_a_named_model_says_what_tensors_dont(tmp_path):
    config = native(layer_scale_init=1e-5, embed_dim=768, num_heads=12, depth=1)
    file = lone(tmp_path, config)
    name = "vit_base_patch32_clip_quickgelu_224"
    found = open_checkpoint(file, model=name)
    images = configs.get(name).preprocessing
    assert found.config == configs.replace(config, act="quick_gelu", preprocessing=images)
    assert fields_of(found.assumed) == ["image_size"]
    assert not_identical(dict(found.tensors), parameters(config)) == ()
    with pytest.raises(CheckpointError, match=r"embed_dim: named model: 1024, file: 768.*--set num_heads=N"):
        open_checkpoint(file, model="vit_large_patch14_clip_224")
    assert open_checkpoint(file, model="vit_large_patch14_clip_224", num_heads=6).config.num_heads == 6
    with pytest.raises(CheckpointError, match=r"pre_norm: named model: False, file: True.*--set global_pool=token"):
        open_checkpoint(file, model=named("ViT-L-14-CLIPA"))


@pytest.mark.parametrize(
    ("fields", "said", "assumed"),
    [
        (dict(global_pool="avg", fc_norm=True, final_norm=False), dict(global_pool="avg", fc_norm=True), False),
        (dict(global_pool="avg"), dict(global_pool="avg", fc_norm=False), False),
        (dict(global_pool="avg"), dict(global_pool="avg"), True),
        (dict(global_pool="token"), dict(global_pool="token"), False),
    ],
)
def test_pooling_is_asked_for_where_no_kind_is_usual(fields, said, assumed, tmp_path):
    config = native(embed_dim=64, num_heads=1, pre_norm=False, **fields)
    file = lone(tmp_path, config)
    with pytest.raises(
        CheckpointError, match=r"how tokens are pooled without ln_pre: --set global_pool=avg --set fc_n"
    ):
        open_checkpoint(file, act="gelu")
    found = open_checkpoint(file, act="gelu", **said)
    assert configs.replace(found.config, preprocessing=IMAGES) == config
    assert ("fc_norm" in fields_of(found.assumed)) is assumed


def test_heads_are_asked_for_or_shown(tmp_path):
    with pytest.raises(CheckpointError, match=r"which GELU.*; how many heads a width of 48 has: --set num_heads=N"):
        open_checkpoint(lone(tmp_path / "asked", native()))
    found = open_checkpoint(lone(tmp_path / "shown", native(qk_norm=True)), act="gelu")
    assert found.config.num_heads == 4
    assert "num_heads" not in fields_of(found.assumed)


def test_open_clips_names_of_the_shapes_are_advised(tmp_path):
    vision = dict(width=768, layers=12, patch_size=32, image_size=224, mlp_ratio=1 / 768)
    file = lone(tmp_path, understood({"model_cfg": {"embed_dim": 1, "vision_cfg": vision}})[0])
    with pytest.raises(CheckpointError, match=r"--model ViT-B-32 or ViT-B-32-quickgelu"):
        open_checkpoint(file)
    found = open_checkpoint(file, model="ViT-B-32-quickgelu")
    assert (found.config.act, found.config.num_heads, found.assumed) == ("quick_gelu", 12, ())


OPENAI = {name: np.array(value, np.int64) for name, value in zip(SCALARS, (24, 77, 100), strict=True)}


def test_openais_archives_leave_nothing_open(tmp_path):
    config = native(embed_dim=128, num_heads=2, act="quick_gelu")
    file = lone(tmp_path, config, logit_scale=np.ones((), np.float32), **OPENAI)
    found = open_checkpoint(file)
    assert (found.config, found.assumed) == (configs.replace(config, preprocessing=CLIP_IMAGES), ())
    assert set(found.source["ignored"]) == {"logit_scale", *SCALARS}
    contradictions: list[dict[str, Any]]
    contradictions = [dict(act="gelu"), dict(num_heads=4), dict(norm_eps=1e-6), dict(image_size=(72, 8))]
    for said in contradictions:
        with pytest.raises(CheckpointError, match=rf"{next(iter(said))}: got .*, but the file says"):
            open_checkpoint(file, **said)
    with pytest.raises(CheckpointError, match=r"act: named model: 'gelu', file: 'quick_gelu'"):
        open_checkpoint(file, model=configs.replace(config, act="gelu"))
    resaved(file, lambda tensors: tensors | dict(input_resolution=np.array(32)))
    with pytest.raises(CheckpointError, match=r"input_resolution: got 32, but .* 9 positions.*--set image_size=24x24"):
        open_checkpoint(file)
    assert open_checkpoint(file, image_size=24).config.image_size == (24, 24)
    resaved(file, lambda tensors: tensors | dict(input_resolution=np.array(np.nan)))
    with pytest.raises(CheckpointError, match=r"input_resolution: got nan, expected a whole number"):
        open_checkpoint(file)


def test_a_grid_that_is_no_square_is_asked_for(tmp_path):
    config = native(embed_dim=64, num_heads=1, image_size=(24, 40))
    file = lone(tmp_path, config)
    with pytest.raises(CheckpointError, match=r"15 positions of patches, expected a square.*--set image_size="):
        open_checkpoint(file, act="gelu")
    assert (
        configs.replace(open_checkpoint(file, act="gelu", image_size=(24, 40)).config, preprocessing=IMAGES) == config
    )


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        ("visual.layer1.0.conv1.weight", "a ResNet"),
        ("visual.attn_pool.query", "attentional_pool of vision_cfg"),
        ("visual.transformer.resblocks.1.attn.logit_scale", "scaled_cosine_attn"),
        ("visual.transformer.resblocks.1.attn.head_scale", "scale_heads"),
        ("visual.transformer.resblocks.1.ln_attn.weight", "scale_attn"),
        ("visual.transformer.resblocks.1.mlp.c_fc.lora_A.weight", "LoRA beside the weights; merge it"),
        ("classifier.weight", r"leave it out with --ignore 'classifier\.\*'"),
        ("visual.strange", r"unexpected visual\.strange"),
    ],
)
def test_towers_that_no_model_here_is_are_named(tensor, message, tmp_path):
    file = lone(tmp_path, native(embed_dim=64, num_heads=1), **{tensor: np.ones(2, np.float32)})
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(file, act="gelu")
    found = open_checkpoint(file, act="gelu", ignore=[tensor])
    assert found.source["ignored"] == {tensor: "as asked"}


@pytest.mark.parametrize("wrapper", ["module.", "state_dict.module.", "model.", "clip_model.", "_orig_mod.model."])
def test_wrapped_and_bare_towers(wrapper, tmp_path):
    config = native(embed_dim=64, num_heads=1)
    file = lone(tmp_path, config)
    expected = open_checkpoint(file, act="gelu")
    resaved(file, lambda tensors: {wrapper + name: value for name, value in tensors.items()})
    found = open_checkpoint(file, act="gelu")
    assert (found.config, found.source["prefix"]) == (expected.config, wrapper)
    assert not_identical(dict(found.tensors), parameters(config)) == ()
    resaved(file, lambda tensors: {name.replace("visual.", ""): value for name, value in tensors.items()})
    bare = open_checkpoint(file, act="gelu")
    assert not_identical(dict(bare.tensors), parameters(config)) == ()


def test_the_document_holds_for_each_file_beside_it(tmp_path):
    config = native(act="gelu_tanh")
    directory = tmp_path / "directory"
    open_clip.write(directory, config, parameters(config))
    written = directory / open_clip.WEIGHTS
    assert open_checkpoint(written).config == config
    assert open_checkpoint(written).source["document"] == str(directory / open_clip.DOCUMENT)
    written.rename(directory / "epoch_2.safetensors")
    assert open_checkpoint(directory).config == config
    save_file(load_file(directory / "epoch_2.safetensors"), directory / "epoch_1.safetensors")
    with pytest.raises(
        CheckpointError, match=r"2 files of weights: epoch_1\.safetensors, .*open one of them, such as .*_2"
    ):
        open_checkpoint(directory)
    assert open_checkpoint(directory / "epoch_2.safetensors").config == config
    with pytest.raises(CheckpointError, match=r"act: named model: 'gelu', open_clip_config\.json: 'gelu_tanh'"):
        open_checkpoint(directory / "epoch_2.safetensors", model=native())
    assert open_checkpoint(directory / "epoch_2.safetensors", act="gelu").config == native()


def test_fine_tuned_at_another_size_beside_the_old_document(tmp_path):
    directory = tmp_path / "directory"
    open_clip.write(directory, native(), parameters(native()))
    tuned = native(image_size=(40, 40))
    tensors = load_file(lone(tmp_path, tuned))
    kernel = tensors["visual.conv1.weight"]
    save_file(tensors | {"visual.conv1.weight": kernel[:, [0, 1, 2, 0]]}, directory / open_clip.WEIGHTS)
    with pytest.raises(CheckpointError, match=r"25 positions .*says image_size 24x24, which has 9.*image_size=40x40"):
        open_checkpoint(directory)
    found = open_checkpoint(directory, image_size=40)
    assert (found.config.in_chans, found.config.image_size, found.config.act) == (4, (40, 40), tuned.act)
    assert (len(found.config.preprocessing.mean), fields_of(found.assumed)) == (1, ["preprocessing"])


def run_of_training(directory: Path, config: Config, **arguments: object) -> Path:
    """What open_clip's training leaves; its `params.txt` is what Python prints."""
    (directory / "checkpoints").mkdir(parents=True)
    written = dict(model="ViT-B-32", force_quick_gelu=False, force_image_size=None, image_mean=None, pretrained="")
    lines = [f"{name}: {value}\n" for name, value in sorted((written | arguments).items())]
    (directory / "params.txt").write_text("".join(lines))
    tensors = load_file(lone(directory / "scratch", config))
    file = directory / "checkpoints" / "epoch_3.safetensors"
    save_file({f"state_dict.module.{name}": value for name, value in tensors.items()}, file)
    return file


TINY = dict(width=64, layers=1, patch_size=8, image_size=24, mlp_ratio=0.5)


@pytest.mark.parametrize(
    ("arguments", "fields"),
    [
        ({}, {}),
        (dict(model="ViT-B-32-quickgelu"), dict(act="quick_gelu")),
        (dict(force_quick_gelu=True, pretrained="openai"), dict(act="quick_gelu")),
        (dict(force_image_size=[16, 40]), dict(image_size=(16, 40))),
        (dict(image_mean=[0.5, 0.5, 0.5], image_std=(0.5, 0.5, 0.5)), dict(mean=(0.5,) * 3, std=(0.5,) * 3)),
        (dict(image_resize_mode="squash"), dict(crop_mode="squash")),
    ],
)
def test_a_run_of_open_clips_training_says_its_model(arguments, fields, tmp_path, monkeypatch):
    monkeypatch.setitem(open_clip_models._OWN, "ViT-B-32", (10, TINY))
    images = {field: fields[field] for field in ("mean", "std", "crop_mode") if field in fields}
    expected = named("ViT-B-32")
    assert expected is not None
    expected = configs.replace(expected, **{field: value for field, value in fields.items() if field not in images})
    expected = configs.replace(expected, preprocessing=configs.replace(CLIP_IMAGES, **images))
    file = run_of_training(tmp_path / "run", expected, **arguments)
    for path in (tmp_path / "run", tmp_path / "run" / "checkpoints", file):
        found = open_checkpoint(path)
        assert (found.config, found.assumed) == (expected, ())
        assert found.source["prefix"] == "state_dict.module."


def test_what_a_run_leaves_open(tmp_path, monkeypatch):
    monkeypatch.setitem(open_clip_models._OWN, "ViT-B-32", (10, TINY))
    config = named("ViT-B-32")
    assert config is not None
    run_of_training(tmp_path / "tag", config, pretrained="laion2b_s34b_b79k")
    found = open_checkpoint(tmp_path / "tag")
    assert (found.config, fields_of(found.assumed)) == (config, ["preprocessing"])
    for arguments in (dict(model="my-own"), dict(pretrained="openai")):
        file = run_of_training(tmp_path / f"open-{len(arguments)}-{next(iter(arguments))}", config, **arguments)
        for path in (file, file.parent.parent):
            with pytest.raises(CheckpointError, match="which GELU"):
                open_checkpoint(path)
    lines = "model: ViT-B-32\n{}\n"
    for line, message in (
        ("force_image_size: [1, 2, 3]", r"got a size \[1, 2, 3\], expected a whole number or two"),
        ("force_image_size: big", "got a size 'big'"),
        ("image_mean: 3", "mean: got 3, expected a list"),
        ("image_resize_mode: [1]", r"preprocess_cfg\.resize_mode: got \[1\], expected one of shortest"),
    ):
        (tmp_path / "tag" / "params.txt").write_text(lines.format(line))
        with pytest.raises(CheckpointError, match=rf"params\.txt: .*{message}"):
            open_checkpoint(tmp_path / "tag")


def test_names_of_open_clip():
    assert [named(name) for name in ("vit_base_patch16_224", "ViT-L-17-SigLIP", "RN50")] == [None] * 3
    for name, ours in (("ViT-B/32", "ViT-B-32"), ("ViT-L/14@336px", "ViT-L-14-336")):
        with pytest.raises(ValueError, match=rf"OpenAI's is called {ours}-quickgelu, and open_clip's own {ours}"):
            named(name)
    quick = named("ViT-L-14-336-quickgelu")
    plain = named("ViT-L-14-336")
    assert plain is not None
    assert quick == configs.replace(plain, act="quick_gelu")
    registered = configs.get("vit_large_patch14_clip_quickgelu_336", num_classes=768, head_bias=False)
    assert quick == configs.replace(registered, preprocessing=CLIP_IMAGES)
    assert named("ViT-SO400M-14-SigLIP2-378") == configs.get(
        "vit_so400m_patch14_siglip_378", num_classes=0, preprocessing=CLIP_IMAGES
    )
