"""Execution choices change nothing but time and memory; the precision is that of the parameters."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from parity import configs
from parity.compare import compare
from parity.configs import Execution
from parity.tolerances import FORWARD
from vit_torch import random
from vit_torch.models import Model

SMALL = [*configs.names("vit_test*"), "vit_digits"]
DROPS = dict(drop_rate=0.2, attn_drop_rate=0.2, drop_path_rate=0.5)


def outputs(model: Model, images: torch.Tensor, *, key: torch.Tensor | None = None) -> dict[str, np.ndarray]:
    """Logits, every block, and the gradient of every parameter."""
    model.zero_grad()
    logits = model(images, key=key)
    (logits**2).mean().backward()
    blocks = model.forward_intermediates(images)
    found = {"logits": logits} | {f"block {i}": block for i, block in enumerate(blocks)}
    gradients = {f"gradient {name}": parameter.grad for name, parameter in model.named_parameters()}
    return {name: value.detach().numpy() for name, value in (found | gradients).items()}


@pytest.mark.parametrize("drops", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize(
    "execution",
    [Execution(remat="block"), Execution(remat="dots"), Execution(attention="reference"), Execution(scan=True)],
)
def test_outputs_and_gradients_do_not_depend_on_the_execution(drops, execution, make_model, make_images):
    # In float64, where an error can't be taken for rounding.
    model = make_model("vit_test_reg_scale", dtype=torch.float64, **(DROPS if drops else {}))
    images = make_images(model, dtype=torch.float64)
    key = random.key(3) if drops else None
    expected = outputs(model, images, key=key)
    model.execution = execution
    comparison = compare(outputs(model, images, key=key), expected)
    assert comparison.ok(FORWARD["float64"].limit), comparison.worst


def test_recomputing_draws_the_same_masks(make_model, make_images):
    """Without a key, too: the generator's state is restored for the backward pass."""
    model = make_model(**DROPS).train()
    images = make_images(model)
    gradients = []
    for remat in ("none", "block"):
        model.execution = Execution(remat=remat)
        model.zero_grad()
        torch.manual_seed(0)
        model(images).sum().backward()
        gradients.append({name: parameter.grad.numpy() for name, parameter in model.named_parameters()})
    assert compare(*gradients).ok(FORWARD["float32"].limit), compare(*gradients).worst


def test_recomputing_keeps_less_for_the_backward_pass(make_model, make_images):
    model = make_model()
    images = make_images(model)

    def kept(execution: Execution) -> int:
        model.execution = execution
        sizes: list[int] = []

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model(images)
        return sum(sizes)

    assert kept(Execution(remat="block")) < kept(Execution()) / 2


@pytest.mark.parametrize("name", SMALL)
def test_fused_attention_is_the_reference(name, make_model, make_images):
    """float64 always runs the reference, so that the fused entry shows in float32 only."""
    model = make_model(name)
    images = make_images(model)
    found = []
    for attention in ("fused", "reference"):
        model.execution = Execution(attention=attention)
        found.append({"logits": model(images).detach().numpy()})
    assert compare(*found).ok(FORWARD["float32"].limit), compare(*found).worst


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("attention", ["fused", "reference"])
def test_the_precision_is_that_of_the_parameters(name, dtype, attention, make_model, make_images):
    model = make_model(name, dtype=dtype, execution=Execution(attention=attention), **DROPS)
    images = make_images(model)
    assert model(images).dtype == dtype
    assert model(images, key=random.key(0)).dtype == dtype
    assert {output.dtype for output in model.forward_intermediates(images)} == {dtype}
