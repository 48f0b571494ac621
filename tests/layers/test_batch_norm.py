"""BatchNorm is the same in both twins, what PyTorch's own is, and of the whole batch however that is split."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import batch_norm_meshes as flax_side
import batch_norm_processes as torch_side
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from torch import nn

import vit_jax.state_dict
import vit_torch.state_dict
from parity.compare import compare
from parity.configs import Execution
from parity.tolerances import FORWARD, GRADIENTS
from vit_jax.layers.batch_norm import BatchNorm as FlaxBatchNorm
from vit_torch.layers.batch_norm import BatchNorm as TorchBatchNorm

HERE = Path(__file__).parent
LIMIT = GRADIENTS["float64"].limit
SHAPES = {"rows": (7, 4), "tokens": (3, 5, 4), "maps": (2, 3, 5, 4)}
PEERS = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d}

Arrays = dict[str, np.ndarray]


@pytest.fixture(autouse=True, scope="module")
def float64() -> Iterator[None]:
    jax.config.update("jax_disable_most_optimizations", True)
    with jax.enable_x64(True):
        yield
    jax.config.update("jax_disable_most_optimizations", False)


def values(shape: tuple[int, ...], dtype: str = "float64", *, seed: int = 0, mean: float = 3.0) -> np.ndarray:
    """Channels last; no two channels have one mean or size."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=shape) * np.arange(1, shape[-1] + 1) + mean).astype(dtype)


def to_torch(x: np.ndarray) -> torch.Tensor:
    return vit_torch.state_dict.from_numpy(np.moveaxis(x, -1, 1))


def to_numpy(x: torch.Tensor) -> np.ndarray:
    return np.moveaxis(vit_torch.state_dict.to_numpy(x), 1, -1)


def twins(dtype: str = "float64", **options: float) -> tuple[FlaxBatchNorm, TorchBatchNorm]:
    """Both layers over 4 channels with the same random values."""
    left, right = FlaxBatchNorm(4, **options, rngs=nnx.Rngs(0)), TorchBatchNorm(4, **options)
    rng = np.random.default_rng(5)
    shapes = vit_torch.state_dict.canonical_shapes(right)
    tensors = {name: (np.abs(rng.normal(size=shape)) + 0.5).astype(dtype) for name, shape in shapes.items()}
    vit_jax.state_dict.load_state_dict(left, tensors)
    vit_torch.state_dict.load_state_dict(right, tensors)
    return left, right


def peer_of(layer: TorchBatchNorm, ndim: int) -> nn.Module:
    peer = PEERS[ndim](4, eps=layer.eps, momentum=layer.momentum).double()
    peer.load_state_dict(layer.state_dict(), strict=False)
    return peer


def run_flax(layer: nnx.Module, steps: list[np.ndarray]) -> Arrays:
    """Output and gradients of the last step, and the statistics after it; `nnx.BatchNorm` is taken, too."""

    def loss(layer: nnx.Module, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        output = layer(x)  # pyright: ignore
        return jnp.sum(jnp.sin(output) * output), output

    found: Arrays = {}
    for x in steps:
        compute = nnx.value_and_grad(loss, argnums=(0, 1), has_aux=True)
        (_, output), (gradients, of_x) = compute(layer, jnp.asarray(x))
        found = {"output": np.asarray(output), "gradient of x": np.asarray(of_x)}
        found |= {"gradient of weight": gradients["scale"][...], "gradient of bias": gradients["bias"][...]}
    return found | {"running_mean": layer.mean[...], "running_var": layer.var[...]}  # pyright: ignore


def run_torch(layer: nn.Module, steps: list[np.ndarray]) -> Arrays:
    output = inputs = torch.empty(0)
    for x in steps:
        layer.zero_grad()
        inputs = to_torch(x).requires_grad_()
        output = layer(inputs)
        (torch.sin(output) * output).sum().backward()
    found = {"output": to_numpy(output), "gradient of x": to_numpy(inputs.grad)}
    found |= {f"gradient of {name}": value.grad.numpy() for name, value in layer.named_parameters()}
    return found | {name: getattr(layer, name).numpy() for name in ("running_mean", "running_var")}


def assert_same(left: Arrays, right: Arrays, limit: float = LIMIT) -> None:
    comparison = compare(left, right)
    assert comparison.ok(limit), comparison.worst


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("rows", {}),
        ("tokens", {"eps": 1e-2, "momentum": 0.37}),
        ("maps", {}),
        ("maps", {"momentum": 0.0}),
        ("maps", {"momentum": 1.0}),
    ],
)
def test_training_is_that_of_pytorch_in_both_twins(kind, options):
    steps = [values(SHAPES[kind], seed=seed) for seed in range(3)]
    left, right = twins(**options)
    peer = peer_of(right, len(SHAPES[kind]))
    expected = run_torch(peer, steps)
    assert_same(run_torch(right, steps), expected)
    assert_same(run_flax(left, steps), expected)


def test_training_is_that_of_flax_but_for_the_unbiased_variance():
    steps = [values(SHAPES["maps"], seed=seed) for seed in range(3)]
    ours, _ = twins(momentum=0.3)
    theirs = nnx.BatchNorm(
        4, momentum=0.7, epsilon=1e-5, use_fast_variance=False, param_dtype=jnp.float64, rngs=nnx.Rngs(0)
    )
    nnx.update(theirs, nnx.state(ours))
    first = np.asarray(ours.var[...])
    found, expected = run_flax(ours, steps), run_flax(theirs, steps)
    count = steps[0].size // 4
    left_of_first = 0.7 ** len(steps) * first
    unbiased = (expected["running_var"] - left_of_first) * count / (count - 1) + left_of_first
    assert not compare(found, expected).ok(LIMIT)
    assert_same(found, expected | {"running_var": unbiased})


@pytest.mark.parametrize("kind", SHAPES)
def test_evaluation_is_that_of_pytorch_and_changes_nothing(kind):
    x = values(SHAPES[kind])
    left, right = twins()
    peer = peer_of(right, x.ndim)
    before = vit_torch.state_dict.state_dict(right)
    left.eval()
    expected = run_torch(peer.eval(), [x])
    assert_same(run_torch(right.eval(), [x]), expected)
    assert_same(run_flax(left, [x]), expected)
    assert all(np.array_equal(value, before[name]) for name, value in vit_torch.state_dict.state_dict(right).items())
    assert all(np.array_equal(value, before[name]) for name, value in vit_jax.state_dict.state_dict(left).items())


def test_each_framework_chooses_the_mode_in_its_own_words():
    x = values(SHAPES["maps"])
    layer, _ = twins()
    trained = layer(x)  # as it is made
    before = np.asarray(layer.mean[...])
    evaluated = nnx.view(layer, use_running_average=True)(x)
    assert np.array_equal(layer.mean[...], before)
    assert not np.array_equal(trained, evaluated)
    layer.eval()
    assert np.array_equal(layer(x), evaluated)
    layer.train()
    assert np.array_equal(layer(x), trained)
    assert not np.array_equal(layer.mean[...], before)


@pytest.mark.parametrize("statistics", ["float32", "float64"])
def test_statistics_are_not_rounded_to_the_precision_of_the_batch(statistics):
    """Those of a bfloat16 batch are those of the same numbers in the statistics' own precision."""
    x = values((4, 3, 5, 4), "float32", mean=0.3)
    found = {}
    for dtype in ("bfloat16", statistics):
        left, right = twins(statistics)
        batch = x.astype(jnp.bfloat16).astype(dtype)
        outputs = left(jnp.asarray(batch)), right(to_torch(batch))
        assert outputs[0].dtype == batch.dtype
        assert outputs[1].dtype == getattr(torch, dtype)
        found[dtype] = {
            f"{side} {name}": value
            for side, state in (
                ("flax", vit_jax.state_dict.state_dict(left)),
                ("torch", vit_torch.state_dict.state_dict(right)),
            )
            for name, value in state.items()
        }
    assert {value.dtype for value in found["bfloat16"].values()} == {np.dtype(statistics)}
    # A batch of bfloat16 is summed in float32.
    assert_same(found["bfloat16"], found[statistics], FORWARD["float32"].limit)


def test_float32_is_near_float64_at_large_sums_and_far_means():
    """100,000 values for each channel, up to 30 times their deviation away from zero."""
    x = values((128, 28, 28, 4), "float32", mean=30.0)
    left, right = twins("float32")
    hasty = nnx.BatchNorm(4, rngs=nnx.Rngs(0))  # E[x^2] - E[x]^2
    nnx.update(hasty, nnx.state(left))
    before = {name: value.astype(np.float64) for name, value in vit_torch.state_dict.state_dict(right).items()}
    wide, axes = x.astype(np.float64), (0, 1, 2)
    scale = before["weight"] / np.sqrt(wide.var(axes) + 1e-5)
    expected = {
        "output": (wide - wide.mean(axes)) * scale + before["bias"],
        "running_mean": 0.9 * before["running_mean"] + 0.1 * wide.mean(axes),
        "running_var": 0.9 * before["running_var"] + 0.1 * wide.var(axes, ddof=1),
    }
    found = {"output": to_numpy(right(to_torch(x))), **vit_torch.state_dict.state_dict(right)}
    assert_same({name: found[name] for name in expected}, expected, FORWARD["float32"].limit)
    found = {"output": np.asarray(left(jnp.asarray(x))), **vit_jax.state_dict.state_dict(left)}
    assert_same({name: found[name] for name in expected}, expected, FORWARD["float32"].limit)
    found = {"output": np.asarray(hasty(jnp.asarray(x)))}
    assert not compare(found, {"output": expected["output"]}).ok(FORWARD["float32"].limit)


ONE_VALUE = r"^x: got 1 values for each channel in shape \(1, .*\), expected more than one in training mode; model.eval"


@pytest.mark.parametrize("shape", [(1, 4), (1, 1, 1, 4)])
def test_one_value_for_each_channel_cannot_be_trained_on(shape):
    x = values(shape)
    left, right = twins()
    for call in (lambda: left(x), lambda: right(to_torch(x))):
        with pytest.raises(ValueError, match=ONE_VALUE):
            call()
    with pytest.raises(ValueError, match="Expected more than 1 value per channel when training"):
        peer_of(right, len(shape))(to_torch(x))
    left.eval()
    assert_same({"": np.asarray(left(x))}, {"": to_numpy(right.eval()(to_torch(x)))})


def test_other_channels_are_an_error():
    left, right = twins()
    for shape in [(2, 3, 5), (2, 3, 1), (4,)]:  # of which those of one channel would broadcast
        with pytest.raises(ValueError, match=r"^x: got shape .*, expected \(batch, \.\.\., 4\)$"):
            left(values(shape))
        with pytest.raises(ValueError, match=r"^x: got shape .*, expected \(batch, 4, \.\.\.\)$"):
            right(to_torch(values(shape)) if len(shape) > 1 else torch.zeros(shape))


@pytest.mark.parametrize("momentum", [-0.1, 1.1, None])
def test_momentum_is_a_share(momentum):
    for make in (
        lambda: TorchBatchNorm(4, momentum=momentum),
        lambda: FlaxBatchNorm(4, momentum=momentum, rngs=nnx.Rngs(0)),
    ):
        with pytest.raises(ValueError, match=r"^momentum: got .*, expected a share from 0 to 1"):
            make()


def test_statistics_of_few_bits_are_not_trained():
    left, right = twins("bfloat16")
    x = values(SHAPES["maps"]).astype(jnp.bfloat16)
    for call in (lambda: left(jnp.asarray(x)), lambda: right(to_torch(x))):
        with pytest.raises(ValueError, match=r"^running_mean: got .*bfloat16, expected float32 or float64 in training"):
            call()
    left.eval()
    assert left(jnp.asarray(x)).dtype == jnp.bfloat16
    assert right.eval()(to_torch(x)).dtype == torch.bfloat16


@pytest.fixture(scope="module")
def whole_batch() -> Arrays:
    """The net of the workers with PyTorch's own BatchNorm, on one process and unbroken."""
    net = torch_side.Net(norms=(nn.BatchNorm2d, nn.BatchNorm1d, nn.BatchNorm1d)).double()
    net.load_state_dict(torch_side.make_net().state_dict(), strict=False)
    found = torch_side.run(net)
    return {name: value for name, value in found.items() if not name.endswith("num_batches_tracked")}


# The workers run scanned and recomputed blocks together.
EXECUTIONS = [Execution(), Execution(scan=True), Execution(remat="block"), Execution(scan=True, remat="dots")]


@pytest.mark.parametrize("execution", EXECUTIONS, ids=str)
def test_blocks_change_their_statistics_once_in_any_execution(execution, whole_batch):
    assert_same(flax_side.run(flax_side.make_net(execution)), whole_batch)
    if not execution.scan:
        assert_same(torch_side.run(torch_side.make_net(execution)), whole_batch)


@pytest.mark.parametrize("remat", ["none", "block"])
def test_blocks_change_their_statistics_without_gradients_and_not_in_evaluation(remat):
    x = flax_side.images()[0]
    left, right = flax_side.make_net(Execution(scan=True, remat=remat)), torch_side.make_net(Execution(remat=remat))
    with torch.no_grad():
        assert_same({"": np.asarray(left(x))}, {"": right(to_torch(x)).numpy()})
    before = vit_torch.state_dict.state_dict(right)
    assert_same(vit_jax.state_dict.state_dict(left), before)
    assert not compare(before, vit_torch.state_dict.state_dict(torch_side.make_net())).ok(LIMIT)
    left.eval()
    # The model belongs to the code outside, where a compiled function may change nothing.
    assert_same({"": np.asarray(jax.jit(lambda x: left(x))(x))}, {"": right.eval()(to_torch(x)).detach().numpy()})
    assert_same(vit_torch.state_dict.state_dict(right), before, 0.0)


def test_blocks_in_different_modes_keep_them():
    x = flax_side.images()[0]
    left, right = flax_side.make_net(Execution(scan=True)), torch_side.make_net(Execution(remat="block"))
    left.blocks[1].eval()
    right.blocks[1].eval()
    before = vit_torch.state_dict.state_dict(right)
    assert_same({"": np.asarray(left(x))}, {"": right(to_torch(x)).detach().numpy()})
    after = vit_torch.state_dict.state_dict(right)
    assert_same(vit_jax.state_dict.state_dict(left), after)
    changed = {name.rpartition(".")[0] for name in after if not np.array_equal(after[name], before[name])}
    assert changed == {"norm", "blocks.0.norm", "out_norm"}


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Arrays]:
    """What the workers found, by the mesh or the processes over which they split the batch."""
    directory = tmp_path_factory.mktemp("split")
    workers = [
        subprocess.Popen(
            [sys.executable, HERE / name, directory], stderr=subprocess.PIPE, text=True, cwd=HERE.parents[1]
        )
        for name in ("batch_norm_meshes.py", "batch_norm_processes.py")
    ]
    errors = [worker.communicate(timeout=300)[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], "\n".join(errors)
    return lambda name: dict(np.load(directory / f"{name}.npz"))


def in_every_process(whole: Arrays, found: Arrays) -> Arrays:
    """What is expected of each process: `NAME in process 1` is NAME of the whole."""
    return {name: whole[name.partition(" in process")[0]] for name in found}


@pytest.mark.parametrize("mesh", ["x".join(map(str, shape)) for shape in flax_side.MESHES])
def test_statistics_are_those_of_the_whole_batch_on_any_mesh(mesh, split, whole_batch):
    assert_same(split(mesh), whole_batch)


@pytest.mark.parametrize("case", torch_side.CASES)
def test_statistics_are_those_of_the_whole_batch_in_any_number_of_processes(case, split, whole_batch):
    found = split(case)
    assert set(whole_batch) == {name.partition(" in process")[0] for name in found}
    assert sum(name.startswith("norm.running_mean") for name in found) == int(case)
    assert_same(found, in_every_process(whole_batch, found))


def test_statistics_of_a_part_are_noticed(split, whole_batch):
    found = split("statistics of each process")
    beyond = [d.name for d in compare(found, in_every_process(whole_batch, found)).differences if d.relative_l2 > 1e-3]
    # The sum of the cotangents, whatever they are multiplied with.
    assert set(found) - set(beyond) == {"gradient of out_norm.bias"}


def test_gradients_of_a_part_are_noticed(split, whole_batch):
    found = split("gradients of each process")
    beyond = {d.name for d in compare(found, in_every_process(whole_batch, found)).differences if d.relative_l2 > 1e-3}
    assert "gradient of images" in beyond
    assert "output" not in beyond
