"""Writes docs/parity.md: parity of every registered model's outputs and gradients, and of training.

Run `python -m benchmarks.table`; it takes about half an hour on two cores.
"""

from __future__ import annotations

import argparse
import datetime
import platform
import time
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version
from pathlib import Path

from rich.console import Console

from benchmarks.plants import MODEL, PLANTS
from benchmarks.reduced import distinct_options
from parity import checkpoints, configs
from parity.checks.forward import check_forward
from parity.checks.gradients import check_gradients
from parity.checks.report import CheckReport, PrecisionReport
from parity.checks.target import fits, required_bytes
from parity.checks.training import check_training
from parity.checks.twins import DTYPES
from parity.configs.vit import GRID
from parity.tolerances import FORWARD, GRADIENTS, TRAINING_LOSS, TRAINING_STATE, USUAL_ELSEWHERE, Tolerance

COMMAND = "python -m benchmarks.table"
FULL_SIZE = (
    "vit_tiny_patch16_224",
    "deit_small_distilled_patch16_224",
    "vit_small_patch14_reg4_dinov2",
    "vit_base_patch32_clip_224",
    "vit_base_patch16_siglip_224",
    "vit_small_patch16_dinov3",
    "eva02_small_patch14_224",
    "beit_base_patch16_224",
)
TRAINED = ("vit_digits", "vit_test_reg_scale", "vit_test_dinov3")
DEPTH = 2

Log = Callable[[str], None]

_HEAD = f"""\
# Parity

Written by `{COMMAND}`; don't edit. {{date}}; {{versions}}; CPU.

Both frameworks get the same random parameters, with no tensor left at 0 or 1, and the same random images. Figures are
the relative L2 distance ||Flax - PyTorch|| / ||PyTorch||. "Outputs" is the worst place among the patch embedding, the
output of every block, `forward_features` and the logits (pooled features, where a model has no classes); "gradients"
the worst among the gradients of every parameter and of the images, of features and logits times fixed random numbers.
float32 and bfloat16 take the float64 parameters cast down. `vit-parity check NAME --level gradients` shows one model
place by place; what "relative" means for a gradient that is zero is said in `parity/checks/gradients.py`.
"""

_REDUCED = f"""\
## Every registered model, reduced

One small width, {DEPTH} blocks, one image of {GRID[0]} x {GRID[1]} patches: registered models are square, which would
hide exchanged rows and columns. Models that are equal once so reduced share a row.
"""

_TRAINING = """\
## Training

100 steps of AdamW on scikit-learn's digits with everything that is random: augmentation, mixup, cutmix, drop path; with
label smoothing, clipping and an average of the parameters. Relative differences of the losses (the worst step) and,
after the last step, of the worst parameter, moment and averaged parameter: `vit-parity check NAME --level training`.
"""

_PLANTED = f"""\
## What the check notices

Each error is planted in the PyTorch twin of `{MODEL}`. The first place is the first beyond float64's tolerance. The
last column is what comparing the float64 logits at {USUAL_ELSEWHERE}, a tolerance that is usual elsewhere, would say.
"""


def parity_page(log: Log) -> tuple[str, bool]:
    """The page in Markdown, and whether every check passed and every planted error was noticed.

    Args:
        log: Called with a line for each model.
    """
    groups = distinct_options(configs.names(), DEPTH)
    skipped = [name for config, names in groups.items() if not fits(config, 1) for name in names]
    small = {_label(names): config for config, names in groups.items() if fits(config, 1)}
    full = [_logged(f"`{name}`", check_forward(name), log) for name in FULL_SIZE]
    reduced = [_logged(label, check_gradients(config, batch_size=1), log) for label, config in small.items()]
    trained = {name: check_training(name) for name in TRAINED}
    planted = {name: check_forward(MODEL, plant=plant.apply) for name, plant in PLANTS.items()}
    sections = [
        _head(),
        _tolerances(),
        "## Full size\n\nOutputs, of two images.\n",
        _rows(full),
        _REDUCED,
        _rows(reduced),
        *_skipped(skipped),
        _TRAINING,
        _trained_rows(trained),
        _PLANTED,
        _planted_rows(planted),
    ]
    noticed = all(not report["float64"].passed for report in planted.values())
    passed = all(report.passed for report in (*trained.values(), *(report for _, report in full + reduced)))
    return "\n".join(sections), passed and noticed and not skipped


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the page; returns 0 only if all passed."""
    parser = argparse.ArgumentParser(prog=COMMAND, description="Write the parity of every registered model.")
    parser.add_argument("--output", type=Path, default=Path("docs/parity.md"), help="the file to write")
    output = parser.parse_args(arguments).output
    console = Console()
    start = time.monotonic()
    page, passed = parity_page(lambda line: console.print(line, highlight=False, soft_wrap=True))
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(page)
    console.print(f"{output}: {'all passed' if passed else 'FAILED'} in {time.monotonic() - start:.0f} s")
    return 0 if passed else 1


def _label(names: Sequence[str]) -> str:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"`{names[0]}`{more}"


def _logged(label: str, report: CheckReport, log: Log) -> tuple[str, CheckReport]:
    worst = ", ".join(f"{one.dtype} {' '.join(_worst(one))}" for one in report.precisions)
    log(f"{'passed' if report.passed else 'FAILED'} {label}: {worst}")
    return label, report


def _head() -> str:
    packages = ("jax", "flax", "torch", "numpy")
    versions = [f"Python {platform.python_version()}", *(f"{name} {version(name).split('+')[0]}" for name in packages)]
    return _HEAD.format(date=datetime.date.today().isoformat(), versions=", ".join(versions))


def _worst(precision: PrecisionReport) -> list[str]:
    """The largest difference of each part: of the outputs and, where they were taken, of the gradients."""
    return [f"{part.worst.relative_l2:.1e}" for part in precision.parts]


def _tolerances() -> str:
    levels: dict[str, dict[str, Tolerance]] = {
        "outputs": FORWARD,
        "gradients": GRADIENTS,
        "losses of training": TRAINING_LOSS,
        "state after training": TRAINING_STATE,
    }
    rows = [
        (level, dtype, f"{tolerance.limit:.0e}", f"{tolerance.measured:.1e}", tolerance.reason)
        for level, tolerances in levels.items()
        for dtype, tolerance in tolerances.items()
    ]
    return "## Tolerances\n\n" + _table(("of", "precision", "limit", "largest when chosen", "why"), rows)


def _rows(reports: Sequence[tuple[str, CheckReport]]) -> str:
    parts = [part.name for part in reports[0][1].precisions[0].parts]
    columns = [f"{dtype} {part}" for dtype in DTYPES for part in parts]
    rows = []
    for label, report in reports:
        parameters = f"{checkpoints.parameter_count(report.config) / 1e6:.1f} M"
        figures = [f"{report[dtype][part].worst.relative_l2:.1e}" for dtype in DTYPES for part in parts]
        rows.append((label, parameters, *figures, "yes" if report.passed else "**no**"))
    worst = [
        f"**{max(report[dtype][part].worst.relative_l2 for _, report in reports):.1e}**"
        for dtype in DTYPES
        for part in parts
    ]
    rows.append(("**worst**", "", *worst, ""))
    return _table(("model", "parameters", *columns, "passed"), rows)


def _trained_rows(reports: dict[str, CheckReport]) -> str:
    parts = ("loss", "parameters", "mu", "nu", "ema")
    rows = [
        (
            f"`{name}`",
            precision.dtype,
            *(f"{precision[part].worst.relative_l2:.1e}" for part in parts),
            "yes" if precision.passed else "**no**",
        )
        for name, report in reports.items()
        for precision in report.precisions
    ]
    return _table(("model", "precision", *parts, "passed"), rows)


def _skipped(names: Sequence[str]) -> list[str]:
    if not names:
        return [f"None of the {len(configs.names())} registered models is left out.\n"]
    rows = [(f"`{name}`", f"{required_bytes(configs.get(name), 1) / 2**30:.0f} GiB") for name in names]
    return ["Left out, because the machine has too little memory:\n", _table(("model", "needs about"), rows)]


def _planted_rows(reports: dict[str, CheckReport]) -> str:
    rows = []
    for name, report in reports.items():
        first, logits = report["float64"].first_beyond, report["float64"]["outputs"].at("logits").relative_l2
        seen = ["no" if report[dtype].passed else "yes" for dtype in DTYPES]
        usual = "passes" if logits <= USUAL_ELSEWHERE else "fails"
        place = f"`{first.name}`" if first else "not noticed"
        rows.append((PLANTS[name].description, place, f"{logits:.1e}", *seen, usual))
    noticed = (f"noticed in {dtype}" for dtype in DTYPES)
    return _table(("error", "first place", "float64 logits", *noticed, f"logits at {USUAL_ELSEWHERE}"), rows)


def _table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    header = tuple(header)
    lines = ["| " + " | ".join(cells) + " |" for cells in (header, ("---",) * len(header), *rows)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    raise SystemExit(main())
