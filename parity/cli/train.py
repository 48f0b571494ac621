"""`vit-parity train`: one command for each recipe."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from .. import configs, outputs, recipes
from .common import Framework, escaped, print_rich, use_cpu_devices, use_present_platform


def train_recipe(
    recipe: Annotated[recipes.Recipe, tyro.conf.arg(name="")],
    *,
    directory: Path,
    data_dir: Path | None = None,
    framework: Framework = "flax",
    stop_at: int | None = None,
    device: str | None = None,
    devices: int = 0,
    distributed: bool = False,
) -> int:
    """Train; a run that stands in the directory is resumed.

    Args:
        recipe: What to train, on what, how.
        directory: Of the run: metrics, checkpoints, and the native checkpoint at the end.
        data_dir: Where data sets are kept; `$VIT_PARITY_DATA` or a cache folder by default.
        framework: `flax`, or `torch`. A run of the other one goes on after `vit-parity convert --to ...-training`.
        stop_at: End after this step, with a checkpoint to go on from.
        device: PyTorch's, such as `cuda:1`; `cuda` where there is one by default.
        devices: Simulate this many CPU devices in JAX; 0 takes the machine's own.
        distributed: One of several processes: `jax.distributed` is initialised from the cluster's environment,
            `torch.distributed` from that of `torchrun`.
    """
    from rich.console import Console

    outputs.check_directory(directory)
    options = {"stop_at": stop_at, "data_dir": data_dir, "console": Console()}
    if framework == "flax":
        is_first = _start_flax(devices, distributed=distributed)
        from vit_jax.train import train

        result = train(recipe, directory, **options)
    else:
        is_first, device = _start_torch(device, distributed=distributed)
        from vit_torch.train import train

        result = train(recipe, directory, device=device, **options)
    test = result.evaluation
    text = f"accuracy {test.accuracy:.2%}, loss {test.loss:.4f} on {test.count} images; model in {result.model}"
    if is_first:
        print_rich(escaped(text))
    return 0


def _start_flax(devices: int, *, distributed: bool) -> bool:
    """Whether this is the first process."""
    use_cpu_devices(devices) if devices else use_present_platform()
    if not distributed:
        return True
    import jax

    jax.distributed.initialize()
    return jax.process_index() == 0


def _start_torch(device: str | None, *, distributed: bool) -> tuple[bool, str]:
    """Whether this is the first process, and its device."""
    import torch

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if not distributed:
        return True, device
    is_cuda = device.startswith("cuda")
    torch.distributed.init_process_group("nccl" if is_cuda else "gloo")
    device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if is_cuda else device
    return torch.distributed.get_rank() == 0, device


def train(recipe: Positional[str]) -> int:
    """Train a recipe in Flax or in PyTorch: `vit-parity train RECIPE --help` shows all of its fields."""
    raise ValueError(f"unknown recipe {recipe!r}{configs.close_match(recipe, recipes.names())}")


def recipe_commands() -> dict[str, Callable[..., int]]:
    """One command for each recipe, whose defaults are the recipe's fields."""

    def command(name: str, default: recipes.Recipe, text: str) -> Callable[..., int]:
        def run(
            recipe: Annotated[recipes.Recipe, tyro.conf.arg(name="")] = default,
            *,
            directory: Path = Path("runs") / name,
            data_dir: Path | None = None,
            framework: Framework = "flax",
            stop_at: int | None = None,
            device: str | None = None,
            devices: int = 0,
            distributed: bool = False,
        ) -> int:
            return train_recipe(
                recipe,
                directory=directory,
                data_dir=data_dir,
                framework=framework,
                stop_at=stop_at,
                device=device,
                devices=devices,
                distributed=distributed,
            )

        arguments = (train_recipe.__doc__ or "").partition("Args:")[2]
        run.__doc__ = f"{text}\n\nArgs:{arguments}"
        return run

    return {name: command(name, recipes.get(name), recipes.describe(name)) for name in recipes.names()}
