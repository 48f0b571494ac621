"""The command line, `vit-parity`. A command imports a framework only when it runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from tyro.conf import Positional

from . import configs, recipes

if TYPE_CHECKING:
    from .configs import Config

Dtype = Literal["float64", "float32", "bfloat16"]
Framework = Literal["flax", "torch"]
Format = Literal["native", "timm", "huggingface", "open_clip", "torchvision", "google", "meta"]
From = Annotated[Format | Literal["run"] | None, tyro.conf.arg(name="from")]
Pool = Literal["token", "avg", "token_avg", "none"] | None
NumericsSource = Literal["timm", "google", "huggingface", "torchvision", "open_clip", "meta"] | None


def demo(*, directory: Path = Path("vit-parity-demo"), devices: int = 8, seed: int = 0) -> int:
    """Train in Flax, evaluate in PyTorch, prove that they are the same; writes a report.

    Prepares scikit-learn's digits, trains a small ViT on simulated devices with data and fsdp axes, saves the native
    checkpoint, evaluates the same file in both frameworks on the same test set, and measures the parity of every layer.
    Exits with 0 only if the accuracy is at least 97 % and parity holds.

    Args:
        directory: Where the run, the checkpoint and the report go.
        devices: Simulated CPU devices that the training is spread over.
        seed: Of the initial values and the order of the images.
    """
    use_cpu_devices(devices)
    from .checks.demo import run

    return run(directory, seed=seed)


def models(pattern: Positional[str] = "*") -> int:
    """List the registered models.

    Args:
        pattern: Shell-style, such as 'vit_base*' or '*siglip*'.
    """
    from rich.table import Table

    from .checkpoints import parameter_count

    names = configs.names(pattern)
    if not names:
        known = configs.close_match(pattern, configs.names())
        raise ValueError(f"no model matches {pattern!r}{known}")
    columns = ("image", "patch", "dim", "depth", "heads", "mlp", "tokens", "pool", "classes", "parameters")
    table = Table(box=None, header_style="bold")
    table.add_column("model", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right")
    for name in names:
        config = configs.get(name)
        tokens = config.num_patches + config.num_prefix_tokens
        sizes = (config.embed_dim, config.depth, config.num_heads, config.mlp_dim, tokens)
        count = f"{parameter_count(config) / 1e6:.2f} M"
        image, patch = ("x".join(map(str, pair)) for pair in (config.image_size, config.patch_size))
        table.add_row(name, image, patch, *map(str, sizes), config.global_pool, str(config.num_classes), count)
    print_rich(table)
    return 0


def info(
    target: Positional[str], *, model: str | None = None, from_: From = None, numerics: NumericsSource = None
) -> int:
    """Show a model or a checkpoint: what it is, its numerics, its config and every tensor that isn't used.

    Args:
        target: A registered name, a directory or file of weights, or `hf-hub:owner/name`.
        model: The registered name, for a file that doesn't say it.
        from_: The format of the checkpoint; recognised from its files by default.
        numerics: The project as whose model the weights are run; the one they come from by default.
    """
    from dataclasses import asdict

    from rich.table import Table

    from .checkpoints import account, dtypes_of, open_checkpoint, parameter_count, parameter_shapes, shapes_of
    from .checkpoints.numerics import FIELDS, sources_of, with_numerics

    table = Table("field", "value", box=None, header_style="bold")
    ignored: dict[str, str] = {}
    if is_path(target):
        checkpoint = open_checkpoint(target, model=model, format=from_, numerics=numerics)
        config, name = checkpoint.config, checkpoint.name
        account(parameter_shapes(config), shapes_of(checkpoint.tensors), source=target)
        table.add_row("checkpoint", str(checkpoint.path))
        table.add_row("becomes", name or configs.name_of(config) or "a config that has no registered name")
        ignored = checkpoint.source.get("ignored", {})
        for key, value in checkpoint.source.items():
            if key != "ignored":
                table.add_row(f"source.{key}", str(value))
        table.add_row("types", ", ".join(sorted({str(dtype) for dtype in dtypes_of(checkpoint.tensors).values()})))
    else:
        config, name = configs.get(target), target
        config = config if numerics is None else with_numerics(config, numerics, name=name)
        table.add_row("model", target)
    table.add_row("family", configs.family(config))
    table.add_row("parameters", f"{parameter_count(config):,} in {len(parameter_shapes(config))} tensors")
    table.add_row("tokens", f"{config.num_prefix_tokens} + {config.grid_size[0]} x {config.grid_size[1]}")
    table.add_row("numerics", ", ".join(f"{field}={getattr(config, field)}" for field in FIELDS))
    table.add_row("run so by", ", ".join(sources_of(config, name=name)) or "no known project")
    for key, value in asdict(config).items():
        if isinstance(value, dict):
            for inner, inner_value in value.items():
                table.add_row(f"{key}.{inner}", str(inner_value))
        else:
            table.add_row(key, str(value))
    for key, reason in ignored.items():
        table.add_row(f"not used: {key}", reason)
    print_rich(table)
    return 0


def train_recipe(
    recipe: Annotated[recipes.Recipe, tyro.conf.arg(name="")],
    *,
    directory: Path,
    data_dir: Path | None = None,
    devices: int = 0,
    distributed: bool = False,
) -> int:
    """Train in Flax; a run that stands in the directory is resumed.

    Args:
        recipe: What to train, on what, how.
        directory: Of the run: metrics, checkpoints, and the native checkpoint at the end.
        data_dir: Where data sets are kept; `$VIT_PARITY_DATA` or a cache folder by default.
        devices: Simulate this many CPU devices; 0 takes the machine's own.
        distributed: One of several processes: `jax.distributed` is initialised from the cluster's environment.
    """
    use_cpu_devices(devices) if devices else use_present_platform()
    if distributed:
        import jax

        jax.distributed.initialize()
    from rich.console import Console

    from vit_jax.train import train

    result = train(recipe, directory, data_dir=data_dir, console=Console())
    test = result.evaluation
    text = f"accuracy {test.accuracy:.2%}, loss {test.loss:.4f} on {test.count} images; model in {result.model}"
    print_rich(_escaped(text))
    return 0


def evaluate(
    path: Positional[str],
    *,
    data: str = "digits",
    split: str = "test",
    data_dir: Path | None = None,
    framework: Framework | None = None,
    batch_size: int = 64,
) -> int:
    """Evaluate a checkpoint on a data set.

    Args:
        path: The checkpoint.
        data: `digits`, a TFDS image-classification set, or an image folder.
        split: Of the data set.
        data_dir: Where data sets are kept; `$VIT_PARITY_DATA` or a cache folder by default.
        framework: `flax` or `torch`; every installed one by default.
        batch_size: Images at a time.
    """
    from importlib import import_module

    from rich.table import Table

    from .data import eval_batches, open_source

    use_present_platform()
    source = open_source(data, split, data_dir=data_dir)
    packages = {"flax": ("vit_jax", "jax"), "torch": ("vit_torch", "torch")}
    chosen = [framework] if framework else [name for name, (_, needs) in packages.items() if find_spec(needs)]
    table = Table("framework", "images", "accuracy", "loss", box=None, header_style="bold")
    for name in chosen:
        package, _ = packages[name]
        model = import_module(package).load(path)
        check_classes(model.config, source.num_classes, path, data)
        images = {"image_size": model.config.image_size, "preprocessing": model.config.preprocessing}
        batches = eval_batches(source, batch_size=batch_size, **images)
        result = import_module(f"{package}.evaluate").evaluate(model, batches)
        table.add_row(name, str(result.count), f"{result.accuracy:.4%}", f"{result.loss:.6f}")
    print_rich(table)
    return 0


def convert(
    src: Positional[str],
    dst: Positional[Path],
    *,
    to: Format = "native",
    model: str | None = None,
    from_: From = None,
    numerics: NumericsSource = None,
    image_size: tuple[int, int] | None = None,
    patch_size: tuple[int, int] | None = None,
    num_classes: int | None = None,
    global_pool: Pool = None,
) -> int:
    """Write a checkpoint in another format; every tensor is accounted for, or nothing is written.

    Args:
        src: A directory or file of weights in any known format, a training run, or `hf-hub:owner/name`.
        dst: The directory to write.
        to: The format to write.
        model: The registered name, for a file that doesn't say it.
        from_: The format of the source; recognised from its files by default.
        numerics: The project as whose model the weights are run; the one they come from by default.
        image_size: Another height and width; positions are resized by the source's own kernel.
        patch_size: Another height and width of patches; positions and the patch embedding are resized.
        num_classes: Another head, with new values; 0 for none.
        global_pool: Another pooling, for a format that has no other.
    """
    from . import checkpoints

    source = checkpoints.convert(
        src,
        dst,
        to=to,
        model=model,
        format=from_,
        numerics=numerics,
        image_size=image_size,
        patch_size=patch_size,
        num_classes=num_classes,
        global_pool=global_pool,
    )
    ignored = source.source.get("ignored", {})
    for name, reason in ignored.items():
        print_rich(_escaped(f"not used: {name}: {reason}"))
    left = f"{len(ignored)} not used, for the reasons above" if ignored else "none left over"
    print_rich(_escaped(f"{len(source.tensors)} tensors of {source.name or src} written to {dst} ({to}); {left}"))
    return 0


def check(
    target: Positional[str],
    *,
    dtypes: tuple[Dtype, ...] = ("float64", "float32", "bfloat16"),
    depth: int | None = None,
    batch_size: int = 2,
    seed: int = 0,
    json: Path | None = None,
) -> int:
    """Prove that the Flax and the PyTorch model are the same function; exits with 1 if they are not.

    A name is checked with every parameter random, a checkpoint with its own.

    Args:
        target: A registered name, or the path of a checkpoint.
        dtypes: Precisions to compare in.
        depth: Fewer blocks, for a model that is too large for this machine.
        batch_size: Images in the batch.
        seed: Of the random parameters and images.
        json: Also write the figures to this file.
    """
    use_present_platform(default="cpu")
    from .checks import check_forward

    report = check_forward(target, dtypes=dtypes, depth=depth, batch_size=batch_size, seed=seed)
    print_rich(report)
    if json is not None:
        json.write_text(report.to_json())
    return 0 if report.passed else 1


COMMANDS: dict[str, Callable[..., int]] = {
    "demo": demo,
    "models": models,
    "info": info,
    "eval": evaluate,
    "convert": convert,
    "check": check,
}


def train(recipe: Positional[str]) -> int:
    """Train a recipe in Flax: `vit-parity train RECIPE --help` shows all of its fields."""
    raise ValueError(f"unknown recipe {recipe!r}{configs.close_match(recipe, recipes.names())}")


def main(argv: Sequence[str] | None = None) -> None:
    """Runs a command and exits with its code; what a user got wrong is one line and code 2."""
    args = list(sys.argv[1:] if argv is None else argv)
    try:
        if args[:1] == ["train"]:
            # As in `eval`; `--data.name` beside `--data.augmentation...` is what the recipe's fields make of it.
            rest = ["--data.name" if arg == "--data" else arg for arg in args[1:]]
            sys.exit(tyro.extras.subcommand_cli_from_dict(_recipes(), prog="vit-parity train", args=rest))
        description = "The same Vision Transformer in JAX and in PyTorch, provably."
        commands = COMMANDS | {"train": train}
        sys.exit(tyro.extras.subcommand_cli_from_dict(commands, prog="vit-parity", description=description, args=args))
    except (ValueError, ModuleNotFoundError) as error:
        print_rich(f"[bold red]error[/]: {_escaped(error)}", stderr=True)
        sys.exit(2)


def _recipes() -> dict[str, Callable[..., int]]:
    """One command for each recipe, whose defaults are the recipe's fields."""

    def command(name: str, default: recipes.Recipe, text: str) -> Callable[..., int]:
        def run(
            recipe: Annotated[recipes.Recipe, tyro.conf.arg(name="")] = default,
            *,
            directory: Path = Path("runs") / name,
            data_dir: Path | None = None,
            devices: int = 0,
            distributed: bool = False,
        ) -> int:
            return train_recipe(
                recipe, directory=directory, data_dir=data_dir, devices=devices, distributed=distributed
            )

        arguments = (train_recipe.__doc__ or "").partition("Args:")[2]
        run.__doc__ = f"{text}\n\nArgs:{arguments}"
        return run

    return {name: command(name, recipes.get(name), recipes.describe(name)) for name in recipes.names()}


def use_cpu_devices(num: int) -> None:
    """Makes JAX simulate that many devices on the CPU; must come before JAX is used.

    Raises:
        ValueError: JAX already runs with another number of devices.
    """
    import jax

    try:
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", num)
    except RuntimeError:
        if jax.device_count() != num:
            raise ValueError(f"devices: got {num}, but JAX already runs with {jax.device_count()}") from None


def use_present_platform(default: str = "") -> None:
    """Keeps JAX from looking for a TPU that isn't there, which takes 20 s where libtpu is installed to compile for one.

    Args:
        default: The platform to take where the user named none; JAX's own choice if empty.
    """
    if "JAX_PLATFORMS" not in os.environ:
        devices = [*Path("/dev").glob("accel*"), *Path("/dev/vfio").glob("[0-9]*")]
        os.environ["JAX_PLATFORMS"] = default or ("" if devices or find_spec("libtpu") is None else "cpu")


def is_path(target: str) -> bool:
    """Whether a target is meant as a path and not as a registered name."""
    is_file = target not in configs.names() and Path(target).exists()
    return "/" in target or target.startswith(".") or is_file


def check_classes(config: Config, num_classes: int, path: str, data: str) -> None:
    """Raises ValueError where a model's head and a data set don't go together."""
    if config.num_classes != num_classes:
        raise ValueError(f"{path}: got a head of {config.num_classes} classes, but {data} has {num_classes}")


def print_rich(item: Any, *, stderr: bool = False) -> None:
    """Prints text or a table by rich."""
    from rich.console import Console

    terminal = (sys.stderr if stderr else sys.stdout).isatty()
    Console(stderr=stderr, soft_wrap=isinstance(item, str), highlight=False, width=None if terminal else 160).print(
        item
    )


def _escaped(text: object) -> str:
    """Text in which rich takes no bracket for markup."""
    from rich.markup import escape

    return escape(str(text))


if __name__ == "__main__":
    main()
