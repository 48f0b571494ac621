"""`vit-parity convert` and `eval`."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional

from ..configs.image_folder import FolderOptions
from .common import (
    Format,
    Framework,
    Size,
    check_classes,
    escaped,
    not_used,
    print_rich,
    use_present_platform,
)
from .said import Said, SaidOf

Training = Literal["torch-training", "flax-training"]
TRAINING: dict[str, Framework] = {"torch-training": "torch", "flax-training": "flax"}
Pool = Literal["token", "avg", "token_avg", "none"] | None


def convert(
    src: Positional[str],
    dst: Positional[Path],
    *,
    to: Format | Training = "native",
    said: SaidOf = Said(),
    image_size: Size | None = None,
    patch_size: Size | None = None,
    num_classes: int | None = None,
    global_pool: Pool = None,
) -> int:
    """Write a checkpoint in another format; every tensor is accounted for, or nothing is written.

    Args:
        src: A directory or file of weights in any known format, a training run, or `hf-hub:owner/name`.
        dst: The directory to write.
        to: The format to write; of a run, `torch-training` or `flax-training` for a run of that framework, with
            optimiser, step and position in the data, that `vit-parity train` goes on with there.
        said: What the source doesn't say of itself.
        image_size: Another height and width, or one number for both; positions are resized by the source's own kernel.
        patch_size: Another height and width of patches, or one number for both; positions and the patch embedding are
            resized.
        num_classes: Another head, with new values; 0 for none.
        global_pool: Another pooling, for a format that has no other.
    """
    from .. import checkpoints

    if to in TRAINING:
        changes = (image_size, patch_size, num_classes, global_pool)
        if any(change is not None for change in changes) or said.keywords():
            raise ValueError(f"--to {to}: a run moves as it is, without --model, --image-size or the like")
        return _convert_training(src, dst, to=TRAINING[to])
    checkpoints.FORMATS[to].TARGET.check(dst, src)
    source = checkpoints.convert(
        said.open(src, target_size=image_size),
        dst,
        to=to,
        image_size=image_size,
        patch_size=patch_size,
        num_classes=num_classes,
        global_pool=global_pool,
    )
    ignored = source.source.get("ignored", {})
    for names, reason in not_used(ignored):
        print_rich(escaped(f"not used: {names}: {reason}"))
    left = f"{len(ignored)} not used, for the reasons above" if ignored else "none left over"
    print_rich(escaped(f"{len(source.tensors)} tensors of {source.name or src} written to {dst} ({to}); {left}"))
    return 0


def _convert_training(src: str, dst: Path, *, to: Framework) -> int:
    use_present_platform(default="cpu")
    from .. import bridge

    state = bridge.convert_training(src, dst, to=to)
    kinds = ", ".join(["params", *state.moments, *([] if state.ema is None else ["ema"])])
    text = f"step {state.step} of {state.recipe.steps}: {kinds}, {len(state.params)} tensors each, written to {dst}"
    print_rich(escaped(text))
    return 0


def evaluate(
    path: Positional[str],
    *,
    said: SaidOf = Said(),
    data: str = "digits",
    split: str = "test",
    data_dir: Path | None = None,
    folder: Annotated[FolderOptions, tyro.conf.arg(name="")] = FolderOptions(),
    framework: Framework | None = None,
    batch_size: int = 64,
) -> int:
    """Evaluate a checkpoint on a data set.

    Args:
        path: The checkpoint.
        said: What it doesn't say of itself.
        data: `digits`, a TFDS image-classification set, or an image folder.
        split: The split of the data set.
        data_dir: Where data sets are kept; `$VIT_PARITY_DATA` or a cache folder by default.
        folder: How an image folder is read.
        framework: `flax` or `torch`; every installed one by default.
        batch_size: Images at a time.
    """
    from importlib import import_module

    from rich.table import Table

    from ..data import eval_batches, open_source

    use_present_platform()
    source = open_source(data, split, data_dir=data_dir, folder=folder)
    packages = {"flax": ("vit_jax", "jax"), "torch": ("vit_torch", "torch")}
    chosen = [framework] if framework else [name for name, (_, needs) in packages.items() if find_spec(needs)]
    checkpoint = said.open(path)
    check_classes(checkpoint, source, path)
    table = Table("framework", "images", "accuracy", "loss", box=None, header_style="bold")
    for name in chosen:
        package, _ = packages[name]
        model = import_module(package).load(checkpoint)
        images = {"image_size": model.config.image_size, "preprocessing": model.config.preprocessing}
        batches = eval_batches(source.with_channels(model.config.in_chans), batch_size=batch_size, **images)
        result = import_module(f"{package}.evaluate").evaluate(model, batches)
        table.add_row(name, str(result.count), f"{result.accuracy:.4%}", f"{result.loss:.6f}")
    print_rich(table)
    return 0
