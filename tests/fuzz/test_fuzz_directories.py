"""Spoiled native and timm directories, converted: the target is whole or isn't there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from harness import CASES, BrokenError, attempt, counted, fuzz, same
from hypothesis import given
from hypothesis import strategies as st
from mutations import damaged, damaged_json

from parity import checkpoints, configs
from parity.checkpoints import CheckpointError, open_tensors
from parity.checkpoints.containers.safetensors_file import DTYPES, WEIGHTS, write_tensors

SHARE = {"config": 0.12, "weights": 0.13}
# Of a model whose checkpoint has a few kilobytes: reading the configs of the registry and making one.
EXTRA = 30_000_000


@pytest.fixture(scope="module", params=["native", "timm"])
def original(request, tmp_path_factory) -> Path:
    """A directory of either format with one tiny model."""
    path = tmp_path_factory.mktemp("original") / "model"
    # The smallest that timm has an architecture for, with one block.
    name = "vit_tiny_patch16_224" if request.param == "timm" else "vit_test"
    sizes = {"embed_dim": 12, "num_heads": 3, "mlp_dim": 24} if request.param == "native" else {}
    config = configs.get(name, depth=1, num_classes=3, **sizes)
    rng = np.random.default_rng(0)
    shapes = checkpoints.parameter_shapes(config)
    tensors = {key: rng.normal(size=shape).astype(np.float32) for key, shape in shapes.items()}
    checkpoints.FORMATS[request.param].write(path, config, tensors, name=name)
    return path


def convert(kind: str, source: Path, *, original: Path, values: bool = True) -> dict[str, np.ndarray] | CheckpointError:
    """One counted case: converts a directory, and looks at what there is afterwards."""
    counted[kind] += 1
    target = source.parent / "target"
    size = sum(file.stat().st_size for file in source.iterdir())
    result = attempt(lambda: checkpoints.convert(source, target), source, size=size, extra=EXTRA)
    left = sorted(child.name for child in source.parent.iterdir())
    if isinstance(result, CheckpointError):
        if left != [source.name]:
            raise BrokenError(f"an error, and {left} are left")
        return result
    if left != sorted([source.name, "target"]):
        raise BrokenError(f"{left} are left")
    written = checkpoints.read(target)
    found = dict(written.tensors)
    shapes = {name: value.shape for name, value in found.items()}
    if written.config != result.config or shapes != checkpoints.parameter_shapes(result.config):
        raise BrokenError("the target is not what its config says")
    if values and not all(same(value, tensor) for value, tensor in zip(*in_order(found, original), strict=True)):
        raise BrokenError("other numbers than in the source")
    shutil.rmtree(target)
    return found


def in_order(found: dict[str, np.ndarray], original: Path) -> tuple[list[np.ndarray], list[np.ndarray]]:
    tensors = open_tensors(original)
    return [found[name] for name in tensors], [tensors[name] for name in tensors]


@pytest.fixture
def source(original, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("case") / "source"
    shutil.copytree(original, path)
    return path


@fuzz(SHARE["config"] / 2)
@given(data=st.data())
def test_configs(source, original, data):
    text = json.dumps(data.draw(damaged_json(json.loads((original / "config.json").read_text())))).encode()
    if data.draw(st.integers(0, 4)) == 0:
        text = data.draw(damaged((original / "config.json").read_bytes()))
    (source / "config.json").write_bytes(text)
    convert("config", source, original=original)


@st.composite
def spoiled_tensors(draw: st.DrawFn, tensors: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], str, str]:
    """Tensors of which one is spoiled, its name, and whether this is an `error`, a `value` or a `type`."""
    name = draw(st.sampled_from(sorted(tensors)))
    value, spoiled = tensors[name], dict(tensors)
    match draw(st.sampled_from(["missing", "extra", "renamed", "shape", "type", "number"])):
        case "missing":
            del spoiled[name]
        case "extra":
            name = draw(st.sampled_from(["extra", "blocks.7.norm1.weight", "head.weight.", "é\n", "a" * 500]))
            spoiled[name] = np.zeros(draw(st.integers(0, 3)), np.float32)
            name = name[:20].replace("\n", "")
        case "renamed":
            spoiled[name.upper()] = spoiled.pop(name)
        case "shape":
            shape = draw(st.sampled_from([(*value.shape, 1), (1, *value.shape), (value.size + 1,), (0,), ()]))
            spoiled[name] = np.resize(value, shape)
            if spoiled[name].shape == value.shape:
                return spoiled, name, "value"
        case "type":
            dtype = draw(st.sampled_from(sorted(DTYPES)))
            spoiled[name] = np.ones(value.shape, DTYPES[dtype])
            return spoiled, name, "value" if "F" in dtype else "error"
        case _:
            number = draw(st.sampled_from([float("nan"), float("inf"), float("-inf"), 1e-45, 3e38, -0.0]))
            spoiled[name] = value.copy()
            spoiled[name].flat[draw(st.integers(0, value.size - 1))] = number
            return spoiled, name, "value"
    return spoiled, name, "error"


@fuzz(SHARE["weights"] / 2)
@given(data=st.data())
def test_weights(source, original, data):
    if data.draw(st.integers(0, 3)) == 0:
        whole = (original / WEIGHTS).read_bytes()
        (source / WEIGHTS).write_bytes(data.draw(damaged(whole[:4096])) + whole[4096:])
        convert("weights", source, original=original, values=False)
        return
    tensors, name, effect = data.draw(spoiled_tensors(dict(open_tensors(original))))
    write_tensors(source, tensors)
    found = convert("weights", source, original=original, values=False)
    if isinstance(found, CheckpointError) != (effect == "error"):
        raise BrokenError(f"{name}: expected an {effect}, got {found}")
    if isinstance(found, CheckpointError):
        assert name in str(found)
    else:
        assert all(same(found[key], value) for key, value in tensors.items())


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "[" * 50, "null", "", "{}", "NaN", '"\\ud800"'])
def test_documents_of_no_use(source, original, text):
    (source / "config.json").write_text(text)
    assert isinstance(convert("document", source, original=original), CheckpointError)


def test_all_cases_ran(record_property):
    record_property("fuzz cases", sum(counted[kind] for kind in SHARE))
    assert all(counted[kind] >= 2 * round(CASES * share / 2) for kind, share in SHARE.items())
