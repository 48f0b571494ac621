"""Converting and loading a file of over a billion parameters: seconds, GB/s against a plain copy, peak memory.

    python -m benchmarks.convert_large [--peers-python PEERS/bin/python] [--directory DIR]

Writes a native checkpoint of random numbers (4 GB for the default model, ViT-g/14), runs each case in a process of its
own, and prints a Markdown table. Up to 12 GB of disk, and of memory for the page cache, are used and freed at the end.

The files are in the page cache when they are read, so what is compared is the work on the numbers and not the disk; a
load ends when every number has been read once, since numbers that are still in a mapped file haven't been loaded.
Memory is the largest resident set of the process (`getrusage`); `added` is what it grew by after its imports.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

MODEL = "vit_giant_patch14_224"
GB = 1000**3


def copy(source: Path, target: Path) -> Callable[[], Any]:
    return lambda: shutil.copyfile(source / "model.safetensors", target)


def write(source: Path, target: Path) -> Callable[[], Any]:
    import numpy as np

    from parity import checkpoints, configs
    from parity.checkpoints import Tensors

    config = configs.get(MODEL)

    class Random(Tensors):
        """Made one by one."""

        path = target
        rng = np.random.default_rng(0)

        def __getitem__(self, name: str) -> np.ndarray:
            return self.rng.random(self.shapes()[name], np.float32)

        def __iter__(self) -> Iterator[str]:
            return iter(self.shapes())

        def __len__(self) -> int:
            return len(self.shapes())

        def shapes(self) -> dict[str, tuple[int, ...]]:
            return checkpoints.parameter_shapes(config)

        def dtypes(self) -> dict[str, np.dtype]:
            return dict.fromkeys(self.shapes(), np.dtype(np.float32))

    return lambda: checkpoints.write(target, config, Random(), name=MODEL)


def convert(to: str) -> Callable[[Path, Path], Callable[[], Any]]:
    def prepare(source: Path, target: Path) -> Callable[[], Any]:
        from parity import checkpoints

        return lambda: checkpoints.convert(source, target, to=to)

    return prepare


def load_torch(source: Path, target: Path) -> Callable[[], Any]:
    import vit_torch

    return lambda: read_once(parameter.numpy(force=True) for parameter in vit_torch.load(source).parameters())


def load_jax(source: Path, target: Path) -> Callable[[], Any]:
    import jax
    from flax import nnx

    import vit_jax

    jax.devices()
    return lambda: read_once(shards(jax.tree.leaves(nnx.state(vit_jax.load(source)))))


def load_mesh(source: Path, target: Path) -> Callable[[], Any]:
    import jax
    from flax import nnx

    import vit_jax
    from vit_jax.sharding import make_mesh

    jax.config.update("jax_num_cpu_devices", 8)
    mesh = make_mesh(data=1, fsdp=8)
    return lambda: read_once(shards(jax.tree.leaves(nnx.state(vit_jax.load(source, mesh=mesh)))))


def load_timm(source: Path, target: Path) -> Callable[[], Any]:
    import timm

    def load():
        model = timm.create_model(f"local-dir:{source}", pretrained=True)
        read_once(parameter.numpy(force=True) for parameter in model.parameters())

    return load


def load_transformers(source: Path, target: Path) -> Callable[[], Any]:
    from transformers import ViTForImageClassification

    def load():
        model = ViTForImageClassification.from_pretrained(source)
        read_once(parameter.numpy(force=True) for parameter in model.parameters())

    return load


def shards(arrays: Iterable[Any]) -> Iterator[Any]:
    """What each device holds of JAX arrays."""
    import numpy as np

    return (np.asarray(shard.data) for array in arrays for shard in array.addressable_shards)


def read_once(arrays: Iterable[Any]) -> float:
    """Reads every number: a model whose numbers are still in a mapped file has not been loaded."""
    return sum(float(array.max()) for array in arrays)


# What is printed, the function, which file it reads, and which file it leaves for others.
CASES: dict[str, tuple[str, Callable[[Path, Path], Callable[[], Any]], str, str]] = {
    "write": ("write a native file, random numbers", write, "", "native"),
    "copy": ("plain copy of the file", copy, "native", "copy"),
    "torch": ("`vit_torch.load`", load_torch, "native", ""),
    "jax": ("`vit_jax.load`", load_jax, "native", ""),
    "mesh": ("`vit_jax.load`, 8 CPU devices, fsdp=8", load_mesh, "native", ""),
    "to_timm": ("convert native to timm", convert("timm"), "native", "timm"),
    "timm": ("timm `create_model`, its file", load_timm, "timm", ""),
    "to_huggingface": ("convert native to Hugging Face (splits qkv)", convert("huggingface"), "native", "huggingface"),
    "transformers": ("transformers `from_pretrained`, its file", load_transformers, "huggingface", ""),
    "from_huggingface": ("convert Hugging Face to native (joins qkv)", convert("native"), "huggingface", "again"),
}
PEERS = ("timm", "transformers")


def child(name: str, directory: Path) -> None:
    """Runs one case in this process and prints what it took."""
    _, prepare, source, target = CASES[name]
    run = prepare(directory / source, directory / (target or "nothing"))
    before = peak()
    started, processor = time.perf_counter(), time.process_time()
    run()
    seconds, processor = time.perf_counter() - started, time.process_time() - processor
    print(json.dumps({"seconds": seconds, "cpu": processor, "peak": peak(), "added": peak() - before}))


def peak() -> int:
    """Largest resident set so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(name: str, directory: Path, python: str) -> dict[str, float]:
    command = [python, __file__, "--child", name, "--directory", str(directory)]
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "HF_HUB_OFFLINE": "1"}
    os.sync()  # else a case would wait for the disk to take the file of the one before
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(f"{name} failed\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def compare(directory: Path, peers_python: str | None) -> None:
    results: dict[str, dict[str, float]] = {}
    for number, (name, (label, *_)) in enumerate(CASES.items()):
        if name in PEERS and peers_python is None:
            continue
        python = peers_python if name in PEERS and peers_python else sys.executable
        results[name] = measure(name, directory, python)
        print(f"{label}: {results[name]['seconds']:.1f} s", file=sys.stderr)
        needed = {"native", *(source for _, _, source, _ in list(CASES.values())[number + 1 :])}
        for path in directory.iterdir():
            if path.name not in needed:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    size = sum(file.stat().st_size for file in (directory / "native").glob("*.safetensors"))
    print(f"{size / GB:.2f} GB, {os.cpu_count()} CPU cores\n")
    print("| | seconds | CPU seconds | GB/s | times the copy | peak MiB | added MiB |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name, result in results.items():
        speed, ratio = size / GB / result["seconds"], result["seconds"] / results["copy"]["seconds"]
        memory = f"{result['peak'] / 2**20:.0f} | {result['added'] / 2**20:.0f}"
        times = f"{result['seconds']:.1f} | {result['cpu']:.1f} | {speed:.2f} | {ratio:.1f}"
        print(f"| {CASES[name][0]} | {times} | {memory} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers-python", help="an interpreter that has timm and transformers")
    parser.add_argument("--directory", type=Path, help="where the files go; a temporary directory by default")
    parser.add_argument("--child", choices=CASES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child, arguments.directory)
        return
    with tempfile.TemporaryDirectory(dir=arguments.directory) as directory:
        compare(Path(directory), arguments.peers_python)


if __name__ == "__main__":
    main()
