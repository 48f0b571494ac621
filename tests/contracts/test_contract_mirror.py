"""The two trees are the same page: files, classes, public methods, functions, their order and their signatures."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Files without a twin, and why.
ONE_SIDED = {
    "vit_jax/sharding.py": "meshes",
    "vit_jax/layers/constrain.py": "meshes",
    "vit_jax/stacks.py": "PyTorch runs block after block",
    "vit_torch/parallel.py": "JAX has process_index and process_count",
    "vit_jax/functional.py": "PyTorch has torch.func.functional_call",
}
# Functions and classes without a twin, and why.
ONE_SIDED_NAMES = {
    "vit_jax/state_dict.py:named_leaves": "PyTorch's named_parameters does it",
    "vit_jax/train_step.py:Trainer.abstract_state": "PyTorch's state is changed in place",
    "vit_jax/train_step.py:Trainer.lower": "PyTorch runs as it is written",
    "vit_torch/optim.py:set_learning_rate": "optax has a schedule",
    "vit_jax/layers/linear.py:matmul": "XLA's CPU backend wants two axes",
    "vit_jax/random.py:stream": "PyTorch has a generator",
    "vit_torch/random.py:Threefry": "JAX has keys",
    "vit_torch/random.py:Global": "JAX has no generator of its own",
    "vit_torch/state_dict.py:to_numpy": "JAX arrays are NumPy arrays",
    "vit_torch/state_dict.py:from_numpy": "JAX arrays are NumPy arrays",
    "vit_torch/state_dict.py:numpy_dtype": "JAX's types are NumPy's",
}
# What a framework needs and the other hasn't.
OWN_PARAMETERS = {
    "rngs",
    "axes",
    "dtype",
    "device",
    "devices",
    "mesh",
    "place",
    "parallel",
    "start",
    "optimizer",
    "names",
}
OWN_METHODS = {"reset_parameters", "set_view", "extra_repr"}
# An annotation in a framework's words is compared with nothing.
FRAMEWORK_WORDS = ("Array", "Tensor", "jax", "jnp", "nnx", "torch", "nn.")

# Name, annotation and default of each parameter; a class has none.
Signature = tuple[tuple[str, str, str], ...]
Outline = dict[str, Signature]


def files(package: str) -> set[str]:
    return {str(file.relative_to(ROOT / package)) for file in (ROOT / package).rglob("*.py")}


def outline(source: str) -> Outline:
    """Public classes, methods and functions in order, each with its signature."""
    found: Outline = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            found[node.name] = signature(node)
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            found[node.name] = ()
            for method in node.body:
                if isinstance(method, ast.FunctionDef) and is_shared(method.name):
                    name = "forward" if method.name == "__call__" else method.name
                    found[f"{node.name}.{name}"] = signature(method)
    return found


def is_shared(method: str) -> bool:
    return method in ("__call__", "__init__") or not (method.startswith("_") or method in OWN_METHODS)


def signature(node: ast.FunctionDef) -> Signature:
    """What a caller has to write, without what each framework has of its own; `=` marks a keyword."""
    args = node.args
    positional = [*args.posonlyargs, *args.args]
    defaults = [None] * (len(positional) - len(args.defaults)) + list(args.defaults)
    found = [parameter(arg.arg, arg, default) for arg, default in zip(positional, defaults, strict=True)]
    found += [parameter(f"*{arg.arg}", arg) for arg in [args.vararg] if arg]
    keywords = zip(args.kwonlyargs, args.kw_defaults, strict=True)
    found += [parameter(f"{arg.arg}=", arg, default) for arg, default in keywords]
    found += [parameter(f"**{arg.arg}", arg) for arg in [args.kwarg] if arg]
    return tuple(entry for entry in found if entry[0].rstrip("=") not in OWN_PARAMETERS)


def parameter(name: str, arg: ast.arg, default: ast.expr | None = None) -> tuple[str, str, str]:
    return name, ast.unparse(arg.annotation) if arg.annotation else "", ast.unparse(default) if default else ""


def differences(left: Outline, right: Outline) -> list[str]:
    """How two outlines differ; empty if they mirror each other."""
    found = [f"only left: {name}" for name in left if name not in right]
    found += [f"only right: {name}" for name in right if name not in left]
    if not found and list(left) != list(right):
        found.append(f"order: {list(left)} and {list(right)}")
    pairs = [(name, left[name], right[name]) for name in left if name in right]
    return found + [f"{name}: {one} and {other}" for name, one, other in pairs if not same(one, other)]


def same(left: Signature, right: Signature) -> bool:
    """Equal but for annotations in a framework's words."""
    return len(left) == len(right) and all(
        (name, default) == (other_name, other_default) and (text == other or not (neutral(text) and neutral(other)))
        for (name, text, default), (other_name, other, other_default) in zip(left, right, strict=True)
    )


def neutral(annotation: str) -> bool:
    return not any(word in annotation for word in FRAMEWORK_WORDS)


def twin_outlines(file: str) -> list[Outline]:
    sides = []
    for package in ("vit_jax", "vit_torch"):
        found = outline((ROOT / package / file).read_text())
        sides.append({name: text for name, text in found.items() if f"{package}/{file}:{name}" not in ONE_SIDED_NAMES})
    return sides


TWINS = sorted(files("vit_jax") & files("vit_torch"))


def test_the_trees_have_the_same_files():
    sides = {f"{package}/{file}" for package in ("vit_jax", "vit_torch") for file in files(package)}
    paired = {f"{package}/{file}" for package in ("vit_jax", "vit_torch") for file in TWINS}
    assert sides - paired == set(ONE_SIDED)


@pytest.mark.parametrize("file", TWINS)
def test_twins_have_the_same_outline(file):
    assert differences(*twin_outlines(file)) == []


def test_no_entry_of_the_lists_is_stale():
    for entry in ONE_SIDED_NAMES:
        file, name = entry.split(":")
        assert name in outline((ROOT / file).read_text()), entry
    assert all((ROOT / file).is_file() for file in ONE_SIDED)


@pytest.mark.parametrize("package", ["vit_jax", "vit_torch"])
def test_a_twin_imports_itself_relatively_and_has_no_framework_in_its_names(package):
    for file in sorted((ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and not node.level:
                assert (node.module or "").split(".")[0] != package, file
            if isinstance(node, ast.Import):
                assert all(alias.name.split(".")[0] != package for alias in node.names), file
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                assert not node.name.lower().startswith(("jax", "torch", "flax")), f"{file}: {node.name}"


EXAMPLE = """
class Mlp:
    def __init__(self, dim: int, *, act: str, drop_rate: float = 0.0): ...
    def forward(self, x: Float[Tensor, "b n d"], *, key: random.Key | None = None): ...
    def reset_parameters(self): ...
    def _private(self): ...

def dropout(x: Float[Tensor, "..."], rate: float): ...
def load(path: str, *, device: torch.device | None = None, num_classes: int | None = None): ...
"""
TWIN = """
class Mlp:
    def __init__(self, dim: int, *, act: str, drop_rate: float = 0.0, rngs: nnx.Rngs): ...
    def __call__(self, x: Float[Array, "b n d"], *, key: random.Key | None = None): ...

def dropout(x: Float[Array, "..."], rate: float): ...
def load(path: str, *, mesh: jax.sharding.Mesh | None = None, num_classes: int | None = None): ...
def _other(): ...
"""


def test_what_a_twin_may_have_of_its_own():
    assert differences(outline(EXAMPLE), outline(TWIN)) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("class Mlp", "class MLP"),
        ("def __call__", "def apply"),
        ("def dropout", "def drop"),
        ("dim: int", "width: int"),
        ("dim: int", "dim: float"),
        ("act: str, drop_rate: float = 0.0", "drop_rate: float = 0.0, act: str"),
        ("drop_rate: float = 0.0", "drop_rate: float = 0.1"),
        ("drop_rate: float = 0.0", "drop_rate: float"),
        ("dim: int, *, act: str", "*, dim: int, act: str"),
        ("key: random.Key | None = None", "key: random.Key"),
        ("key: random.Key | None = None", "rng: random.Key | None = None"),
        ("num_classes: int | None = None", "classes: int | None = None"),
        ("num_classes: int | None = None", "num_classes: int | None = 0"),
        ('x: Float[Array, "..."], rate: float', 'rate: float, x: Float[Array, "..."]'),
        ("def _other", "def other"),
    ],
)
def test_each_difference_is_found(old, new):
    assert old in TWIN
    assert differences(outline(EXAMPLE), outline(TWIN.replace(old, new)))


def test_another_order_is_found():
    head, functions = TWIN.split("\ndef dropout")
    swapped = "\ndef dropout" + functions + head
    assert [text.split(":")[0] for text in differences(outline(EXAMPLE), outline(swapped))] == ["order"]
