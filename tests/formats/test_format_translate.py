"""The engine of the tables: parts of tensors, and tables that don't fit."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from parity import configs
from parity.checkpoints import CheckpointError, Tensors, parameter_shapes
from parity.checkpoints.formats.translate import Entry, Ours, Theirs, fill
from parity.checks import random_parameters

CONFIG = configs.get("vit_test", depth=2)
TABLE = (
    Entry("cls_token", "cls", "d -> 1 1 d"),
    Entry("pos_embed", "positions"),
    Entry("patch_embed.proj", "stem", "h w i o -> o i h w"),
    Entry("blocks.{i}.norm1", "all.before", stacked=True),
    Entry("blocks.{i}.norm2", "layer.{i}.after"),
    Entry("blocks.{i}.attn.qkv", ("layer.{i}.q", "layer.{i}.k", "layer.{i}.v")),
    Entry("blocks.{i}.attn.proj.weight", "layer.{i}.out", "nh hd o -> o (nh hd)"),
    Entry("blocks.{i}.attn.proj.bias", "layer.{i}.out_bias"),
    Entry("blocks.{i}.mlp.fc{j}", "layer.{i}.dense{j}", "i o -> o i"),
    Entry("norm", "final"),
    Entry("head", "head"),
)


class Counted(Tensors):
    """Tensors that know how many numbers were read."""

    def __init__(self, tensors: dict[str, np.ndarray]):
        self._tensors, self.read = tensors, 0

    def __getitem__(self, name: str) -> np.ndarray:
        return self.slice(name, ())

    def slice(self, name: str, index: tuple[slice, ...]) -> np.ndarray:
        part = self._tensors[name][index]
        self.read += part.size
        return part

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: value.shape for name, value in self._tensors.items()}


@pytest.fixture
def ours() -> dict[str, np.ndarray]:
    return random_parameters(parameter_shapes(CONFIG))


@pytest.fixture
def counted(ours) -> Counted:
    return Counted(dict(Theirs(fill(TABLE, CONFIG, source="a table"), ours)))


def opened(tensors: Counted) -> Ours:
    return Ours(fill(TABLE, CONFIG, source="a table"), tensors, source="a file")


def test_there_and_back_is_exact(ours, counted):
    back = opened(counted)
    assert set(back) == set(ours)
    assert all(np.array_equal(back[name], value) for name, value in ours.items())


@pytest.mark.parametrize("rows", [(0, 48), (5, 9), (40, 100), (47, 49), (96, 144), (0, 144), (143, 144), (7, 7)])
def test_a_part_of_a_concatenation_is_what_it_should_be_and_nothing_else_is_read(rows, ours, counted):
    index = (slice(*rows), slice(3, 20))
    part = opened(counted).slice("blocks.1.attn.qkv.weight", index)
    assert np.array_equal(part, ours["blocks.1.attn.qkv.weight"][index])
    if part.size:
        assert counted.read == part.size


@pytest.mark.parametrize("name", sorted(parameter_shapes(CONFIG)))
def test_parts_of_every_layout(name, ours, counted):
    index = tuple(slice(size // 3, size - size // 4) for size in ours[name].shape)
    assert np.array_equal(opened(counted).slice(name, index), ours[name][index])


def test_a_table_without_a_place_for_a_tensor_is_refused():
    with pytest.raises(
        CheckpointError, match=r"^a table: no place for head.weight, head.bias \(2 tensors\) of this config"
    ):
        fill(TABLE[:-1], CONFIG, source="a table")
