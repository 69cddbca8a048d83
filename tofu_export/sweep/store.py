"""Store finished cells on disk, one file each, so that an interrupted sweep can continue.

A file's name is a hash of all that its content depends on: the cell, the settings, the versions. A measurement under
other conditions is another file and is never used instead; it is only counted, so that a user learns why a cell is
measured again.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from tofu_export.planning.plan import selection_key
from tofu_export.sweep.grid import Cell
from tofu_export.sweep.records import Record
from tofu_export.system.files import staging
from tofu_export.system.typed_json import JsonObject, from_plain, to_plain

__all__ = ["Key", "Store"]

T = TypeVar("T")

FOLDER = "cells"

_FORMAT = 3
"""Version of the file format. Files of other versions are ignored, so that their cells are measured again."""


@dataclass(frozen=True)
class Key:
    """Identity of a measurement.

    Attributes:
        kind: `evaluation` or `timing`.
        cell: the cell.
        batch: images per query of a timing; None for an evaluation.
        settings: further conditions.
    """

    kind: str
    cell: Cell
    batch: int | None
    settings: Mapping[str, Any]

    @property
    def identity(self) -> JsonObject:
        """What is measured, regardless of conditions. How it was asked for (mode, r) does not count."""
        return {
            "kind": self.kind,
            "model": self.cell.model,
            "pattern": self.cell.pattern,
            "removed": list(self.cell.removed),
            "prop_attn": self.cell.prop_attn,
            "precision": self.cell.precision.value,
            "batch": self.batch,
            **selection_key(self.cell.select),
        }

    @property
    def name(self) -> str:
        """Name of its file, without a suffix."""
        text = json.dumps({**self.identity, "settings": self.settings, "format": _FORMAT}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:20]


class Store:
    """Store of finished cells in a folder, which is created with the first of them.

    Args:
        folder: the output folder of the sweep.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / FOLDER

    def get(self, key: Key, kind: type[T]) -> Record[T] | None:
        """Return the measurement for a key, with a `kind` of result; None without one, or if its file is damaged."""
        path = self._folder / f"{key.name}.json"
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            outputs = None
            if document["outputs"] is not None:
                data = (self._folder / document["outputs"]).read_bytes()
                outputs = np.load(io.BytesIO(data), allow_pickle=False)
            return Record(from_plain(kind, document["result"]), outputs)
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None

    def put(self, key: Key, record: Record[Any]) -> None:
        """Save a measurement: complete, or not at all.

        Raises:
            OutputError: the folder cannot be written.
        """
        name, outputs = f"{key.name}.json", None
        with staging(self._folder) as stage:
            if record.outputs is not None:
                outputs = f"{key.name}.npy"
                with stage.path(outputs).open("wb") as file:
                    np.save(file, record.outputs, allow_pickle=False)
            document = {
                "identity": key.identity,
                "cell": {**asdict(key.cell), "precision": key.cell.precision.value},
                "settings": dict(key.settings),
                "result": to_plain(record.result),
                "outputs": outputs,
            }
            stage.path(name).write_text(json.dumps(document, indent=1, allow_nan=False) + "\n", encoding="utf-8")
            stage.publish(*filter(None, (outputs, name)))

    def notes(self, kind: str, missing: Iterable[Key], present: Iterable[Key]) -> list[str]:
        """Return notes on stored files that are not used: other conditions, other cells.

        Args:
            kind: the kind of measurement to look at.
            missing: measurements to make.
            present: measurements that are reused.
        """
        wanted = {_text(key.identity): key for key in missing}
        taken = {_text(key.identity) for key in present}
        names = {key.name for key in present}
        changed: Counter[str] = Counter()
        others = 0
        for path in sorted(self._folder.glob("*.json")):
            try:
                document = json.loads(path.read_text(encoding="utf-8"))
                identity, settings = document["identity"], document["settings"]
                of_kind, text = identity["kind"] == kind, _text(identity)
            except (OSError, ValueError, KeyError, TypeError, RecursionError):
                changed["its file is damaged"] += kind == "evaluation"  # said once
                continue
            if not of_kind or path.stem in names or text in taken:
                continue
            if text in wanted:
                changed[_difference(settings, wanted[text].settings)] += 1
            else:
                others += 1
        lines = [f"{_count(kind, count)} measured again: {reason}" for reason, count in changed.items() if count]
        if others:
            lines.append(f"{_count(kind, others)} of another grid kept and left out")
        return lines


def _count(kind: str, count: int) -> str:
    return f"{count} {kind}{'s' * (count != 1)}"


def _text(identity: Mapping[str, Any]) -> str:
    return json.dumps(identity, sort_keys=True)


def _difference(old: Any, new: Mapping[str, Any]) -> str:
    """Describe the difference between two settings."""
    if not isinstance(old, dict):
        return "the file is damaged"
    flat_old, flat_new = _flat(old), _flat(new)
    names = [name for name in {**flat_new, **flat_old} if flat_old.get(name) != flat_new.get(name)]
    changes = [f"{name} was {flat_old.get(name)}, is {flat_new.get(name)}" for name in names]
    return "; ".join(changes) or "nothing that is known changed"


def _flat(settings: Mapping[str, object]) -> JsonObject:
    versions = settings.get("versions")
    rest = {name: value for name, value in settings.items() if name != "versions"}
    return {**(versions if isinstance(versions, dict) else {}), **rest}
