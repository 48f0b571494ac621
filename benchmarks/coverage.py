"""Writes docs/coverage.md: every entry of timm's flat ViTs, held against timm itself.

Run `python -m benchmarks.coverage` where the `peers` extra and both frameworks are installed; about three minutes
on two cores.
"""

from __future__ import annotations

import argparse
import datetime
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import timm
from rich.console import Console

from benchmarks import timm_peer
from benchmarks.reduced import distinct_options
from parity import checkpoints
from parity.checks.forward import run_flax, run_torch
from parity.checks.parameters import random_images, random_parameters
from parity.compare import compare
from parity.configs import Config, Execution
from parity.configs.vit import GRID
from parity.html_report import markdown_table
from parity.tolerances import PEERS

COMMAND = "python -m benchmarks.coverage"
DEPTH = 2

Outputs = dict[str, np.ndarray]

_HEAD = f"""\
# Coverage of timm's flat Vision Transformers

Written by `{COMMAND}`; don't edit. {{date}}; timm {{timm}}; CPU.

Every entry (an architecture with a pretrained tag, if it has one) of timm's modules `vision_transformer`, `deit`, `eva`
and `beit`:

- at full size, without allocating: names and shapes of all tensors of timm's own model are those of our config;
- at reduced size, in float64: one small width, {DEPTH} blocks, {GRID[0]} x {GRID[1]} patches, random values in
  every tensor; timm's model, `vit_torch` and `vit_jax` get the same tensors and images. The figure is the worst
  relative L2 distance from timm's output of any block, the features and the logits; the limit is {PEERS.limit:.0e}.

timm computes rotary positions in float32 whatever the model's precision; its own code for them was run in float64
(`benchmarks.timm_peer.float64_rope`). As it stands, it differs by up to {{float32_rope:.1e}} for models that have
them.
"""


@dataclass(frozen=True)
class Entry:
    """One of timm's entries.

    Attributes:
        name: Architecture and tag.
        module: timm's module.
        fault: What is wrong with names, shapes or the registered config; empty if nothing is.
    """

    name: str
    module: str
    fault: str


@dataclass(frozen=True)
class OptionSet:
    """Architectures that are the same model once their sizes are.

    Attributes:
        names: timm's names.
        torch: Worst relative L2 distance of `vit_torch` from any of timm's models.
        flax: The same figures of `vit_jax`.
    """

    names: tuple[str, ...]
    torch: float
    flax: float


def check_entry(name: str) -> Entry:
    """Holds names and shapes of timm's full-size model of an entry against ours; allocates nothing."""
    module = timm.models.model_entrypoint(name.partition(".")[0]).__module__.rpartition(".")[2]
    try:
        expected = checkpoints.parameter_shapes(timm_peer.config_of(name))
        checkpoints.account(expected, timm_peer.shapes(name), source=name)
    except ValueError as error:
        return Entry(name, module, str(error))
    return Entry(name, module, "")


def check_options(config: Config, names: Sequence[str]) -> OptionSet:
    """Runs both twins on a reduced config and compares them with timm's models of some architectures."""
    tensors = random_parameters(checkpoints.parameter_shapes(config))
    images = random_images(config, batch_size=2)
    ours = {
        "torch": run_torch(config, tensors, images, Execution(), None)[0],
        "flax": run_flax(config, tensors, images, Execution())[0],
    }
    worst = {"torch": 0.0, "flax": 0.0}
    for name in names:
        with timm_peer.float64_rope():
            expected = timm_peer.run(timm_peer.reduced_model(name, config, tensors), images)
        for side, outputs in ours.items():
            shared = {place: outputs[place] for place in expected}
            worst[side] = max(worst[side], _distance(shared, expected))
    return OptionSet(tuple(names), **worst)


def option_sets() -> dict[Config, list[str]]:
    """The reduced configs of timm's architectures, each with the names that share it."""
    return distinct_options(sorted({name.partition(".")[0] for name in timm_peer.entries()}), DEPTH)


def float32_rope_difference() -> float:
    """How far timm's rotary positions, as it computes them, are from the same in float64: of outputs, at worst."""
    worst = 0.0
    for config, names in option_sets().items():
        if config.rope is not None:
            tensors, images = random_parameters(checkpoints.parameter_shapes(config)), random_images(config, 2)
            as_it_is = timm_peer.run(timm_peer.reduced_model(names[0], config, tensors), images)
            with timm_peer.float64_rope():
                exact = timm_peer.run(timm_peer.reduced_model(names[0], config, tensors), images)
            worst = max(worst, _distance(as_it_is, exact))
    return worst


def coverage_page(log: Callable[[str], None]) -> tuple[str, bool]:
    """The page in Markdown, and whether every entry is covered.

    Args:
        log: Called with a line for each entry and each set of options.
    """
    entries = []
    for name in timm_peer.entries():
        entries.append(check_entry(name))
        if entries[-1].fault:
            log(f"FAILED {entries[-1].fault}")
    log(f"{len(entries)} entries: names and shapes held against timm")
    sets = []
    for config, names in option_sets().items():
        sets.append(check_options(config, names))
        log(f"{names[0]} and {len(names) - 1} more: torch {sets[-1].torch:.1e}, flax {sets[-1].flax:.1e}")
    of = {name: found for found in sets for name in found.names}
    missing = [entry for entry in entries if entry.fault or _worst([of[_architecture(entry)]]) > PEERS.limit]
    head = _HEAD.format(
        date=datetime.date.today().isoformat(), timm=version("timm"), float32_rope=float32_rope_difference()
    )
    sections = [head, _modules(entries, missing, of), _missing(missing), _sets(sets)]
    return "\n".join(sections), not missing


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the page; returns 0 only if every entry is covered."""
    parser = argparse.ArgumentParser(prog=COMMAND, description="Hold every flat ViT of timm against timm.")
    parser.add_argument("--output", type=Path, default=Path("docs/coverage.md"), help="the file to write")
    output = parser.parse_args(arguments).output
    console = Console()
    start = time.monotonic()
    page, passed = coverage_page(lambda line: console.print(line, highlight=False, soft_wrap=True))
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(page)
    console.print(f"{output}: {'all covered' if passed else 'FAILED'} in {time.monotonic() - start:.0f} s")
    return 0 if passed else 1


def _architecture(entry: Entry) -> str:
    return entry.name.partition(".")[0]


def _distance(left: Outputs, right: Outputs) -> float:
    """The worst relative L2 distance of any place; infinite if the places differ."""
    worst = compare(left, right).worst
    return float("inf") if worst is None else worst.relative_l2


def _worst(sets: Sequence[OptionSet]) -> float:
    return max(max(found.torch, found.flax) for found in sets)


def _modules(entries: Sequence[Entry], missing: Sequence[Entry], of: dict[str, OptionSet]) -> str:
    rows = []
    for module, count in [*Counter(entry.module for entry in entries).items(), ("all", len(entries))]:
        mine = [entry for entry in entries if module in (entry.module, "all")]
        covered = count - sum(entry in missing for entry in mine)
        names = {_architecture(entry) for entry in mine}
        worst = _worst([of[name] for name in names])
        rows.append((module, str(len(names)), str(count), f"{covered} ({covered / count:.0%})", f"{worst:.1e}"))
    return markdown_table(("module", "architectures", "entries", "covered", "worst difference"), rows) + "\n"


def _missing(missing: Sequence[Entry]) -> str:
    if not missing:
        return "No entry is missing.\n"
    rows = [(entry.name, (entry.fault or "outputs beyond the limit").replace("\n", " ")) for entry in missing]
    return markdown_table(("missing", "why"), rows) + "\n"


def _sets(sets: Sequence[OptionSet]) -> str:
    rows = [
        (f"`{found.names[0]}`", str(len(found.names)), f"{found.torch:.1e}", f"{found.flax:.1e}")
        for found in sorted(sets, key=lambda found: found.names)
    ]
    head = f"## The {len(sets)} different sets of options\n\n"
    return head + markdown_table(("first architecture", "architectures", "vit_torch", "vit_jax"), rows) + "\n"


if __name__ == "__main__":
    raise SystemExit(main())
