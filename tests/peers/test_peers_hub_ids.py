"""The table of published weights against timm's own registry."""

from __future__ import annotations

import pytest
import timm

from parity import configs
from parity.configs import pretrained


def theirs(name: str) -> tuple[str, ...]:
    """Repositories of all of timm's entries of a model, its default first."""
    if not timm.is_model(name):
        return ()
    tags = timm.list_models(name, include_tags=True)
    default = timm.get_pretrained_cfg(name)
    found = [timm.get_pretrained_cfg(tag).hf_hub_id for tag in tags]
    known = sorted((one for one in found if one), key=lambda one: one != default.hf_hub_id)
    return tuple(known)


@pytest.mark.parametrize("name", configs.names())
def test_ids_are_timms(name):
    ours, expected = configs.hub_ids(name), theirs(name)
    assert sorted(ours) == sorted(expected)
    assert ours[:1] == expected[:1]


def test_the_table_has_no_other_models():
    assert set(pretrained._table()) <= set(configs.names())


def test_the_comparison_can_fail(monkeypatch):
    table = dict(pretrained._table())
    first, second, *rest = table["vit_base_patch16_224"]
    for wrong in ((second, first, *rest), (first, *rest), (first, second, *rest, "timm/another")):
        monkeypatch.setattr(pretrained, "_table", lambda wrong=wrong: table | {"vit_base_patch16_224": wrong})
        with pytest.raises(AssertionError):
            test_ids_are_timms("vit_base_patch16_224")
