"""What was assumed of a file: how it is listed, what ends it, and how a field is said."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
from format_checks import parameters, small
from safetensors.numpy import save_file

from parity.checkpoints import Checkpoint, CheckpointError, account, convert, open_checkpoint
from parity.checkpoints.assumed import say, warn_of

NAME = "vit_tiny_patch16_224"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    save_file(parameters(small(NAME, embed_dim=192, num_heads=3)), tmp_path / "file.safetensors")
    return tmp_path / "file.safetensors"


def listed(checkpoint: Checkpoint) -> dict[str, str]:
    return {item.field: str(item) for item in checkpoint.assumed}


@pytest.mark.parametrize(
    "said", [{"preprocessing": {"mean": [0.1, 0.2, 0.3]}}, {"preprocessing.mean": (0.1, 0.2, 0.3)}]
)
def test_a_part_of_the_preprocessing_is_said_and_the_rest_is_still_assumed(file: Path, said: dict[str, Any]) -> None:
    found = open_checkpoint(file, **said)
    assert found.config.preprocessing.mean == (0.1, 0.2, 0.3)
    assert "mean" not in listed(found)["preprocessing"]
    assert "std=(0.5, 0.5, 0.5)" in listed(found)["preprocessing"]


def test_preprocessing_isnt_assumed_where_each_part_is_said(file: Path) -> None:
    images = dict(
        mean=[0.1] * 3, std=[0.2] * 3, interpolation="bilinear", crop_pct=1.0, crop_mode="squash", channel_order="rgb"
    )
    left = listed(open_checkpoint(file, preprocessing=images))
    assert left["preprocessing"].startswith("preprocessing crop_rounding=even:")
    assert "preprocessing" not in listed(open_checkpoint(file, preprocessing=images | {"crop_rounding": "down"}))


def test_a_native_checkpoint_lists_what_was_assumed_as_it_was_and_a_named_model_ends_it(
    file: Path, tmp_path: Path
) -> None:
    convert(file, tmp_path / "native")
    assert listed(open_checkpoint(tmp_path / "native")) == listed(open_checkpoint(file))
    # Its own image is smaller than that of the published model, which says all the rest.
    assert listed(open_checkpoint(tmp_path / "native", model=NAME)).keys() == {"image_size"}
    assert "num_heads" not in listed(open_checkpoint(tmp_path / "native", num_heads=3))


@pytest.mark.parametrize("named", [False, True])
def test_a_warning_advises_a_model_only_where_none_is_named(file: Path, named: bool) -> None:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        warn_of(open_checkpoint(file).assumed, path=file, named=named)
    assert ("(model=)" in str(found[0].message)) != named


@pytest.mark.parametrize(
    ("value", "flag", "python"),
    [
        ("64x160", "--set field=64x160", "field=(64, 160)"),
        ("HEIGHTxWIDTH", "--set field=HEIGHTxWIDTH", "field=(HEIGHT, WIDTH)"),
        ("quick_gelu", "--set field=quick_gelu", 'field="quick_gelu"'),
        ("max", "--set field=max", 'field="max"'),
        ("10", "--set field=10 ", "field=10)"),
        ("N", "--set field=N ", "field=N)"),
    ],
)
def test_how_to_say_a_field_can_be_copied(value: str, flag: str, python: str) -> None:
    assert flag in say("field", value=value)
    assert python in say("field", value=value)


def test_a_field_of_several_values_is_said_once() -> None:
    text = say("act", "quick_gelu", value="gelu")
    assert text == ('say it with --set act=gelu or --set act=quick_gelu (in Python act="gelu" or act="quick_gelu")')


def test_names_of_another_format_than_the_asked_one_are_told(file: Path) -> None:
    with pytest.raises(CheckpointError, match=r'got those of timm, .* of huggingface; say --from timm .*format="timm"'):
        open_checkpoint(file, format="huggingface")
    assert open_checkpoint(file, format="timm").source["format"] == "timm"


def test_lora_beside_the_weights_is_to_be_merged_and_not_to_be_left_out(tmp_path: Path) -> None:
    values = parameters(small(NAME, embed_dim=192, num_heads=3))
    values["blocks.0.attn.qkv.lora_A.weight"] = values["norm.weight"]
    save_file(values, tmp_path / "lora.safetensors")
    with pytest.raises(CheckpointError, match=r"unexpected .*lora_A.*\n.*merge_and_unload"):
        open_checkpoint(tmp_path / "lora.safetensors")


def test_an_unexpected_tensor_says_which_of_its_layer_wasnt_read() -> None:
    with pytest.raises(CheckpointError, match=r"unexpected head\.bias \[5\]; head\.weight: made by a function$"):
        account({}, {"head.bias": (5,)}, source="file", unread={"head.weight": "made by a function", "other.bias": "-"})


def test_a_directory_without_weights_of_a_usual_name_says_what_else_it_has(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(CheckpointError, match=r"model\.safetensors: no such file$"):
        open_checkpoint(tmp_path)
    (tmp_path / "checkpoint_100").touch()
    with pytest.raises(CheckpointError, match=r"model\.safetensors: no such file; found checkpoint_100: .* name it$"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("size", ["224x", (24, 24, 24), (24, 24.0), True, None])
def test_a_size_is_one_number_or_two(file: Path, size: Any) -> None:
    assert open_checkpoint(file, image_size=24).config == open_checkpoint(file, image_size=[24, 24]).config
    with pytest.raises(ValueError, match=r"^image_size: got .*, expected a list of 2 integers$"):
        open_checkpoint(file, image_size=size)
