"""A copy of the packages with two families more: `overlay/` holds their files as they would lie in the house.

What else adding them takes is a line or two in each registry: `LINES`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
OVERLAY = Path(__file__).parent / "overlay"
PACKAGES = ("parity", "vit_jax", "vit_torch")
# What is run over the copy besides.
BESIDE = ("benchmarks", "tests/conftest.py", "tests/contracts", "tests/parity", "pyproject.toml")
FAMILIES = ("toy_pyramid", "toy_towers")

# File, then what stands there and what it becomes.
LINES: dict[str, list[tuple[str, str]]] = {
    "parity/configs/registry.py": [
        (
            "from .vit import VitConfig\n",
            "from .toy_pyramid import ToyPyramidConfig\n"
            "from .toy_towers import ToyTowersConfig\n"
            "from .vit import VitConfig\n",
        ),
        (
            '    "vit": VitConfig,\n',
            '    "vit": VitConfig,\n    "toy_pyramid": ToyPyramidConfig,\n    "toy_towers": ToyTowersConfig,\n',
        ),
    ],
    "parity/checkpoints/shapes/__init__.py": [
        (
            "from . import mobilevit, pvt, resnet, swin, vit\n",
            "from . import mobilevit, pvt, resnet, swin, toy_pyramid, toy_towers, vit\n",
        ),
        (
            '    "vit": vit,\n',
            '    "vit": vit,\n    "toy_pyramid": toy_pyramid,\n    "toy_towers": toy_towers,\n',
        ),
    ],
    **{
        f"{package}/models/__init__.py": [
            (
                "from .vit import VisionTransformer\n",
                "from .toy_pyramid import ToyPyramid\n"
                "from .toy_towers import ToyTowers\n"
                "from .vit import VisionTransformer\n",
            ),
            (
                '    "vit": VisionTransformer,\n',
                '    "vit": VisionTransformer,\n    "toy_pyramid": ToyPyramid,\n    "toy_towers": ToyTowers,\n',
            ),
        ]
        for package in ("vit_jax", "vit_torch")
    },
}
# The same of the objective that trains the towers.
OPTIONS = '''@dataclass(frozen=True, kw_only=True)
class ToyPairs:
    """Images and the texts of their labels find each other in a batch.

    Attributes:
        name: Which objective this is.
        num_classes: The number of classes of the data.
    """

    name: Literal["toy_pairs"] = "toy_pairs"
    num_classes: int = 10

    def checkpoints(self) -> dict[str, tuple[str, Mapping[str, Any]]]:
        """No model helps."""
        return {}


'''
OBJECTIVE_LINES: dict[str, list[tuple[str, str]]] = {
    "parity/recipes/objectives.py": [
        (
            "Objective = Classification | Distillation\n",
            f"{OPTIONS}Objective = Classification | Distillation | ToyPairs\n",
        ),
        ('"distillation": Distillation}', '"distillation": Distillation, "toy_pairs": ToyPairs}'),
    ],
    **{
        f"{package}/objectives/__init__.py": [
            (
                "from .objective import Objective\n",
                "from .objective import Objective\nfrom .toy_pairs import ToyPairs\n",
            ),
            ('"distillation": Distillation}', '"distillation": Distillation, "toy_pairs": ToyPairs}'),
        ]
        for package in ("vit_jax", "vit_torch")
    },
}


def lay_over(directory: Path) -> Path:
    """The copy with the families in it."""
    ignore = shutil.ignore_patterns("__pycache__")
    for name in (*PACKAGES, *BESIDE):
        source, target = ROOT / name, directory / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=ignore)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
    shutil.copytree(OVERLAY, directory, ignore=ignore, dirs_exist_ok=True)
    for name, changes in (LINES | OBJECTIVE_LINES).items():
        file = directory / name
        text = file.read_text()
        for old, new in changes:
            assert text.count(old) == 1, f"{name}: {old!r} is there {text.count(old)} times"
            text = text.replace(old, new)
        file.write_text(text)
    return directory


def start(directory: Path, *arguments: str) -> subprocess.Popen[str]:
    """Python in the copy, whose packages come before the installed ones."""
    environment = os.environ | {"PYTHONPATH": str(directory), "JAX_PLATFORMS": "cpu", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=directory,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
