"""What people do with any `nn.Module` works with these: printing, copies, compiling, exporting."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch

import vit_torch
from parity import configs
from parity.compare import difference
from parity.configs import Execution
from parity.tolerances import FORWARD

IMAGES = torch.randn(2, 3, 24, 40, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def model():
    return vit_torch.create_model("vit_test", depth=2).eval()


def test_repr_is_short(model):
    assert len(repr(model)) < 2000
    assert "(0-1): 2 x Block(" in repr(model)


def test_copies(model):
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    copies = (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), torch.load(buffer, weights_only=False))
    for other in copies:
        assert other.config == model.config
        assert torch.equal(other(IMAGES), model(IMAGES))
        with torch.no_grad():
            other.head.bias += 1
    assert not model.head.bias.any()


@pytest.mark.parametrize("execution", [Execution(), Execution(attention="reference", remat="block")])
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compile(backend, execution):
    """One graph, forwards and backwards; what a C++ compiler makes of it takes a minute and isn't tried here."""
    model = vit_torch.create_model("vit_test", depth=1, execution=execution)
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    assert torch.equal(compiled(IMAGES), model(IMAGES))
    compiled(IMAGES).sum().backward()
    assert model.patch_embed.proj.weight.grad.abs().sum() > 0
    torch.compiler.reset()


@pytest.mark.parametrize("strict", [False, True])
def test_export(model, strict):
    shapes = ({0: torch.export.Dim("batch", min=2)},)
    program = torch.export.export(model, (IMAGES,), dynamic_shapes=shapes, strict=strict)
    assert torch.equal(program.module()(IMAGES[:2].repeat(2, 1, 1, 1)[:3]), model(IMAGES[:2].repeat(2, 1, 1, 1)[:3]))
    assert not any("amax" in str(node.target) for node in program.graph.nodes)


def test_transformations(model):
    state = dict(model.named_parameters())
    again = torch.func.functional_call(model, state, (IMAGES,))
    assert torch.equal(again, model(IMAGES))
    reference = vit_torch.create_model("vit_test", depth=2, execution=Execution(attention="reference")).eval()
    reference.load_state_dict(model.state_dict())
    each = torch.func.vmap(lambda image: reference(image[None])[0])(IMAGES).detach().numpy()
    assert difference("logits", each, model(IMAGES).detach().numpy()).relative_l2 < FORWARD["float32"].limit
    shapes = copy.deepcopy(model).to("meta")(IMAGES.to("meta"))
    assert shapes.shape == (2, 10)
    dynamic = vit_torch.create_model(configs.get("test_vit").shortened(1)).eval()
    assert dynamic(torch.zeros(1, 3, 32, 48)).shape == (1, 1000)


@pytest.mark.parametrize("method", ["forward", "forward_features", "forward_intermediates"])
def test_raw_pixels_are_an_error_of_every_way_in(model, method):
    raw = torch.randint(0, 256, IMAGES.shape, generator=torch.Generator().manual_seed(0))
    raw[0, 0, 0, 0] = 255
    run = getattr(model, method)
    for images, got in ((raw.byte(), "torch.uint8"), (raw.float(), "values up to 255"), (raw.numpy(), "ndarray")):
        with pytest.raises(
            ValueError, match=rf"images: got {got}, expected .*: vit_torch\.preprocess\(images, model\)"
        ):
            run(images)
