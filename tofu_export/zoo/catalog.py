"""Specs of the supported timm models, measured in advance, so that a plan needs neither torch nor timm.

The catalogue holds for one timm version; with another one installed it is not used. `make catalog` measures all models
again (`tofu_export.zoo.survey`) and writes it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, astuple
from fnmatch import fnmatchcase
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from itertools import groupby
from typing import Any

from tofu_export.planning.plan import BlockCost, ModelSpec

__all__ = ["FILE_NAME", "find", "names", "others", "search", "timm_version", "to_entry"]

FILE_NAME = "catalog.json"


def find(name: str) -> ModelSpec | None:
    """Return the spec of a model at its own image size and class count, None if not in the catalogue."""
    entry = _entries().get(name)
    return None if entry is None else _from_entry(name, entry)


def names() -> tuple[str, ...]:
    """Return the models in the catalogue; none if another timm is installed."""
    return tuple(_entries())


def others() -> tuple[str, ...]:
    """Return all other architectures of timm, which cannot be reduced; none if another timm is installed."""
    return tuple(_document()["others"]) if _entries() else ()


def search(text: str, among: Iterable[str] | None = None) -> tuple[str, ...]:
    """Return names, by default of the catalogue, that contain `text` or match its wildcards (`*`, `?`, `[...]`)."""
    text = text.strip().lower()
    pattern = text if any(letter in text for letter in "*?[") else f"*{text}*"
    return tuple(name for name in (names() if among is None else among) if fnmatchcase(name.lower(), pattern))


def timm_version() -> str:
    """Return the timm version that the catalogue holds for."""
    return str(_document()["timm"])


@cache
def _document() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(files("tofu_export.zoo").joinpath(FILE_NAME).read_text(encoding="utf-8"))
    return document


@cache
def _entries() -> dict[str, dict[str, Any]]:
    try:
        current = version("timm") == timm_version()
    except PackageNotFoundError:
        current = False
    models: dict[str, dict[str, Any]] = _document()["models"]
    return models if current else {}


def _from_entry(name: str, entry: dict[str, Any]) -> ModelSpec:
    blocks = tuple(BlockCost(*cost) for *cost, count in entry["blocks"] for _ in range(count))
    return ModelSpec(name=name, **{**entry, "image_size": tuple(entry["image_size"]), "blocks": blocks})


def to_entry(spec: ModelSpec) -> dict[str, Any]:
    """Convert a spec to JSON; equal blocks in a row are one list that ends with their number."""
    runs = [[*astuple(cost), len(list(group))] for cost, group in groupby(spec.blocks)]
    entry = {**asdict(spec), "image_size": list(spec.image_size), "blocks": runs}
    del entry["name"]
    return entry
