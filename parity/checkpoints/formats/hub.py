"""Checkpoints from the Hugging Face Hub, through huggingface_hub: its cache, progress bars, tokens and offline mode.

`HF_ENDPOINT`, `HF_HOME`, `HF_TOKEN` and `HF_HUB_OFFLINE` mean what huggingface_hub's documentation says.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from ..accounting import CheckpointError, cut
from . import meta, microsoft, open_clip, torchvision

PREFIX = "hf-hub:"

_DOCUMENTS = (
    "config.json",
    "preprocessor_config.json",
    "processor_config.json",
    open_clip.DOCUMENT,
    torchvision.DOCUMENT,
    meta.DOCUMENT,
    microsoft.DOCUMENT,
)
# The files of one checkpoint's weights, the best first: a repository often holds the same ones several times. The first
# name decides whether they are there. open_clip's come last, since beside them a `config.json` says something else.
_WEIGHTS = (
    ("model.safetensors",),
    ("model.safetensors.index.json", "model-*-of-*.safetensors"),
    ("pytorch_model.bin",),
    ("pytorch_model.bin.index.json", "pytorch_model-*-of-*.bin"),
    ("flax_model.msgpack",),
    ("flax_model.msgpack.index.json", "flax_model-*-of-*.msgpack"),
    ("open_clip_model.safetensors",),
    ("open_clip_pytorch_model.safetensors",),
    ("open_clip_pytorch_model.bin",),
)
# Where there is none of them: one file of weights, which is opened by itself.
_LONE = ("*.safetensors", "*.npz", "*.pth", "*.pt", "*.bin", "*.msgpack")


def download(name: str, *, local_files_only: bool = False) -> Path:
    """Downloads what one checkpoint needs, or finds it in the cache.

    Args:
        name: `hf-hub:owner/name`, or `hf-hub:owner/name@revision` with a branch, tag or commit.
        local_files_only: Don't ask the network; `HF_HUB_OFFLINE=1` means the same.

    Returns:
        The directory, or the file where a repository has nothing but one file of weights.

    Raises:
        CheckpointError: huggingface_hub isn't installed; no such repository or revision; no access; the network fails
            and the cache has it not; no file of weights. Says which, and what to do.
    """
    repository, _, revision = name.removeprefix(PREFIX).partition("@")
    try:
        hub = importlib.import_module("huggingface_hub")
        importlib.import_module("huggingface_hub.constants")
        importlib.import_module("huggingface_hub.errors")
    except ImportError:
        raise CheckpointError(f"{name}: needs huggingface_hub: pip install 'vit-parity[hub]'") from None
    with _explained(name, repository, revision, hub):
        files = None if local_files_only else _remote_files(hub, repository, revision or None)
        if files is not None:
            lone, wanted = _choose(name, files)
            folder = hub.snapshot_download(repository, revision=revision or None, allow_patterns=wanted)
        else:
            # Nothing but the documents is asked for: which weights there are is then seen in the directory.
            folder = hub.snapshot_download(
                repository, revision=revision or None, allow_patterns=list(_DOCUMENTS), local_files_only=True
            )
            lone, wanted = _choose(name, [file.name for file in Path(folder).iterdir()])
    return Path(folder, wanted[0]) if lone else Path(folder)


def _remote_files(hub: Any, repository: str, revision: str | None) -> list[str] | None:
    """Names of all files of a repository; None where the network fails, so that the cache has to do."""
    try:
        return [file.rfilename for file in hub.HfApi().model_info(repository, revision=revision).siblings or ()]
    except Exception as error:
        if isinstance(error, hub.errors.HFValidationError) or _status(error) in range(400, 500):
            raise
        return None


def _choose(name: str, files: Iterable[str]) -> tuple[bool, list[str]]:
    """The files of one checkpoint, and whether it is a lone file."""
    files = sorted(file for file in files if "/" not in file)
    for weights in _WEIGHTS:
        if weights[0] in files:
            return False, [file for file in files if any(fnmatch(file, wanted) for wanted in (*weights, *_DOCUMENTS))]
    for pattern in _LONE:
        found = [file for file in files if fnmatch(file, pattern)]
        if len(found) > 1:
            raise CheckpointError(f"{name}: several files of weights and none of the usual names: {cut(found)}")
        if found:
            return True, found
    expected = ", ".join(weights[0] for weights in _WEIGHTS)
    raise CheckpointError(
        f"{name}: no weights: found {cut(files) or 'nothing'}; expected one of {expected}, or one .npz or .pth"
    )


@contextmanager
def _explained(name: str, repository: str, revision: str, hub: Any) -> Iterator[None]:
    """Turns what huggingface_hub raises into one sentence that says what to do."""
    endpoint, errors = hub.constants.ENDPOINT, hub.errors
    login = "log in with `hf auth login` or set HF_TOKEN"
    try:
        yield
    except CheckpointError:
        raise
    except errors.HFValidationError:
        raise CheckpointError(f"{name}: expected {PREFIX}owner/name or {PREFIX}owner/name@revision") from None
    except errors.GatedRepoError:
        message = f"{name}: gated: accept its terms at {endpoint}/{repository} and {login}"
        raise CheckpointError(message) from None
    except errors.RepositoryNotFoundError:
        message = f"{name}: no repository {repository!r} at {endpoint}; if it is private, {login}"
        raise CheckpointError(message) from None
    except errors.RevisionNotFoundError:
        raise CheckpointError(f"{name}: {repository} has no revision {revision!r}") from None
    except errors.LocalEntryNotFoundError as error:
        if hub.constants.HF_HUB_OFFLINE:
            reason = "HF_HUB_OFFLINE is set"
        else:
            reason = f"{endpoint} can't be reached, or didn't answer"
        message = f"{name}: not whole in the cache ({hub.constants.HF_HUB_CACHE}), and {reason}"
        raise CheckpointError(message) from error
    except Exception as error:  # of whichever HTTP library this version of huggingface_hub has, or of the disk
        if _status(error) in (401, 403):
            raise CheckpointError(f"{name}: no access ({_status(error)}): {login}") from None
        raise CheckpointError(f"{name}: the download broke off, try again: {error}") from error


def _status(error: BaseException | None) -> int | None:
    """The HTTP status behind an error, if it comes from one."""
    while error is not None:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status is not None:
            return status
        error = error.__cause__
    return None
