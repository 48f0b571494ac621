"""Every class of transformers that we read: what it saves, run by both twins and held against the class itself.

Models are tiny, with random values in every parameter, in float64, which some classes leave for float32 inside: there
`in_float64` exchanges the type for the duration of a test. What we write back goes through `from_pretrained` strictly.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import test_peers_mobilevit_files
import test_peers_pvt_files
import test_peers_resnet
import test_peers_swin_files
import torch
import transformers
from flax import nnx
from huggingface_cases import CASES, LOADED_WITH, OPTIONS
from transformers.core_model_loading import revert_weight_conversion
from transformers.models.dinov2 import modeling_dinov2
from transformers.models.dinov2_with_registers import modeling_dinov2_with_registers
from transformers.models.dinov3_vit import modeling_dinov3_vit
from transformers.models.siglip2 import modeling_siglip2

import vit_jax
import vit_torch
from parity import checkpoints, configs
from parity.checkpoints import parameter_shapes
from parity.checkpoints.formats import huggingface
from parity.checkpoints.formats.huggingface import ARCHITECTURES
from parity.checkpoints.formats.huggingface.architecture import ACTIVATIONS
from parity.checkpoints.formats.translate import fill, their_shapes
from parity.checks.parameters import random_parameters
from parity.compare import compare
from parity.configs import VitConfig
from parity.tolerances import FORWARD
from vit_torch.state_dict import from_numpy

# The classes save no `preprocessor_config.json`, and nothing here asks for one.
pytestmark = pytest.mark.filterwarnings("ignore::parity.checkpoints.AssumedWarning")

LIMIT = FORWARD["float64"].limit

Outputs = dict[str, np.ndarray]
Model = transformers.PreTrainedModel

# Some classes compute rotations and resized positions in float32, whatever the model's type is.
FLOAT32_INSIDE = (modeling_dinov2, modeling_dinov2_with_registers, modeling_dinov3_vit, modeling_siglip2)


class Float64:
    """torch, in which float32 is float64."""

    float32 = torch.float64

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


@pytest.fixture
def in_float64(monkeypatch):
    for module in FLOAT32_INSIDE:
        monkeypatch.setattr(module, "torch", Float64())


@pytest.fixture(autouse=True)
def no_progress_bars():
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()


def make(case: str, **changes: Any) -> Model:
    """The class's own model, with random values in all that it saves."""
    name, settings = CASES[case][0], CASES[case][1] | changes
    cls = getattr(transformers, name)
    model = cls(cls.config_class(**settings), **OPTIONS.get(case, {})).double().eval()
    values = random_parameters({key: tuple(value.shape) for key, value in model.state_dict().items()})
    model.load_state_dict({key: from_numpy(value) for key, value in values.items()}, strict=True)
    return model


def saved(case: str, directory: Path, **changes: Any) -> Model:
    model = make(case, **changes)
    model.save_pretrained(directory)
    return model


def loaded(directory: Path, **settings: Any) -> Model:
    """A directory in the class that it names; tensors must be exactly those of the class."""
    name = json.loads((directory / "config.json").read_text())["architectures"][0]
    model, report = getattr(transformers, name).from_pretrained(directory, output_loading_info=True, **settings)
    assert {key: found for key, found in report.items() if found} == {}
    return model.eval()


def images_for(size: tuple[int, int], channels: int = 3) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).standard_normal((2, channels, *size)))


def inputs_of(model: Model, images: torch.Tensor) -> dict[str, Any]:
    """What the class calls an image."""
    name = type(model).__name__
    if name.startswith("Siglip2"):
        b, c, height, width = images.shape
        grid = height // 8, width // 8
        patches = images.unfold(2, 8, 8).unfold(3, 8, 8).permute(0, 2, 3, 4, 5, 1).reshape(b, -1, 8 * 8 * c)
        mask = torch.ones(patches.shape[:2], dtype=torch.int32)
        return dict(pixel_values=patches, pixel_attention_mask=mask, spatial_shapes=torch.tensor([grid] * b))
    if name.startswith("ViTMAE"):  # keeps the patches in their order
        sides = model.config.patch_size
        height, width = (sides, sides) if isinstance(sides, int) else sides
        patches = (images.shape[2] // height) * (images.shape[3] // width)
        return dict(pixel_values=images, noise=torch.arange(patches).double().repeat(len(images), 1))
    return dict(pixel_values=images)


def encoder_of(model: Model) -> Model:
    """The image tower, without a head."""
    if type(model).__name__.startswith("DINOv3"):  # its `base_model` are the blocks alone
        return model
    return getattr(model, "vision_model", model.base_model)


def run_peer(model: Model, images: torch.Tensor, **options: Any) -> Outputs:
    """The encoder's tokens, and what the class makes of them."""
    name, inputs = type(model).__name__, inputs_of(model, images) | options
    encoder = encoder_of(model)
    with torch.inference_mode():
        if name.endswith("Backbone"):
            model.config.reshape_hidden_states = False
            return {"tokens": model(**inputs).feature_maps[-1].numpy()}
        encoded = encoder(**inputs)
        tokens = encoded.last_hidden_state
        if name == "BeitForMaskedImageModeling":
            tokens = model.layernorm(tokens)
        if name in ("CLIPModel", "SiglipModel", "Siglip2Model"):
            output = model.get_image_features(**inputs).pooler_output
        elif name == "CLIPVisionModelWithProjection":
            output = model(**inputs).image_embeds
        elif "ForImageClassification" in name:
            output = model(**inputs).logits
        else:
            output = encoded.get("pooler_output", None)
    return {"tokens": tokens.numpy(), "output": (tokens if output is None else output).numpy()}


def run_torch(directory: Path, images: torch.Tensor, **changes: Any) -> Outputs:
    model = vit_torch.load(directory, **changes)
    with torch.inference_mode():
        tokens = last_tokens(model, model.config, images)
        return {"tokens": tokens.numpy(), "output": model(images).numpy()}


def run_flax(directory: Path, images: torch.Tensor) -> Outputs:
    with jax.enable_x64(True):
        graphdef, state = nnx.split(vit_jax.load(directory))

        def run(state: nnx.State, images: jax.Array) -> tuple[jax.Array, jax.Array]:
            model = nnx.merge(graphdef, state)
            return last_tokens(model, model.config, images), model(images)

        tokens, output = jax.jit(run)(state, images.numpy().transpose(0, 2, 3, 1))
        return {"tokens": np.asarray(tokens), "output": np.asarray(output)}


def last_tokens(model: Any, config: configs.Config, images: Any) -> Any:
    """CLIP's tokens come before the last norm, which it has for the class token alone."""
    return model.forward_intermediates(images)[-1] if config.pre_norm else model.forward_features(images)


def shapes(model: Model) -> dict[str, tuple[int, ...]]:
    """Names and shapes in the model's file."""
    state = revert_weight_conversion(model, model.state_dict())
    return {key: tuple(value.shape) for key, value in state.items()}


def in_file(model: Model) -> dict[str, torch.Tensor]:
    """Its tensors by the names in its file, without the encoder's prefix."""
    return {bare(key): value for key, value in revert_weight_conversion(model, model.state_dict()).items()}


def bare(name: str) -> str:
    for architecture in ARCHITECTURES:
        if architecture.base and name.startswith(architecture.base):
            return name.removeprefix(architecture.base)
    return name


@pytest.mark.parametrize("case", CASES)
def test_both_twins_compute_what_the_class_computes(case, tmp_path, in_float64):
    peer = saved(case, tmp_path / "peer")
    config = checkpoints.open_checkpoint(tmp_path / "peer").config
    images = images_for(config.image_size, config.in_chans)
    expected = run_peer(peer, images)
    for run in (run_torch, run_flax):
        outputs = run(tmp_path / "peer", images)
        comparison = compare({name: outputs[name] for name in expected}, expected)
        assert comparison.ok(LIMIT), (run.__name__, comparison.worst)


@pytest.mark.parametrize("case", CASES)
def test_the_class_loads_what_is_written_back(case, tmp_path, in_float64):
    peer = saved(case, tmp_path / "peer")
    source = checkpoints.convert(tmp_path / "peer", tmp_path / "native")
    checkpoints.convert(tmp_path / "native", tmp_path / "written", to="huggingface")
    again = loaded(tmp_path / "written", **LOADED_WITH.get(case, {}))
    name = type(peer).__name__
    returns = any(kind.name == name and kind.written != "never" for kind in ARCHITECTURES)
    assert (type(again) is type(peer)) == returns
    ignored = {bare(key) for key in source.source.get("ignored", {})}
    before, after = in_file(peer), in_file(again)
    assert set(before) - ignored <= set(after)
    assert [key for key in before if key not in ignored and not torch.equal(after[key], before[key])] == []
    images = images_for(source.config.image_size, source.config.in_chans)
    old, new = run_peer(peer, images), run_peer(again, images)
    assert compare(new, old).ok(LIMIT), compare(new, old).worst


@pytest.mark.parametrize("act", ACTIVATIONS)
def test_activations(act, tmp_path):
    peer = saved("vit", tmp_path, hidden_act=act)
    images = images_for((24, 20))
    assert compare(run_torch(tmp_path, images), run_peer(peer, images)).ok(LIMIT)


def test_every_class_is_held_against_its_own():
    """Those of hierarchies in files of their own."""
    backbones = {kind.name for kind in ARCHITECTURES if kind.name.endswith("Backbone")}
    flat = {kind.name for kind in ARCHITECTURES if kind.family is VitConfig}
    assert {name for name, _ in CASES.values()} | backbones == flat | backbones
    others = {kind.name for kind in ARCHITECTURES} - flat
    files = (test_peers_swin_files, test_peers_pvt_files, test_peers_resnet, test_peers_mobilevit_files)
    assert others == {name for file in files for name in file.CLASSES}


@pytest.mark.parametrize(
    "change",
    [
        {"layer_norm_eps": 1.1e-3},
        {"hidden_act": "gelu_new"},
        {"num_attention_heads": 4},
        {"image_size": [20, 24], "patch_size": [4, 8]},
    ],
)
def test_the_comparison_can_fail(change, tmp_path):
    """One setting changed in the file, after the class's own model is made."""
    peer = saved("vit", tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    images = images_for((24, 20))
    if "image_size" in change:
        with pytest.raises(checkpoints.CheckpointError, match="misshapen"):
            run_torch(tmp_path, images)
    else:
        assert not compare(run_torch(tmp_path, images), run_peer(peer, images)).ok(LIMIT)


@pytest.mark.parametrize(
    ("case", "size", "options"),
    [
        ("vit-masked", (32, 40), {"interpolate_pos_encoding": True}),
        ("deit-masked", (40, 32), {"interpolate_pos_encoding": True}),
        ("mae-pretraining", (32, 32), {"interpolate_pos_encoding": True}),
        ("beit", (32, 32), {}),
        ("beit-shared", (40, 40), {}),
        ("beit-token", (32, 40), {}),
        ("data2vec", (16, 16), {}),
        ("dinov2", (32, 40), {}),
        ("dinov2-registers", (16, 40), {}),
        ("dinov3", (32, 12), {}),
        ("clip-projection", (16, 40), {"interpolate_pos_encoding": True}),
        ("siglip-no-head", (40, 16), {"interpolate_pos_encoding": True}),
        ("siglip2", (16, 40), {}),
    ],
)
def test_at_another_image_size(case, size, options, tmp_path, in_float64):
    """Positions are resized with the class's own kernel."""
    peer = saved(case, tmp_path)
    images = images_for(size)
    expected = run_peer(encoder_of(peer) if "masked" in case or "mae" in case else peer, images, **options)
    ours = run_torch(tmp_path, images, image_size=size)
    assert compare(ours, expected).ok(LIMIT), compare(ours, expected).worst


@pytest.mark.parametrize("case", ["dinov2", "dinov2-registers", "dinov3"])
def test_images_of_any_size_where_the_class_takes_them(case, tmp_path, in_float64):
    peer = saved(case, tmp_path)
    images = images_for((40, 32))
    assert compare(run_torch(tmp_path, images), run_peer(peer, images)).ok(LIMIT)


def test_what_float32_inside_a_class_amounts_to(tmp_path):
    """Without `in_float64`, DINOv3 differs by the rounding of its rotations alone."""
    peer = saved("dinov3", tmp_path)
    images = images_for((24, 20))
    comparison = compare(run_torch(tmp_path, images), run_peer(peer, images))
    assert not comparison.ok(LIMIT)
    assert comparison.ok(FORWARD["float32"].limit)


DEFAULTS = {name: {} for name, _ in CASES.values()} | {
    "Dinov2Model": {"use_swiglu_ffn": True, "hidden_size": 1536, "num_attention_heads": 24},
    "DINOv3ViTModel": {"use_gated_mlp": True, "num_register_tokens": 4},
}


@pytest.mark.parametrize("name", DEFAULTS)
def test_names_and_shapes_at_full_size(name):
    """Of the class's default config, without allocating."""
    cls = getattr(transformers, name)
    with torch.device("meta"):
        peer = cls(cls.config_class(**DEFAULTS[name]))
    found = shapes(peer)
    data = json.loads(peer.config.to_json_string(use_diff=False)) | {"architectures": [name]}
    architecture = huggingface.registry.architecture_of(data, found)
    config = architecture.config(data)
    expected = their_shapes(fill(architecture.entries, config, source=name))
    expected |= {architecture.prefix + key: shape for key, (shape, _) in architecture.added(config).items()}
    found = {bare(key): shape for key, shape in found.items()}
    expected = {bare(key): shape for key, shape in expected.items()}
    if architecture.unused:
        rules = "|".join(f"(?:{rule.theirs})" for rule in architecture.unused)
        found = {key: shape for key, shape in found.items() if key in expected or not re.fullmatch(rules, key)}
    assert found == expected
    encoder = sum(parameter.numel() for parameter in encoder_of(peer).parameters())
    assert sum(np.prod(shape) for shape in parameter_shapes(config).values()) > 0.9 * encoder


@pytest.mark.parametrize(
    ("name", "cls"),
    [
        ("vit_tiny_patch16_224", "ViTForImageClassification"),
        ("deit_tiny_distilled_patch16_224", "DeiTForImageClassificationWithTeacher"),
        ("vit_small_patch14_dinov2", "Dinov2Model"),
        ("vit_small_patch14_reg4_dinov2", "Dinov2WithRegistersModel"),
        ("vit_base_patch16_siglip_224", "SiglipVisionModel"),
        ("beit_base_patch16_224", "BeitForImageClassification"),
        ("vit_small_patch16_dinov3", "DINOv3ViTModel"),  # timm pools the patches; the class takes the class token
    ],
)
def test_models_of_other_sources_become_classes(name, cls, tmp_path, in_float64):
    config = configs.get(name, depth=1, image_size=configs.get(name).patch_size[0] * 3)
    config = configs.replace(config, global_pool="token") if "dinov3" in name else config
    checkpoints.write(tmp_path / "native", config, random_parameters(parameter_shapes(config)), name=name)
    checkpoints.convert(tmp_path / "native", tmp_path / "written", to="huggingface")
    peer = loaded(tmp_path / "written")
    assert type(peer).__name__ == cls
    images = images_for(config.image_size)
    expected = run_peer(peer, images)
    assert compare(run_torch(tmp_path / "native", images), expected).ok(LIMIT)
