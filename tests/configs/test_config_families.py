"""What the house asks of every family's config, held over the registry, and that asking wrongly is told."""

from __future__ import annotations

import dataclasses
import math
import operator
from dataclasses import dataclass
from typing import ClassVar

import pytest

from parity import configs
from parity.checkpoints import parameter_shapes
from parity.configs import Input, ModelConfig, VitConfig
from parity.configs.registry import FAMILIES

NAMES = configs.names()
# One of each set of options is as good as all of them.
DISTINCT = {configs.get(name).narrowed().reduced(3): name for name in NAMES}


@pytest.mark.parametrize("config", DISTINCT, ids=DISTINCT.values())
def test_units_are_counted_and_tensors_lie_in_them(config):
    shapes = parameter_shapes(config)
    layers = {name: config.layer_of(name) for name in shapes}
    assert set(range(1, config.depth + 1)) <= set(layers.values()) <= set(range(config.depth + 2))
    for unit in range(1, config.depth + 1):
        shortened = parameter_shapes(config.shortened(unit))
        # The tensors of the first units are the same, or their first parts, and no other unit's are there.
        assert all(all(map(operator.le, shape, shapes[name])) for name, shape in shortened.items())
        assert {name for name, shape in shortened.items() if shape != shapes[name]} <= {"rope.freqs"}
        kept = {name for name in shapes if layers[name] <= config.shortened(unit).depth or layers[name] > config.depth}
        assert set(shortened) <= kept
    assert config.shortened(config.depth + 1) == config
    assert all(config.layer_of(name) == config.depth + 1 for name in shapes if name.split(".")[0] in config.heads)


@pytest.mark.parametrize("config", DISTINCT, ids=DISTINCT.values())
def test_what_is_named_is_named_once(config):
    assert len(set(config.places)) == len(config.places)
    parts = (*config.embeddings, *config.intermediates, *config.features, *config.outputs)
    assert config.places == parts
    heights = [one.shape for one in config.inputs if one.is_image]
    assert all(shape == (*config.image_size, config.in_chans) for shape in heights)
    assert config.image_size[0] != config.image_size[1]
    assert config.activations(backward=True) >= config.activations(backward=False) > 0


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_has_one_table(family):
    cls = FAMILIES[family]
    rows = [configs.get(name).summary for name in cls.registered]
    assert {tuple(row) for row in rows} == {tuple(rows[0])}
    assert set(cls.numerics) <= {field.name for field in dataclasses.fields(cls)}
    assert all(isinstance(cell, str) for row in rows for cell in row.values())


def test_the_flat_vit_has_the_places_that_it_always_had():
    assert configs.get("vit_test").places == (
        *("patch_embed", "blocks.0", "blocks.1", "blocks.2"),
        *("forward_features", "logits"),
    )
    assert configs.get("vit_test").inputs == (Input("images", (24, 40, 3)),)
    names = (
        "cls_token",
        "patch_embed.proj.weight",
        "blocks.0.norm1.weight",
        "blocks.2.ls1.gamma",
        "norm.bias",
        "head.bias",
    )
    assert [configs.get("vit_test").layer_of(name) for name in names] == [0, 0, 1, 3, 4, 4]


def test_heads_are_what_classes_change():
    for config in DISTINCT:
        if config.num_classes:
            more = parameter_shapes(configs.replace(config, num_classes=config.num_classes + 1))
            changed = {name for name, shape in parameter_shapes(config).items() if more[name] != shape}
            assert {name.split(".")[0] for name in changed} <= set(config.heads)
            assert changed


@dataclass(frozen=True, kw_only=True)
class Plain(ModelConfig):
    """A family that has as little as can be."""

    registered: ClassVar = {}
    image_size: tuple[int, int] = (8, 4)
    depth: int = 1
    drop_rate: float = 0.0

    @property
    def intermediates(self) -> tuple[str, ...]:
        return ("layer",)

    def layer_of(self, name: str) -> int:
        return 1

    def shortened(self, depth: int) -> Plain:
        return self

    reduced = shortened

    def narrowed(self) -> Plain:
        return self

    def activations(self, *, backward: bool) -> int:
        return math.prod(self.image_size)

    @property
    def summary(self) -> dict[str, str]:
        return {"image": "8x4"}


def test_what_a_family_lacks_is_told():
    plain = Plain()
    assert not plain.takes_classes
    assert (plain.num_classes, plain.in_chans, plain.drop_path_rate) == (0, 3, 0.0)
    assert plain.places == ("layer", "forward_features", "logits")
    with pytest.raises(ValueError, match=r"^patch_size: got 4, but Plain has no such field$"):
        plain.adapted(patch_size=4)
    with pytest.raises(ValueError, match=r"^num_classes: got 10, but Plain has no such field$"):
        plain.adapted(num_classes=10)
    assert plain.adapted(image_size=(4, 4), global_pool=None) == Plain(image_size=(4, 4))
    with pytest.raises(ValueError, match=r"^drop_path_rate: got 0.1, expected 0: Plain has no such dropout$"):
        plain.with_rates(drop_path_rate=0.1)
    assert plain.with_rates(drop_path_rate=0.0, drop_rate=0.2) == Plain(drop_rate=0.2)
    with pytest.raises(ValueError, match=r"^config: got a Plain, expected a VitConfig$"):
        VitConfig.of(plain)
    assert Plain.of(plain) is plain


def test_what_a_family_has_to_say_is_asked_for():
    class Silent(ModelConfig):
        pass

    with pytest.raises(TypeError, match=r"activations.*intermediates.*layer_of.*summary"):
        Silent()  # type: ignore[abstract]


def test_an_input_of_integers_is_no_image():
    assert Input("images", (8, 4, 3)).is_image
    assert not Input("tokens", (7,), vocabulary=9).is_image
    assert not Input("grid", (8, 4, 3), vocabulary=9).is_image
