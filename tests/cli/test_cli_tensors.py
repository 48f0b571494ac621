"""`vit-parity tensors`: what it prints, its exit codes, and that its advice works when it is followed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from parity.checkpoints import write_tensors
from parity.cli import main


def run(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, list[str], str]:
    """Exit code, lines of standard output with single spaces, and standard error."""
    with pytest.raises(SystemExit) as exit_info:
        main(["tensors", *map(str, args)])
    captured = capsys.readouterr()
    return int(exit_info.value.code or 0), [" ".join(line.split()) for line in captured.out.splitlines()], captured.err


def weights(depth: int = 4) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    shapes = {"pos_embed": (1, 5, 6), "head.weight": (3, 6)}
    shapes |= {f"blocks.{i}.{kind}.weight": (6, 6) for i in range(depth) for kind in ("qkv", "proj")}
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.fixture
def save(tmp_path: Path):
    """Writes tensors to a directory of that name and gives its path."""

    def write(name: str, tensors: dict[str, np.ndarray]) -> Path:
        (tmp_path / name).mkdir()
        write_tensors(tmp_path / name, tensors)
        return tmp_path / name

    return write


def test_equal_files_exit_with_0(capsys, save, tmp_path):
    left = save("left", weights())
    np.savez(tmp_path / "right.npz", **weights())
    code, lines, _ = run(capsys, left, tmp_path / "right.npz")
    assert code == 0
    assert lines == [
        f"left: {left}: 10 tensors, 336 elements, 0.0 MB",
        f"right: {tmp_path / 'right.npz'}: 10 tensors, 336 elements, 0.0 MB",
        "equal: 10 equal bit for bit",
    ]
    code, lines, _ = run(capsys, left, tmp_path / "right.npz", "--all")
    assert code == 0
    assert "equal blocks.3.proj.weight 1 6x6 float32 0.0e+00 0.0e+00" in lines


def test_a_new_head(capsys, save):
    left, right = save("left", weights()), save("right", weights() | {"head.weight": np.zeros((7, 6), np.float32)})
    code, lines, _ = run(capsys, left, right)
    assert code == 1
    assert lines[3:] == ["misshapen head.weight 1 3x6 -> 7x6 float32", "not equal: 1 misshapen, 9 equal bit for bit"]


def test_a_merged_update_is_one_row(capsys, save):
    merged = weights()
    for i in range(4):
        merged[f"blocks.{i}.qkv.weight"][i, 2] += 1 + i
    left, right = save("left", weights()), save("right", merged)
    code, lines, _ = run(capsys, left, right)
    assert code == 1
    assert re.fullmatch(
        r"differing blocks\.\{0-3\}\.qkv\.weight 4 6x6 float32 \S+ to \S+ 4\.0e\+00 \{3\}\[3, 2\] 4 of 144 elements",
        lines[3],
    )
    assert lines[4:] == ["not equal: 4 differing, 6 equal bit for bit"]
    code, lines, _ = run(capsys, left, right, "--all")
    rows = [line.split()[1] for line in lines if line.startswith("differing")]
    assert sorted(rows) == [f"blocks.{i}.qkv.weight" for i in range(4)]
    assert sum(line.startswith("equal ") for line in lines) == 6


def test_dropped_layers(capsys, save):
    code, lines, _ = run(capsys, save("left", weights(4)), save("right", weights(2)), "--match", "blocks.*.qkv.*")
    assert code == 1
    assert "4 of 10 tensors" in lines[0]
    assert lines[3].startswith("only left blocks.{2-3}.qkv.weight 2 6x6 float32")
    assert lines[-1] == "not equal: 2 only left, 2 equal bit for bit"


def test_a_copy_in_half_precision(capsys, save):
    half = {name: tensor.astype(np.float16) for name, tensor in weights().items()}
    left, right = save("left", weights()), save("right", half)
    code, lines, _ = run(capsys, left, right)
    assert code == 1
    assert lines[-1] == "not equal: 10 other type"
    assert all(line.endswith("left one rounded to float16") for line in lines[3:-1])
    worst = max(float(line.split("float16 ")[1].split()[0]) for line in lines[3:-1])
    code, lines, _ = run(capsys, left, right, "--tolerance", 2 * worst)
    assert code == 0
    assert lines[2:] == [f"equal: 10 within tolerance (at most {worst:.1e})"]


def test_training_checkpoints(capsys):
    folder = Path(__file__).parents[1] / "data" / "torch_files"
    training, plain = folder / "training.pt", folder / "weights.pt"
    code, lines, _ = run(capsys, training, folder / "training_legacy.pt")
    assert (code, lines[-1]) == (0, "equal: 19 equal bit for bit")
    assert lines[2].startswith("left: no tensors, not compared: ")
    assert "epoch" in lines[2]
    code, lines, _ = run(capsys, training, plain)
    assert code == 1
    assert lines[-1] == "9 names instead of 0 are on both sides with --left-prefix model.module. or model_ema."
    assert run(capsys, training, plain, "--left-prefix", "model.module.")[0] == 0
    assert run(capsys, training, plain, "--left-prefix", "model_ema.")[0] == 1
    code, lines, _ = run(capsys, training, training, "--left-prefix", "model.module.", "--right-prefix", "model_ema.")
    assert code == 1
    assert any(line.endswith("zeros on the right") for line in lines)


def test_names_of_another_prefix_meet_as_it_is_advised(capsys, save):
    wrapped = {f"state_dict.module.{name}": tensor for name, tensor in weights().items()} | {"step": np.array(3)}
    left, right = save("left", weights()), save("right", wrapped)
    for sides, flag in (((left, right), "--right-prefix"), ((right, left), "--left-prefix")):
        code, lines, _ = run(capsys, *sides)
        assert code == 1
        assert lines[-1] == f"10 names instead of 0 are on both sides with {flag} state_dict.module."
        code, lines, _ = run(capsys, *sides, *lines[-1].split(" with ")[1].split())
        assert code == 0
        assert any("10 of 11 tensors" in line for line in lines)
        assert lines[-1] == "equal: 10 equal bit for bit"
    assert run(capsys, right, right, "--prefix", "state_dict.")[0] == 0
    assert run(capsys, right, left, "--prefix", "state_dict.module.", "--right-prefix", "")[0] == 0


def test_renamed_tensors(capsys, save):
    other = {re.sub(r"^blocks\.(\d+)\.", r"layer/\1/", name): tensor for name, tensor in weights().items()}
    left, right = save("left", weights()), save("right", other | {"head.kernel": weights()["head.weight"]})
    assert run(capsys, left, right)[0] == 1
    rename = ("--rename", r"^blocks\.(\d+)\.", r"layer/\1/")
    code, lines, _ = run(capsys, left, right, *rename)
    assert (code, lines[-1]) == (1, "not equal: 1 only right, 10 equal bit for bit")
    code, lines, _ = run(capsys, left, right, *rename, "--rename", "head.weight", "head.kernel")
    assert lines[-1] == "not equal: 1 only right, 10 equal bit for bit"
    assert lines[3].startswith("only right head.weight")


def test_json_has_every_tensor(capsys, save, tmp_path):
    changed = weights()
    changed["pos_embed"][0, 1, 2] = np.nan
    left, right = save("left", weights()), save("right", changed | {"extra[red]": np.ones(2)})
    code, lines, _ = run(capsys, left, right, "--json", tmp_path / "out.json")
    assert code == 1
    assert any(line.startswith("only right extra[red] 1 2 float64") for line in lines)
    found = json.loads((tmp_path / "out.json").read_text())
    assert (found["equal"], found["left"], found["tolerance"]) == (False, str(left), None)
    assert found["counts"] == {"only right": 1, "differing": 1, "equal": 9}
    first, second = found["tensors"][:2]
    assert first == {"name": "extra[red]", "kind": "only right", "shapes": [None, [2]], "dtypes": [None, "float64"]}
    assert second["relative_l2"] is None
    assert (second["index"], second["count"], second["nan"]) == ([0, 1, 2], 1, [0, 1])


def test_one_file_is_listed(capsys, save, tmp_path):
    tensors = {"a[b]": np.array([1.0, 3.0, np.nan]), "n": np.array(7), "e": np.zeros((0, 2), np.float16)}
    code, lines, _ = run(capsys, save("x", tensors), "--json", tmp_path / "out.json")
    assert code == 0
    assert "a[b] float64 3 2 1 1" in lines
    assert "n int64 scalar 7 0" in lines
    assert "e float16 0x2 nan nan" in lines
    found = {one["name"]: one for one in json.loads((tmp_path / "out.json").read_text())["tensors"]}
    assert (found["a[b]"]["mean"], found["a[b]"]["nan"], found["e"]["mean"]) == (2, 1, None)
    code, lines, _ = run(capsys, tmp_path / "x", "--match", "a*")
    assert [line.split()[0] for line in lines[1:-1]] == ["a[b]"]


def test_many_different_names_are_cut(capsys, save):
    left = save("left", {f"{chr(97 + i // 26)}{chr(97 + i % 26)}": np.ones(1) for i in range(100)})
    right = save("right", {"other": np.ones(1)})
    code, lines, _ = run(capsys, left, right)
    assert code == 1
    assert "the first 40 of 101 rows; --all lists every tensor" in lines
    _, lines, _ = run(capsys, left, right, "--all")
    assert sum(line.startswith("only ") for line in lines) == 101


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--match", "blocks.9.*"), r"--match 'blocks\.9\.\*': no tensor has such a name"),
        (("--left-prefix", "modle."), r"left.*: got tensors under .*, expected some under modle\."),
        (("--tolerance", "-1"), r"tolerance: got -1\.0, expected a number from 0 on"),
        (("--tolerance", "nan"), r"tolerance: got nan, expected a number from 0 on"),
        (("--rename", "(", "x"), r"--rename '\(' 'x': missing \)"),
        (("--rename", "a", r"\7"), r"--rename 'a' .*: invalid group reference"),
        (("--rename", r"\d", ""), r"left: --rename: got 'blocks\.\.proj\.weight' for two tensors"),
        (("--json", "."), r"\.: .*is a directory, expected"),
    ],
)
def test_mistakes_are_one_line(capsys, save, options, message):
    code, lines, err = run(capsys, save("left", weights()), save("right", weights()), *options)
    assert (code, lines) == (2, [])
    assert re.search(message, err)
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_files_that_are_none(capsys, save, tmp_path):
    left = save("left", weights())
    (tmp_path / "text.bin").write_text("no tensors")
    for path in ("nowhere", "text.bin"):
        code, _, err = run(capsys, left, tmp_path / path)
        assert code == 2
        assert err.startswith("error: ")
        assert str(tmp_path / path) in err
    code, _, err = run(capsys, left, save("empty", {}))
    assert code == 2
    assert "got a file without tensors" in err


@pytest.mark.parametrize("options", [("--tolerance", "0"), ("--right-prefix", "x")])
def test_what_needs_two_files(capsys, save, options):
    code, _, err = run(capsys, save("left", weights()), *options)
    assert code == 2
    assert err == f"error: {options[0]}: compares, so name two files\n"
