"""People's own files: models with the same names and shapes, folders of training, wrappers, heads, old documents.

Each was made as its source makes it, and first opened as another model, refused, or advised what doesn't help.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from format_checks import parameters, small
from safetensors.numpy import save_file

from parity import configs
from parity.checkpoints import Checkpoint, CheckpointError, open_checkpoint
from parity.checkpoints.formats import meta, timm
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
    headed = under(f"{name}vit.", BODY) | under(f"{name}fc.", HEAD)
    assert is_model(opened(headed, tmp_path))
    two = under("model.", {name: value + 1 for name, value in MODEL.items()}) | under(name)
    assert not is_model(opened(two, tmp_path))


@pytest.mark.parametrize("name", ["mlp_head", "classification_head", "fc_out", "head_a", "linear_classifier", "out"])
def test_a_linear_layer_beside_the_model_is_its_head_by_any_usual_name(name, tmp_path):
    assert is_model(opened(under("model.vit.", BODY) | under(f"model.{name}.", HEAD), tmp_path))


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("name", ["fc", "classifier", "my_head.1"])
def test_a_head_by_another_name_in_the_model_itself(name, prefix, tmp_path):
    assert is_model(opened(under(prefix, BODY) | under(f"{prefix}{name}.", HEAD), tmp_path))


@pytest.mark.parametrize("name", ["lm_head", "head_dist", "fc"])
def test_a_layer_beside_a_head_or_of_pretraining_is_none(name, tmp_path):
    body = MODEL if name == "fc" else BODY
    with pytest.raises(CheckpointError, match=rf"unexpected {name}\.weight"):
        opened(under("", body) | under(f"{name}.", HEAD), tmp_path)


def test_a_head_on_top_of_a_head_is_not_taken_for_it(tmp_path):
    """Both are called `head`, and fit."""
    with pytest.raises(CheckpointError, match=r"unexpected head\.weight"):
        opened(under("vit.") | under("head.", HEAD), tmp_path)


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
    "a factor": {"weight": (3, 192), "scale": (1,)},
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


@pytest.mark.parametrize("name", ["optimizer", "opt", "optim"])
def test_an_optimisers_averages_are_no_model(name, tmp_path):
    with pytest.raises(CheckpointError, match="no Vision Transformer that is known"):
        opened({name: {"exp_avg": under("")}}, tmp_path)
    assert is_model(opened({"params": under(""), name: {"mu": under("")}}, tmp_path))


@pytest.mark.parametrize("extra", [{"opt": {"state": [{"sqr_avg": torch.ones(3)}]}}, {"seen": torch.arange(9)}])
def test_optimisers_of_fastai_and_whole_numbers_are_no_weights(extra, tmp_path):
    found = opened({"model": under("0.model.")} | extra, tmp_path)
    assert is_model(found)
    assert any(name.startswith(next(iter(extra))) for name in found.source["ignored"])


def test_the_masked_embedding_of_ibot_is_listed(tmp_path):
    found = opened(under("") | {"masked_embed": torch.ones(1, 192)}, tmp_path)
    assert found.source["ignored"] == {"masked_embed": "stands for masked patches in pretraining"}


FOLDERS = {
    "Accelerate": ("pytorch_model.bin", ("optimizer.bin", "scheduler.bin", "random_states_0.pkl", "sampler.bin")),
    "Trainer": ("model.pth", ("optimizer.pt", "rng_state_0.pth", "scheduler.pt", "training_args.bin")),
    "DeepSpeed": ("mp_rank_00_model_states.pt", ("zero_pp_rank_0_mp_rank_00_optim_states.pt",)),
    "timm's train.py": ("model_best.pth.tar", ("args.yaml", "summary.csv")),
}


@pytest.mark.parametrize("kind", FOLDERS)
def test_of_a_folder_of_training_the_weights_are_read(kind, tmp_path):
    weights, beside = FOLDERS[kind]
    torch.save({"module": under("")}, tmp_path / weights)
    for name in beside:
        torch.save({"state": {0: torch.ones(3)}}, tmp_path / name)
    assert is_model(open_checkpoint(tmp_path, model=CONFIG))
    torch.save(under(""), tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match=rf"2 files of tensors .* name one of .*{weights}"):
        open_checkpoint(tmp_path, model=CONFIG)


@pytest.mark.parametrize("folder", ["checkpoint-500", "snapshots/0a1b"])
def test_a_directory_of_directories_names_them(folder, tmp_path):
    (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "logs").mkdir()
    save_file(MODEL, tmp_path / folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"name one of the directories in it: (.*)$") as error:
        open_checkpoint(tmp_path)
    inside = str(error.value).rpartition(": ")[2]
    assert is_model(open_checkpoint(tmp_path / inside, model=CONFIG))


ARGUMENTS = {"img_size": 24, "patch_size": 8, "depth": 2, "mlp_ratio": 80 / 192}


def timm_directory(tmp_path: Path, **document: Any) -> Path:
    save_file(MODEL, tmp_path / "model.safetensors")
    whole = {"architecture": "vit_tiny_patch16_224", "num_classes": 10, "model_args": ARGUMENTS, **document}
    (tmp_path / "config.json").write_text(json.dumps(whole))
    return tmp_path


@pytest.mark.parametrize("document", [{"model_args": None}, {"model_args": {}, "pretrained_cfg": {"mean": [0.1] * 3}}])
def test_a_document_without_arguments_is_a_model_that_is_named(document, tmp_path):
    found = open_checkpoint(timm_directory(tmp_path, **document))
    assert is_model(found)
    assert {item.field for item in found.assumed} == {"image_size"}
    assert found.config.preprocessing.mean == (0.1 if "pretrained_cfg" in document else 0.5,) * 3


def test_a_head_that_was_changed_after_its_document_is_asked_for(tmp_path):
    path = timm_directory(tmp_path, num_classes=1000)
    with pytest.raises(CheckpointError, match=r"num_classes: got 1000, but the head in the file has 10; .*=10 "):
        open_checkpoint(path)
    assert is_model(open_checkpoint(path, num_classes=10))


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "pvt_v2_b0", "resnet18", "mobilevit_xxs"])
def test_a_head_of_a_hierarchy_that_was_changed_after_its_document_is_asked_for(name, tmp_path):
    config = configs.replace(configs.get(name), num_classes=4)
    timm.write(tmp_path / "model", config, parameters(config), name=name)
    file = tmp_path / "model" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"num_classes": 1000}))
    with pytest.raises(CheckpointError, match=r"num_classes: got 1000, but the head in the file has 4; .*=4 "):
        open_checkpoint(tmp_path / "model")
    assert open_checkpoint(tmp_path / "model", num_classes=4).config == config


@pytest.mark.parametrize("architecture", ["my_vit", "vit_tiny_patch16_224_in21k"])
def test_an_architecture_that_isnt_known_is_one_that_is_named(architecture, tmp_path):
    path = timm_directory(tmp_path, architecture=architecture)
    with pytest.raises(CheckpointError, match=rf"architecture: got '{architecture}', .* --model NAME"):
        open_checkpoint(path)
    assert is_model(open_checkpoint(path, model="vit_tiny_patch16_224"))
    assert open_checkpoint(path, model=CONFIG).config == CONFIG


@pytest.mark.parametrize(
    ("extra", "patterns"),
    [
        ({"model.vit.prompts": (5, 192)}, ["model.vit.prompts"]),
        ({"model.decoder.0.weight": (8, 192), "model.decoder.0.bias": (8,)}, ["model.decoder.*"]),
        ({"model.decoder.weight": (8, 192), "g.1.weight": (3, 3)}, ["model.decoder.*", "g.*"]),
    ],
)
def test_what_is_said_of_unexpected_tensors_leaves_just_them_out(extra, patterns, tmp_path):
    whole = under("model.vit.") | {name: torch.ones(shape) for name, shape in extra.items()}
    with pytest.raises(CheckpointError, match=r"leaves tensors out that are no part of the model") as error:
        opened(whole, tmp_path)
    assert re.findall(r"--ignore '([^']+)'", str(error.value)) == patterns
    assert is_model(opened(whole, tmp_path, ignore=patterns))


def test_nothing_is_said_that_doesnt_help(tmp_path):
    adapted = under("") | {"blocks.0.adapter.down.weight": torch.ones(8, 192)}
    with pytest.raises(CheckpointError, match=r"unexpected blocks\.0\.adapter\.down\.weight \[8, 192\]$"):
        opened(adapted, tmp_path)
    missing = {name: value for name, value in under("").items() if name != "norm.bias"} | {"norm.beta": torch.ones(192)}
    with pytest.raises(CheckpointError, match=r"missing norm\.bias \[192\]\n  unexpected norm\.beta \[192\]$"):
        opened(missing, tmp_path)
    many = under("") | {f"extra_{i}": torch.ones(2) for i in range(5)}
    with pytest.raises(CheckpointError, match="--ignore PATTERN"):
        opened(many, tmp_path)


@pytest.mark.parametrize(("name", "match"), [(".metadata __0_0.distcp", "dcp_to_torch"), ("manifest.ocdbt d", "numpy")])
def test_what_to_do_with_parts_of_arrays(name, match, tmp_path):
    for file in name.split():
        (tmp_path / file).write_bytes(b"x")
    with pytest.raises(CheckpointError, match=match):
        open_checkpoint(tmp_path)


def test_a_tilde_is_the_users_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    save_file(MODEL, tmp_path / "file.safetensors")
    assert is_model(open_checkpoint("~/file.safetensors", model=CONFIG))


@pytest.mark.parametrize(
    "fields", [{}, {"num_classes": 0}, {"global_pool": "avg", "fc_norm": True, "final_norm": False}]
)
def test_nothing_is_assumed_of_what_was_written(fields, tmp_path):
    config = small("vit_base_patch16_224", **fields)
    meta.write(tmp_path / "file", configs.replace(config, pos_embed_resize="bicubic"), parameters(config))
    found = open_checkpoint(tmp_path / "file")
    assert (found.config.global_pool, found.assumed) == (config.global_pool, ())
