"""Every figure and number of docs/precision.md: what each precision costs, measured on the twins.

    python -m benchmarks.precision [SECTION ...] [--images docs/images]

Prints Markdown tables, and writes `precision_*.png`. Sections, all of them by default: depth, matmul, tpu, layers,
optimizer, training, seeds. About fifteen minutes on two cores, most of it seeds. `tpu` needs libtpu and no TPU.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import torch
from flax import nnx
from jax.extend.core import Literal
from matplotlib.figure import Figure

from benchmarks.divergence import PAIRS, measure_divergence, ratios
from parity import configs, recipes
from parity.checkpoints import parameter_shapes
from parity.checks import random_images, random_parameters
from parity.checks.figures import COLORS
from parity.checks.forward import run_flax, run_torch
from parity.checks.runs import TorchRun
from parity.checks.twins import DTYPES, exact_jax, flax_model
from parity.configs import Execution

DEPTH_MODEL = configs.get("vit_tiny_patch16_224", depth=32, image_size=(96, 112))
MATMUL_MODEL = configs.get("vit_small_patch16_224")
PLACES = ("forward_features", "logits")
# Bits of the mantissa that are kept, and numbers of that size that stand for one float32.
ROUNDINGS = {
    "float32": (23, 1),
    "three bfloat16 (TPU `highest`)": (7, 3),
    "two bfloat16 (TPU `high`)": (7, 2),
    "TF32 (GPU)": (10, 1),
    "one bfloat16 (TPU default)": (7, 1),
}
PAIR_COLORS = dict(zip(PAIRS, ("#cf222e", "#0969da", "#8c959f", "#54aeff", "#57606a"), strict=True))


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    print(f"\n{title}\n\n| {' | '.join(header)} |\n|{' --- |' * len(header)}", flush=True)
    for row in rows:
        print(f"| {' | '.join(f'{cell:.1e}' if isinstance(cell, float) else str(cell) for cell in row)} |")


def distance(found: Any, expected: Any) -> float:
    """Relative L2."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def save(figure: Figure, images: Path, name: str) -> None:
    figure.tight_layout()
    figure.savefig(images / f"precision_{name}.png", dpi=110)


# --- depth: how the twins' difference grows from block to block ---------------------------------------------------


def depth(images: Path) -> None:
    config = DEPTH_MODEL
    whole, pixels = random_parameters(parameter_shapes(config)), random_images(config, 2)
    figure = Figure(figsize=(8, 4))
    axes = figure.subplots()
    blocks = np.arange(1, config.depth + 1)
    columns = {}
    for name, dtype in DTYPES.items():
        tensors = {key: value.astype(dtype) for key, value in whole.items()}
        flax, _ = run_flax(config, tensors, pixels, Execution())
        twin, _ = run_torch(config, tensors, pixels, Execution(), None)
        curves = {name: (flax, twin)}
        if name != "float64":
            # The same rounded parameters and images, computed exactly.
            rounded = {key: value.astype(np.float64) for key, value in tensors.items()}
            exact, _ = run_flax(config, rounded, pixels.astype(dtype).astype(np.float64), Execution())
            curves[f"{name}, Flax from exact"] = (flax, exact)
        for label, (one, two) in curves.items():
            values = np.array([distance(one[f"blocks.{i - 1}"], two[f"blocks.{i - 1}"]) for i in blocks])
            columns[label] = values
            axes.plot(blocks, values, "o-" if label == name else "--", color=COLORS[name], label=label, markersize=3)
    axes.set(xscale="log", yscale="log", xlabel="blocks", ylabel="relative L2")
    axes.set_xticks([1, 2, 4, 8, 16, 32], ["1", "2", "4", "8", "16", "32"])
    axes.legend(frameon=False, fontsize=8)
    save(figure, images, "depth")
    rows = [(block, *(float(values[block - 1]) for values in columns.values())) for block in (1, 2, 4, 8, 16, 32)]
    slopes = [f"{np.polyfit(np.log(blocks), np.log(values), 1)[0]:.2f}" for values in columns.values()]
    table("Depth: relative L2 after so many blocks", ["blocks", *columns], [*rows, ("power of depth", *slopes)])


# --- matmul: inputs rounded to fewer bits -------------------------------------------------------------------------


def rounded_product(product: Callable[[Any, Any], Any], bits: int, pieces: int, left: Any, right: Any) -> Any:
    """A product of float32 whose inputs are cut into pieces of so many bits; those of the smallest size are left out.

    One piece gives one product, two give three, three give six: what a TPU's precisions are made of.
    """

    def cut(x: Any) -> list[Any]:
        found = []
        for _ in range(pieces):
            found.append(jax.lax.reduce_precision(x, 8, bits))
            x = x - found[-1]
        return found

    one, two = cut(left), cut(right)
    return sum(product(one[i], two[j]) for i in reversed(range(pieces)) for j in reversed(range(pieces - i)))


def with_rounded_products(function: Callable[..., Any], bits: int, pieces: int) -> Callable[..., Any]:
    """The function with every matrix product and convolution so."""

    def run(jaxpr: Any, consts: Sequence[Any], *args: Any) -> list[Any]:
        values = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *args), strict=True))
        for equation in jaxpr.eqns:
            inputs = [x.val if isinstance(x, Literal) else values[x] for x in equation.invars]
            inner = equation.params.get("jaxpr", equation.params.get("call_jaxpr"))
            if inner is not None:
                outputs = run(inner.jaxpr, inner.consts, *inputs)
            else:
                call = partial(equation.primitive.bind, **equation.params)
                is_product = equation.primitive.name in ("dot_general", "conv_general_dilated")
                outputs = rounded_product(call, bits, pieces, *inputs) if is_product else call(*inputs)
                outputs = outputs if equation.primitive.multiple_results else [outputs]
            values.update(zip(equation.outvars, outputs, strict=True))
        return [x.val if isinstance(x, Literal) else values[x] for x in jaxpr.outvars]

    def transformed(*args: Any) -> Any:
        closed = jax.make_jaxpr(function)(*args)
        return run(closed.jaxpr, closed.consts, *jax.tree.leaves(args))

    return transformed


def matmul(images: Path) -> None:
    rng = np.random.default_rng(0)
    sizes = (64, 768, 3072)
    inputs = {k: (rng.normal(size=(256, k)).astype("f4"), rng.normal(size=(k, 256)).astype("f4")) for k in sizes}
    config = MATMUL_MODEL
    tensors = {k: v.astype(np.float32) for k, v in random_parameters(parameter_shapes(config)).items()}
    pixels = random_images(config, 1).astype(np.float32)
    exact, _ = run_flax(config, {k: v.astype(np.float64) for k, v in tensors.items()}, pixels, Execution())
    with exact_jax(np.float32):
        graphdef, state = nnx.split(flax_model(config, tensors, Execution(attention="reference"))[0])

        def forward(state: Any, pixels: Any) -> list[Any]:
            model = nnx.merge(graphdef, state)
            features = model.forward_features(pixels)
            return [features, model.forward_head(features)]

        rows = []
        for name, (bits, pieces) in ROUNDINGS.items():
            product = jax.jit(partial(rounded_product, jnp.matmul, bits, pieces))
            errors = [distance(product(a, b), a.astype("f8") @ b.astype("f8")) for a, b in inputs.values()]
            found = jax.jit(with_rounded_products(forward, bits, pieces))(state, pixels)
            whole = [distance(x, exact[place]) for x, place in zip(found, PLACES, strict=True)]
            rows.append((name, pieces * (pieces + 1) // 2, *errors, *whole))
    half, _ = run_flax(config, {k: v.astype(ml_dtypes.bfloat16) for k, v in tensors.items()}, pixels, Execution())
    rows.append(("bfloat16 throughout", 1, *[""] * len(sizes), *(distance(half[x], exact[x]) for x in PLACES)))
    header = ["inputs of each product", "products", *(f"one product, k = {k}" for k in sizes), *PLACES]
    table("Matmul: relative L2 from float64; sums in float32", header, rows)


# --- tpu: what the real compiler makes of a precision -------------------------------------------------------------

TPU_SIZE = 4096
TPU_CASES = {"default": "float32", "high": "float32", "highest": "float32", "bfloat16": "bfloat16"}
TPU_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


def tpu(images: Path) -> None:
    """In a process of its own, since libtpu reads its environment when it is loaded."""
    command = [sys.executable, "-m", "benchmarks.precision", "tpu_worker"]
    done = subprocess.run(command, env=os.environ | TPU_ENVIRONMENT, capture_output=True, text=True, check=True)
    rows = json.loads(done.stdout.splitlines()[-1])
    first = int(rows[0][3])
    rows = [[*row, f"{int(row[3]) / first:.2f}"] for row in rows]
    header = ["precision", "inputs", "HLO after compilation", "estimated cycles", "of the default's"]
    table(f"TPU: x @ y of {TPU_SIZE} x {TPU_SIZE} compiled for a v5e", header, rows)


def tpu_worker(images: Path) -> None:
    from jax.experimental import topologies

    device = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices[0]
    sharding = jax.sharding.SingleDeviceSharding(device)
    rows = []
    for precision, dtype in TPU_CASES.items():
        argument = jax.ShapeDtypeStruct((TPU_SIZE, TPU_SIZE), dtype, sharding=sharding)
        asked = "default" if precision == "bfloat16" else precision
        multiply = partial(jnp.matmul, precision=asked, preferred_element_type=jnp.float32)
        text = jax.jit(multiply).lower(argument, argument).compile().as_text()
        (line,) = re.findall(r"= f32\S* (convolution\(.*?)(?:, metadata|\n)", text)
        attribute = re.search(r"operand_precision=\{[^}]*\}", line)
        cycles = max(int(value) for value in re.findall(r'"estimated_cycles":"(\d+)"', text))
        found = attribute[0] if attribute else "without operand_precision"
        rows.append([precision, dtype, f"`convolution` {found}", cycles])
    print(json.dumps(rows))


# --- layers: LayerNorm and softmax --------------------------------------------------------------------------------


def layers(images: Path) -> None:
    rng = np.random.default_rng(0)
    rows = []
    for mean in (0, 10, 100):
        x = (rng.normal(size=(64, 768)) + mean).astype("f4")
        half = x.astype(ml_dtypes.bfloat16)
        rows.append((mean, *(distance(*case) for case in _norms(x)), *(distance(*case) for case in _norms(half))))
    ways = [f"{dtype}, {way}" for dtype in ("float32", "bfloat16") for way in ("two passes", "fast", "PyTorch")]
    header = ["mean / deviation", *ways]
    table("LayerNorm over 768 channels: relative L2 from float64 on the same inputs", header, rows)
    rows = []
    for tokens in (64, 197, 1024, 4096):
        scores = rng.normal(size=(64, tokens)).astype(ml_dtypes.bfloat16)
        exact = np.exp(scores.astype("f8"))
        exact /= exact.sum(-1, keepdims=True)
        narrow = jnp.exp(scores - scores.max(-1, keepdims=True))
        narrow = narrow / jax.lax.reduce(narrow, jnp.zeros((), narrow.dtype), jax.lax.add, (1,))[:, None]
        wide = jax.nn.softmax(jnp.asarray(scores, jnp.float32)).astype(jnp.bfloat16)
        # One number after the other, as a sum that is kept in bfloat16 does it.
        total, one_by_one = jnp.zeros(64, jnp.bfloat16), jnp.exp(scores - scores.max(-1, keepdims=True))
        total, _ = jax.lax.scan(lambda total, x: (total + x, None), total, one_by_one.T)
        kept = one_by_one / total[:, None]
        rows.append((tokens, *(distance(value, exact) for value in (wide, narrow, kept))))
    header = ["tokens", "in float32, rounded at the end", "exp and quotient in bfloat16", "the sum in bfloat16, too"]
    table("Softmax of bfloat16 scores: relative L2 from float64", header, rows)


def _norms(x: np.ndarray) -> list[tuple[Any, Any]]:
    """LayerNorm in three ways, each with what it should be."""
    wide = x.astype("f8")
    exact = (wide - wide.mean(-1, keepdims=True)) / np.sqrt(wide.var(-1, keepdims=True) + 1e-6)
    dtype = jnp.bfloat16 if x.dtype == ml_dtypes.bfloat16 else jnp.float32
    found = []
    for fast in (False, True):
        options = dict(use_fast_variance=fast, param_dtype=dtype, dtype=dtype)
        norm = nnx.LayerNorm(x.shape[-1], epsilon=1e-6, rngs=nnx.Rngs(0), **options)
        found.append(norm(jnp.asarray(x)))
    twin = torch.from_numpy(x.astype("f4")).to(torch.bfloat16 if dtype == jnp.bfloat16 else torch.float32)
    found.append(torch.nn.functional.layer_norm(twin, x.shape[-1:], eps=1e-6).float().numpy())
    return [(value, exact) for value in found]


# --- optimizer: where two right implementations differ ------------------------------------------------------------


def optimizer(images: Path) -> None:
    rows = []
    for step in (1, 2, 5, 10, 100, 1000):
        row: list[Any] = [step]
        for b in (0.9, 0.999):
            exact = 1 - np.float64(b) ** step
            # optax divides a moment by the correction; what comes out of 1 is its inverse.
            found = 1 / np.float64(optax.tree.bias_correction(jnp.ones(()), b, jnp.asarray(step, jnp.int32)))
            row.append(float(abs(found / exact - 1)))
        rows.append(row)
    header = ["step", "b1 = 0.9", "b2 = 0.999"]
    table("Adam's bias correction 1 - b ** step in float32, as optax takes it: relative error", header, rows)
    rng, exact = np.random.default_rng(0), np.zeros(20_000)
    forms = {"b1 * mean + (1 - b1) * gradient": exact.astype(np.float32)}
    forms["mean + (1 - b1) * (gradient - mean)"] = exact.astype(np.float32)
    keep, take = np.float32(0.9), np.float32(1 - 0.9)
    for _ in range(300):
        gradient = (1 + rng.standard_normal(exact.shape)).astype(np.float32)
        exact = 0.9 * exact + (1 - 0.9) * gradient.astype(np.float64)
        first, second = forms.values()
        forms = dict(zip(forms, (keep * first + take * gradient, second + take * (gradient - second)), strict=True))
    rows = [
        (form, float((found - exact) @ exact / (exact @ exact)), distance(found, exact))
        for form, found in forms.items()
    ]
    table("Adam's mean of gradients in float32, after 300 steps", ["form", "longer by", "relative L2"], rows)
    rows = []
    for v in (1e-4, 1e-8, 1e-12, 1e-16):
        rows.append((v, float(1 / (np.sqrt(v) + 1e-8)), float(1 / np.sqrt(v + 1e-8))))
    table("Adam's eps of 1e-8: factor of the first moment", ["second moment", "outside the root", "inside"], rows)
    rows = []
    for norm in (1.1, 10.0, 100.0):
        gradient = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
        gradient.grad = torch.full((1,), norm, dtype=torch.float64)
        torch.nn.utils.clip_grad_norm_([gradient], 1.0)
        rows.append((norm, abs(float(gradient.grad) - 1.0)))
    table("clip_grad_norm_ to 1: relative error of the clipped gradient", ["norm before", "error"], rows)


# --- training: the yardstick --------------------------------------------------------------------------------------

STEPS, START = 1000, "moco"  # whose head is not zero: the first losses differ, too


def training(images: Path) -> None:
    torch.set_num_threads(1)  # so small a model is faster so, and its sums are the same wherever this runs
    recipe = recipes.get("digits", steps=STEPS, initialization=START)
    found = measure_divergence(recipe, every=5)
    print(f"\nTimes the yardstick over {STEPS} steps: {ratios(found)}")
    figure = Figure(figsize=(8, 6))
    above, below = figure.subplots(2, sharex=True)
    for pair, runs in found.items():
        # A running mean, for single differences of a noisy loss are noisier still.
        mean = np.convolve(runs.loss, np.ones(20) / 20, "valid")
        above.plot(np.arange(10, STEPS - 9), mean, label=pair, color=PAIR_COLORS[pair])
        below.plot(runs.measured, np.maximum(runs.parameters, 1e-9), label=pair, color=PAIR_COLORS[pair])
    above.set(yscale="log", ylabel="|difference of the losses|,\nmean of 20 steps")
    below.set(yscale="log", ylabel="relative L2 of all parameters", xlabel="step")
    above.legend(frameon=False, fontsize=8)
    save(figure, images, "training")
    _mistakes()
    for what in ("losses, mean of the last 20 steps", "parameters, relative L2"):
        rows = []
        for step in (5, 10, 20, 50, 100, 200, 500, 1000):
            at = list(found[PAIRS[0]].measured).index(step)
            losses = (float(found[pair].loss[max(0, step - 20) : step].mean()) for pair in PAIRS)
            params = (float(found[pair].parameters[at]) for pair in PAIRS)
            rows.append((step, *(losses if what.startswith("losses") else params)))
        table(f"Training in float32, differences after so many steps: {what}", ["step", *PAIRS], rows)


def seeds(_: Path) -> None:
    torch.set_num_threads(1)
    rows = []
    for seed in range(4):
        recipe = recipes.get("digits", steps=STEPS, seed=seed, initialization=START)
        times = ratios(measure_divergence(recipe, every=10))
        rows.append((seed, f"{times['loss']:.1f}", f"{times['parameters']:.1f}"))
    table(f"Training in float32, {STEPS} steps: times the yardstick", ["seed", "loss", "parameters"], rows)


def _mistakes() -> None:
    """How far each mistake in PyTorch's runs takes them, in units of the yardstick."""

    def norms(run: TorchRun) -> None:
        for module in run.trainer.model.modules():
            if isinstance(module, torch.nn.LayerNorm):
                module.eps = 1e-5

    def groups(run: TorchRun, **factors: float) -> None:
        for group in run.state.opt_state.param_groups:
            group.update({name: group[name] * factor for name, factor in factors.items()})

    def b2(run: TorchRun) -> None:
        for group in run.state.opt_state.param_groups:
            group["betas"] = (0.9, 0.998)

    plants = {
        "none": None,
        "LayerNorm eps 1e-5 for 1e-6": norms,
        "learning rate 0.1 % larger": partial(groups, scale=1.001),
        "weight decay 10 % larger": partial(groups, weight_decay=1.1),
        "b2 of 0.998 for 0.999": b2,
    }
    optimizer = dataclasses.replace(recipes.get("digits").optimizer, warmup_steps=10)
    recipe = recipes.get("digits", steps=30, optimizer=optimizer, initialization=START)
    found = {name: ratios(measure_divergence(recipe, plant=plant)) for name, plant in plants.items()}
    rows = [(name, f"{times['loss']:.1f}", f"{times['parameters']:.1f}") for name, times in found.items()]
    title = "Training in float32, 30 steps, a mistake in PyTorch: times the yardstick"
    table(title, ["mistake", "loss", "parameters"], rows)


SECTIONS = {section.__name__: section for section in (depth, matmul, tpu, layers, optimizer, training, seeds)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=", ".join(SECTIONS))
    parser.add_argument("--images", type=Path, default=Path(__file__).parents[1] / "docs" / "images")
    args = parser.parse_args()
    args.images.mkdir(parents=True, exist_ok=True)
    for name in args.sections or SECTIONS:
        (SECTIONS | {"tpu_worker": tpu_worker})[name](args.images)


if __name__ == "__main__":
    main()
