"""The demo: train in Flax, evaluate the same file in PyTorch, prove that they are the same, write it down."""

from __future__ import annotations

import dataclasses
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from rich.console import Console

import vit_jax
import vit_jax.evaluate
import vit_jax.sharding
import vit_jax.train
import vit_torch
import vit_torch.evaluate

from . import recipes
from .checkpoints import open_checkpoint
from .checkpoints.accounting import cut
from .checkpoints.containers.tensors import WEIGHTS
from .checkpoints.formats.native import CONFIG
from .checkpoints.formats.run import CHECKPOINTS, MODEL, RECIPE
from .checks.document import write_part, write_summary
from .checks.gradients import check_gradients
from .checks.report import CheckReport
from .data import Source, eval_batches, normalize, open_source, resize_and_crop
from .html_report import Report, check_place
from .runs.directory import claim
from .runs.metrics import METRICS, read_metrics

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ACCURACY = 0.97
DTYPES = ("float64", "float32")
MESH = recipes.MeshShape(data=-1, fsdp=2)
_IMAGES = 16
# In a run that the demo made.
_MARK = "demo.json"
# What training leaves in a run's directory, and in that of its native checkpoint.
_RUN = (_MARK, RECIPE, MODEL, METRICS, CHECKPOINTS, "tensorboard", "model")
_MODEL = (CONFIG, WEIGHTS)


def run(directory: Path, *, accuracy: float = ACCURACY, **overrides: Any) -> int:
    """Runs the demo; `vit_jax.train` takes all devices that JAX has.

    Args:
        directory: Gets `run` (metrics, Orbax checkpoints), `run/model` (the native checkpoint) and the report. A `run`
            of an earlier demo there is replaced, unless somebody put files of their own there.
        accuracy: The least share of test images that each framework must classify rightly.
        overrides: Fields of the `digits` recipe to replace, such as `seed=1`.

    Returns:
        0 if the accuracy in both frameworks is at least `accuracy`, predictions agree and parity holds; else 1.

    Raises:
        ValueError: The directory can't be written to, or holds a run or a report that no demo made.
    """
    console = Console()
    started = time.perf_counter()
    recipe = recipes.get("digits", mesh=MESH, **overrides)
    folder = directory / "run"
    check_place(directory)
    _remove_earlier(folder)
    claim(folder, recipe, recipe.config())
    (folder / _MARK).write_text("{}\n")

    console.rule(f"1. Train {recipe.model} in Flax on {recipe.data.name}")
    trained = vit_jax.train.train(recipe, folder, console=console)

    console.rule("2. Evaluate the same checkpoint in both frameworks")
    source = open_source(recipe.data.name, recipe.data.test_split)
    flax, torch = _evaluate(trained.model, source)
    agree = int((flax.predictions == torch.predictions).sum())
    console.print(f"Flax {flax.accuracy:.2%}, PyTorch {torch.accuracy:.2%}; {agree} of {len(source)} predictions agree")

    console.rule("3. Prove that they are the same function")
    parity = check_gradients(trained.model, dtypes=DTYPES, images=_inputs(trained.model, source))
    console.print(parity)

    passed = {
        f"accuracy in Flax of at least {accuracy:.0%}": flax.accuracy >= accuracy,
        f"accuracy in PyTorch of at least {accuracy:.0%}": torch.accuracy >= accuracy,
        "every prediction agrees": agree == len(source),
        "parity of logits, every block and every gradient": parity.passed,
    }
    report = Report("vit-parity: one Vision Transformer, two frameworks")
    report.text(
        f"`{recipe.model}` was trained in Flax on the {recipe.data.name} data for {recipe.steps} steps on "
        f"{jax.device_count()} devices ({_mesh(recipe)}). Its checkpoint `{folder.name}/{trained.model.name}` was then "
        "loaded by both."
    )
    report.table(("claim", "holds"), [(text, "yes" if holds else "**no**") for text, holds in passed.items()])
    _write_accuracy(report, source, flax, torch)
    report.heading("Training")
    report.figure("loss", _loss_figure(read_metrics(folder)), "Loss and test accuracy by step")
    _write_parity(report, parity)
    path = report.write(directory)

    for text, holds in passed.items():
        console.print(f"[{'green' if holds else 'red'}]{'yes' if holds else 'NO '}[/]  {text}")
    console.print(f"{time.perf_counter() - started:.0f} s; report in {path}")
    return 0 if all(passed.values()) else 1


def _remove_earlier(folder: Path) -> None:
    """Removes the run of an earlier demo; raises ValueError for anything that no demo made."""
    if not folder.exists():
        return
    found = {str(child.relative_to(folder)) for child in (*folder.iterdir(), *folder.glob("model/*"))}
    if found and _MARK not in found:
        raise ValueError(f"{folder}: holds what no demo made; choose another --directory, or remove it")
    if others := sorted(found - {*_RUN, *(f"model/{name}" for name in _MODEL)}):
        raise ValueError(f"{folder}: holds {cut(others)} beside an earlier demo's run; move it elsewhere")
    for child in folder.iterdir():  # the folder itself may be a link
        shutil.rmtree(child) if child.is_dir() and not child.is_symlink() else child.unlink()


def _mesh(recipe: recipes.Recipe) -> str:
    mesh = vit_jax.sharding.make_mesh(**dataclasses.asdict(recipe.mesh))
    return ", ".join(f"{axis} {size}" for axis, size in mesh.shape.items())


def _evaluate(path: Path, source: Source) -> tuple[vit_jax.evaluate.Evaluation, vit_torch.evaluate.Evaluation]:
    """The same file and the same batches in Flax and in PyTorch."""
    flax, torch = vit_jax.load(path), vit_torch.load(path)
    images = flax.config.preprocessing
    batches = list(eval_batches(source, batch_size=64, image_size=flax.config.image_size, preprocessing=images))
    return vit_jax.evaluate.evaluate(flax, batches), vit_torch.evaluate.evaluate(torch, batches)


def _inputs(path: Path, source: Source) -> np.ndarray:
    """The first test images as a model sees them, float64 (b, h, w, c)."""
    config = open_checkpoint(path).config
    images = [resize_and_crop(source[i]["image"], config.image_size, config.preprocessing) for i in range(_IMAGES)]
    return normalize(np.stack(images), config.preprocessing, dtype=np.float64)


def _write_accuracy(
    report: Report, source: Source, flax: vit_jax.evaluate.Evaluation, torch: vit_torch.evaluate.Evaluation
) -> None:
    report.heading("Accuracy on the test set")
    rows = [
        (name, f"{result.accuracy:.4%}", f"{result.loss:.8f}", result.count)
        for name, result in (("Flax", flax), ("PyTorch", torch))
    ]
    report.table(("framework", "accuracy", "loss", "images"), rows)
    report.figure("images", _images_figure(source, flax, torch), "Test images with the truth and both predictions")


def _write_parity(report: Report, parity: CheckReport) -> None:
    report.heading("Parity")
    report.text(
        f"Relative L2 difference between Flax and PyTorch on {parity.batch_size} real test images, for the trained "
        "parameters: rounding, and nothing else."
    )
    write_summary(report, [parity])
    for part in parity.part_names:
        write_part(report, parity, part)


def _loss_figure(lines: list[dict[str, float]]) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.5))
    left = figure.subplots()
    train = [(line["step"], line["train/loss"]) for line in lines if "train/loss" in line]
    test = [(line["step"], line["test/loss"], line["test/accuracy"]) for line in lines if "test/loss" in line]
    left.plot(*zip(*train, strict=True), label="training loss", color="#8c959f", linewidth=1)
    left.plot([step for step, _, _ in test], [loss for _, loss, _ in test], label="test loss", color="#0969da")
    left.set(xlabel="step", ylabel="loss", yscale="log")
    right = left.twinx()
    right.plot([step for step, _, _ in test], [100 * value for _, _, value in test], color="#1a7f37", label="accuracy")
    right.set(ylabel="test accuracy, %", ylim=(80, 100))
    figure.legend(loc="upper center", ncols=3, frameon=False)
    return figure


def _images_figure(source: Source, flax: vit_jax.evaluate.Evaluation, torch: vit_torch.evaluate.Evaluation) -> Figure:
    """Some test images, up to half of them classified wrongly."""
    from matplotlib.figure import Figure

    right = (flax.predictions == flax.labels) & (torch.predictions == torch.labels)
    wrong = np.flatnonzero(~right)[: _IMAGES // 2]
    order = [*wrong, *np.flatnonzero(right)[: _IMAGES - len(wrong)]]
    figure = Figure(figsize=(8, 3))
    for axes, index in zip(figure.subplots(2, _IMAGES // 2).flat, order, strict=True):
        sample = source[int(index)]
        axes.imshow(sample["image"].squeeze(), cmap="gray_r" if source.in_chans == 1 else None)
        names = [source.class_names[values[index]] for values in (flax.labels, flax.predictions, torch.predictions)]
        color = "black" if right[index] else "#cf222e"
        axes.set_title(f"{names[0]}\n{names[1]} / {names[2]}", fontsize=9, color=color)
        axes.axis("off")
    figure.suptitle("truth, then Flax / PyTorch; mistakes in red", fontsize=9, y=1.08)
    return figure
