"""parity.data is light, and says what to install."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("jax", "torch", "grain", "tensorflow_datasets", "sklearn", "PIL")


def _loaded_by(statement: str) -> str:
    code = f"import sys\n{statement}\nprint(sorted(set({HEAVY!r}) & set(sys.modules)))"
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def test_import_loads_numpy_only():
    assert _loaded_by("import parity.data") == "[]"


def test_that_test_can_fail():
    pytest.importorskip("PIL")
    assert _loaded_by("import parity.data, PIL.Image") == "['PIL']"


@pytest.mark.parametrize("package", ["grain", "tensorflow_datasets", "sklearn", "PIL"])
def test_missing_package_names_the_extra(package, monkeypatch):
    from parity.data.extras import require

    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModuleNotFoundError, match=rf"{package}.*pip install 'vit-parity\[data\]'"):
        require(package)


def test_a_package_that_is_broken_inside_is_not_called_missing(tmp_path, monkeypatch):
    from parity.data.extras import require

    (tmp_path / "broken_inside.py").write_text("import no_such_module_at_all\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match=r"^No module named 'no_such_module_at_all'$"):
        require("broken_inside")
