"""People's files: how a random model of a peer is saved, and what it takes until ours is the same.

A case ends well if the file opens and both twins' outputs are the peer's to 1e-12; or if what differs is listed in
`assumed`, and the outputs are the same once that is said; or if it is refused, and what the error advises, done to the
letter with the truth where there is a choice, leads to one of the first two. Anything else is silently different.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import random
import re
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch
from flax import nnx
from safetensors.torch import save_file

import vit_jax
import vit_torch
from parity.checkpoints import Checkpoint, CheckpointError, open_checkpoint
from parity.checks.parameters import random_parameters
from parity.checks.twins import exact_jax
from parity.cli.said import parsed
from parity.compare import compare
from parity.tolerances import PEERS
from vit_torch.state_dict import from_numpy

Images = tuple[int, int, int]
State = dict[str, torch.Tensor]


@dataclasses.dataclass(frozen=True)
class Case:
    """A peer's model and what its owner knows of it.

    Attributes:
        peer: A peer in evaluation mode and float64, with float32 values that hide nothing.
        images: Channels, height and width of what it takes.
        truth: What tensors can't show, by config field; `model` is a config or a name that has all of it.
        outputs: Makes outputs of the peer and its images; its logits by default.
        documents: Beside the tensors, by file name.
        loader: A registered name or a config that the owner names at once; None for nothing.
    """

    peer: torch.nn.Module
    images: Images
    truth: Mapping[str, Any]
    outputs: Callable[[torch.nn.Module, torch.Tensor], torch.Tensor] = lambda model, images: model(images)
    documents: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    loader: Any = None


def randomised(peer: torch.nn.Module) -> torch.nn.Module:
    """A model in evaluation mode and float64, with random values that float32 has in every parameter."""
    shapes = {name: tuple(value.shape) for name, value in peer.named_parameters()}
    values = {name: from_numpy(value.astype(np.float32)) for name, value in random_parameters(shapes).items()}
    peer = peer.double().eval()
    peer.load_state_dict(values, strict=False)
    return peer


# Names in front of the model's own; a head may stay outside of it.
_PREFIXES = ("", "", "", "module.", "_orig_mod.", "module._orig_mod.", "model.", "backbone.", "net.encoder.")
_KEYS = ("", "", "state_dict", "model", "model_state_dict", "weights")
_TRAINING: tuple[dict[str, Any], ...] = (
    {},
    {"epoch": 3, "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 1e-3}]}},
    {"global_step": 2, "callbacks": {"best": "x"}, "hyper_parameters": Counter(lr=1), "optimizer_states": []},
)
_EXTRA = ({}, {}, {"criterion.weight": torch.ones(10)}, {"dino_head.mlp.0.weight": torch.ones(4, 4)})
_CONTAINERS = ("safetensors", "bin", "pth", "ckpt", "legacy", "whole", "none", "sharded")


def saved(case: Case, directory: Path, rng: random.Random) -> tuple[Path, dict[str, Any]]:
    """The case's file, and the truth of how it was saved."""
    for name, document in case.documents.items():
        (directory / name).write_text(json.dumps(document))
    container = rng.choice(_CONTAINERS)
    if container == "whole" and not case.documents:
        torch.save(copy.deepcopy(case.peer).float(), directory / "whole.pth")
        return directory / "whole.pth", {}
    prefix = rng.choice(_PREFIXES)
    state = copy.deepcopy(case.peer).float().state_dict()
    tensors = {prefix + name: value.detach().contiguous() for name, value in state.items()}
    tensors |= rng.choice(_EXTRA)
    if container in ("safetensors", "sharded"):
        return _safetensors(case, tensors, directory, sharded=container == "sharded"), {"prefix": prefix}
    key = rng.choice(_KEYS)
    whole: dict[str, Any] = {key: tensors} if key else tensors
    if key:
        whole |= rng.choice(_TRAINING)
        if rng.random() < 0.15:
            whole["state_dict_ema"] = {name: value + 1 for name, value in tensors.items()}
    name = {"none": "checkpoint_9", "legacy": "old.pt"}.get(container, f"weights.{container}")
    file = directory / ("pytorch_model.bin" if case.documents else name)
    torch.save(whole, file, _use_new_zipfile_serialization=container != "legacy")
    return directory if case.documents else file, {"prefix": f"{key}.{prefix}" if key else prefix}


def _safetensors(case: Case, tensors: State, directory: Path, *, sharded: bool) -> Path:
    if not sharded:
        save_file(tensors, directory / "model.safetensors")
        return directory if case.documents else directory / "model.safetensors"
    names = sorted(tensors)
    weight_map = {}
    for number, part in enumerate((names[::2], names[1::2]), 1):
        file = f"model-{number:05}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, directory / file)
        weight_map |= dict.fromkeys(part, file)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return directory


def followed(message: str, truth: Mapping[str, Any]) -> dict[str, Any]:
    """What an error advises, to the letter: of several values the true one, a place for a value as what is true."""
    said: dict[str, Any] = {}
    if prefixes := re.findall(r"--prefix (\S+)", message):
        fits = [prefix for prefix in prefixes if truth.get("prefix", "").startswith(prefix.strip("'"))]
        assert fits, f"no prefix of {truth.get('prefix')!r} is offered: {message}"
        said["prefix"] = max(fits, key=len).strip("'")
    for pattern in re.findall(r"--ignore '([^']+)'", message):
        said["ignore"] = (*said.get("ignore", ()), pattern)
    offered: dict[str, list[str]] = {}
    for field, value in re.findall(r"--set ([\w.]+)=([\w.]+)", message):
        offered.setdefault(field, []).append(value)
    for field, values in offered.items():
        right = truth.get(field, _UNKNOWN)
        if right is _UNKNOWN:
            continue
        text = written(right)
        if text in values or any(value.isupper() or value.startswith("HEIGHT") for value in values):
            said |= parsed([f"{field}={text}"])
    if not said and "--model" in message and "model" in truth:
        said["model"] = truth["model"]
    assert said, f"no advice that the truth fits: {message}\n{truth}"
    return said


_UNKNOWN = object()


def written(value: Any) -> str:
    """A value as the command line takes it."""
    text = "x".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return text.lower() if value is None or isinstance(value, bool) else text


def asked(path: Path, truth: Mapping[str, Any], said: dict[str, Any]) -> Checkpoint:
    """The checkpoint, once everything is said that errors ask for; notes it in `said`."""
    for _ in range(5):
        try:
            return open_checkpoint(path, **said)
        except CheckpointError as error:
            advised = followed(str(error), truth)
            if all(said.get(name, _UNKNOWN) == value for name, value in advised.items()):
                raise AssertionError(f"advice that doesn't help: {error}") from None
            said |= advised
    raise AssertionError(f"{path}: still refused after {said}")


def ends_well(case: Case, directory: Path, rng: random.Random, *, flax: bool) -> str:
    """How it ended: `same`, or `assumed` and the same once it was said.

    Raises:
        AssertionError: They agree in neither way.
    """
    path, how = saved(case, directory, rng)
    truth = {**case.truth, **how}
    said: dict[str, Any] = {} if case.loader is None else {"model": case.loader}
    channels, height, width = case.images
    images = np.random.default_rng(0).standard_normal((2, height, width, channels))
    with torch.inference_mode():
        expected = case.outputs(case.peer, torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
    for end in ("same", "assumed", "assumed", "assumed"):
        found = asked(path, truth, said)
        fits = found.config.image_size == (height, width) or found.config.dynamic_image_size
        if fits and is_same(found, images, expected, flax=flax):
            return end
        wrong = {
            item.field: truth[item.field]
            for item in found.assumed
            if item.field in truth and truth[item.field] != getattr(found.config, item.field)
        }
        assert wrong, (
            f"silently different: {truth}, said {said}, {[str(item) for item in found.assumed]}: {found.config}"
        )
        said |= wrong
    raise AssertionError(f"silently different after {said}: {truth}")


def is_same(found: Checkpoint, images: np.ndarray, expected: np.ndarray, *, flax: bool) -> bool:
    """Whether the twins' outputs are the peer's."""
    with torch.inference_mode():
        pixels = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
        sides = [vit_torch.load(found, dtype=torch.float64)(pixels).numpy()]
    if flax:
        with exact_jax(np.float64):
            model = vit_jax.load(found, dtype=np.float64)
            graphdef, state = nnx.split(model)
            run = jax.jit(lambda state, images: nnx.merge(graphdef, state)(images))
            sides.append(np.asarray(run(state, images)))
    return all(
        side.shape == expected.shape and compare({"logits": side}, {"logits": expected}).ok(PEERS.limit)
        for side in sides
    )
