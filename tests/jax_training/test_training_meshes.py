"""Any mesh trains any model, and equals one device."""

from __future__ import annotations

import pytest
from mesh_worker import MESHES
from training_workers import run_worker

from parity.tolerances import MESH_LOSS


@pytest.fixture(scope="module")
def results():
    return run_worker("mesh_worker.py")


@pytest.mark.parametrize("mesh", list(MESHES))
def test_loss_curve_is_that_of_one_device(results, mesh):
    one, losses = results["1"]["losses"], results[mesh]["losses"]
    assert len(losses) == 20
    assert max(abs(loss / expected - 1) for loss, expected in zip(losses, one, strict=True)) <= MESH_LOSS.limit
    # The curves agree because the model learns, and not because nothing happens.
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("mesh", list(MESHES))
def test_sharded_init_is_that_of_one_device_bit_for_bit(results, mesh):
    assert results[mesh]["init_equal"]


def test_what_is_split(results):
    assert results["1"]["split"] == results["8 data"]["split"] == []
    fsdp, tensor = set(results["8 fsdp"]["split"]), set(results["4 tensor"]["split"])
    block = {f"blocks.0.{name}" for name in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")}
    assert {f"{name}.weight" for name in block} <= fsdp & tensor
    assert "head.weight" in fsdp
    assert "head.weight" not in tensor  # 4 doesn't divide 10 classes
    assert not {name for name in fsdp | tensor if "norm" in name or "pos_embed" in name}


@pytest.mark.parametrize(("mesh", "share"), [("2 fsdp", 2), ("8 fsdp", 8), ("8 mixed", 4), ("8 all", 4)])
def test_a_device_holds_its_share_of_parameters_and_optimizer(results, mesh, share):
    for whole, part in zip(results["1"]["sizes"], results[mesh]["sizes"], strict=True):
        # Norms, positions and the like stay whole: 6 % of this tiny model.
        assert whole / share <= part < whole / share + 0.07 * whole


def test_optimizer_is_split_as_the_parameters_are(results):
    for result in results.values():
        parameters, optimizer = result["sizes"]
        assert optimizer == 2 * parameters + 8  # two moments; two counters of 4 bytes
