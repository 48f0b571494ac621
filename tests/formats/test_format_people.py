"""People's own files: models with the same names and shapes, folders of training, wrappers, heads, old documents.

Each was made as its source makes it, and first opened as another model, refused, or advised what doesn't help.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from format_checks import parameters, small
from safetensors.numpy import save_file

from parity.checkpoints import Checkpoint, CheckpointError, open_checkpoint
from parity.checkpoints.formats.timm import their_name
from parity.compare import not_identical
from parity.configs import Config

CONFIG = small("vit_base_patch16_224", embed_dim=192, num_heads=3)
MODEL = parameters(CONFIG)
BODY = {name: value for name, value in MODEL.items() if not name.startswith("head.")}
HEAD = {name.removeprefix("head."): value for name, value in MODEL.items() if name.startswith("head.")}


def under(prefix: str, values: Mapping[str, np.ndarray] = MODEL) -> dict[str, torch.Tensor]:
    return {prefix + name: torch.from_numpy(value) for name, value in values.items()}


def opened(value: Any, tmp_path: Path, **said: Any) -> Checkpoint:
    torch.save(value, tmp_path / "file.pth")
    return open_checkpoint(tmp_path / "file.pth", model=CONFIG, **said)


def is_model(found: Checkpoint, expected: Mapping[str, np.ndarray] = MODEL) -> bool:
    return not_identical(dict(found.tensors), expected) == ()


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


@pytest.mark.parametrize("wrapper", ["_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"])
@pytest.mark.parametrize("before", ["blocks.0.", "patch_embed.", ""])
def test_wrappers_of_pytorch_are_no_part_of_names(wrapper, before, tmp_path):
    values = {f"model.{name}".replace(before or "model.", f"{before or 'model.'}{wrapper}.") for name in MODEL}
    values = {re.sub(rf"(?<=\.){wrapper}\.", "", name): name for name in values}
    found = opened({values[f"model.{name}"]: torch.from_numpy(value) for name, value in MODEL.items()}, tmp_path)
    assert is_model(found)
    assert found.source["prefix"] == ("model." if before else f"model.{wrapper}.")


def test_a_prefix_with_a_wrapper_is_one_without(tmp_path):
    whole = under("student._orig_mod.") | under("teacher._orig_mod.")
    with pytest.raises(CheckpointError, match=r"--prefix student\. or --prefix teacher\."):
        opened(whole, tmp_path)
    assert is_model(opened(whole, tmp_path, prefix="teacher."))
    assert is_model(opened(whole, tmp_path, prefix="teacher._orig_mod."))
    missing = {name: value for name, value in under("net._orig_mod.").items() if not name.endswith("norm.bias")}
    with pytest.raises(CheckpointError, match=r"missing net\._orig_mod\.norm\.bias"):
        opened(missing, tmp_path)


@pytest.mark.parametrize("name", ["predictor.", "metric.vit.", "net.loss."])
def test_a_model_may_be_called_as_what_training_leaves(name, tmp_path):
    assert is_model(opened(under(name) | {"optimizer.step": torch.ones(2)}, tmp_path))
    two = under("model.", {name: value + 1 for name, value in MODEL.items()}) | under(name)
    assert not is_model(opened(two, tmp_path))


@pytest.mark.parametrize("name", ["mlp_head", "classification_head", "fc_out", "head_a", "linear_classifier", "out"])
def test_a_linear_layer_beside_the_model_is_its_head_by_any_usual_name(name, tmp_path):
    assert is_model(opened(under("model.vit.", BODY) | under(f"model.{name}.", HEAD), tmp_path))


@pytest.mark.parametrize("name", ["text.out_proj.", "projection.", "blocks_fc."])
def test_what_is_no_head_is_unexpected(name, tmp_path):
    values = HEAD if name != "blocks_fc." else {"weight": np.ones(192, np.float32)}
    with pytest.raises(CheckpointError, match=rf"unexpected {name}weight"):
        opened(under("vit.", BODY) | under(name, values), tmp_path)


HEADS = {
    "a norm before": {"0.weight": (192,), "0.bias": (192,), "1.weight": (3, 192)},
    "two layers": {"0.weight": (8, 192), "2.weight": (3, 8)},
    "statistics alone": {"0.running_mean": (192,), "0.running_var": (192,), "1.weight": (3, 192)},
    "parametrised": {"l.bias": (3,), "l.parametrizations.weight.original0": (3, 1)},
    "a norm of weights": {"0.weight_g": (3, 1), "0.weight_v": (3, 192)},
    "no layer": {"0.weight": (192,), "1.scale": (3, 3)},
}


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("at", ["model.head.", "model.fc."])
def test_what_is_said_of_a_head_that_is_no_layer_leads_to_the_features(kind, at, tmp_path):
    head = {name: np.ones(shape, np.float32) for name, shape in HEADS[kind].items()}
    whole = under("model." if at == "model.head." else "model.vit.", BODY) | under(at, head)
    with pytest.raises(CheckpointError, match=r"expected one linear layer; --ignore '([\w.*]+)'") as error:
        opened(whole, tmp_path)
    (pattern,) = re.findall(r"--ignore '([^']+)'", str(error.value))
    assert is_model(opened(whole, tmp_path, ignore=pattern), BODY)


@pytest.mark.parametrize("extra", [{"opt": {"state": [{"sqr_avg": torch.ones(3)}]}}, {"seen": torch.arange(9)}])
def test_optimisers_of_fastai_and_whole_numbers_are_no_weights(extra, tmp_path):
    found = opened({"model": under("0.model.")} | extra, tmp_path)
    assert is_model(found)
    assert any(name.startswith(next(iter(extra))) for name in found.source["ignored"])


def test_the_masked_embedding_of_ibot_is_listed(tmp_path):
    found = opened(under("") | {"masked_embed": torch.ones(1, 192)}, tmp_path)
    assert found.source["ignored"] == {"masked_embed": "stands for masked patches in pretraining"}
