"""Specs of the supported timm models, measured in advance, so that a plan needs neither torch nor timm.

The catalogue holds for one timm version; with another one installed it is not used. `make catalog` measures all models
again (`tofu_export.zoo.survey`) and writes it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass, replace
from fnmatch import fnmatchcase
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from itertools import groupby

from tofu_export.planning.plan import BlockCost, ModelSpec
from tofu_export.system.typed_json import JsonObject, from_plain, to_object

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
    return _document().others if _entries() else ()


def search(text: str, among: Iterable[str] | None = None) -> tuple[str, ...]:
    """Return names, by default of the catalogue, that contain `text` or match its wildcards (`*`, `?`, `[...]`)."""
    text = text.strip().lower()
    pattern = text if any(letter in text for letter in "*?[") else f"*{text}*"
    return tuple(name for name in (names() if among is None else among) if fnmatchcase(name.lower(), pattern))


def timm_version() -> str:
    """Return the timm version that the catalogue holds for."""
    return _document().timm


@dataclass(frozen=True)
class _Catalog:
    timm: str
    others: tuple[str, ...]
    models: Mapping[str, Mapping[str, object]]


@cache
def _document() -> _Catalog:
    text = files("tofu_export.zoo").joinpath(FILE_NAME).read_text(encoding="utf-8")
    return from_plain(_Catalog, json.loads(text), f"{FILE_NAME}: ")


@cache
def _entries() -> Mapping[str, Mapping[str, object]]:
    try:
        current = version("timm") == timm_version()
    except PackageNotFoundError:
        current = False
    return _document().models if current else {}


def _from_entry(name: str, entry: Mapping[str, object]) -> ModelSpec:
    runs = from_plain(tuple[tuple[int, int, int, int], ...], entry["blocks"], f"{FILE_NAME}: {name}.blocks")
    blocks = tuple(BlockCost(*cost) for *cost, count in runs for _ in range(count))
    spec = from_plain(ModelSpec, {**entry, "name": name, "blocks": ()}, f"{FILE_NAME}: {name}")
    return replace(spec, blocks=blocks)


def to_entry(spec: ModelSpec) -> JsonObject:
    """Convert a spec to JSON; equal blocks in a row are one list that ends with their number."""
    runs = [[*astuple(cost), len(list(group))] for cost, group in groupby(spec.blocks)]
    entry = to_object(spec) | {"blocks": runs}
    del entry["name"]
    return entry
