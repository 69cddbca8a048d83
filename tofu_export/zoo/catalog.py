"""Specs of the supported timm models, measured in advance, so that a plan needs neither torch nor timm.

The catalogue holds for one timm version; with another one installed it is not used. `python -m
tofu_export.zoo.catalog` measures all models again and writes it (`make catalog`).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, astuple
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from itertools import groupby
from pathlib import Path
from typing import Any

from tofu_export.plan import BlockCost, ModelSpec

__all__ = ["find", "names"]

_FILE = "catalog.json"


def find(name: str) -> ModelSpec | None:
    """The spec of a model at its own image size and class count, None if the catalogue cannot tell."""
    entry = _entries().get(name)
    return None if entry is None else _from_entry(name, entry)


def names() -> tuple[str, ...]:
    """The models in the catalogue; none if another timm is installed."""
    return tuple(_entries())


@cache
def _entries() -> dict[str, dict[str, Any]]:
    catalogue = json.loads(files("tofu_export.zoo").joinpath(_FILE).read_text(encoding="utf-8"))
    try:
        current = version("timm") == catalogue["timm"]
    except PackageNotFoundError:
        current = False
    models: dict[str, dict[str, Any]] = catalogue["models"]
    return models if current else {}


def _from_entry(name: str, entry: dict[str, Any]) -> ModelSpec:
    blocks = tuple(BlockCost(*cost) for *cost, count in entry["blocks"] for _ in range(count))
    return ModelSpec(name=name, **{**entry, "image_size": tuple(entry["image_size"]), "blocks": blocks})


def _to_entry(spec: ModelSpec) -> dict[str, Any]:
    """A spec as JSON holds it; equal blocks in a row are one list that ends with their number."""
    runs = [[*astuple(cost), len(list(group))] for cost, group in groupby(spec.blocks)]
    entry = {**asdict(spec), "image_size": list(spec.image_size), "blocks": runs}
    del entry["name"]
    return entry


def _measure() -> Iterator[ModelSpec]:
    import timm

    from tofu_export.errors import UnsupportedModelError
    from tofu_export.patch.describe import describe
    from tofu_export.zoo.create import create_meta

    for name in timm.list_models(module=("vision_transformer", "deit", "vision_transformer_hybrid", "vitamin")):
        with suppress(UnsupportedModelError):
            yield describe(create_meta(name), name)


def _main() -> None:
    models = {spec.name: _to_entry(spec) for spec in _measure()}
    lines = [f"  {json.dumps(name)}: {json.dumps(entry)}" for name, entry in sorted(models.items())]
    text = '{"timm": ' + json.dumps(version("timm")) + ', "models": {\n' + ",\n".join(lines) + "\n}}\n"
    Path(__file__).with_name(_FILE).write_text(text, encoding="utf-8")
    sys.stderr.write(f"{len(models)} models\n")


if __name__ == "__main__":
    _main()
