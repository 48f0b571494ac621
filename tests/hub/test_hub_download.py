"""`hf-hub:owner/name` against a local server, with huggingface_hub's own download code in a process of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hub_server import COMMIT, Hub, serve
from hub_worker import digest

from parity import checkpoints, configs
from parity.checks.parameters import random_parameters

NAME = "hf-hub:somebody/vit"
WORKER = Path(__file__).parent / "hub_worker.py"


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> tuple[dict[str, bytes], dict[str, np.ndarray]]:
    """The files of a small checkpoint, and its tensors."""
    directory = tmp_path_factory.mktemp("written") / "model"
    config = configs.get("vit_test")
    shapes = checkpoints.parameter_shapes(config)
    tensors = {name: value.astype(np.float32) for name, value in random_parameters(shapes).items()}
    checkpoints.write(directory, config, tensors, name="vit_test")
    return {file.name: file.read_bytes() for file in directory.iterdir()}, tensors


@pytest.fixture
def repository(written) -> dict[str, bytes]:
    """What else is in a repository: the same weights once more, and files that nobody here reads."""
    other = {"pytorch_model.bin": b"the same weights", "README.md": b"", "onnx/model.safetensors": b"", "tf.h5": b""}
    return {**written[0], **other}


def run(home: Path, endpoint: str, *commands: str, **environment: str) -> list[dict[str, object]]:
    """What the worker says to each command."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    settings = {"HF_HOME": str(home), "HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_TELEMETRY": "1", **environment}
    process = subprocess.run(
        [sys.executable, str(WORKER), *commands],
        env=inherited | settings,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    return [json.loads(line) for line in process.stdout.splitlines()]


def test_both_load_what_only_once_is_downloaded(tmp_path, repository, written):
    with serve(Hub({"somebody/vit": repository})) as hub:
        results = run(tmp_path, hub.endpoint, "jax", NAME, "torch", NAME, "info", f"{NAME}@{COMMIT}")
        assert results == [{"result": digest(written[1])}] * 3
        # Neither the other copy of the weights nor what isn't read; and each file once, for three loads.
        assert hub.downloaded() == ["config.json", "model.safetensors"]
        assert sum("GET" in line and "/resolve/" in line for line in hub.requests) == 2
    # The server is gone; then huggingface_hub is told so.
    for settings in ({}, {"HF_HUB_OFFLINE": "1"}):
        assert run(tmp_path, hub.endpoint, "info", NAME, **settings) == results[:1]
    (result,) = run(tmp_path / "empty", hub.endpoint, "info", NAME)
    assert re.search(rf"^{NAME}: not whole in the cache \(.*\), and {hub.endpoint} can't be reached", result["error"])
    (result,) = run(tmp_path / "empty", hub.endpoint, "info", NAME, HF_HUB_OFFLINE="1")
    assert re.search(rf"^{NAME}: not whole in the cache \(.*\), and HF_HUB_OFFLINE is set$", result["error"])


def test_a_broken_download_says_so_and_the_next_one_succeeds(tmp_path, repository, written):
    with serve(Hub({"somebody/vit": repository}, break_off={"model.safetensors"})) as hub:
        (result,) = run(tmp_path, hub.endpoint, "info", NAME)
        assert result["error"].startswith(f"{NAME}: the download broke off, try again: ")
        # What there is of it isn't taken for a checkpoint.
        (result,) = run(tmp_path, hub.endpoint, "info", NAME, HF_HUB_OFFLINE="1")
        assert "no weights: found config.json" in result["error"]
        hub.break_off.clear()
        assert run(tmp_path, hub.endpoint, "info", NAME) == [{"result": digest(written[1])}]


def test_errors_say_what_to_do(tmp_path, repository):
    served = {"somebody/vit": repository, "somebody/gated": repository, "somebody/private": repository}
    several = {"a.npz": b"", "b.npz": b"", "config.json": b"{}"}
    served |= {"somebody/empty": {"README.md": b"", "notes.txt": b""}, "somebody/several": several}
    asked = {
        "hf-hub:somebody/nothing": r"no repository 'somebody/nothing' at {endpoint}; if it is private, log in with",
        "hf-hub:somebody/private": r"no repository 'somebody/private' at {endpoint}; if it is private, log in with",
        f"{NAME}@v7": r"somebody/vit has no revision 'v7'$",
        "hf-hub:somebody/gated": r"gated: accept its terms at {endpoint}/somebody/gated and log in with",
        "hf-hub:somebody/empty": r"no weights: found README\.md, notes\.txt; expected one of model\.safetensors, ",
        "hf-hub:somebody/several": r"several files of weights and none of the usual names: a\.npz, b\.npz$",
        "hf-hub:some/body/vit": r"expected hf-hub:owner/name or hf-hub:owner/name@revision$",
        "hf-hub:": r"expected hf-hub:owner/name or hf-hub:owner/name@revision$",
    }
    with serve(Hub(served, gated={"somebody/gated"}, private={"somebody/private"})) as hub:
        commands = [word for name in asked for word in ("info", name)]
        for (name, pattern), result in zip(asked.items(), run(tmp_path, hub.endpoint, *commands), strict=True):
            expected = re.escape(name) + ": " + pattern.format(endpoint=hub.endpoint)
            assert re.match(expected, result["error"]), (expected, result)


def test_which_files_are_chosen(tmp_path):
    index, shards = b"{}", {f"-0000{i}-of-00002": b"" for i in (1, 2)}
    safetensors = {f"model{shard}.safetensors": data for shard, data in shards.items()}
    bins = {f"pytorch_model{shard}.bin": data for shard, data in shards.items()}
    documents = {"config.json": b"{}", "preprocessor_config.json": b"{}"}
    cases = {
        "sharded": (
            {**documents, "model.safetensors.index.json": index, **safetensors, "pytorch_model.bin": b"", **bins},
            [*documents, "model.safetensors.index.json", *safetensors],
        ),
        "old": ({**documents, "pytorch_model.bin": b"", "flax_model.msgpack": b""}, [*documents, "pytorch_model.bin"]),
        "old-sharded": (
            {"pytorch_model.bin.index.json": index, **bins},
            ["pytorch_model.bin.index.json", *bins],
        ),
        "open-clip": (
            {"open_clip_config.json": b"{}", "open_clip_model.safetensors": b"", "open_clip_pytorch_model.bin": b""},
            ["open_clip_config.json", "open_clip_model.safetensors"],
        ),
        "google": ({"README.md": b"", "ViT-B_16.npz": b""}, ["ViT-B_16.npz"]),
        "named": ({"eva02.safetensors": b"", "eva02.pth": b""}, ["eva02.safetensors"]),
    }
    with serve(Hub({f"somebody/{name}": files for name, (files, _) in cases.items()})) as hub:
        commands = [word for name in cases for word in ("path", f"hf-hub:somebody/{name}")]
        results = run(tmp_path, hub.endpoint, *commands)
        again = run(tmp_path, hub.endpoint, *commands, HF_HUB_OFFLINE="1")
    assert results == [{"result": sorted(expected)} for _, expected in cases.values()]
    assert again == results


def test_the_package_may_be_missing(tmp_path):
    (tmp_path / "huggingface_hub.py").write_text("raise ImportError('not installed')\n")
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    (result,) = run(tmp_path, "http://127.0.0.1:9", "info", NAME, PYTHONPATH=path)
    assert result == {"error": f"{NAME}: needs huggingface_hub: pip install 'vit-parity[hub]'"}
