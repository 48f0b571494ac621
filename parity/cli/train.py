"""`vit-parity train`: one command for each recipe."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import Positional

from .. import configs, outputs, recipes
from ..recipes import Distillation, Recipe
from .common import (
    Framework,
    escaped,
    print_rich,
    use_cpu_devices,
    use_present_platform,
)
from .said import Said, SaidOfFile, parsed


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourceOptions(SaidOfFile):
    """What the checkpoint of --init-from doesn't say of itself.

    Attributes:
        set: FIELD=VALUE of the config, such as num_heads=4; may be given again. With --init-from, what the checkpoint
            doesn't say, and otherwise a change of the recipe's model.
    """

    def apply(self, recipe: Recipe) -> Recipe:
        """The recipe with these options.

        Raises:
            ValueError: One that only a checkpoint has, without one; or a FIELD=VALUE that isn't one.
        """
        given, fields = self.keywords(), parsed(self.set)
        if recipe.init_from:
            return dataclasses.replace(recipe, init_options=given)
        if other := [name for name in given if name not in fields]:
            flag = "from" if other[0] == "format" else other[0]
            raise ValueError(f"--{flag}: says something of a checkpoint; expected --init-from with it")
        return dataclasses.replace(recipe, overrides=dict(recipe.overrides) | fields)


def train_recipe(
    recipe: Annotated[Recipe, tyro.conf.arg(name="")],
    *,
    source: Annotated[SourceOptions, tyro.conf.arg(name="")] = SourceOptions(),
    teacher: Said = Said(),
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
        source: What the checkpoint of `--init-from` doesn't say of itself.
        teacher: What the checkpoint of `--objective.teacher` doesn't say of itself.
        directory: The directory of the run: metrics, checkpoints, and the native checkpoint at the end.
        data_dir: Where data sets are kept; `$VIT_PARITY_DATA` or a cache folder by default.
        framework: `flax`, or `torch`. A run of the other one goes on after `vit-parity convert --to ...-training`.
        stop_at: End after this step, with a checkpoint to go on from; the model is written after the last step.
        device: PyTorch's, such as `cuda:1`; `cuda` where there is one by default.
        devices: Simulate this many CPU devices in JAX; 0 takes the machine's own.
        distributed: One of several processes: `jax.distributed` is initialised from the cluster's environment,
            `torch.distributed` from that of `torchrun`.
    """
    from rich.console import Console

    from ..runs.metrics import shown

    recipe = _with_teacher(source.apply(recipe), teacher.keywords())
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
    left = f"stopped after step {stop_at} of {recipe.steps}: without --stop-at the same command goes on"
    text = f"{shown(test.metrics)} on {test.count} images; {f'model in {result.model}' if result.complete else left}"
    if is_first:
        print_rich(escaped(text))
    return 0


def _with_teacher(recipe: Recipe, said: dict[str, Any]) -> Recipe:
    """The recipe with what is said of its teacher's checkpoint.

    Raises:
        ValueError: Something is said, and the objective has no teacher.
    """
    if isinstance(recipe.objective, Distillation):
        options = dict(recipe.objective.teacher_options) | said
        return dataclasses.replace(recipe, objective=dataclasses.replace(recipe.objective, teacher_options=options))
    if said:
        got = f"--teacher.*: got {next(iter(said))} of a teacher's checkpoint"
        raise ValueError(f"{got}, expected --objective.name distillation with it")
    return recipe


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
    if is_cuda:
        # Before anything is allocated, or each process would also hold memory of the first device.
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        torch.cuda.set_device(device)
    torch.distributed.init_process_group("nccl" if is_cuda else "gloo")
    return torch.distributed.get_rank() == 0, device


def train(recipe: Positional[str]) -> int:
    """Train a recipe in Flax or in PyTorch: `vit-parity train RECIPE --help` shows all of its fields."""
    raise ValueError(f"unknown recipe {recipe!r}{configs.close_match(recipe, recipes.names())}")


def recipe_commands(args: Sequence[str] = ()) -> dict[str, Callable[..., int]]:
    """One command for each recipe, whose defaults are the recipe's fields.

    Args:
        args: The words of the command line: with `--init-from` the model is by default the checkpoint's, and not the
            recipe's, and with `--objective.name` the fields of the objective are those of another one.
    """
    words = [word for arg in args for word in arg.replace("--init_from", "--init-from").split("=", 1)]
    path = next((word for flag, word in itertools.pairwise(words) if flag == "--init-from"), "")
    objective = next((word for flag, word in itertools.pairwise(words) if flag == "--objective.name"), "")

    def command(name: str, default: Recipe, text: str) -> Callable[..., int]:
        def run(
            recipe: Annotated[Recipe, tyro.conf.arg(name=""), tyro.conf.AvoidSubcommands] = default,
            *,
            source: Annotated[SourceOptions, tyro.conf.arg(name="")] = SourceOptions(),
            teacher: Annotated[Said, tyro.conf.arg(name="teacher")] = Said(),
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
                source=source,
                teacher=teacher,
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

    def default(name: str) -> Recipe:
        recipe = recipes.starting_from(recipes.get(name), path) if path else recipes.get(name)
        other = recipes.OBJECTIVES.get(objective)
        return recipe if other in (None, type(recipe.objective)) else dataclasses.replace(recipe, objective=other())

    return {name: command(name, default(name), recipes.describe(name)) for name in recipes.names()}
