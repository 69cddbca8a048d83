"""Read the names of a model's classes that lie beside or inside a checkpoint."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from tofu_export.zoo._beside import as_mapping
from tofu_export.zoo._json import read_object

__all__ = ["labels_of"]

_CONFIG: Final = "config.json"
_INSIDE: Final = ("classes", "class_names", "label_names", "idx_to_class")
"""Entries that training scripts keep the names under, in order or by number; `class_to_idx` has the numbers by name."""

_OPTIONS: Final = ("hyper_parameters", "args")
"""Entries of a checkpoint that can hold these entries."""

_GENERIC: Final = re.compile(r"LABEL_\d+")
"""Names that `transformers` invents."""


def labels_of(found: Mapping[Any, Any], folder: Path) -> tuple[str, ...]:
    """Return the names of all classes in order, or none.

    Names that do not number the classes from 0 without a gap are left out: which of them is which is not known.

    Args:
        found: content of the checkpoint.
        folder: its folder; `config.json` of `transformers` (`id2label`) or of timm (`label_names`) comes first.

    Raises:
        WeightsError: `config.json` is not JSON.
    """
    config = read_object(folder / _CONFIG) or {}
    images = as_mapping(config.get("pretrained_cfg")) or {}
    places = [config.get("id2label"), config.get("label_names"), images.get("label_names"), config.get("labels")]
    for entries in (found, *(as_mapping(found.get(name)) or {} for name in _OPTIONS)):
        numbered = as_mapping(entries.get("class_to_idx")) or {}
        places += [{number: name for name, number in numbered.items()}, *(entries.get(name) for name in _INSIDE)]
    return next((names for names in map(_ordered, places) if names), ())


def _ordered(values: Any) -> tuple[str, ...]:
    if isinstance(values, Mapping):
        try:
            by_number = {int(key): value for key, value in values.items()}
        except (TypeError, ValueError):
            return ()
        if sorted(by_number) != list(range(len(values))):
            return ()
        values = [by_number[number] for number in range(len(values))]
    if not isinstance(values, list | tuple) or not all(isinstance(value, str) and value.strip() for value in values):
        return ()
    names = tuple(" ".join(value.split()) for value in values)
    return () if all(map(_GENERIC.fullmatch, names)) else names
