"""What a user sees of what went wrong: one line on standard error and an exit code, in every command."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from .common import escaped, print_rich

# What the shell's own programs exit with after Ctrl-C.
INTERRUPTED = 130
WRONG = 2
# Packages that may be absent, and the extra that has each.
EXTRAS = {
    **dict.fromkeys(("jax", "jaxlib", "flax", "optax", "orbax", "tensorboardX"), "jax"),
    "torch": "torch",
    **dict.fromkeys(("grain", "importlib_resources", "PIL", "sklearn", "tensorflow_datasets"), "data"),
    "huggingface_hub": "hub",
    "matplotlib": "plot",
}


@contextmanager
def one_line() -> Iterator[None]:
    """Exits with a line instead of a traceback for what a user, the disk or an absent package is to blame for.

    What is left is a mistake of ours, or in code that a user pointed at, and keeps its traceback.
    """
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read our output has had enough of it, as `head` has; Python would complain at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(WRONG)
    except KeyboardInterrupt:
        _say("interrupted")
        sys.exit(INTERRUPTED)
    except (ValueError, OSError, MemoryError) as error:
        _say(_described(error))
        sys.exit(WRONG)
    except ImportError as error:
        if (text := _missing(error)) is None:
            raise
        _say(text)
        sys.exit(WRONG)


def _say(text: str) -> None:
    print_rich(f"[bold red]error[/]: {escaped(text)}", stderr=True)


def _described(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return f"out of memory: {error}".removesuffix(": ")
    if isinstance(error, OSError) and error.strerror:
        paths = [str(path) for path in (error.filename, error.filename2) if path is not None]
        return ": ".join([*([" -> ".join(paths)] if paths else []), error.strerror])
    return str(error)


def _missing(error: ImportError) -> str | None:
    """What to install; None where nothing is missing but a name in code."""
    package = (error.name or "").partition(".")[0]
    if "vit-parity[" in str(error):
        return str(error)
    if package in EXTRAS:
        return f"this needs {package}, which isn't installed: pip install 'vit-parity[{EXTRAS[package]}]'"
    return str(error) if isinstance(error, ModuleNotFoundError) else None
