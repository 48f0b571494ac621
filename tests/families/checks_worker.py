"""Run in the laid-over copy: every level of proof, checkpoints and commands for both families; prints JSON."""

from __future__ import annotations

import contextlib
import io
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

import parity
import vit_jax
import vit_jax.state_dict
import vit_torch
import vit_torch.state_dict
from parity import checkpoints, configs
from parity.checks import check_gradients, random_parameters
from parity.checks.report import CheckReport
from parity.cli import main
from parity.compare import not_identical
from parity.configs import Execution

FAMILIES = ("toy_pyramid", "toy_towers")
LEVELS = ("forward", "layers", "gradients")


def told(report: CheckReport) -> dict[str, Any]:
    """What a test asks of a report."""
    return {"passed": report.passed, "failures": list(report.failures)}


def levels(name: str, _: Path) -> dict[str, Any]:
    """Another execution than a user's check takes, masks, and planted errors; all in float64."""
    one = {"dtypes": ["float64"]}
    found = {
        "scanned": check_gradients(deeper(name), batch_size=3, execution=Execution(scan=True, remat="block"), **one),
        "planted": check_gradients(name, plant=plant, **one),
        "planted_statistic": check_gradients(name, plant=plant_statistic, **one),
    }
    if name == "toy_pyramid":  # the towers drop nothing
        found["stochastic"] = check_gradients(name, stochastic=True, **one)
    return {level: told(report) for level, report in found.items()}


def deeper(name: str) -> configs.Config:
    """The family with blocks to scan."""
    return configs.get(name, depth=4) if name == "toy_pyramid" else configs.get(name, text_depth=2, text_length=5)


def plant(model: Any) -> None:
    """One of the last blocks has another epsilon."""
    blocks = [module for name, module in model.named_modules() if name.endswith("blocks.0")]
    blocks[-1].norm1.eps = 1e-4


def plant_statistic(model: Any) -> None:
    """A BatchNorm remembers more of each batch, which no output of a first step shows."""
    for module in model.modules():
        if hasattr(module, "momentum"):
            module.momentum *= 1.001


def files(name: str, directory: Path) -> dict[str, Any]:
    """A checkpoint saved and loaded by both, and converted there and back; names of what isn't bit for bit the same."""
    config = configs.get(name)
    tensors = {
        key: value.astype(np.float32) for key, value in random_parameters(checkpoints.parameter_shapes(config)).items()
    }
    checkpoints.write(directory / "first", config, tensors)
    flax = vit_jax.load(directory / "first")
    vit_jax.save(flax, directory / "flax")
    torch = vit_torch.load(directory / "flax")
    vit_torch.save(torch, directory / "torch")
    checkpoints.convert(directory / "torch", directory / "again", to="native")
    opened = checkpoints.open_checkpoint(directory / "again")
    lone = checkpoints.open_checkpoint(directory / "again" / "model.safetensors", model=name)
    sizes = {"image_size": tuple(2 * side for side in config.image_size)}
    larger = vit_jax.load(directory / "again", **sizes), vit_torch.load(directory / "again", **sizes)
    flax_larger, torch_larger = (
        module.state_dict.state_dict(model) for module, model in zip((vit_jax, vit_torch), larger, strict=True)
    )
    return {
        "changed": not_identical(dict(opened.tensors), tensors),
        "lone": not_identical(dict(lone.tensors), tensors),
        "config": opened.config == config == lone.config,
        "name": opened.name,
        "modes": [
            torch.training,
            any(getattr(m, "use_running_average", None) is False for _, m in nnx.iter_modules(flax)),
        ],
        "larger": not_identical(flax_larger, torch_larger),
        "resized": sorted(key for key in tensors if flax_larger[key].shape != tensors[key].shape),
    }


def said(*arguments: str) -> dict[str, Any]:
    """What a command prints, and its exit status."""
    sys.argv = ["vit-parity", *arguments]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main()
        except SystemExit as stop:
            code = stop.code
    return {"code": code, "out": out.getvalue(), "err": err.getvalue()}


def commands(name: str, directory: Path) -> dict[str, Any]:
    """What a user types: the check of every level in every precision, and the rest."""
    path, figures = str(directory / "torch"), directory / "figures.json"
    every = [word for level in LEVELS for word in ("--level", level)]
    training, steps = ["--level", "training", "--steps", "5"], directory / "steps.json"
    precision, sums = ["--level", "precision", "--dtypes", "bfloat16"], directory / "sums.json"
    return {
        "models": said("models", f"{name}*"),
        "info": said("info", name),
        "info_path": said("info", path),
        "check": said("check", name, *every, "--json", str(figures)),
        "train": said("check", name, *training, "--dtypes", "float64", "bfloat16", "--json", str(steps)),
        "precision": said("check", name, *precision, "--json", str(sums)),
        "levels": {
            level: found
            for file in (figures, steps, sums)
            for level, found in json.loads(file.read_text())["levels"].items()
        },
        "convert": said("convert", path, str(directory / "foreign"), "--to", "timm"),
    }


def collected(parts: dict[str, Callable[[str, Path], Any]]) -> dict[str, Any]:
    """Each part of each family."""
    found: dict[str, Any] = {"packages": [parity.__file__, vit_jax.__file__, vit_torch.__file__]}
    for name in FAMILIES:
        with tempfile.TemporaryDirectory() as directory:
            found[name] = {part: function(name, Path(directory)) for part, function in parts.items()}
    return found


if __name__ == "__main__":
    # Compiling takes longest, and a planted error of PyTorch's leaves the program of Flax as it was.
    jax.config.update("jax_disable_most_optimizations", True)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    with tempfile.TemporaryDirectory() as cache:
        jax.config.update("jax_compilation_cache_dir", cache)
        print(json.dumps(collected({"levels": levels, "files": files, "commands": commands})))
