"""Any mesh trains any model, and equals one device.

One test, because the workers of pytest-xdist would each run the fixture that several would share.
"""

from __future__ import annotations

import pytest
from mesh_worker import MESHES
from training_workers import run_worker

from parity.tolerances import MESH_LOSS


@pytest.mark.sweep  # a few meshes are in tests/parity_training/test_meshes.py
def test_meshes_equal_one_device():
    results = run_worker("mesh_worker.py")
    assert list(results) == list(MESHES)
    for mesh, result in results.items():
        check_loss_curve(mesh, result["losses"], results["1"]["losses"])
        assert result["init_equal"], f"{mesh}: initial parameters are not those of one device, bit for bit"
    check_what_is_split(results)
    check_bytes_of_a_device(results)


def check_loss_curve(mesh: str, losses: list[float], one: list[float]) -> None:
    assert len(losses) == 20
    difference = max(abs(loss / expected - 1) for loss, expected in zip(losses, one, strict=True))
    assert difference <= MESH_LOSS.limit, mesh
    # The curves agree because the model learns, and not because nothing happens.
    assert losses[-1] < 0.8 * losses[0]


def check_what_is_split(results: dict) -> None:
    assert results["1"]["split"] == []
    fsdp, tensor = set(results["8 fsdp"]["split"]), set(results["4 tensor"]["split"])
    block = {f"blocks.0-1.{name}.weight" for name in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")}
    assert block <= fsdp & tensor
    assert "head.weight" in fsdp
    assert "head.weight" not in tensor  # 4 doesn't divide 10 classes
    assert not {name for name in fsdp | tensor if "norm" in name or "pos_embed" in name}


def check_bytes_of_a_device(results: dict) -> None:
    for mesh, share in {"8 fsdp": 8, "8 all": 4}.items():
        for whole, part in zip(results["1"]["sizes"], results[mesh]["sizes"], strict=True):
            # Norms, positions and the like stay whole: 6 % of this tiny model.
            assert whole / share <= part < whole / share + 0.07 * whole, mesh
    for mesh, result in results.items():
        parameters, optimizer = result["sizes"]
        assert optimizer == 2 * parameters + 8, mesh  # two moments, split alike; two counters of 4 bytes
