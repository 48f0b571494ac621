"""One directory, two frameworks: exact round trips, the same report of what doesn't fit, and no half-written files."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from flax import nnx

import vit_jax
import vit_jax.state_dict
import vit_torch
import vit_torch.state_dict
from parity import checkpoints, configs
from parity.checkpoints import CheckpointError
from parity.checkpoints.resize import resize_grid
from parity.checks import check_forward, random_parameters
from parity.checks.forward import DTYPES, exact_jax
from parity.compare import compare, not_identical
from parity.tolerances import FORWARD, RESIZE

WEIGHTS = "model.safetensors"


def random_tensors(config, dtype=np.float32, seed=0):
    tensors = random_parameters(checkpoints.parameter_shapes(config), seed)
    return {name: value.astype(dtype) for name, value in tensors.items()}


def flax_model(config, tensors):
    """Without initial values, which would cost more than all else here."""
    model = nnx.eval_shape(lambda: vit_jax.create_model(config, rngs=nnx.Rngs(0)))
    vit_jax.state_dict.load_state_dict(model, tensors)
    return model


def torch_model(config, tensors):
    model = vit_torch.create_model(config, device="meta").eval()
    vit_torch.state_dict.load_state_dict(model, tensors)
    return model


def digests(directory: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(directory.iterdir())}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["vit_test_reg_scale", "vit_test_swiglu", "vit_test_map"])
def test_round_trips_keep_every_bit(tmp_path, name, dtype):
    config = configs.get(name)
    tensors = random_tensors(config, DTYPES[dtype])
    with exact_jax(DTYPES[dtype]):
        model = flax_model(config, tensors)
        assert {leaf.dtype.name for leaf in jax.tree.leaves(nnx.state(model, nnx.Param))} == {dtype}
        vit_jax.save(model, tmp_path / "jax")
    twin = vit_torch.load(tmp_path / "jax")
    assert {parameter.dtype for parameter in twin.parameters()} == {getattr(torch, dtype)}
    assert twin.config == config
    assert not_identical(vit_torch.state_dict.state_dict(twin), tensors) == ()
    vit_torch.save(twin, tmp_path / "torch")
    with exact_jax(DTYPES[dtype]):
        back = vit_jax.load(tmp_path / "torch")
        assert back.config == config
        assert not_identical(vit_jax.state_dict.state_dict(back), tensors) == ()
        vit_jax.save(back, tmp_path / "again")
    # To the byte, whoever writes; the torch directory says only that torch wrote it.
    assert digests(tmp_path / "again") == digests(tmp_path / "jax")
    assert digests(tmp_path / "torch")[WEIGHTS] == digests(tmp_path / "jax")[WEIGHTS]
    written = [json.loads((tmp_path / side / "config.json").read_text()) for side in ("jax", "torch")]
    assert [document.pop("source")["framework"] for document in written] == ["flax", "torch"]
    assert written[0] == written[1]
    assert not_identical(dict(checkpoints.read(tmp_path / "torch").tensors), tensors) == ()


@pytest.fixture
def saved(tmp_path):
    config = configs.get("vit_test")
    checkpoints.write(tmp_path / "model", config, random_tensors(config))
    return tmp_path / "model"


def test_both_load_in_another_precision(saved):
    for dtype in ("bfloat16", "float32"):
        left = vit_jax.state_dict.state_dict(vit_jax.load(saved, dtype=dtype))
        right = vit_torch.state_dict.state_dict(vit_torch.load(saved, dtype=getattr(torch, dtype)))
        assert not_identical(left, right) == ()
        assert {value.dtype.name for value in left.values()} == {dtype}


LOADERS = {"jax": vit_jax.load, "torch": vit_torch.load}


@pytest.mark.parametrize("load", LOADERS.values(), ids=LOADERS)
def test_one_report_lists_every_tensor_that_does_not_fit(tmp_path, load):
    config = configs.get("vit_test")
    tensors = random_tensors(config)
    del tensors["norm.bias"], tensors["blocks.1.attn.proj.weight"]
    tensors["blocks.7.ls1.gamma"] = np.ones(3, np.float32)
    tensors["head.weight"] = tensors["head.weight"].T
    checkpoints.write(tmp_path / "bad", config, tensors)
    with pytest.raises(CheckpointError) as raised:
        load(tmp_path / "bad")
    lines = str(raised.value).splitlines()
    assert lines[0].startswith(f"{tmp_path / 'bad'}: 4 of {len(checkpoints.parameter_shapes(config))} ")
    assert sorted(line.strip() for line in lines[1:]) == [
        "misshapen head.weight: got [48, 10], expected [10, 48]",
        "missing blocks.1.attn.proj.weight [48, 48]",
        "missing norm.bias [48]",
        "unexpected blocks.7.ls1.gamma [3]",
    ]


def test_a_refused_load_leaves_the_model_unchanged():
    config = configs.get("vit_test")
    good, bad = random_tensors(config), random_tensors(config, seed=1)
    del bad["norm.bias"]
    models = flax_model(config, good), torch_model(config, good)
    for side, built in zip((vit_jax.state_dict, vit_torch.state_dict), models, strict=True):
        with pytest.raises(CheckpointError, match=r"missing norm\.bias"):
            side.load_state_dict(built, bad)
        assert not_identical(side.state_dict(built), good) == ()


@pytest.mark.parametrize("when", ["writing tensors", "moving into place"])
@pytest.mark.parametrize("side", ["jax", "torch"])
def test_a_crash_while_saving_keeps_the_old_checkpoint(saved, monkeypatch, side, when):
    before, parent = digests(saved), saved.parent
    config = configs.get("vit_test")
    build, save = (flax_model, vit_jax.save) if side == "jax" else (torch_model, vit_torch.save)
    model = build(config, random_tensors(config, seed=1))

    class CrashError(OSError):
        pass

    with monkeypatch.context() as patch:
        if when == "writing tensors":
            patch.setattr("parity.checkpoints.containers.files.write_tensors", _raise_after_half(CrashError))
        else:
            rename = Path.rename
            # Where the system can't exchange two directories, the old one has just been moved away when the new one
            # fails to take its place.
            patch.setattr("parity.outputs._exchanged_at_once", lambda one, other: False)
            patch.setattr(
                Path, "rename", lambda self, to: _fail(CrashError) if self.name == "new" else rename(self, to)
            )
        with pytest.raises(CrashError):
            save(model, saved)
        with pytest.raises(CrashError):
            save(model, parent / "fresh")
    assert digests(saved) == before
    assert [path.name for path in parent.iterdir()] == ["model"]
    save(model, saved)
    assert digests(saved) != before


def _fail(error):
    raise error


def _raise_after_half(error):
    def write_tensors(directory, tensors, *, progress):
        (directory / WEIGHTS).write_bytes(b"half of a file")
        raise error

    return write_tensors


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_what_is_no_checkpoint_is_not_overwritten(tmp_path, kind):
    target = tmp_path / "precious"
    if kind == "file":
        target.write_text("work")
    else:
        target.mkdir()
        (target / "thesis.tex").write_text("work")
    config = configs.get("vit_test")
    for save, build in ((vit_jax.save, flax_model), (vit_torch.save, torch_model)):
        with pytest.raises(CheckpointError, match="precious"):
            save(build(config, random_tensors(config)), target)
    assert (target if kind == "file" else target / "thesis.tex").read_text() == "work"


@pytest.mark.parametrize("name", ["vit_test", "vit_test_reg_scale", "vit_test_sincos", "vit_test_dist"])
def test_another_image_size_gives_the_same_models(tmp_path, name):
    config = configs.get(name)
    checkpoints.write(tmp_path / "model", config, random_tensors(config))
    left = vit_jax.load(tmp_path / "model", image_size=(36, 24))
    right = vit_torch.load(tmp_path / "model", image_size=(36, 24))
    assert left.config == right.config == configs.replace(config, image_size=(36, 24))
    assert not_identical(vit_jax.state_dict.state_dict(left), vit_torch.state_dict.state_dict(right)) == ()
    report = check_forward(tmp_path / "model", image_size=(36, 24), dtypes=["float64"])
    assert report.passed, report.failures


@pytest.mark.parametrize("new", [(3, 9), (12, 14), (7, 7), (6, 5)])
@pytest.mark.parametrize("kernel", ["bicubic", "bilinear"])
def test_resized_positions_equal_torch_interpolate(kernel, new):
    grid = np.random.default_rng(0).standard_normal((6, 5, 11))
    source = torch.from_numpy(grid).permute(2, 0, 1)[None]
    expected = F.interpolate(source, size=new, mode=kernel, antialias=True, align_corners=False)
    expected = expected[0].permute(1, 2, 0).numpy()
    resized = resize_grid(grid, new, f"{kernel}_antialias")
    assert resized.dtype == np.float64
    assert compare({"grid": resized}, {"grid": expected}).ok(RESIZE.limit)


def test_resizing_keeps_prefix_positions_and_the_other_tensors(tmp_path):
    config = configs.get("vit_test_dist")
    tensors = random_tensors(config, np.float64)
    checkpoints.write(tmp_path / "model", config, tensors)
    found = vit_torch.state_dict.state_dict(vit_torch.load(tmp_path / "model", image_size=(36, 24)))
    positions = found.pop("pos_embed")
    assert np.array_equal(positions[:, :2], tensors["pos_embed"][:, :2])
    grid = tensors["pos_embed"][0, 2:].reshape(*config.grid_size, -1)
    expected = F.interpolate(torch.from_numpy(grid).permute(2, 0, 1)[None], size=(9, 3), mode="bicubic", antialias=True)
    expected = expected[0].flatten(1).T.numpy()
    assert compare({"positions": positions[0, 2:]}, {"positions": expected}).ok(RESIZE.limit)
    assert not_identical(found, {name: value for name, value in tensors.items() if name != "pos_embed"}) == ()


@pytest.mark.parametrize("num_classes", [0, 10, 17])
@pytest.mark.parametrize("name", ["vit_test", "vit_test_dist"])
def test_another_number_of_classes_gives_the_same_models(tmp_path, name, num_classes):
    config = configs.get(name)
    tensors = random_tensors(config)
    checkpoints.write(tmp_path / "model", config, tensors)
    left = vit_jax.load(tmp_path / "model", num_classes=num_classes)
    right = vit_torch.load(tmp_path / "model", num_classes=num_classes)
    assert left.config == right.config == configs.replace(config, num_classes=num_classes)
    found = vit_jax.state_dict.state_dict(left)
    assert not_identical(found, vit_torch.state_dict.state_dict(right)) == ()
    heads = {name for name in tensors if name.startswith("head")}
    # The same number keeps the head; another makes a new one, and the rest is as it was in either case.
    assert (not_identical(found, tensors) == ()) == (num_classes == 10)
    assert (
        not_identical(
            {name: value for name, value in found.items() if name not in heads},
            {name: value for name, value in tensors.items() if name not in heads},
        )
        == ()
    )
    if num_classes == 17:
        assert {name: found[name].shape[0] for name in heads} == dict.fromkeys(heads, 17)
        assert all(found[name].any() for name in heads if name.endswith("weight"))
    images = np.random.default_rng(0).standard_normal((2, *config.image_size, 3)).astype(np.float32)
    with torch.inference_mode():
        twin = right(torch.from_numpy(images.transpose(0, 3, 1, 2))).numpy()
    logits = np.asarray(jax.jit(lambda x: left(x))(jnp.asarray(images)))
    assert logits.shape == (2, num_classes or config.embed_dim)
    assert compare({"logits": logits}, {"logits": twin}).ok(FORWARD["float32"].limit)


def test_a_bfloat16_file_has_two_bytes_for_each_number(tmp_path):
    config = configs.get("vit_test")
    tensors = random_tensors(config, ml_dtypes.bfloat16)
    checkpoints.write(tmp_path / "model", config, tensors)
    header = int.from_bytes((tmp_path / "model" / WEIGHTS).read_bytes()[:8], "little")
    size = (tmp_path / "model" / WEIGHTS).stat().st_size
    assert size == 8 + header + 2 * checkpoints.parameter_count(config)


@pytest.mark.parametrize("side", [vit_jax, vit_torch], ids=["flax", "torch"])
def test_another_pooling(side, tmp_path):
    config = configs.get("vit_test", global_pool="none", num_classes=0)
    tensors = random_parameters(checkpoints.parameter_shapes(config))
    checkpoints.write(tmp_path / "unpooled", config, tensors)
    model = side.load(tmp_path / "unpooled", global_pool="avg", num_classes=7)
    assert (model.config.global_pool, model.config.num_classes) == ("avg", 7)
    assert side.load(tmp_path / "unpooled", global_pool="token").config.num_classes == 0
    with pytest.raises(ValueError, match=r"^global_pool: got 'map' for 'none', but `map` has parameters$"):
        side.load(tmp_path / "unpooled", global_pool="map")
    checkpoints.convert(tmp_path / "unpooled", tmp_path / "headed", global_pool="token", num_classes=7)
    with pytest.raises(
        ValueError, match=r"^global_pool: got 'token_avg', which the head doesn't fit; expected num_classe"
    ):
        side.load(tmp_path / "headed", global_pool="token_avg")
    assert side.load(tmp_path / "headed", global_pool="token_avg", num_classes=7).config.pooled_dim == 96
