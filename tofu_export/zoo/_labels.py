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


def labels_of(found: Mapping[Any, Any], folder: Path) -> tuple[tuple[str, ...], str]:
    """Return the names of all classes in order, or none, and a note if there are names that are not used.

    Names that do not number the classes from 0 without a gap are left out, and names in two places that differ: which
    of them is which is not known.

    Args:
        found: content of the checkpoint.
        folder: its folder, of which `config.json` of `transformers` (`id2label`) or of timm (`label_names`) is read.

    Raises:
        WeightsError: `config.json` is not JSON.
    """
    config = read_object(folder / _CONFIG) or {}
    images = as_mapping(config.get("pretrained_cfg")) or {}
    places = [
        (f"{name} in {_CONFIG}", values)
        for name, values in (
            ("id2label", config.get("id2label")),
            ("label_names", config.get("label_names") or images.get("label_names")),
            ("labels", config.get("labels")),
        )
    ]
    for entries in (found, *(as_mapping(found.get(name)) or {} for name in _OPTIONS)):
        numbers = as_mapping(entries.get("class_to_idx")) or {}
        places.append(("class_to_idx", [(number, name) for name, number in numbers.items()]))
        places += [(name, entries.get(name)) for name in _INSIDE]
    named = {place: values for place, values in places if values and _is_meant(values)}
    ordered = {place: _ordered(values) for place, values in named.items()}
    if gone := [place for place, names in ordered.items() if not names]:
        return (), f"class names of {gone[0]} are not used: they do not number the classes from 0 without a gap"
    if len({tuple(map(str.casefold, names)) for names in ordered.values()}) > 1:
        return (), f"class names are not used: {' and '.join(ordered)} differ"
    return next(iter(ordered.values()), ()), ""


def _is_meant(values: Any) -> bool:
    """True unless a value is something else of that name, or names that `transformers` invents."""
    if not isinstance(values, Mapping | list | tuple):
        return False
    texts = [text for pair in _pairs(values) for text in pair if isinstance(text, str) and not text.isdecimal()]
    return bool(texts) and not all(map(_GENERIC.fullmatch, texts))


def _pairs(values: Any) -> list[tuple[Any, Any]]:
    """Return numbers and names: of a mapping, of pairs, or of a list in order."""
    if isinstance(values, Mapping):
        return list(values.items())
    if all(isinstance(value, tuple) and len(value) == len(("number", "name")) for value in values):
        return list(values)
    return list(enumerate(values))


def _ordered(values: Any) -> tuple[str, ...]:
    """Return names by their numbers; none if they are no names, or their numbers not 0 to their count."""
    by_number = {_number(number): name for number, name in _pairs(values)}
    if len(by_number) != len(values) or set(by_number) != set(range(len(values))):
        return ()
    names = [by_number[number] for number in range(len(values))]
    if not all(isinstance(name, str) and name.strip() for name in names):
        return ()
    return tuple(" ".join(name.split()) for name in names)


def _number(value: Any) -> int | None:
    if isinstance(value, str):
        return int(value) if value.isdecimal() else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None
