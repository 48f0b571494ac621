"""What Meta's files have beside the usual: DINOv3's periods and norms, DeiT III's stem and pairs, mask tokens."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from format_checks import parameters, round_trip, without
from safetensors.numpy import load_file, save_file
from test_format_meta import DINOV3, IMAGES, KINDS, lone, of

from parity import checkpoints, configs
from parity.checkpoints import CheckpointError, open_checkpoint
from parity.checkpoints.formats import meta
from parity.compare import not_identical
from parity.configs import Config, Rope

CENTERED = Rope(kind="centered", temperature=100.0, rotate_half=True)
BETWEEN = Rope(kind="centered", min_period=0.4, max_period=25.0, rotate_half=True)
PERIODS = "rope_embed.periods"


def dinov3(rope: Rope = CENTERED, **fields: object) -> Config:
    return of("vit_base_patch16_dinov3_qkvb", **(DINOV3 | dict(rope=rope) | fields))


def deit3(**fields: object) -> Config:
    return of("deit3_base_patch16_224", **(dict(preprocessing=IMAGES) | fields))


THINGS = dict(block="parallel_things")
HMLP = dict(stem="hmlp", patch_size=16, image_size=48)
OPTIONS: dict[str, Config] = {
    "two norms": dinov3(cls_norm=True),
    "short and long periods": dinov3(BETWEEN),
    "another temperature": dinov3(configs.replace(CENTERED, temperature=10_000.0)),
    "pairs": deit3(**THINGS),
    "pairs with LayerScale": deit3(**THINGS, layer_scale_init=1e-5),
    "stem": deit3(**HMLP),
    "stem of pairs without a head": deit3(**HMLP, **THINGS, layer_scale_init=1e-5, num_classes=0),
}


def written(config: Config, tmp_path) -> dict[str, np.ndarray]:
    meta.write(tmp_path / "written", config, parameters(config))
    return load_file(tmp_path / "written" / "model.safetensors")


@pytest.mark.parametrize("option", OPTIONS)
def test_what_is_written_is_read_as_the_same_model(option, tmp_path):
    assert round_trip(meta, tmp_path / "directory", OPTIONS[option]).config == OPTIONS[option]


@pytest.mark.parametrize("option", OPTIONS)
def test_the_config_of_a_lone_file(option, tmp_path):
    tensors = written(OPTIONS[option], tmp_path)
    found = lone(tensors, tmp_path)
    assert found.config == OPTIONS[option]
    assert not_identical(dict(found.tensors), parameters(OPTIONS[option])) == ()
    assert open_checkpoint(tmp_path / "file.safetensors").source["format"] == "meta"


def test_names_of_pairs_and_of_the_stem(tmp_path):
    """As DeiT III's models_v2.py has them, but for counters of batches."""
    tensors = written(OPTIONS["stem of pairs without a head"], tmp_path)
    block = {name.removeprefix("blocks.1.").partition(".")[0] for name in tensors if name.startswith("blocks.1.")}
    pairs = {f"{part}{one}" for part in ("norm1", "attn", "norm2", "mlp") for one in ("", "1")}
    assert block == pairs | {"gamma_1", "gamma_1_1", "gamma_2", "gamma_2_1"}
    stem = {name.removeprefix("patch_embed.proj.") for name in tensors if name.startswith("patch_embed.")}
    both, statistics = ("weight", "bias"), ("running_mean", "running_var")
    convolutions = {f"{i}.{kind}" for i in (0, 3, 6) for kind in both}
    assert stem == convolutions | {f"{i}.{kind}" for i in (1, 4, 7) for kind in (*both, *statistics)}
    assert tensors["pos_embed"].shape == (1, 9, 192)


def test_a_file_of_the_stem_counts_batches(tmp_path):
    config = OPTIONS["stem"]
    counters = {f"patch_embed.proj.{i}.num_batches_tracked": np.asarray(3) for i in (1, 4, 7)}
    found = lone(written(config, tmp_path) | counters, tmp_path)
    assert found.config == config
    assert {found.source["ignored"][name] for name in counters} == {"a counter, which evaluation doesn't ask"}


# Temperature or shortest and longest period, and the type that the original computes them in.
SERIES = [(100, None), (50, None), (10_000, None), (1, 100), (0.5, 20), (0.25, 32.5), (1 / 16, 1), (3, 3), (128, None)]


def computed(series: tuple[float, float | None], dtype: type, count: int) -> np.ndarray:
    """As the original's `_init_weights` does, each step rounded to a type."""

    def rounded(value: object) -> np.ndarray:
        return np.asarray(value).astype(dtype).astype(np.float64)

    first, longest = series
    if longest is None:
        return rounded(first ** rounded(np.arange(count) / count)).astype(dtype)
    base = longest / first
    step, indices = rounded(1 / (count - 1)), np.arange(count)
    exponents = rounded(np.where(indices < count // 2, step * indices, 1 - step * (count - 1 - indices)))
    return rounded(rounded(rounded(base**exponents) / base) * longest).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16, np.float64])
@pytest.mark.parametrize("series", SERIES)
def test_periods_of_every_series_as_the_original_rounds_them(series, dtype, tmp_path):
    first, longest = series
    between = configs.replace(BETWEEN, min_period=first, max_period=longest or first)
    expected = dinov3(between if longest is not None else configs.replace(CENTERED, temperature=first))
    tensors = written(dinov3(), tmp_path) | {PERIODS: computed(series, dtype, 16)}
    assert lone(tensors, tmp_path).config == expected
    assert lone(tensors, tmp_path).config.rope == expected.rope


def test_periods_of_widths_whose_exponents_are_rounded(tmp_path):
    """Twelve of them, in bfloat16; of a temperature beside the usual one, too."""
    config = dinov3(embed_dim=144, num_heads=3)
    for temperature in (100.0, 90.0):
        periods = computed((temperature, None), ml_dtypes.bfloat16, 12)
        found = lone(written(config, tmp_path) | {PERIODS: periods}, tmp_path)
        assert found.config.rope == configs.replace(CENTERED, temperature=temperature)


def test_what_the_user_says_of_rotary_positions(tmp_path):
    """How coordinates are normalised is in no tensor: it is assumed, said, the named model's, or the document's."""
    tensors = written(dinov3(configs.replace(CENTERED, normalize_coords="max")), tmp_path)
    assert open_checkpoint(tmp_path / "written").config.rope.normalize_coords == "max"
    assert open_checkpoint(tmp_path / "written").assumed == ()
    found = lone(tensors, tmp_path)
    assert found.config.rope.normalize_coords == "separate"
    assert "rope.normalize_coords" in {item.field for item in found.assumed}
    file = tmp_path / "file.safetensors"
    said = open_checkpoint(file, **{"rope.normalize_coords": "min"})
    assert said.config.rope.normalize_coords == "min"
    assert "rope.normalize_coords" not in {item.field for item in said.assumed}
    named = open_checkpoint(file, model=dinov3(configs.replace(CENTERED, normalize_coords="max")))
    assert named.config.rope.normalize_coords == "max"
    assert "rope.normalize_coords" not in {item.field for item in named.assumed}
    with pytest.raises(CheckpointError, match=r"normalize_coords: got 'all'"):
        open_checkpoint(file, **{"rope.normalize_coords": "all"})


@pytest.mark.parametrize(
    "said",
    [
        {"rope.temperature": 50.0},
        {"rope.min_period": 1.0, "rope.max_period": 20.0},
        {"rope": configs.replace(CENTERED, temperature=50.0)},
        {"model": dinov3(configs.replace(CENTERED, temperature=50.0))},
    ],
)
def test_other_periods_than_are_said(said, tmp_path):
    save_file(written(dinov3(), tmp_path), tmp_path / "file.safetensors")
    with pytest.raises(CheckpointError, match=r"got other periods than those of .*: 16 from 1 to 74\.99"):
        open_checkpoint(tmp_path / "file.safetensors", **said)


def test_a_file_without_periods(tmp_path):
    tensors = without(written(dinov3(), tmp_path), PERIODS)
    found = lone(tensors, tmp_path)
    assert found.config.rope == CENTERED
    assert {"rope.temperature", "rope.normalize_coords"} <= {item.field for item in found.assumed}
    said = open_checkpoint(tmp_path / "file.safetensors", **{"rope.min_period": 0.5, "rope.max_period": 20.0})
    assert said.config.rope == configs.replace(BETWEEN, min_period=0.5, max_period=20.0)
    assert "rope.temperature" not in {item.field for item in said.assumed}


def test_the_norm_of_local_crops_is_ignored(tmp_path):
    config = OPTIONS["two norms"]
    extra = {f"local_cls_norm.{kind}": np.ones(192, np.float32) for kind in ("weight", "bias")}
    found = lone(written(config, tmp_path) | extra, tmp_path)
    assert found.config == config
    assert {found.source["ignored"][name] for name in extra} == {
        "norm of the prefix tokens of local crops, in training alone"
    }


MASKED = ["dinov2", "dinov2 with registers", "dinov3", "beit"]


@pytest.mark.parametrize("kind", MASKED)
def test_a_mask_token_is_kept_where_it_is_asked_for(kind, tmp_path):
    config = configs.replace(KINDS[kind], mask_token=True)
    assert round_trip(meta, tmp_path / "directory", config).config == config
    tensors = load_file(tmp_path / "directory" / "model.safetensors")
    assert tensors["mask_token"].shape == ((1, 1, 192) if kind == "beit" else (1, 192))
    alone = lone(tensors, tmp_path)
    assert alone.config == KINDS[kind]
    assert "--set mask_token=true" in alone.source["ignored"]["mask_token"]
    asked = open_checkpoint(tmp_path / "file.safetensors", format="meta", mask_token=True)
    assert asked.config == config
    assert not_identical(dict(asked.tensors), parameters(config)) == ()
    save_file(without(tensors, "mask_token"), tmp_path / "none.safetensors")
    with pytest.raises(CheckpointError, match=r"missing mask_token \[1, "):
        open_checkpoint(tmp_path / "none.safetensors", format="meta", mask_token=True)


def test_maes_mask_token_is_its_decoders(tmp_path):
    """Even where decoder and encoder are equally wide."""
    tensors = written(KINDS["mae encoder"], tmp_path)
    decoder = {"mask_token": (1, 1, 192), "decoder_embed.weight": (192, 192)}
    tensors |= {name: np.zeros(shape, np.float32) for name, shape in decoder.items()}
    assert "decoder" in lone(tensors, tmp_path).source["ignored"]["mask_token"]
    with pytest.raises(CheckpointError, match=r"mask_token: got True, but the file has none: .* its decoder's"):
        open_checkpoint(tmp_path / "file.safetensors", mask_token=True)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (deit3(mask_token=True), "the nearest, deit, has no mask_token, which dinov2 and dinov3 and beit alone have"),
        (deit3(cls_norm=True), "has no cls_norm, which dinov3 alone have"),
        (configs.replace(KINDS["dinov2"], cls_norm=True), "has no cls_norm"),
        (dinov3(**HMLP), "the nearest, dinov3, has no patch_embed.stem"),
        (deit3(stem="conv", stem_convs=((12, 3, 8),)), "stem: got 'conv', and DeiT III's is 'hmlp'"),
        (deit3(**HMLP, stem_norm_eps=1e-3), r"stem_norm_eps: got 0\.001, expected 1e-05"),
        (dinov3(configs.replace(CENTERED, kind="axial")), "rope: got "),
        (dinov3(configs.replace(CENTERED, rotate_half=False)), "rope: got "),
    ],
)
def test_a_model_that_none_of_the_projects_has_isnt_written(config, message, tmp_path):
    with pytest.raises(CheckpointError, match=message):
        meta.write(tmp_path / "directory", config, parameters(config))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("field", [dict(mask_token=True), dict(cls_norm=True)])
@pytest.mark.parametrize("to", ["timm", "google", "open_clip", "torchvision", "huggingface"])
def test_formats_that_have_none_refuse_it_by_name(field, to, tmp_path):
    """transformers' ViT has a mask token, so there a CLIP tower is refused."""
    name = "vit_test_clip" if to in ("open_clip", "huggingface") else "vit_test"
    config = configs.get(name, patch_size=8, image_size=24, head_bias=to != "open_clip", **field)
    checkpoints.write(tmp_path / "source", config, parameters(config))
    with pytest.raises(CheckpointError, match=next(iter(field))):
        checkpoints.convert(tmp_path / "source", tmp_path / "target.npz", to=to)
    assert not (tmp_path / "target.npz").exists()
