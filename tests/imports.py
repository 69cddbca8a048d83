"""Modules that are no part of a package, and packages that are made to be missing."""

from __future__ import annotations

import builtins
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


def load_script(path: str) -> ModuleType:
    """The script of this path below the project, as a module that nobody else imports."""
    spec = importlib.util.spec_from_file_location(f"script_{Path(path).stem}", ROOT / path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextmanager
def loaded_scripts(folder: str, *names: str) -> Iterator[dict[str, ModuleType]]:
    """Modules of scripts in `folder`, by name, of which later ones may import earlier ones. Forgotten at the end."""
    modules: dict[str, ModuleType] = {}
    try:
        for name in names:
            spec = importlib.util.spec_from_file_location(name, ROOT / folder / f"{name}.py")
            assert spec is not None and spec.loader is not None
            modules[name] = sys.modules[name] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(modules[name])
        yield modules
    finally:
        for name in modules:
            del sys.modules[name]


def hide_package(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    """Let every import of a package, or of a part of it, fail as if it was not installed."""
    real = builtins.__import__

    def missing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == package:
            raise ModuleNotFoundError(f"No module named {package!r}", name=package)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
