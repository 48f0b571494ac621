"""Files of transformers' Flax classes, held against what these classes computed (`make_transformers_flax.py`)."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flax.serialization import msgpack_serialize
from safetensors.numpy import save_file

from parity.checkpoints import Checkpoint, CheckpointError, convert, open_checkpoint, open_tensors
from parity.checks.forward import run_flax, run_torch
from parity.compare import compare, not_identical
from parity.configs import Execution
from parity.tolerances import FORWARD

FILES = Path(__file__).parents[1] / "data" / "transformers_flax"
MSGPACK = "flax_model.msgpack"
CASES = sorted(path.name for path in FILES.iterdir())
SAID: dict[str, Any] = dict(num_heads=2, norm_eps=1e-3)


def said(case: str) -> dict[str, Any]:
    """What the tensors of a case don't show and `config.json` says."""
    return SAID | dict(act="quick_gelu" if "clip" in case else "gelu_tanh" if case == "vit_pooler" else "gelu")


def alone(case: str, directory: Path) -> Path:
    return Path(shutil.copy(FILES / case / MSGPACK, directory))


def outputs_of(found: Checkpoint, images: np.ndarray, twin: str = "torch") -> np.ndarray:
    tensors = {name: np.asarray(value, np.float64) for name, value in found.tensors.items()}
    run = partial(run_torch, plant=None) if twin == "torch" else run_flax
    outputs, faults = run(found.config, tensors, images, Execution())
    assert faults == []
    return outputs["logits"]


@pytest.mark.parametrize("twin", ["torch", "flax"])
@pytest.mark.parametrize("case", CASES)
def test_the_twins_compute_what_the_classes_computed(case, twin):
    found = open_checkpoint(FILES / case)
    expected = np.load(FILES / case / "outputs.npz")
    logits = outputs_of(found, expected["images"].astype(np.float64), twin=twin)
    for which, limit in (("torch", FORWARD["float64"].limit), ("flax", FORWARD["float32"].limit)):
        comparison = compare({"logits": logits}, {"logits": expected[which]})
        assert comparison.ok(limit), (which, comparison.worst)


@pytest.mark.parametrize("case", CASES)
def test_a_lone_file_is_the_same_model(case, tmp_path):
    expected, found = open_checkpoint(FILES / case), open_checkpoint(alone(case, tmp_path), **said(case))
    assert found.source["architecture"] == expected.source["architecture"]
    assert not_identical(dict(found.tensors), dict(expected.tensors)) == ()
    images = np.load(FILES / case / "outputs.npz")["images"].astype(np.float64)
    assert np.array_equal(outputs_of(found, images), outputs_of(expected, images))


def test_a_training_state_of_flax_around_it(tmp_path):
    """`flax.training.checkpoints.save_checkpoint` of a `TrainState`, with a head of one's own name."""
    tree: dict[str, Any] = {}
    for name, value in open_tensors(FILES / "vit").items():
        place = tree
        *modules, last = name.split(".")
        for module in modules:
            place = place.setdefault(module, {})
        place[last] = value
    encoder, head = {"vit": tree["vit"]}, tree["classifier"]
    params = {"backbone": encoder, "head": head}
    state = {"step": np.int32(3), "params": params, "opt_state": {"0": {"count": np.int32(3), "mu": params}}}
    (tmp_path / "checkpoint_3").write_bytes(msgpack_serialize(state))
    found = open_checkpoint(tmp_path / "checkpoint_3", **said("vit"))
    assert found.source["prefix"] == "params.backbone."
    assert set(found.source["ignored"]) == {"step", "opt_state.*"}
    # What that head took of the tokens isn't in the file.
    assert [str(item) for item in found.assumed if item.field == "global_pool"] == [
        "global_pool token: that of ViTForImageClassification; "
        "params.head.weight is the head of another class around it"
    ]
    assert not_identical(dict(found.tensors), dict(open_checkpoint(FILES / "vit").tensors)) == ()


def test_a_kernel_is_read_in_parts():
    """Each device of a mesh reads its own rows of what is transposed in the file."""
    tensors = open_checkpoint(FILES / "vit").tensors
    for name in ("blocks.0.mlp.fc1.weight", "patch_embed.proj.weight", "head.weight", "blocks.1.attn.qkv.weight"):
        assert np.array_equal(tensors.slice(name, (slice(1, 4), slice(0, 2))), tensors[name][1:4, :2])  # type: ignore


def test_no_other_layout_fits(tmp_path):
    """Kernels as they lie in the file, by PyTorch's names: square ones fit, and only the outputs show it."""
    renamed = {"kernel": "weight", "scale": "weight"}
    tensors = {}
    for name, value in open_tensors(FILES / "vit").items():
        module, _, last = name.rpartition(".")
        turned = last == "kernel" and not module.endswith(("query", "key", "value"))
        value = value.transpose((3, 2, 0, 1) if value.ndim == 4 else (1, 0)) if turned else value
        tensors[f"{module}.{renamed.get(last, last)}"] = np.ascontiguousarray(value)
    save_file(tensors, tmp_path / "model.safetensors")
    shutil.copy(FILES / "vit" / "config.json", tmp_path)
    expected = np.load(FILES / "vit" / "outputs.npz")
    logits = outputs_of(open_checkpoint(tmp_path), expected["images"].astype(np.float64))
    assert not compare({"logits": logits}, {"logits": expected["torch"]}).ok(1e3 * FORWARD["float32"].limit)


def test_what_is_missing_is_named_as_pytorch_has_it(tmp_path):
    shutil.copy(FILES / "vit" / MSGPACK, tmp_path)
    data = json.loads((FILES / "vit" / "config.json").read_text()) | {"num_hidden_layers": 3}
    (tmp_path / "config.json").write_text(json.dumps(data))
    with pytest.raises(CheckpointError, match=r"missing vit\.encoder\.layer\.2\.layernorm_before\.weight"):
        open_checkpoint(tmp_path)


def test_to_pytorch_and_on(tmp_path):
    """What transformers 5 reads of it."""
    convert(FILES / "dinov2", tmp_path / "written", to="huggingface", mask_token=True)
    written = open_tensors(tmp_path / "written")
    flax = open_tensors(FILES / "dinov2")
    assert np.array_equal(written["classifier.weight"], flax["classifier.kernel"].T)
    assert np.array_equal(written["dinov2.embeddings.mask_token"], flax["dinov2.embeddings.mask_token"])
    assert len(written) == len(flax)
