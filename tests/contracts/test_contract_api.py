"""Scripts and notebooks call these: the public API, the registry's classes, and how fast the command answers."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest

import parity
from parity import configs
from parity.configs import registry

ROOT = Path(__file__).parents[2]

# Module, then function: the parameters that a caller may rely on, in order; `*` before those that are keywords.
API: dict[str, dict[str, str]] = {
    "parity.configs": {
        "get": "name, **overrides",
        "names": "pattern",
        "hub_ids": "name",
        "name_of": "config",
        "to_dict": "config",
        "from_dict": "data",
        "replace": "config, **overrides",
    },
    "parity.checkpoints": {
        "convert": "src, dst, *, to, model, format, numerics, prefix, ignore, image_size, patch_size, num_classes, "
        "global_pool, **fields",
        "open_checkpoint": "path, *, model, format, numerics, prefix, ignore, target_size, **fields",
        "read": "path",
        "write": "path, config, tensors, *, name, source",
        "account": "expected, found, *, source, called, unread, advice",
    },
    "parity.bridge": {
        "read_training": "path, *, step",
        "write_training": "state, directory, *, to",
        "convert_training": "src, dst, *, to, step",
    },
    "vit_jax.train": {"train": "recipe, directory, *, resume, stop_at, data_dir, devices, on_step, console"},
    "vit_torch.train": {"train": "recipe, directory, *, resume, stop_at, data_dir, device, on_step, console"},
    "parity.testing": {"assert_same_model": "a, b, images, *, dtype, tolerance, level, image_size"},
    "parity.checks.forward": {
        "check_forward": "model, *, dtypes, depth, image_size, batch_size, seed, images, execution, plant",
    },
    "parity.checks.layers": {
        "check_layers": "model, *, dtypes, depth, image_size, batch_size, seed, images, plant",
    },
    "parity.checks.gradients": {
        "check_gradients": "model, *, dtypes, depth, image_size, batch_size, seed, images, stochastic, execution, "
        "plant",
    },
    "parity.checks.training": {
        "check_training": "model, *, steps, dtypes, depth, image_size, batch_size, seed, recipe, plant, on_step",
    },
    "parity.checks.precision": {
        "check_precision": "model, *, dtypes, depth, image_size, batch_size, seed, recipe, mesh",
    },
    "parity.checks.document": {"write_document": "reports, directory"},
    "vit_jax.models": {"create_model": "name, *, rngs, execution, **overrides", "list_models": "pattern"},
    "vit_torch.models": {"create_model": "name, *, device, execution, **overrides", "list_models": "pattern"},
    "vit_jax.preprocess": {"preprocess": "images, model, *, image_size, exif_orientation"},
    "vit_torch.preprocess": {"preprocess": "images, model, *, image_size, exif_orientation"},
    "vit_jax.checkpoint": {
        "load": "path, *, mesh, dtype, image_size, patch_size, num_classes, global_pool, model, format, numerics, "
        "prefix, ignore, execution, rngs, **fields",
        "save": "model, path, *, name, source",
    },
    "vit_torch.checkpoint": {
        "load": "path, *, device, dtype, image_size, patch_size, num_classes, global_pool, model, format, numerics, "
        "prefix, ignore, execution, **fields",
        "save": "model, path, *, name, source",
    },
    "vit_jax.state_dict": {
        "named_leaves": "model",
        "canonical_shapes": "model",
        "state_dict": "model",
        "load_state_dict": "model, tensors, *, source, place",
    },
    "vit_torch.state_dict": {
        "canonical_shapes": "model",
        "state_dict": "model",
        "load_state_dict": "model, tensors, *, source, device",
    },
}
# Exported by both packages, and methods of the flat ViT.
EXPORTS = {"create_model", "list_models", "load", "preprocess", "save"}
METHODS = {
    "forward": "self, images, *, mask, key",
    "forward_features": "self, images, *, mask, key",
    "forward_intermediates": "self, images, *, indices, norm",
    "forward_head": "self, x",
}


def parse(module: str) -> ast.Module:
    path = ROOT / module.replace(".", "/")
    return ast.parse((path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text())


def parameters(node: ast.FunctionDef) -> str:
    """A function's parameters without annotations and defaults."""
    args = node.args
    names = [arg.arg for arg in args.args]
    names += (["*"] if args.kwonlyargs else []) + [arg.arg for arg in args.kwonlyargs]
    return ", ".join(names + ([f"**{args.kwarg.arg}"] if args.kwarg else []))


def functions(tree: ast.Module | ast.ClassDef) -> dict[str, str]:
    return {node.name: parameters(node) for node in tree.body if isinstance(node, ast.FunctionDef)}


def exported(module: str) -> set[str]:
    for node in parse(module).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return set(ast.literal_eval(node.value))
    return set()


@pytest.mark.parametrize("module", API)
def test_public_functions(module):
    # What imports a framework is read instead.
    if module.startswith("parity.") and not module.startswith("parity.checks."):
        package = importlib.import_module(module)
        found = {name: signature(getattr(package, name)) for name in API[module] if hasattr(package, name)}
    else:
        found = functions(parse(module))
    assert {name: found.get(name) for name in API[module]} == API[module]


def signature(function: object) -> str:
    """As `parameters`, of a function that is loaded."""
    parts: list[str] = []
    for parameter in inspect.signature(function).parameters.values():  # type: ignore[arg-type]
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in parts:
            parts.append("*")
        parts.append(f"**{parameter.name}" if parameter.kind is parameter.VAR_KEYWORD else parameter.name)
    return ", ".join(parts)


@pytest.mark.parametrize("package", ["vit_jax", "vit_torch"])
def test_exports(package):
    assert exported(package) >= EXPORTS


def test_every_level_of_parity_is_exported():
    levels = {name for module, found in API.items() if module.startswith("parity.checks.") for name in found}
    assert exported("parity.checks") >= levels


def model_classes(package: str) -> dict[str, str]:
    """The MODELS of a twin as it is written: name of the class by family."""
    for node in parse(f"{package}.models").body:
        if (
            isinstance(node, ast.AnnAssign)
            and ast.unparse(node.target) == "MODELS"
            and isinstance(node.value, ast.Dict)
        ):
            return {
                ast.literal_eval(key): ast.unparse(value)
                for key, value in zip(node.value.keys, node.value.values, strict=True)
            }  # type: ignore[arg-type]
    return {}


def test_every_family_has_a_class_on_both_sides():
    assert model_classes("vit_jax") == model_classes("vit_torch")
    assert set(model_classes("vit_jax")) == set(registry.FAMILIES)
    assert {configs.family(configs.get(name)) for name in configs.names()} == set(registry.FAMILIES)


@pytest.mark.parametrize("package", ["vit_jax", "vit_torch"])
def test_every_model_has_the_methods_that_callers_use(package):
    classes = {
        node.name: functions(node)
        for file in sorted((ROOT / package / "models").glob("*.py"))
        for node in ast.parse(file.read_text()).body
        if isinstance(node, ast.ClassDef)
    }
    for family, name in model_classes(package).items():
        found = {"forward" if method == "__call__" else method: text for method, text in classes[name].items()}
        if name == "VisionTransformer":
            assert {method: found.get(method) for method in METHODS} == METHODS, name
        # Of any family, what the checks and the trainers call: the config's inputs, and a key of what is drawn.
        inputs = ", ".join(["self", *(one.name for one in registry.FAMILIES[family]().inputs)])
        assert all(found[method].startswith(inputs) for method in METHODS if method != "forward_head"), name
        assert all(found[method].endswith(", key") for method in ("forward", "forward_features")), name
        assert len(found["forward_head"].split(", ")) == 2, name


CPU_SECONDS_OF_HELP = 0.5
HELP = """
import json, sys
sys.argv = ["vit-parity", "--help"]
from parity.cli import main
try:
    main()
except SystemExit as stop:
    code = stop.code
print(json.dumps({"code": code, "loaded": sorted({"jax", "torch", "flax", "numpy"} & set(sys.modules))}))
"""


def test_help_answers_fast_and_loads_no_framework():
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        result = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True, cwd=ROOT, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        *lines, last = result.stdout.splitlines()
        assert json.loads(last) == {"code": 0, "loaded": []}
        text = "\n".join(lines)
        assert all(command in text for command in ("demo", "models", "info", "train", "eval", "convert", "check")), text
    assert min(seconds) < CPU_SECONDS_OF_HELP


def test_subpackages_need_no_import_of_their_own():
    code = "import parity as p; print(p.checkpoints.convert.__name__, p.configs.get.__name__, p.recipes.get.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["convert", "get", "get"]
    with pytest.raises(AttributeError, match="module 'parity' has no attribute 'nothing'"):
        _ = parity.nothing
