"""Random towers of open_clip in people's files: read as open_clip runs them, or asked for, or listed as assumed.

Each is saved as people save it (whole, wrapped, alone; with a document and without) and opened. What an error advises
is done to the letter, with the truth where there is a choice. A model that differs from open_clip's must say in
`assumed` what it may differ in, and be the same once that is said.
"""

from __future__ import annotations

import dataclasses
import json
import random
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from format_peers import distances, pixels_of, randomised
from open_clip.model import CLIP, CLIPVisionCfg, _build_vision_tower
from open_clip.openai import load_openai_model
from safetensors.torch import save_file

from parity.checkpoints import Checkpoint, CheckpointError, open_checkpoint
from parity.checkpoints.assumed import Given
from parity.checkpoints.formats import open_clip_tensors
from parity.checkpoints.formats.open_clip import DOCUMENT
from parity.checkpoints.formats.open_clip_config import named, understood
from parity.checkpoints.formats.open_clip_models import model_cfg
from parity.cli.said import parsed
from parity.configs import Config
from parity.tolerances import PEERS

SEEDS = range(48)
OUT = 6
TEXT = dict(context_length=5, vocab_size=20, width=64, heads=1, layers=1)
WRAPPERS = ("", "", "module.", "model.", "clip_model.", "_orig_mod.", "alone")
_FREE = {"preprocessing", "layer_scale_init", "drop_partial_patches"}


@dataclasses.dataclass(frozen=True)
class Case:
    """A tower and the way in which it is saved."""

    vision: dict[str, Any]
    quick_gelu: bool
    wrapper: str
    suffix: str
    has_document: bool
    training: bool

    @property
    def document(self) -> dict[str, Any]:
        return {"model_cfg": {"embed_dim": OUT, "vision_cfg": self.vision, "quick_gelu": self.quick_gelu}}

    @property
    def truth(self) -> Config:
        return understood(self.document)[0]


def random_case(seed: int) -> Case:
    rng = random.Random(seed)
    head_width = rng.choice((8, 20, 32, 64, 64))
    patch = rng.choice((4, 8, (8, 4)))
    sides = (patch, patch) if isinstance(patch, int) else patch
    grid = rng.choice(((2, 2), (3, 3), (2, 3), (4, 1), (3, 3)))
    spare = rng.choice((0, 0, 0, 1))
    quick_gelu = rng.random() < 0.4
    vision: dict[str, Any] = dict(
        width=head_width * rng.choice((1, 2, 3)),
        head_width=head_width,
        layers=rng.choice((1, 2)),
        patch_size=patch,
        image_size=tuple(side * count + spare for side, count in zip(sides, grid, strict=True)),
        mlp_ratio=rng.choice((1.7, 2.0, 4.0)),
    )
    options: list[tuple[float, dict[str, Any]]] = [
        (0.25, dict(no_ln_pre=True)),
        (0.25, dict(pool_type="avg")),
        (0.25, dict(final_ln_after_pool=True)),
        (0.2, dict(ls_init_value=0.1)),
        (0.2, dict(qk_norm=True)),
        (0.15, dict(scale_attn_inner=True)),
        (0.15, dict(scale_fc=True)),
        (0.2, dict(norm_kwargs={"eps": 1e-3})),
        (0.0 if quick_gelu else 0.2, dict(act_kwargs={"approximate": "tanh"})),
    ]
    for share, option in options:
        vision |= option if rng.random() < share else {}
    suffix = rng.choice((".safetensors", ".pt", ".bin"))
    wrapper, training = rng.choice(WRAPPERS), suffix != ".safetensors" and rng.random() < 0.4
    return Case(vision, quick_gelu, wrapper, suffix, rng.random() < 0.3, training)


def saved(case: Case, peer: torch.nn.Module, directory: Path) -> Path:
    tensors = {f"visual.{name}": value.contiguous() for name, value in peer.state_dict().items()}
    tensors |= {"logit_scale": torch.ones(()), "text.ln_final.weight": torch.ones(3)}
    if case.wrapper == "alone":
        tensors = {name.removeprefix("visual."): value for name, value in tensors.items() if "visual." in name}
    else:
        tensors = {case.wrapper + name: value for name, value in tensors.items()}
    file = directory / f"tower{case.suffix}"
    if case.suffix == ".safetensors":
        save_file(tensors, file)
    else:
        optimizer = {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 1e-3}]}
        whole = {"epoch": 3, "name": "my run", "state_dict": tensors, "optimizer": optimizer}
        torch.save(whole if case.training else tensors, file)
    if case.has_document:
        (directory / DOCUMENT).write_text(json.dumps(case.document))
        return directory
    return file


def followed(message: str, truth: Config) -> dict[str, Any]:
    """What an error advises, to the letter: of several values the true one, a place for a value as what is true."""
    offered: dict[str, list[str]] = {}
    for field, value in re.findall(r"--set (\w+)=([\w.]+)", message):
        offered.setdefault(field, []).append(value)
    assert offered, f"no advice: {message}"
    settings = []
    for field, values in offered.items():
        right = getattr(truth, field)
        if field == "fc_norm" and truth.global_pool == "token":  # of one token it is the same before and after
            continue
        text = "x".join(map(str, right)) if isinstance(right, tuple) else str(right)
        text = text.lower() if isinstance(right, bool) else text
        assert text in values or values[0].isupper() or field == "image_size", f"{text} isn't offered: {message}"
        settings.append(f"{field}={text}")
    return parsed(settings)


def asked(path: Path, truth: Config, said: dict[str, Any]) -> Checkpoint:
    """The checkpoint, once everything is said that errors ask for; notes it in `said`."""
    for _ in range(4):
        try:
            return open_checkpoint(path, **said)
        except CheckpointError as error:
            advised = followed(str(error), truth)
            if advised.items() <= said.items():
                raise AssertionError(f"advice that doesn't help: {error}") from None
            said |= advised
    raise AssertionError(f"{path}: still refused after {said}")


def ends_well(case: Case, directory: Path, *, flax: bool = False) -> str:
    """How it ended: `same`, or `assumed` and the same once it was said."""
    peer = randomised(_build_vision_tower(OUT, CLIPVisionCfg(**case.vision), case.quick_gelu))
    path, truth = saved(case, peer, directory), case.truth
    said: dict[str, Any] = {}
    for end in ("same", "assumed", "assumed", "assumed"):
        found = asked(path, truth, said)
        if found.config.image_size == truth.image_size:
            images, pixels = pixels_of(found)
            with torch.inference_mode():
                expected = peer(pixels)
            if max(distances(found, images, expected, flax=flax)) <= PEERS.limit:
                return end
        differs = {field for field, value in vars(found.config).items() if value != getattr(truth, field)} - _FREE
        open_ones = differs & {assumption.field for assumption in found.assumed}
        assert open_ones, f"silently different: {differs} of {case}"
        said |= {field: getattr(truth, field) for field in open_ones}
    raise AssertionError(f"silently different after {said}: {case}")


@pytest.mark.parametrize("seed", SEEDS)
def test_it_ends_well(seed, tmp_path):
    ends_well(random_case(seed), tmp_path, flax=seed % 12 == 0)


def test_the_cases_end_in_every_way(tmp_path):
    ends = set()
    for seed in SEEDS:
        case = random_case(seed)
        (tmp_path / str(seed)).mkdir()
        ends.add((case.has_document, ends_well(case, tmp_path / str(seed))))
        if ends == {(True, "same"), (False, "same"), (False, "assumed")}:
            return
    raise AssertionError(f"got {ends}")


GUESSES = {"the GELU": dict(act="gelu"), "heads": dict(num_heads=1), "pooling": dict(global_pool="token")}


@pytest.mark.parametrize("planted", ["nothing is listed", *GUESSES])
def test_a_planted_guess_fails(planted, tmp_path, monkeypatch):
    original = open_clip_tensors._of_open_clip

    def guessed(shapes: Mapping[str, Any], given: Given, path: Path) -> dict[str, Any]:
        shown = {"num_heads"} if any(".ln_q." in name for name in shapes) else set()
        guesses = GUESSES[planted].items()
        given.fields |= {field: value for field, value in guesses if field not in given.fields.keys() | shown}
        return original(shapes, given, path)

    if planted in GUESSES:
        monkeypatch.setattr(open_clip_tensors, "_of_open_clip", guessed)
    else:
        monkeypatch.setattr(Given, "assume", lambda self, field, value, why: self.take(field, value))

    def all_end_well() -> None:
        for seed in SEEDS:
            (tmp_path / str(seed)).mkdir()
            ends_well(random_case(seed), tmp_path / str(seed))

    with pytest.raises(AssertionError, match="silently different"):
        all_end_well()


@pytest.mark.filterwarnings("ignore")  # PyTorch calls TorchScript deprecated
@pytest.mark.parametrize("archive", [True, False])
def test_openais_archives(archive, tmp_path):
    """As open_clip reads them: `build_model_from_openai_state_dict`."""
    vision = CLIPVisionCfg(width=128, layers=2, image_size=24, patch_size=8)
    model = randomised(CLIP(OUT, vision, TEXT, quick_gelu=True)).half().float()  # type: ignore[arg-type]
    for name, value in (("input_resolution", 24), ("context_length", 5), ("vocab_size", 20)):
        model.__dict__.pop(name, None)
        model.register_buffer(name, torch.tensor(value))
    file = tmp_path / "ViT-tiny.pt"
    if archive:
        inputs = dict(encode_image=torch.ones(1, 3, 24, 24), encode_text=torch.zeros(1, 5, dtype=torch.int))
        torch.jit.trace_module(model, inputs, check_trace=False).save(str(file))
    else:
        torch.save({name: value.half() for name, value in model.state_dict().items()}, file)
    found = open_checkpoint(file)
    assert found.assumed == ()
    # The trace has a mask besides, which open_clip doesn't load; OpenAI's own archives don't.
    theirs: Any = (model if archive else load_openai_model(str(file), precision="fp32")).visual.double()
    found = dataclasses.replace(found, tensors={name: np.float64(value) for name, value in found.tensors.items()})
    images, pixels = pixels_of(found)
    with torch.inference_mode():
        assert max(distances(found, images, theirs(pixels))) <= PEERS.limit


def test_every_name_of_open_clip_is_its_model():
    seen = set()
    for name in open_clip.list_models():
        if (ours := model_cfg(name)) is None:
            continue
        theirs = open_clip.get_model_config(name)
        assert understood({"model_cfg": ours}) == understood({"model_cfg": theirs}), name
        seen.add(name)
    assert named("ViT-B-32") == understood({"model_cfg": open_clip.get_model_config("ViT-B-32")})[0]
    flat = [name for name in open_clip.list_models() if is_read(open_clip.get_model_config(name))]
    assert set(flat) - seen == {"vit_medium_patch16_gap_256"}  # timm's own name


def is_read(model: Mapping[str, Any] | None) -> bool:
    try:
        return bool(understood({"model_cfg": model}))
    except ValueError:
        return False
