"""The command line, `vit-parity`. A command imports a framework only when it runs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import tyro

from .check import check
from .common import use_cpu_devices, warnings_in_lines
from .demo import demo
from .diff import diff
from .errors import one_line
from .models import info, models
from .tensors import tensors
from .train import recipe_commands, train
from .weights import convert, evaluate

__all__ = ["COMMANDS", "main", "use_cpu_devices"]

COMMANDS: dict[str, Callable[..., int]] = {
    "demo": demo,
    "models": models,
    "info": info,
    "train": train,
    "eval": evaluate,
    "convert": convert,
    "check": check,
    "diff": diff,
    "tensors": tensors,
}


@warnings_in_lines()
def main(argv: Sequence[str] | None = None) -> None:
    """Runs a command and exits with its code; what went wrong is one line and code 2 (Ctrl-C: 130), a warning one."""
    args = list(sys.argv[1:] if argv is None else argv)
    run = tyro.extras.subcommand_cli_from_dict
    with one_line():
        if args[:1] == ["train"]:
            # As in `eval`; `--data.name` beside `--data.augmentation...` is what the recipe's fields make of it.
            rest = ["--data.name" if arg == "--data" else arg for arg in args[1:]]
            sys.exit(run(recipe_commands(rest), prog="vit-parity train", args=rest))
        description = "The same Vision Transformer in JAX and in PyTorch, provably."
        sys.exit(run(COMMANDS, prog="vit-parity", description=description, args=args))
