"""What a container couldn't read is said where it is missed, and what archives and training leave beside a model.

And of files with canonical names: stems with their strides and statistics, and mask tokens.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from format_checks import parameters, small
from safetensors.numpy import save_file
from torch import nn

from parity import checkpoints, configs
from parity.checkpoints import CheckpointError, open_checkpoint
from parity.cli.said import parsed
from parity.compare import not_identical

CONFIG = small("vit_base_patch16_224", embed_dim=192, num_heads=3)
CONVS = ((12, 3, 2), (20, 3, 2), (28, 3, 2))


def tensors_of(config: configs.Config) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(value) for name, value in parameters(config).items()}


def opened(value: Any, tmp_path, **said: Any):
    torch.save(value, tmp_path / "file.pth")
    return open_checkpoint(tmp_path / "file.pth", model=CONFIG, **said)


def unreadable() -> dict[str, tuple[Any, str]]:
    """A tensor that no container reads, and what is said of it."""
    return {
        "sparse": (torch.eye(192).to_sparse(), "sparse tensor"),
        "repeated": (torch.ones(1).expand(3), "expanded tensor"),
    }


@pytest.mark.parametrize("kind", unreadable())
@pytest.mark.parametrize("prefix", ["", "model."])
@pytest.mark.parametrize("name", ["blocks.0.attn.proj.weight", "norm.bias"])
def test_what_is_missed_since_it_isnt_read_says_why(name, prefix, kind, tmp_path):
    value, reason = unreadable()[kind]
    values = {prefix + key: item for key, item in (tensors_of(CONFIG) | {name: value}).items()}
    with pytest.raises(CheckpointError, match=rf"missing {prefix}{name} \[.*\]: {reason}"):
        opened(values, tmp_path)


def test_an_embedding_that_isnt_read(tmp_path):
    values = tensors_of(CONFIG) | {"patch_embed.proj.weight": torch.eye(3).to_sparse()}
    with pytest.raises(CheckpointError, match=r"patch_embed\.proj\.weight: sparse tensor, and nothing else"):
        opened(values, tmp_path)


def test_no_reason_where_there_is_none(tmp_path):
    values: dict[str, Any] = tensors_of(CONFIG) | {"norm.bias": None}
    with pytest.raises(CheckpointError, match=r"missing norm\.bias \[192\]$"):
        opened(values, tmp_path)


@pytest.mark.parametrize(
    ("extra", "key"),
    [
        ({"rng": ["MT19937", torch.arange(624), 3]}, "rng.*"),
        ({"np_rng_state": {"keys": torch.arange(624)}}, "np_rng_state.*"),
        ({"torch_rng_state": torch.zeros(16, dtype=torch.uint8)}, "torch_rng_state"),
        ({"args": {"param_groups": [{"params": [torch.ones(3), torch.ones(4)]}]}}, "args.param_groups.*"),
    ],
)
def test_random_states_and_second_copies_are_state_of_training(extra, key, tmp_path):
    found = opened({"model": tensors_of(CONFIG)} | extra, tmp_path)
    assert not_identical(dict(found.tensors), parameters(CONFIG)) == ()
    assert "state of" in found.source["ignored"][key]


class Buffers(nn.Module):
    """Named as timm's BEiT and its rotary positions: an archive keeps buffers that a state_dict doesn't."""

    def __init__(self, config: configs.Config, extra: dict[str, torch.Tensor]):
        super().__init__()
        for name, value in (tensors_of(config) | extra).items():
            *path, last = name.split(".")
            module = self
            for part in path:
                if not hasattr(module, part):
                    module.add_module(part, nn.Module())
                module = getattr(module, part)
            module.register_buffer(last, value, persistent=name not in extra)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def archive(config: configs.Config, extra: dict[str, torch.Tensor], tmp_path):
    torch.jit.save(torch.jit.script(Buffers(config, extra)), tmp_path / "file.pt")
    return tmp_path / "file.pt"


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_buffers_of_archives(tmp_path):
    config = small("beit_base_patch16_224", embed_dim=192, num_heads=3)
    extra = {
        "blocks.0.attn.relative_position_index": torch.arange(100).reshape(10, 10),
        "blocks.1.attn.k_bias": torch.zeros(192),
        "rope.t_x": torch.arange(9.0),
        "rope.pos_embed": torch.ones(9, 32),
    }
    found = open_checkpoint(archive(config, extra, tmp_path), model=config)
    assert found.source["format"] == "timm"
    assert set(extra) <= set(found.source["ignored"])
    assert not_identical(dict(found.tensors), parameters(config)) == ()
    biased = archive(config, extra | {"blocks.1.attn.k_bias": torch.ones(192)}, tmp_path)
    with pytest.raises(CheckpointError, match=r"blocks\.1\.attn\.k_bias: got a bias of the key, expected zeros"):
        open_checkpoint(biased, model=config)


@pytest.mark.parametrize("name", ["vit_test_conv_stem", "vit_test_hmlp_stem", "vit_test_dinov3_untied"])
def test_a_lone_file_of_canonical_names(name, tmp_path):
    """Of the tensors that a native directory has, with the model named, whose strides and numerics count."""
    config = configs.get(name)
    save_file(parameters(config), tmp_path / "file.safetensors")
    found = open_checkpoint(tmp_path / "file.safetensors", format="timm", model=name)
    assert found.config == config
    assert {item.field for item in found.assumed} <= {"image_size"}
    assert not_identical(dict(found.tensors), parameters(config)) == ()


def test_a_mask_token_in_a_file_of_canonical_names(tmp_path):
    config = configs.replace(CONFIG, mask_token=True)
    save_file(parameters(config), tmp_path / "file.safetensors")
    left_out = open_checkpoint(tmp_path / "file.safetensors", format="timm")
    assert not left_out.config.mask_token
    assert "--set mask_token=true" in left_out.source["ignored"]["mask_token"]
    said = parsed(["mask_token=true"])
    kept = open_checkpoint(tmp_path / "file.safetensors", format="timm", **said)
    assert kept.config.mask_token
    assert not_identical(dict(kept.tensors), parameters(config)) == ()


@pytest.mark.parametrize("convs", [CONVS, CONVS[:1]])
def test_strides_and_statistics_of_a_lone_stem(convs, tmp_path):
    patch = 2 ** len(convs)
    fields: dict[str, Any] = dict(stem="conv", stem_convs=convs, patch_size=patch, image_size=3 * patch)
    config = configs.replace(CONFIG, **fields)
    save_file(parameters(config), tmp_path / "file.safetensors")
    found = open_checkpoint(tmp_path / "file.safetensors")
    assert configs.replace(found.config, preprocessing=config.preprocessing) == config
    assert {"stem_convs", "stem_norm_eps"} <= {item.field for item in found.assumed}
    said = parsed([f"stem_convs={[list(conv) for conv in convs]}".replace(" ", ""), "stem_norm_eps=0.001"])
    told = open_checkpoint(tmp_path / "file.safetensors", **said)
    assert (told.config.stem_convs, told.config.stem_norm_eps) == (convs, 1e-3)
    assert not {"stem_convs", "stem_norm_eps"} & {item.field for item in told.assumed}


def test_statistics_travel_to_another_head_and_size(tmp_path):
    config = configs.replace(CONFIG, stem="conv", stem_convs=CONVS)
    tensors = parameters(config)
    checkpoints.write(tmp_path / "source", config, tensors)
    checkpoints.convert(tmp_path / "source", tmp_path / "target", image_size=(40, 32), num_classes=7)
    found = open_checkpoint(tmp_path / "target")
    assert (found.config.image_size, found.config.num_classes) == ((40, 32), 7)
    kept = {name for name, value in found.tensors.items() if np.array_equal(value, tensors[name])}
    assert set(tensors) - kept == {"pos_embed", "head.weight", "head.bias"}
    assert {"patch_embed.stem.2.norm.running_var", "patch_embed.stem.0.norm.running_mean"} < kept


def test_a_models_name_is_no_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r"no such file or directory; .* its weights are hf-hub:timm/vit_tiny"):
        open_checkpoint("vit_tiny_patch16_224")
    with pytest.raises(CheckpointError, match=r"its weights are in no place that is known"):
        open_checkpoint("vit_digits")
