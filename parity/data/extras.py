"""Packages of the `data` extra, imported when they are first needed: numpy alone is enough for `import parity.data`."""

from __future__ import annotations

import importlib
from typing import Any


def require(module: str) -> Any:
    """Imports a module of the `data` extra.

    Args:
        module: Its dotted name, such as `tensorflow_datasets`.

    Returns:
        The module.

    Raises:
        ModuleNotFoundError: If its package isn't installed; the message says how to install it.
    """
    package = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != package:
            raise
        raise ModuleNotFoundError(
            f"reading data needs {package}, which isn't installed: pip install 'vit-parity[data]'", name=package
        ) from error
