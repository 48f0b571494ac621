"""Replacing a checkpoint in each format: what we wrote is replaced, other files stay or are refused by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from parity import checkpoints, configs
from parity.checkpoints import CheckpointError, open_tensors
from parity.checkpoints.containers import files
from parity.checkpoints.containers.safetensors_file import write_tensors
from parity.checkpoints.containers.tensors import CANDIDATES
from parity.checkpoints.formats import hub, open_clip_files
from parity.checkpoints.formats.registry import FORMATS

CONFIG = configs.get("vit_base_patch16_224", depth=1, embed_dim=12, num_heads=1, mlp_dim=48, num_classes=3)
# What the formats that can't have that config have.
OTHERS = {
    "open_clip": configs.get(
        "vit_base_patch32_clip_224", depth=1, embed_dim=64, num_heads=1, mlp_dim=256, head_bias=False
    ),
    "google": configs.replace(CONFIG, act="gelu_tanh"),
    "microsoft": configs.get(
        "swin_tiny_patch4_window7_224",
        depths=(1,),
        embed_dim=12,
        mlp_dim=24,
        num_heads=(2,),
        window_sizes=(7,),
        num_classes=3,
        window_fit="shrink_both",
    ),
}
DIRECTORIES = [name for name in FORMATS if name != "google"]


def write(format: str, path: Path, value: float = 1.0) -> None:
    config = OTHERS.get(format, CONFIG)
    tensors = {name: np.full(s, value, np.float32) for name, s in checkpoints.parameter_shapes(config).items()}
    FORMATS[format].write(path, config, tensors)


@pytest.mark.parametrize("format", DIRECTORIES)
def test_other_files_are_kept(format, tmp_path):
    write(format, tmp_path / "model")
    written = sorted(file.name for file in (tmp_path / "model").iterdir())
    assert written == sorted({*FORMATS[format].TARGET.documents, FORMATS[format].TARGET.weights})
    (tmp_path / "model" / "notes.txt").write_text("mine")
    (tmp_path / "model" / "README.md").write_text("mine")
    write(format, tmp_path / "model", 2.0)
    assert (tmp_path / "model" / "notes.txt").read_text() == "mine"
    assert sorted(file.name for file in (tmp_path / "model").iterdir()) == sorted([*written, "notes.txt", "README.md"])
    (weights,) = (tmp_path / "model").glob("*.safetensors")
    assert all((value == 2).all() for name, value in open_tensors(weights).items() if name.endswith("bias"))


@pytest.mark.parametrize("format", DIRECTORIES)
@pytest.mark.parametrize("name", ["pytorch_model.bin", "model-00001-of-00002.safetensors", "processor_config.json"])
def test_what_a_reader_could_take_is_refused_by_name(format, name, tmp_path):
    write(format, tmp_path / "model")
    before = {file.name: file.read_bytes() for file in (tmp_path / "model").iterdir()}
    (tmp_path / "model" / name).write_bytes(b"mine")
    message = rf"model: holds files of another checkpoint: {name}; remove them or choose another directory"
    with pytest.raises(CheckpointError, match=message):
        write(format, tmp_path / "model", 2.0)
    # Before the source is looked at.
    with pytest.raises(CheckpointError, match=message):
        checkpoints.convert("no/such/source", tmp_path / "model", to=format)
    (tmp_path / "model" / name).unlink()
    assert {file.name: file.read_bytes() for file in (tmp_path / "model").iterdir()} == before
    write(format, tmp_path / "model", 2.0)


@pytest.mark.parametrize("format", ["timm", "huggingface", "open_clip"])
def test_an_original_is_not_replaced(format, tmp_path):
    """A directory of another program's, as far as its document says."""
    write(format, tmp_path / "model")
    file = tmp_path / "model" / FORMATS[format].TARGET.documents[0]
    document = json.loads(file.read_text())
    assert document.pop("written_by") == "vit-parity"
    file.write_text(json.dumps(document))
    with pytest.raises(CheckpointError, match=r"exists and is no such checkpoint that vit-parity wrote; remove it or"):
        write(format, tmp_path / "model")


@pytest.mark.parametrize("format", DIRECTORIES)
def test_another_format_is_not_replaced(format, tmp_path):
    for other in DIRECTORIES:
        if other != format:
            write(other, tmp_path / other)
            with pytest.raises(CheckpointError, match=r"exists and is no such checkpoint"):
                write(format, tmp_path / other)


def test_shards_go_with_their_index(tmp_path):
    write("native", tmp_path / "model")
    tensors = dict(open_tensors(tmp_path / "model"))
    (tmp_path / "model" / "model.safetensors").unlink()
    write_tensors(tmp_path / "model", tensors, shard_bytes=4000)
    assert len(list((tmp_path / "model").glob("model-*"))) > 1
    write("native", tmp_path / "model", 2.0)
    assert sorted(file.name for file in (tmp_path / "model").iterdir()) == ["config.json", "model.safetensors"]


def test_a_file_of_google_s(tmp_path):
    write("google", tmp_path / "x.npz")
    write("google", tmp_path / "x.npz", 2.0)
    with np.load(tmp_path / "x.npz") as arrays:
        np.savez(tmp_path / "original.npz", **arrays)
    with pytest.raises(CheckpointError, match=r"original\.npz: exists and vit-parity didn't write it; remove it or"):
        write("google", tmp_path / "original.npz")
    (tmp_path / "d.npz").mkdir()
    with pytest.raises(CheckpointError, match=r"d\.npz: is a directory, expected a file to write"):
        checkpoints.convert("no/such/source", tmp_path / "d.npz", to="google")


@pytest.mark.parametrize("format", FORMATS)
def test_a_source_is_not_its_own_target(format, tmp_path):
    name = "x.npz" if format == "google" else "x"
    write(format, tmp_path / name)
    with pytest.raises(CheckpointError, match=rf"{name}: is the source itself; choose another place to write to"):
        checkpoints.convert(tmp_path / name, tmp_path / name, to=format)
    if format != "google":
        weights = next((tmp_path / name).glob("*.safetensors"))
        with pytest.raises(CheckpointError, match=rf"{name}: holds the source, .*{weights.name}; choose another place"):
            checkpoints.convert(weights, tmp_path / name, to=format)


def test_inside_of_the_source_is_fine(tmp_path):
    write("native", tmp_path / "x")
    checkpoints.convert(tmp_path / "x", tmp_path / "x" / "sub", to="timm")
    write("native", tmp_path / "x", 2.0)
    assert checkpoints.open_checkpoint(tmp_path / "x" / "sub").source["format"] == "timm"


def test_places_are_checked_before_the_source(tmp_path):
    (tmp_path / "file").write_text("mine")
    for place, message in (("file", r"file: is a file, expected a directory"), ("file/x", r"file is a file, expected")):
        with pytest.raises(CheckpointError, match=message):
            checkpoints.convert("no/such/source", tmp_path / place)


def test_every_name_that_readers_look_for_is_known(tmp_path):
    names = {*CANDIDATES, *hub._DOCUMENTS, *open_clip_files._USUAL, "model-00003-of-00007.safetensors"}
    for name in names:
        (tmp_path / name).touch()
    assert set(files._looked_for(tmp_path)) == names


def test_a_new_format_has_a_target():
    for module in FORMATS.values():
        assert isinstance(module, ModuleType)
        assert callable(module.TARGET.check)


def test_a_replaced_checkpoint_is_a_copy_of_a_new_one(tmp_path):
    write("native", tmp_path / "a", 2.0)
    write("native", tmp_path / "b")
    write("native", tmp_path / "b", 2.0)
    found = [{file.name: file.read_bytes() for file in (tmp_path / name).iterdir()} for name in "ab"]
    assert found[0] == found[1]
    shutil.rmtree(tmp_path / "a")
