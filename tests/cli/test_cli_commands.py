"""Commands that need no framework, and what a user sees of their mistakes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from parity import checkpoints, configs
from parity.cli import main
from parity.cli.common import check_classes
from parity.cli.train import _start_torch
from parity.configs.image_folder import FolderOptions
from parity.data import open_source

NAME = "vit_test"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    config = configs.get(NAME)
    rng = np.random.default_rng(0)
    tensors = {
        name: rng.normal(size=shape).astype(np.float32) for name, shape in checkpoints.parameter_shapes(config).items()
    }
    checkpoints.write(tmp_path / "checkpoint", config, tensors, name=NAME, source={"framework": "a test"})
    return tmp_path / "checkpoint"


def run(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command."""
    with pytest.raises(SystemExit) as exit_info:
        main([str(arg) for arg in args])
    captured = capsys.readouterr()
    return int(exit_info.value.code or 0), captured.out, captured.err


def test_models_lists_what_matches(capsys):
    code, out, _ = run(capsys, "models", "vit_base_patch16_clip*")
    listed = {line.split()[0] for line in out.splitlines()[1:]}
    assert code == 0
    assert listed == set(configs.names("vit_base_patch16_clip*"))
    assert "86.57 M" in out


def test_models_without_a_match_names_the_nearest(capsys):
    code, _, err = run(capsys, "models", "vit_bas_patch16_224")
    assert code == 2
    assert "no model matches 'vit_bas_patch16_224'; did you mean 'vit_base_patch16_224'?" in err


@pytest.mark.parametrize("field", ["norm_eps", "act", "preprocessing.mean", "parameters"])
def test_info_shows_a_named_model(capsys, field):
    code, out, _ = run(capsys, "info", "vit_base_patch16_siglip_224")
    assert code == 0
    assert any(line.split()[:1] == [field] for line in out.splitlines())


def test_info_lists_published_weights(capsys):
    code, out, _ = run(capsys, "info", "vit_base_patch16_clip_quickgelu_224")
    weights = [line.split()[1:] for line in out.splitlines() if line.split()[:1] == ["weights"]]
    named = ["--model", "vit_base_patch16_clip_quickgelu_224"]
    tags = ["metaclip_2pt5b", "metaclip_400m", "openai"]
    assert code == 0
    assert weights == [[f"hf-hub:timm/vit_base_patch16_clip_224.{tag}", *named] for tag in tags]


def test_info_shows_a_checkpoint(capsys, checkpoint):
    code, out, _ = run(capsys, "info", checkpoint)
    assert code == 0
    assert "a test" in out
    assert NAME in out


def test_info_of_an_unknown_name_is_one_line(capsys):
    code, out, err = run(capsys, "info", "vit_bse_patch16_224")
    assert (code, out) == (2, "")
    assert err.startswith("error: unknown model 'vit_bse_patch16_224'; did you mean 'vit_base_patch16_224'?")
    assert "Traceback" not in err


def test_info_of_a_broken_checkpoint_names_the_file(capsys, checkpoint):
    file = checkpoint / "config.json"
    data = json.loads(file.read_text())
    data["config"]["dept"] = data["config"].pop("depth")
    file.write_text(json.dumps(data))
    code, _, err = run(capsys, "info", checkpoint)
    assert code == 2
    assert f"{file}: config: unknown field 'dept'; did you mean 'depth'?" in err.replace("\n", "")


def test_convert_there_and_back_is_exact(capsys, checkpoint, tmp_path):
    # A name of timm's: the test model has none.
    config = configs.get("vit_tiny_patch16_224", depth=1, num_classes=3)
    rng = np.random.default_rng(1)
    shapes = checkpoints.parameter_shapes(config)
    tensors = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    checkpoints.write(tmp_path / "native", config, tensors, name="vit_tiny_patch16_224")
    assert run(capsys, "convert", tmp_path / "native", tmp_path / "timm", "--to", "timm")[0] == 0
    code, out, _ = run(capsys, "convert", tmp_path / "timm", tmp_path / "back")
    assert code == 0
    assert f"{len(tensors)} tensors" in out
    back = checkpoints.open_checkpoint(tmp_path / "back")
    assert back.config == config
    assert all(np.array_equal(back.tensors[name], tensor) for name, tensor in tensors.items())


SIZE = ("--set", "image_size={}x{}".format(*configs.get(NAME).image_size))


def test_what_a_lone_file_does_not_say_is_said_by_flags(capsys, checkpoint, tmp_path):
    """The advice of the error leads to the model; what is assumed is printed and kept."""
    file = checkpoint / "model.safetensors"
    code, _, err = run(capsys, "convert", file, tmp_path / "out", *SIZE)
    assert code == 2
    assert "--set num_heads=N" in err.replace("\n", " ")
    code, _, err = run(
        capsys, "convert", file, tmp_path / "out", "--set", f"num_heads={configs.get(NAME).num_heads}", *SIZE
    )
    assert code == 0, err
    assert "assumed: act gelu" in err
    found = checkpoints.open_checkpoint(tmp_path / "out")
    assert "act" in [assumption.field for assumption in found.assumed]
    code, _, err = run(capsys, "convert", file, tmp_path / "named", "--model", NAME)
    assert code == 0, err
    assert checkpoints.open_checkpoint(tmp_path / "named").config == configs.get(NAME)


def test_numerics_of_another_project_go_into_the_config(capsys, tmp_path):
    config = configs.get("vit_tiny_patch16_224", depth=1, num_classes=3)
    shapes = checkpoints.parameter_shapes(config)
    tensors = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    checkpoints.write(tmp_path / "native", config, tensors, name="vit_tiny_patch16_224")
    assert run(capsys, "convert", tmp_path / "native", tmp_path / "google", "--numerics", "google")[0] == 0
    found = checkpoints.open_checkpoint(tmp_path / "google").config
    assert found == configs.replace(config, act="gelu_tanh", pos_embed_resize="zoom")
    code, out, _ = run(capsys, "info", tmp_path / "google")
    lines = {line.split()[0]: " ".join(line.split()[1:]) for line in out.splitlines() if line.split()}
    assert code == 0
    assert lines["numerics"].startswith("act=gelu_tanh, norm_eps=1e-06, pos_embed_resize=zoom")
    assert "run so by google" in " ".join(out.split())
    code, out, _ = run(capsys, "info", tmp_path / "google", "--numerics", "huggingface")
    assert "act=gelu, norm_eps=1e-12, pos_embed_resize=bicubic" in out
    code, _, err = run(capsys, "convert", tmp_path / "native", tmp_path / "clip", "--numerics", "open_clip")
    assert code == 2
    assert "numerics: open_clip has no model of this kind" in err
    assert not (tmp_path / "clip").exists()


def test_another_format_than_the_recognised_one_is_taken_at_its_word(capsys, checkpoint, tmp_path):
    file = checkpoint / "model.safetensors"
    code, _, err = run(capsys, "convert", file, tmp_path / "out", "--from", "torchvision")
    assert code == 2
    assert str(file) in err.replace("\n", "")
    assert run(capsys, "convert", file, tmp_path / "out", "--from", "timm", "--model", NAME)[0] == 0


def test_convert_reports_every_tensor_that_does_not_fit_and_writes_nothing(capsys, checkpoint, tmp_path):
    file = checkpoint / "config.json"
    data = json.loads(file.read_text())
    data["config"] |= {"depth": 2, "num_classes": 11, "reg_tokens": 1}
    file.write_text(json.dumps(data))
    code, _, err = run(capsys, "convert", checkpoint, tmp_path / "out")
    assert code == 2
    for problem in ("missing reg_token", "unexpected blocks.2.norm1.weight", "misshapen head.bias: got"):
        assert problem in err
    assert not (tmp_path / "out").exists()


def test_convert_refuses_to_replace_what_is_no_checkpoint(capsys, checkpoint, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    code, _, err = run(capsys, "convert", checkpoint, tmp_path / "out")
    assert code == 2
    assert "remove it or choose another directory" in err.replace("\n", " ")
    assert (tmp_path / "out" / "thesis.txt").read_text() == "years of work"


def test_train_help_shows_the_recipes(capsys):
    code, out, _ = run(capsys, "train", "--help")
    assert code == 0
    assert "digits" in out
    assert "imagenet_seed" in out


def test_train_help_of_a_recipe_shows_its_fields(capsys):
    code, out, _ = run(capsys, "train", "digits", "--help")
    assert code == 0
    for flag in ("--directory", "--optimizer.learning-rate", "--mesh.fsdp", "--execution.scan", "--data.name"):
        assert flag in out


def test_train_from_a_checkpoint_has_its_model_by_default(capsys):
    code, out, _ = run(capsys, "train", "digits", "--init-from", "there", "--help")
    assert code == 0
    text = " ".join(out.replace("│", " ").split())
    assert "(default: '')" in text.partition("--model")[2].partition("--image-size")[0]
    assert "(default: there)" in text.partition("--init-from")[2].partition("--batch-size")[0]
    assert all(flag in text for flag in ("--from", "--numerics", "--prefix", "--ignore", "--set"))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--numerics", "timm"], "--numerics: says something of a checkpoint; expected --init-from with it"),
        (["--from", "timm"], "--from: says something of a checkpoint; expected --init-from with it"),
        (["--set", "dpeth=2"], "unknown config field 'dpeth'; did you mean 'depth'?"),
        (["--set", "depth"], "set: got 'depth', expected FIELD=VALUE, such as num_heads=4"),
        (
            ["--init-from", "runs/a", "--directory", "runs/a"],
            "init_from: got runs/a, which a run in runs/a would change",
        ),
    ],
)
def test_train_says_what_a_start_lacks(capsys, tmp_path, monkeypatch, arguments, expected):
    pytest.importorskip("vit_jax.train", reason="training needs jax", exc_type=ImportError)
    monkeypatch.chdir(tmp_path)
    code, _, err = run(capsys, "train", "digits", *arguments)
    assert code == 2
    assert expected in " ".join(err.split())
    assert list(tmp_path.iterdir()) == []


def test_train_takes_data_as_eval_does(capsys, tmp_path):
    pytest.importorskip("vit_jax.train", reason="training needs jax", exc_type=ImportError)
    code, _, err = run(capsys, "train", "digits", "--data", "digitss", "--directory", tmp_path, "--data-dir", tmp_path)
    assert code == 2
    assert "digitss" in err


@pytest.mark.filterwarnings("default")
def test_a_warning_is_one_line(tmp_path, capsys):
    pytest.importorskip("torch")
    (tmp_path / "pets/test/cat").mkdir(parents=True)
    for name in ("a.png", "b[0].txt"):
        (tmp_path / "pets/test/cat" / name).write_bytes(b"")
    code, _, err = run(capsys, "eval", tmp_path / "nowhere", "--data", tmp_path / "pets", "--framework", "torch")
    first, *rest = err.splitlines()
    assert first == f"warning: image folder {tmp_path}/pets/test: 1 images; not read: .txt: 1 (cat/b[0].txt)"
    assert (code, len(rest)) == (2, 1)
    assert rest[0].startswith("error: ")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            ("2", "10"),
            r"label 0 of the head is '2', and of .*pets '10': the same classes in another order; class_order 'natural'",
        ),
        (("cat", "Dog"), r"label 0 of the head is 'cat', and of .*pets 'Dog': .*; class_order 'natural' has that one$"),
        (
            ("dog", "cat"),
            r"label 0 of the head is 'dog', and of .*pets 'cat': .*; the class folders must be named so that they",
        ),
    ],
)
def test_classes_in_another_order_than_those_of_the_head(labels, message, checkpoint, tmp_path):
    opened = dataclasses.replace(checkpoints.open_checkpoint(checkpoint), source={"labels": list(labels)})
    opened = dataclasses.replace(opened, config=configs.replace(opened.config, num_classes=2))
    for name in labels:
        (tmp_path / "pets/test" / name).mkdir(parents=True)
        (tmp_path / "pets/test" / name / "x.png").touch()
    source = open_source(str(tmp_path / "pets"), "test", folder=FolderOptions(class_order="sorted"))
    with pytest.raises(ValueError, match=message) as caught:
        check_classes(opened, source, "model")
    if "class_order 'natural'" in str(caught.value):  # as it is advised
        source = open_source(str(tmp_path / "pets"), "test", folder=FolderOptions(class_order="natural"))
    else:
        for number, name in enumerate(labels):
            (tmp_path / "pets/test" / name).rename(tmp_path / "pets/test" / f"{number}_{name}")
        source = open_source(str(tmp_path / "pets"), "test", folder=FolderOptions(class_order="sorted"))
    check_classes(opened, source, "model")


def test_a_head_of_another_number_of_classes(checkpoint, tmp_path):
    (tmp_path / "pets/test/cat").mkdir(parents=True)
    (tmp_path / "pets/test/cat/x.png").touch()
    source = open_source(str(tmp_path / "pets"), "test")
    opened = checkpoints.open_checkpoint(checkpoint)
    with pytest.raises(
        ValueError, match=rf"^model: got a head of {opened.config.num_classes} classes, but .*pets has 1$"
    ):
        check_classes(opened, source, "model")
    headless = dataclasses.replace(opened, config=configs.replace(opened.config, num_classes=0))
    with pytest.raises(
        ValueError, match=r"^model: got a model without a head, expected one of the 1 classes of .*pets$"
    ):
        check_classes(headless, source, "model")


def test_a_run_that_was_stopped_leaves_no_model(capsys, tmp_path):
    """And says how to go on; the same command then ends with one."""
    pytest.importorskip("vit_torch.train", reason="training needs torch", exc_type=ImportError)
    pytest.importorskip("tensorflow_datasets")
    sizes = ("--steps", 2, "--batch-size", 8, "--optimizer.warmup-steps", 0, "--data.num-threads", 0)
    command = ("train", "digits", "--framework", "torch", "--directory", tmp_path / "run", *sizes)
    code, out, _ = run(capsys, *command, "--stop-at", 1)
    assert code == 0
    assert "stopped after step 1 of 2" in " ".join(out.split())
    assert "model in" not in " ".join(out.split())
    assert [path.name for path in (tmp_path / "run").glob("model*")] == ["model.json"]
    code, out, _ = run(capsys, *command)
    assert code == 0
    assert "model in" in " ".join(out.split())
    assert (tmp_path / "run" / "model" / "model.safetensors").exists()


def test_each_process_takes_the_device_of_its_local_rank(monkeypatch):
    torch = pytest.importorskip("torch")
    taken = []
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setattr(torch.distributed, "init_process_group", taken.append)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 3)
    assert _start_torch("cuda", distributed=True) == (False, "cuda:3")
    assert taken == ["cuda:3", "nccl"]
