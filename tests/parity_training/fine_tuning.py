"""A small checkpoint, a folder of textures, and runs that start from the one and train on the other."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
from PIL import Image
from safetensors.numpy import save_file

import vit_jax.train
import vit_torch.train
from parity import configs, recipes
from parity.checkpoints import parameter_shapes, write
from parity.configs.augmentation import Augmentation
from parity.recipes import Optimizer, Recipe
from parity.runs.metrics import read_metrics

# Seven classes, 16 x 24 pixels, and more than the recipes below have: their data has three classes.
CONFIG = configs.get(
    "vit_tiny_patch16_224",
    image_size=(16, 24),
    patch_size=4,
    embed_dim=24,
    depth=2,
    num_heads=3,
    mlp_dim=40,
    num_classes=7,
)
CLASSES = ("checks", "rings", "stripes")
FRAMEWORKS = ("flax", "torch")


def make_tensors(seed: int = 0) -> dict[str, np.ndarray]:
    """Random tensors of the checkpoint, none of them zero or one."""
    rng = np.random.default_rng(seed)
    return {
        name: (
            rng.normal(1 if name.endswith(("norm1.weight", "norm2.weight", "norm.weight")) else 0, 0.1, shape)
        ).astype(np.float32)
        for name, shape in parameter_shapes(CONFIG).items()
    }


def write_native(path: Path) -> Path:
    """The checkpoint in our own format."""
    write(path, CONFIG, make_tensors(), name="vit_tiny_patch16_224")
    return path


def write_timm(path: Path) -> Path:
    """The checkpoint as timm writes it to the hub: a document, and tensors."""
    path.mkdir()
    args = {"img_size": list(CONFIG.image_size), "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 3}
    document = {
        "architecture": "vit_tiny_patch16_224",
        "num_classes": 7,
        "model_args": args | {"mlp_ratio": 40 / 24},
        "pretrained_cfg": {"input_size": [3, 16, 24], "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic"},
    }
    (path / "config.json").write_text(json.dumps(document))
    save_file(make_tensors(), path / "model.safetensors")
    return path


def make_folder(path: Path) -> Path:
    """Noisy textures of three classes: 16 to train on and 4 to test on of each, 24 x 20 pixels and RGB."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:24, :20]
    patterns = (((x // 4 + y // 4) % 2), (np.hypot(x - 10, y - 12) // 3 % 2), (x // 3 % 2))
    for split, count in (("train", 16), ("test", 4)):
        for name, pattern in zip(CLASSES, patterns, strict=True):
            (path / split / name).mkdir(parents=True)
            for number in range(count):
                noisy = pattern[..., None] * 120 + rng.uniform(0, 90, (24, 20, 3))
                Image.fromarray(noisy.astype(np.uint8)).save(path / split / name / f"{number}.png")
    return path


def recipe_of(folder: Path, start: Path | str, **fields) -> Recipe:
    """Fine-tuning on the folder in float64, with another image size and everything that is random."""
    given = {
        "model": "",
        "init_from": str(start),
        "image_size": (24, 16),
        "data": recipes.Data(
            name=str(folder),
            augmentation=Augmentation(horizontal_flip=True, shift=1, rotate=10.0, mixup=0.2, cutmix=0.2),
            num_threads=0,
        ),
        "batch_size": 8,
        "steps": 20,
        "optimizer": Optimizer(learning_rate=5e-3, warmup_steps=2, weight_decay=0.05, layer_decay=0.8),
        "label_smoothing": 0.05,
        "ema_decay": 0.9,
        "drop_rate": 0.1,
        "drop_path_rate": 0.2,
        "precision": "float64",
        "log_every": 1,
        "seed": 3,
    }
    return Recipe(**given | fields)


def constant(recipe: Recipe, **fields) -> Recipe:
    """The same with one learning rate throughout, so that a run doesn't depend on how many steps it has."""
    optimizer = dataclasses.replace(recipe.optimizer, min_learning_rate=recipe.optimizer.learning_rate)
    return dataclasses.replace(recipe, optimizer=optimizer, **fields)


def train(framework: str, recipe: Recipe, directory: Path, **options) -> Path:
    """Trains on one device; gives the run's directory."""
    if framework == "flax":
        vit_jax.train.train(recipe, directory, devices=jax.devices()[:1], **options)
    else:
        vit_torch.train.train(recipe, directory, **options)
    return directory


def losses(directory: Path) -> list[float]:
    """Of every step."""
    lines = [line for line in read_metrics(directory) if "train/loss" in line]
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))
    return [line["train/loss"] for line in lines]


def contents(directory: Path) -> dict[str, tuple[int, bytes]]:
    """When each file of a directory was changed, and what it holds."""
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}
