"""Files of transformers as people have them: by the names in memory, and without `config.json`.

Every class saves itself in both spellings, and what is read of each is held against the directory of `save_pretrained`,
whose outputs are held against the class elsewhere. Of a lone file what can't be seen must be said, asked for or listed.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from huggingface_cases import CASES, OPTIONS

from parity.checkpoints import Checkpoint, CheckpointError, open_checkpoint
from parity.checkpoints.formats.foreign import essence
from parity.checks.parameters import random_parameters
from parity.compare import not_identical
from vit_torch.state_dict import from_numpy

CONFIG = "config.json"
# Where LayerScale began is no matter of outputs, and the image size says whether patches are cut off.
FREE = ("layer_scale_init", "dynamic_image_size", "drop_partial_patches")


@pytest.fixture(autouse=True)
def no_progress_bars():
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()


def saved(case: str, directory: Path) -> dict[str, Path]:
    """A model with random values in every tensor, by its names on disk and in memory."""
    name, settings = CASES[case]
    cls = getattr(transformers, name)
    model = cls(cls.config_class(**settings), **OPTIONS.get(case, {}))
    values = random_parameters({key: tuple(value.shape) for key, value in model.state_dict().items()})
    model.load_state_dict({key: from_numpy(value) for key, value in values.items()}, strict=True)
    model.save_pretrained(directory / "disk")
    (directory / "memory").mkdir()
    shutil.copy(directory / "disk" / CONFIG, directory / "memory" / CONFIG)
    torch.save(model.state_dict(), directory / "memory" / "pytorch_model.bin")
    return {"disk": directory / "disk", "memory": directory / "memory"}


def unsaid(checkpoint: Checkpoint) -> dict[str, Any]:
    """What tensors can't show of a model."""
    config = checkpoint.config
    fields: dict[str, Any] = {name: getattr(config, name) for name in ("num_heads", "act", "norm_eps", "image_size")}
    if config.rope is not None:
        fields["rope.temperature"] = config.rope.temperature
    return fields


def differing(found: Checkpoint, expected: Checkpoint) -> set[str]:
    ours, theirs = (essence(checkpoint.config, free=FREE) for checkpoint in (found, expected))
    return {name for name in theirs if ours[name] != theirs[name]}


@pytest.mark.parametrize("case", CASES)
def test_names_in_memory(case, tmp_path):
    paths = saved(case, tmp_path)
    expected, found = open_checkpoint(paths["disk"]), open_checkpoint(paths["memory"])
    assert found.config == expected.config
    assert not_identical(dict(found.tensors), dict(expected.tensors)) == ()


@pytest.mark.parametrize("spelling", ["disk", "memory"])
@pytest.mark.parametrize("case", CASES)
def test_a_lone_file(case, spelling, tmp_path):
    paths = saved(case, tmp_path)
    expected = open_checkpoint(paths["disk"])
    (paths[spelling] / CONFIG).unlink()
    fields = unsaid(expected)
    found = open_checkpoint(paths[spelling], **fields)
    assert not_identical(dict(found.tensors), dict(expected.tensors)) == ()
    listed = {assumption.field for assumption in found.assumed}
    assert differing(found, expected) <= listed <= {"preprocessing", "global_pool"}
    asked, found = asked_for(paths[spelling], fields)
    listed = {assumption.field.partition(".")[0] for assumption in found.assumed}
    assert differing(found, expected) <= listed
    assert ("act" in asked) == expected.config.pre_norm  # CLIP's


def asked_for(path: Path, truth: dict[str, Any]) -> tuple[set[str], Checkpoint]:
    """The fields that are asked for, each said as the error advises; and what is opened at last."""
    said: dict[str, Any] = {}
    while True:
        try:
            return set(said), open_checkpoint(path, **said)
        except CheckpointError as error:
            asked = set(re.findall(r"--set (\w+)=", str(error))) - set(said)
            if not asked:  # no advice, or one that doesn't help
                raise
            said |= {field: truth[field] for field in asked}


def test_a_difference_that_is_not_listed_is_seen(tmp_path):
    paths = saved("vit", tmp_path)
    expected = open_checkpoint(paths["disk"])
    found = open_checkpoint(paths["memory"], norm_eps=1e-2)
    assert differing(found, expected) == {"norm_eps"}
    assert found.assumed == expected.assumed
