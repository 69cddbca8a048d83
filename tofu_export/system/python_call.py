"""Calls of the Python API as text that can be pasted, for reports."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import tofu_export

__all__ = ["Name", "python_call"]

_PACKAGE = "tofu_export"


class Name(str):
    """Variable of the calling program, written as it is."""

    def __repr__(self) -> str:
        """Return the name without quotes."""
        return str(self)


def python_call(function: str, *arguments: object, **options: object) -> str:
    """Return a program that calls a public function of this package with these arguments.

    Args:
        function: name of the function in `tofu_export`.
        *arguments: positional arguments; None at the end is left out.
        **options: keyword arguments.

    Returns:
        Imports, an empty line, and the call. Values are written as their constructors take them, without fields that
        have their default.
    """
    modules: set[tuple[str, str]] = set()
    given = list(arguments)
    while given and given[-1] is None:
        given.pop()
    texts = [_text(value, modules) for value in given]
    texts += [f"{name}={_text(value, modules)}" for name, value in options.items()]
    imports = [f"import {_PACKAGE}", *(f"from {module} import {name}" for module, name in sorted(modules))]
    return "\n".join([*imports, "", f"{_PACKAGE}.{function}({', '.join(texts)})"])


def _text(value: object, modules: set[tuple[str, str]]) -> str:
    """Return a value as an expression; the types that it needs are added to `modules`, with their names."""
    if isinstance(value, Enum):
        return f"{_type(type(value), modules)}.{value.name}"
    if isinstance(value, Path):
        return repr(str(value))
    if isinstance(value, Mapping):
        rows = (f"{_text(key, modules)}: {_text(entry, modules)}" for key, entry in value.items())
        return f"{{{', '.join(rows)}}}"
    if isinstance(value, tuple):
        return f"({_joined(value, modules)}{',' * (len(value) == 1)})"
    if isinstance(value, list):
        return f"[{_joined(value, modules)}]"
    if is_dataclass(value) and not isinstance(value, type):
        changed = [field for field in fields(value) if field.init and getattr(value, field.name) != _default(field)]
        rows = (f"{field.name}={_text(getattr(value, field.name), modules)}" for field in changed)
        return f"{_type(type(value), modules)}({', '.join(rows)})"
    return repr(value)


def _joined(values: Iterable[object], modules: set[tuple[str, str]]) -> str:
    return ", ".join(_text(value, modules) for value in values)


def _type(kind: type, modules: set[tuple[str, str]]) -> str:
    if kind.__name__ in tofu_export.__all__:
        return f"{_PACKAGE}.{kind.__name__}"
    modules.add((kind.__module__, kind.__name__))
    return kind.__name__


def _default(field: Field[Any]) -> object:
    return field.default if field.default_factory is MISSING else field.default_factory()
