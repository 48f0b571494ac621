"""Writing: the library's own bytes, one tensor in memory at a time, and whole or not at all."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tracemalloc
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from parity import outputs
from parity.checkpoints import CheckpointError, Tensors, open_tensors, write_tensors
from parity.checkpoints.containers.files import Directory, write_directory
from parity.compare import not_identical


def test_the_bytes_are_the_library_s(tmp_path, tensors):
    write_tensors(tmp_path, tensors)
    safetensors.numpy.save_file(tensors, tmp_path / "library.safetensors", metadata={"format": "pt"})
    assert (tmp_path / "model.safetensors").read_bytes() == (tmp_path / "library.safetensors").read_bytes()
    write_tensors(tmp_path, dict(reversed(tensors.items())))
    assert (tmp_path / "model.safetensors").read_bytes() == (tmp_path / "library.safetensors").read_bytes()


def test_the_library_reads_shards(tmp_path, tensors):
    write_tensors(tmp_path, tensors, shard_bytes=100)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    files = sorted(set(index["weight_map"].values()))
    assert index["metadata"]["total_size"] == sum(value.nbytes for value in tensors.values())
    assert files == sorted(file.name for file in tmp_path.glob("*.safetensors"))
    found: dict[str, np.ndarray] = {}
    for file in files:
        shard = safetensors.numpy.load_file(tmp_path / file)
        assert sum(value.nbytes for value in shard.values()) <= 100 or len(shard) == 1
        assert all(index["weight_map"][name] == file for name in shard)
        found |= shard
    assert not_identical(found, tensors) == ()


# Whatever a directory holds may be replaced.
ANY = Directory(documents=("config.json",), is_ours=lambda path: True)


class Made(Tensors):
    """Tensors that are made when they are asked for, as large as wanted."""

    path = Path("made")

    def __init__(self, count: int, size: int):
        self.count, self.size = count, size
        self.last = -1

    def __getitem__(self, name: str) -> np.ndarray:
        self.last = int(name)
        return np.full(self.size, float(name), np.float32)

    def __iter__(self):
        return map("{:04}".format, range(self.count))

    def __len__(self) -> int:
        return self.count

    def shapes(self):
        return dict.fromkeys(self, (self.size,))

    def dtypes(self):
        return dict.fromkeys(self, np.dtype(np.float32))


def test_one_tensor_is_in_memory_at_a_time(tmp_path):
    made = Made(50, 100_000)
    seen = []
    tracemalloc.start()
    try:
        write_tensors(tmp_path, made, progress=lambda done, total: seen.append((done, total)))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # One that is written while the next isn't made yet, of fifty.
    assert peak < 2.5 * 400_000
    assert seen == [(400_000 * done, 20_000_000) for done in range(1, 51)]
    assert np.array_equal(open_tensors(tmp_path)["0049"], made["0049"])


class Lying(Made):
    def shapes(self):
        return dict.fromkeys(self, (self.size + 1,))


class Failing(Made):
    def __getitem__(self, name: str) -> np.ndarray:
        if name == "0003":
            raise CheckpointError("the source: tensor 0003 can't be read")
        return super().__getitem__(name)


@pytest.mark.parametrize("tensors", [Failing(5, 10), Lying(5, 10), {"0003": np.zeros(3, "M8[s]")}])
def test_an_error_in_the_middle_leaves_what_was_there(tmp_path, tensors: Mapping[str, np.ndarray]):
    target = tmp_path / "model"
    write_directory(target, ANY, {"a": np.ones(3)}, {"config.json": 1})
    with pytest.raises(CheckpointError, match=r"tensor 000[03]"):
        write_directory(target, ANY, tensors, {"config.json": 2})
    with pytest.raises(CheckpointError):
        write_directory(tmp_path / "new", ANY, tensors, {"config.json": 2})
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert json.loads((target / "config.json").read_text()) == 1
    assert set(open_tensors(target)) == {"a"}


KILLED = """
import sys
from pathlib import Path
import numpy as np
sys.path.insert(0, {tests!r})
from test_containers_writing import ANY, Made
from parity.checkpoints.containers.files import write_directory

class Hanging(Made):
    def __getitem__(self, name):
        if name == "0030":
            print("hanging", flush=True)
            sys.stdin.read()
        return super().__getitem__(name)

write_directory(Path({target!r}), ANY, Hanging(50, 100_000), {{"config.json": 2}})
"""


def test_sigkill_leaves_what_was_there(tmp_path):
    target = tmp_path / "model"
    write_directory(target, ANY, {"a": np.ones(3)}, {"config.json": 1})
    code = KILLED.format(tests=str(Path(__file__).parent), target=str(target))
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code], env=os.environ, **pipes) as process:
        assert process.stdout.readline() == "hanging\n"
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert sorted(path.name for path in target.iterdir()) == ["config.json", "model.safetensors"]
    assert json.loads((target / "config.json").read_text()) == 1
    assert set(open_tensors(target)) == {"a"}
    # Something was being written, beside the target; the next one names it, and leaves it.
    (left,) = outputs.leftovers(target)
    with pytest.warns(outputs.LeftoverWarning, match=rf"model: left by .*: {left}; remove it if nothing writes there"):
        write_directory(target, ANY, {"b": np.ones(3)}, {"config.json": 2})
    assert set(open_tensors(target)) == {"b"}
    assert sorted(path.name for path in tmp_path.iterdir()) == [left.name, "model"]
