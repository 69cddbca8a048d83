"""Model cards: the metadata of files written by this project, read in one place.

An ONNX file holds them in its `metadata_props`; the sidecar of an engine keeps those of the ONNX file that the engine
was built from. Foreign files have none: their card is empty.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeVar

import onnx

from tofu_export.artifact.onnx_file import METADATA_PREFIX
from tofu_export.artifact.preprocessing import Preprocessing
from tofu_export.errors import OptionError, VerificationError
from tofu_export.options import (
    AttentionForm,
    BatchRange,
    KeySource,
    Method,
    OutputKind,
    Precision,
    PrunedSizes,
    Selection,
    Target,
)

__all__ = ["ModelCard"]

_TEXTS = frozenset({"version", "model", "precision", "target", "batch"})
"""Entries that are plain text; others are JSON (`onnx_file.save`)."""

_CHOICES: Mapping[tuple[str, ...], type[Enum]] = {
    ("precision",): Precision,
    ("target",): Target,
    ("attention",): AttentionForm,
    ("output", "kind"): OutputKind,
    ("plan", "select"): Selection,
    ("plan", "keys"): KeySource,
    ("plan", "pruned_sizes"): PrunedSizes,
}
"""Entries that hold the value of an enum, by the keys that lead to them. Some are absent in files of early versions."""

_T = TypeVar("_T")


@dataclass(frozen=True)
class ModelCard:
    """Metadata of a file written by this project.

    A card with a choice that this version does not know cannot be read: a newer version may have made the file, and
    what it computes is unknown.

    Attributes:
        file: name of the file, for messages.
        entries: values by name, without `METADATA_PREFIX`: text, or JSON values. Empty for a foreign file.

    Raises:
        VerificationError: an entry of `_CHOICES`, or the method of a layer, is unknown.
    """

    file: str
    entries: Mapping[str, Any]

    def __post_init__(self) -> None:
        for keys, choices in _CHOICES.items():
            said = _at(self.entries, keys)
            known = [choice.value for choice in choices]
            if said is not None and said not in known:
                raise self._unknown(".".join(keys), said, known)
        plan = self.entries.get("plan")
        if isinstance(plan, dict) and isinstance(plan.get("layers"), list):
            current = {**plan, "layers": [self._current(row) for row in plan["layers"]]}
            object.__setattr__(self, "entries", {**self.entries, "plan": current})

    def _current(self, row: Any) -> Any:
        """Return a layer of the plan with its method as this version spells it."""
        if not isinstance(row, dict) or row.get("method") is None:
            return row
        method = Method.named(row["method"])
        if method is None:
            raise self._unknown("plan.layers", row["method"], [known.word for known in Method])
        return {**row, "method": method.word}

    @classmethod
    def of_model(cls, model: onnx.ModelProto, file: str) -> ModelCard:
        """Read the card of an ONNX model."""
        return cls.of_texts({entry.key: entry.value for entry in model.metadata_props}, file)

    @classmethod
    def of_texts(cls, texts: Mapping[str, str], file: str) -> ModelCard:
        """Read the card from `metadata_props`, whose names have a prefix; foreign entries are left out."""
        names = {key: key.removeprefix(METADATA_PREFIX) for key in texts if key.startswith(METADATA_PREFIX)}
        return cls(file, {name: _decoded(name, texts[key]) for key, name in names.items()})

    @property
    def texts(self) -> dict[str, str]:
        """Entries for `metadata_props`: names with their prefix, anything but text as JSON."""
        return {
            f"{METADATA_PREFIX}{key}": value if isinstance(value, str) else json.dumps(value)
            for key, value in self.entries.items()
        }

    @property
    def is_ours(self) -> bool:
        """True if this project wrote the file, from a model."""
        return "model" in self.entries

    def __contains__(self, key: str) -> bool:
        return key in self.entries

    def find(self, key: str, kind: type[_T]) -> _T | None:
        """Return an entry, or None if the file lacks it.

        Raises:
            VerificationError: the entry is not of type `kind`.
        """
        return None if self.entries.get(key) is None else self.part(key, kind)

    def part(self, key: str, kind: type[_T]) -> _T:
        """Return an entry that the file must have.

        Raises:
            VerificationError: the file lacks the entry, or it is not of type `kind`.
        """
        if key not in self.entries:
            raise self.missing(key)
        value = self.entries[key]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise self._damaged(key)
        return value

    @property
    def preprocessing(self) -> Preprocessing | None:
        """How images are prepared for the file; None if not stated.

        Raises:
            VerificationError: the entry is damaged.
        """
        found: dict[str, Any] | None = self.find("preprocessing", dict)
        if found is None:
            return None
        try:
            return Preprocessing.from_dict(found)
        except OptionError as error:
            raise self._damaged("preprocessing", f" ({error})") from error

    @property
    def batch(self) -> BatchRange | None:
        """Batch sizes that the file serves; None if not stated.

        Raises:
            OptionError: the entry is not a range.
        """
        text = self.find("batch", str)
        return None if text is None else BatchRange.parse(text)

    @property
    def precision(self) -> Precision | None:
        """Precision that the file was made in; None if not stated."""
        said = self.find("precision", str)
        return None if said is None else Precision(said)

    @property
    def output(self) -> OutputKind | None:
        """Output kind of a file of a ViT; None if not stated.

        Raises:
            VerificationError: the entry is damaged.
        """
        said: dict[str, Any] | None = self.find("output", dict)
        if said is None:
            return None
        if said.get("kind") is None:
            raise self._damaged("output")
        return OutputKind(said["kind"])

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes; empty if the file has none.

        Raises:
            VerificationError: the names are not text.
        """
        found: list[Any] = self.find("labels", list) or []
        if not all(isinstance(label, str) for label in found):
            raise self._damaged("labels")
        return tuple(found)

    @property
    def gmacs(self) -> float | None:
        """Multiply-accumulates for one image, in 10^9; None if not stated, or not sensible."""
        value = self.entries.get("gmacs")
        sensible = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf
        return float(value) if sensible else None  # type: ignore[arg-type]

    def missing(self, key: str) -> VerificationError:
        """Return the error for an entry that the file lacks."""
        by = f" by tofu-export {self.entries['version']}" if "version" in self.entries else ""
        return VerificationError(
            f"{self.file} was written{by} without metadata {METADATA_PREFIX}{key}: export it again, or compare it with "
            "another file by --reference"
        )

    def _unknown(self, place: str, said: object, known: list[str]) -> VerificationError:
        return VerificationError(
            f"metadata {METADATA_PREFIX}{place} of {self.file} is {str(said)[:40]!r}, expected one of "
            f"{', '.join(known)}: a newer version may know it. Use that, or export it again"
        )

    def _damaged(self, key: str, why: str = "") -> VerificationError:
        return VerificationError(
            f"metadata {METADATA_PREFIX}{key} of {self.file} are not what this version writes{why}: the file is "
            "damaged or of another version; export it again, or compare it with another file by --reference"
        )


def _at(entries: Any, keys: tuple[str, ...]) -> Any:
    """Return the entry under nested keys; None if there is none."""
    for key in keys:
        entries = entries.get(key) if isinstance(entries, Mapping) else None
    return entries


def _decoded(key: str, text: str) -> Any:
    if key not in _TEXTS:
        with contextlib.suppress(ValueError, RecursionError):  # `part` checks its type
            return json.loads(text)
    return text
