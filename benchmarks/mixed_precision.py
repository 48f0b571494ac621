"""The tables "Mixed precision" of docs/precision.md: a training step's gradients in bfloat16 against float64.

    python -m benchmarks.mixed_precision [--model vit_tiny_patch16_224] [--depth 2]

Prints Markdown. `vit-parity check NAME --level precision` shows one model by parameter. About five minutes on two
cores.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from unittest import mock

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import ml_dtypes
import numpy as np

import vit_jax.train_step
import vit_torch.train_step
from benchmarks.precision import distance, table
from parity import checkpoints, configs
from parity.checks import check_precision, random_parameters
from parity.checks.report import PrecisionReport
from parity.checks.runs import FlaxRun, batches_of, source_of
from parity.checks.training import of_steps, recipe_of
from parity.checks.twins import DTYPES, Tensors, exact_jax
from parity.configs import Config

BATCH, DEVICES = 128, 8


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mixed_precision", description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="vit_tiny_patch16_224")
    parser.add_argument("--depth", type=int, default=2)
    arguments = parser.parse_args()
    config = configs.get(arguments.model).shortened(arguments.depth)
    config = configs.replace(config, num_classes=10)
    reports = {"as it is": check_precision(config, dtypes=["bfloat16"], batch_size=BATCH)}
    with everything_cast():
        reports["everything cast"] = check_precision(config, dtypes=["bfloat16"], batch_size=BATCH)
    rows = {}
    for title, report in reports.items():
        for side in ("flax", "torch"):
            for kind, (error, norm) in by_kind(report["bfloat16"], side).items():
                rows.setdefault(kind, {})[f"{side}, {title}"] = f"{error:.1e} ({norm:.1e})"
    header = list(next(iter(rows.values())))
    title = f"`{arguments.model}`, {arguments.depth} blocks, {BATCH} images: relative error, and of the norm"
    table(title, ["parameters", *header], [(kind, *cells.values()) for kind, cells in rows.items()])
    between_devices(config)


@contextmanager
def everything_cast() -> Iterator[None]:
    """Every parameter in bfloat16, as a model is that is cast as a whole."""
    with (
        mock.patch.object(vit_jax.train_step, "is_cast", return_value=True),
        mock.patch.object(vit_torch.train_step, "is_cast", return_value=True),
    ):
        yield


def by_kind(report: PrecisionReport, side: str) -> dict[str, tuple[float, float]]:
    """The worst error and the worst error of the norm of each kind of parameter."""
    found: dict[str, tuple[float, float]] = {}
    norms = {difference.name: difference.relative_l2 for difference in report[f"{side} norms"].comparison.differences}
    for difference in report[f"{side} gradients"].comparison.differences:
        name, shape = difference.name, difference.right_shape
        parts = name.split(".")
        kind = (
            "head"
            if parts[0].startswith("head")
            else "tokens and positions"
            if len(parts) == 1
            else "kernels"
            if len(shape) > 1
            else f"{parts[-1]} of norms"
            if "norm" in parts[-2]
            else "bias of the patch embedding"
            if parts[0] == "patch_embed"
            else "other biases"
        )
        error, norm = found.get(kind, (0.0, 0.0))
        found[kind] = max(error, difference.relative_l2), max(norm, norms.get(name, 0.0))
    return found


def between_devices(config: Config) -> None:
    """What a sum in bfloat16 over the gradients of some devices costs, beside each device's own rounding."""
    recipe = of_steps(recipe_of(config), 1, BATCH, 0)
    augmentation = dataclasses.replace(recipe.data.augmentation, mixup=0.0, cutmix=0.0)
    recipe = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, augmentation=augmentation))
    recipe = dataclasses.replace(recipe, drop_path_rate=0.0)
    tensors = {
        name: value.astype(np.float32)
        for name, value in random_parameters(checkpoints.parameter_shapes(config)).items()
    }
    with closing(batches_of(source_of(recipe), recipe, config)) as batches:
        batch = next(batches)
    exact = gradients(recipe, "float64", config, tensors, batch)
    rows = [{name: value[i::DEVICES] for name, value in batch.items()} for i in range(DEVICES)]
    parts = [gradients(recipe, "bfloat16", config, tensors, part) for part in rows]
    kernels = [name for name, value in exact.items() if value.ndim > 1 and name.endswith(".weight")]
    found = []
    for title, dtype in (("float32", np.float32), ("bfloat16", ml_dtypes.bfloat16)):
        errors = []
        for name in kernels:
            total = np.zeros(exact[name].shape, dtype)
            for part in parts:
                total = (total + part[name].astype(dtype)).astype(dtype)
            errors.append(distance(total.astype(np.float64) / DEVICES, exact[name]))
        found.append((title, float(np.median(errors)), max(errors)))
    table(f"Kernels' gradients of {DEVICES} devices, added one after another", ["in", "median", "worst"], found)


def gradients(recipe, dtype: str, config: Config, tensors: Tensors, batch: Mapping[str, np.ndarray]) -> Tensors:
    """Flax's, on one device."""
    with exact_jax(DTYPES[dtype]):
        run = FlaxRun(dataclasses.replace(recipe, precision=dtype), config, tensors)
        return run.gradients(dict(batch))


if __name__ == "__main__":
    main()
