"""Save measured losses, one per line, so that an interrupted run can continue.

The first line states the settings that they hold for. A line is written at once; an incomplete last line is dropped.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tofu_export.errors import OptionError, OutputError
from tofu_export.tune.space import Candidate

__all__ = ["StateFile"]


class StateFile:
    """Losses by candidate, saved in a file.

    Args:
        path: the file; created if needed.
        settings: everything that a loss depends on, plain values.

    Raises:
        OptionError: the file belongs to other settings, or is not such a file.
        OutputError: the file cannot be written.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self._path = path
        self._losses: dict[Candidate, float] = {}
        self._settings = json.loads(json.dumps(settings))
        if path.exists():
            self._read()
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._append({"settings": self._settings})

    def __len__(self) -> int:
        return len(self._losses)

    def find(self, candidate: Candidate) -> float | None:
        """Return the saved loss of a candidate, None if there is none."""
        return self._losses.get(candidate)

    def add(self, candidate: Candidate, loss: float) -> None:
        """Save a loss."""
        self._losses[candidate] = loss
        self._append({**asdict(candidate), "loss": loss})

    def _append(self, row: Mapping[str, Any]) -> None:
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            raise OutputError(f"cannot write {self._path}: {error}; name another file with --state") from error

    def _read(self) -> None:
        try:
            text = self._path.read_text(encoding="utf-8")
            lines = text.splitlines(keepends=True)
            if lines and not lines[-1].endswith("\n"):  # the run was killed while writing
                lines.pop()
                self._path.write_text("".join(lines), encoding="utf-8")
            rows = [json.loads(line) for line in lines]
            found = rows[0]["settings"] if rows else None
            self._losses = {
                Candidate(row["pattern"], tuple(row["r"]), row["prop_attn"]): float(row["loss"]) for row in rows[1:]
            }
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise OptionError(
                f"{self._path} is not a state file of tune ({type(error).__name__}: {error}): name another one with "
                "--state, or remove it"
            ) from error
        if found is None:
            self._append({"settings": self._settings})
        elif found != self._settings:
            other = [key for key in {**found, **self._settings} if found.get(key) != self._settings.get(key)]
            raise OptionError(
                f"{self._path} was begun with other settings ({', '.join(sorted(other))}): name another file with "
                "--state, or remove it"
            )
