"""What people write who come from timm or transformers: `create_model` in their words, names of weights, lists."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import jax
import pytest
from flax import nnx

import vit_jax
import vit_torch
from parity import configs

NAME = "vit_base_patch16_224"
QUICK = "vit_base_patch16_clip_quickgelu_224"
DEFAULT = f"timm/{NAME}.augreg2_in21k_ft_in1k"
SIDES = {"vit_jax": vit_jax, "vit_torch": vit_torch}
side = pytest.mark.parametrize("side", SIDES)


def refused(side: str, name: object, **fields: object) -> str:
    """What `create_model` says; nothing is allocated before it."""
    with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
        SIDES[side].create_model(name, **fields)
    return str(caught.value)


def suggested(side: str, said: str) -> tuple[str, dict[str, object]]:
    """The path and keywords of the call that an error says to write, which must be one of `load`."""
    start = said.index(f"{side}.load(")
    call = ast.parse(said[start : said.index(")", start) + 1], mode="eval").body
    assert isinstance(call, ast.Call)
    found = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
    bound = inspect.signature(SIDES[side].load).bind(ast.literal_eval(call.args[0]), **found)
    assert set(bound.arguments.get("fields", {})) <= set(vars(configs.get(NAME)))
    return ast.literal_eval(call.args[0]), found


@side
def test_models_are_listed(side):
    assert SIDES[side].list_models() == configs.names()
    assert SIDES[side].list_models("vit_tiny_patch16_???") == ["vit_tiny_patch16_224", "vit_tiny_patch16_384"]
    assert SIDES[side].list_models("no such model") == []


@side
@pytest.mark.parametrize(
    ("name", "fields", "path", "keywords"),
    [
        (NAME, dict(pretrained=True), f"hf-hub:{DEFAULT}", {}),
        (NAME, dict(pretrained=True, num_classes=10), f"hf-hub:{DEFAULT}", dict(num_classes=10)),
        (NAME, dict(pretrained=True, img_size=384, drop_path=0.1), f"hf-hub:{DEFAULT}", dict(image_size=384)),
        (NAME, dict(pretrained_cfg="augreg_in21k"), f"hf-hub:timm/{NAME}.augreg_in21k", {}),
        (NAME, dict(pretrained_cfg=f"{NAME}.mae", pretrained=True), f"hf-hub:timm/{NAME}.mae", {}),
        (NAME, dict(checkpoint_path="a b.pth", pretrained=True), "a b.pth", dict(model=NAME)),
        (f"{NAME}.augreg_in21k", {}, f"hf-hub:timm/{NAME}.augreg_in21k", {}),
        (f"{NAME}.augreg_in21k", dict(pretrained=True, num_classes=0), None, dict(num_classes=0)),
        (QUICK, dict(pretrained=True), "hf-hub:timm/vit_base_patch16_clip_224.metaclip_2pt5b", dict(model=QUICK)),
        (f"{QUICK}.openai", {}, "hf-hub:timm/vit_base_patch16_clip_224.openai", dict(model=QUICK)),
        (f"timm/{NAME}.mae", {}, f"hf-hub:timm/{NAME}.mae", {}),
        (f"hf-hub:timm/{NAME}.mae", dict(pretrained=True), f"hf-hub:timm/{NAME}.mae", {}),
        (f"hf_hub:timm/{NAME}.mae", {}, f"hf-hub:timm/{NAME}.mae", {}),
        ("google/vit-base-patch16-224", {}, "hf-hub:google/vit-base-patch16-224", {}),
        ("local-dir:runs/mine", {}, "runs/mine", {}),
        ("runs/mine/model", {}, "runs/mine/model", {}),
        ("mine.safetensors", {}, "mine.safetensors", {}),
        (Path("mine"), {}, "mine", {}),
        ("vit_giant_patch14_224", dict(pretrained=True), "PATH", dict(model="vit_giant_patch14_224")),
    ],
)
def test_weights_are_loaded_not_created(side, name, fields, path, keywords):
    found, given = suggested(side, refused(side, name, **fields))
    assert path is None or found == path
    assert given == keywords | ({"drop_path_rate": 0.1} if "drop_path" in fields else {})
    if found.startswith("hf-hub:timm/"):
        model = given.get("model", found.removeprefix("hf-hub:timm/").partition(".")[0])
        assert found.removeprefix("hf-hub:") in configs.hub_ids(model)


@side
def test_the_words_of_the_errors(side):
    assert refused(side, NAME, pretrained=True, num_classes=10) == (
        "pretrained: got True; create_model makes new parameters, and published weights are loaded: "
        f'{side}.load("hf-hub:{DEFAULT}", num_classes=10); `vit-parity info {NAME}` lists 9 more'
    )
    assert "no published weights of the model 'vit_giant_patch14_224' are known" in refused(
        side, "vit_giant_patch14_224", pretrained=True
    )
    said = refused(side, f"{NAME}.agreg_in21k")
    assert "whose tag isn't known; did you mean 'augreg_in21k'?; known are augreg2_in21k_ft_in1k, " in said
    assert "did you mean 'augreg_in1k'?" in refused(side, NAME, pretrained_cfg="augreg_in12k")
    assert "unknown model 'vit_bse_patch16_224'; did you mean 'vit_base_patch16_224'?" in refused(
        side, "vit_bse_patch16_224", pretrained=True
    )
    assert refused(side, 3) == "name: got int, expected a registered name or a config"


@side
def test_a_config_is_told_the_weights_of_its_model(side):
    mine = configs.get(NAME, num_classes=7, drop_path_rate=0.2)
    path, given = suggested(side, refused(side, mine, pretrained=True, image_size=384))
    assert (path, given) == (f"hf-hub:{DEFAULT}", dict(num_classes=7, drop_path_rate=0.2, image_size=384))
    nobodys = configs.get(NAME, mlp_dim=64)
    assert "no published weights of this config are known" in refused(side, nobodys, pretrained=True)


@side
def test_a_directory_is_told_from_a_model_that_is_unknown(side, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "unknown model 'mine'" in refused(side, "mine")
    Path("mine").mkdir()
    assert suggested(side, refused(side, "mine")) == ("mine", {})
    Path("vit_test").mkdir()  # a registered name is one, whatever lies here
    assert configs.name_of(create(side, "vit_test").config) == "vit_test"


@side
@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("img_size", 384, "it is called image_size here: image_size=384"),
        ("drop_path", 0.1, "it is called drop_path_rate here: drop_path_rate=0.1"),
        ("init_values", 1e-5, "it is called layer_scale_init here: layer_scale_init=1e-05"),
        ("mlp_ratio", 4.0, "it is called mlp_dim here: embed_dim times it, an integer"),
        ("act_layer", nnx.relu, "it is called act here"),
        ("num_labels", 3, "it is called num_classes here: num_classes=3"),
        ("hidden_size", 64, "it is called embed_dim here: embed_dim=64"),
        ("features_only", True, "no config field: model.forward_intermediates"),
        ("exportable", True, "no config field: leave it out"),
        ("cache_dir", "x", "no config field: downloads lie where the environment variable HF_HOME says"),
        ("embed_dims", 64, "unknown config field 'embed_dims'; did you mean 'embed_dim'?"),
    ],
)
def test_other_words_for_a_field(side, field, value, said):
    found = refused(side, "vit_test", **{field: value})
    assert found.startswith(f"{field}: got ") or "unknown" in said
    assert said in found


def create(side: str, name: object, **fields: object):
    """A model without values."""
    if side == "vit_torch":
        return vit_torch.create_model(name, device="meta", **fields)
    return nnx.eval_shape(lambda: vit_jax.create_model(name, rngs=nnx.Rngs(0), **fields))


@side
def test_no_weights_asked_for_is_what_it_says(side):
    model = create(side, "vit_test", pretrained=False, pretrained_cfg=None, checkpoint_path="", num_classes=3)
    assert model.config == configs.get("vit_test", num_classes=3)
    assert create(side, model.config, pretrained=False, num_classes=4).config.num_classes == 4


def test_flax_needs_a_source_of_initial_values():
    assert refused("vit_jax", "vit_test").startswith("rngs: got none, expected the source of the initial values")
    assert "pretrained" in refused("vit_jax", NAME, pretrained=True)
    shapes = nnx.eval_shape(lambda: vit_jax.create_model("vit_test", rngs=nnx.Rngs(0)))
    assert isinstance(jax.tree.leaves(shapes)[0], jax.ShapeDtypeStruct)


def test_hub_ids():
    assert configs.hub_ids(NAME)[0] == DEFAULT
    assert configs.hub_ids("vit_giant_patch14_224") == ()
    assert all(configs.hub_ids(name) == () for name in configs.names("vit_test*"))
    with pytest.raises(ValueError, match=r"unknown model 'vit_base_patch16'; did you mean"):
        configs.hub_ids("vit_base_patch16")
