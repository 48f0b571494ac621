"""What tests of foreign formats share: a peer with random values in every parameter, and both twins from its file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from parity.checkpoints import Checkpoint, open_checkpoint
from parity.checks.forward import run_flax, run_torch
from parity.checks.parameters import random_images, random_parameters
from parity.compare import compare
from parity.configs import Execution
from parity.tolerances import PEERS
from vit_torch.state_dict import from_numpy

Logits = dict[str, np.ndarray]


def randomised(peer: torch.nn.Module) -> torch.nn.Module:
    """The model in evaluation mode and float64, with values that hide nothing in every parameter."""
    shapes = {name: tuple(value.shape) for name, value in peer.named_parameters()}
    peer = peer.double().eval()
    values = {name: from_numpy(value) for name, value in random_parameters(shapes).items()}
    peer.load_state_dict(values, strict=False)
    return peer


def pixels_of(found: Checkpoint) -> tuple[np.ndarray, torch.Tensor]:
    """Random images of a checkpoint's model, as ours and as PyTorch's."""
    images = random_images(found.config, batch_size=2)
    return images, torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def twins(found: Checkpoint, images: np.ndarray, *, flax: bool = True) -> list[Logits]:
    """What our models make of a checkpoint's tensors: both, or the one in PyTorch, which has nothing to compile."""
    tensors = {name: np.asarray(value) for name, value in found.tensors.items()}
    sides = [run_torch(found.config, tensors, images, Execution(), None)]
    sides += [run_flax(found.config, tensors, images, Execution())] if flax else []
    assert all(faults == [] for _, faults in sides)
    return [{"logits": outputs["logits"]} for outputs, _ in sides]


def distances(found: Checkpoint, images: np.ndarray, expected: torch.Tensor, *, flax: bool = True) -> list[float]:
    """Relative L2 distance of each twin's logits from a peer's."""
    theirs = {"logits": expected.numpy()}
    return [compare(ours, theirs).worst.relative_l2 for ours in twins(found, images, flax=flax)]


def assert_the_twins_agree(path: Path, peer: torch.nn.Module, model: str | None = None) -> Checkpoint:
    """Opens a peer's file, and holds both twins against the peer itself."""
    found = open_checkpoint(path, model=model)
    images, pixels = pixels_of(found)
    with torch.inference_mode():
        expected = peer(pixels)
    assert max(distances(found, images, expected)) <= PEERS.limit
    return found
