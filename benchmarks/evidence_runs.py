"""What the steps of `evidence.py` are made of: blocks, runs of `tofu-export` that several of them share, tables."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tofu_export.sweep.store import FOLDER

__all__ = ["Made", "Runs", "Step", "table"]

Made = tuple[str, Mapping[str, bytes]]
"""The text of a block, and its figures by their path beside the page."""


class Runs:
    """Runs the commands of the docs, each once, in one folder, so that cells which two of them need are made once.

    Args:
        folder: where commands run and results are kept; created if need be.
        jobs: processes that evaluate beside each other in a sweep.
        fresh: forget what is finished.
    """

    def __init__(self, folder: Path, *, jobs: int, fresh: bool) -> None:
        self.folder = folder.resolve()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._jobs = jobs
        self._done: dict[str, dict[str, Any]] = {}
        if fresh:
            shutil.rmtree(self.folder / FOLDER, ignore_errors=True)
            for state in self.folder.glob("*.state.jsonl"):
                state.unlink()

    def run(self, command: str, *more: str) -> dict[str, Any]:
        """The document that a `tofu-export` command prints.

        Args:
            command: as a user types it.
            more: arguments that change nothing about the result.

        Raises:
            CalledProcessError: it failed.
        """
        if command not in self._done:
            program, *arguments = shlex.split(command)
            assert program == "tofu-export"
            done = subprocess.run(
                [sys.executable, "-m", "tofu_export.cli", *arguments, "--json", *more],
                stdout=subprocess.PIPE,
                text=True,
                check=True,
                cwd=self.folder,
            )
            self._done[command] = json.loads(done.stdout)
        return self._done[command]

    def sweep(self, command: str) -> dict[str, Any]:
        """The document of a `tofu-export sweep` command, with its chart as `figure`.

        Raises:
            CalledProcessError: a cell failed.
        """
        if command not in self._done:
            document = self.run(command, "--jobs", str(self._jobs), "-o", str(self.folder))
            document["figure"] = self.file("pareto.svg")
        return self._done[command]

    def file(self, name: str) -> bytes:
        """What the last command wrote under this name."""
        return (self.folder / name).read_bytes()

    def decisions(self, pattern: str, r: int) -> NDArray[np.int32]:
        """The classes that a file of the demo model gave the 1,000 images in the newest sweep, [1000]."""
        found = []
        for path in (self.folder / FOLDER).glob("*.json"):
            document = json.loads(path.read_text(encoding="utf-8"))
            cell = document["cell"]
            if document["outputs"] and (cell["pattern"], cell["r"], cell["precision"]) == (pattern, r, "fp32"):
                found.append((path.stat().st_mtime_ns, document["outputs"]))
        if not found:
            raise LookupError(f"no decisions of {pattern} at r = {r} in {self.folder}")
        outputs: NDArray[np.int32] = np.load(self.folder / FOLDER / max(found)[1], allow_pickle=False)
        return outputs


@dataclass(frozen=True)
class Step:
    """One generated block.

    Attributes:
        page: its page, below docs.
        block: its name.
        commands: what a user types to see the same.
        columns: of its first table.
        rows: number of rows of that table.
        make: makes it.
        figures: SVG files that it shows, relative to the page.
    """

    page: str
    block: str
    commands: tuple[str, ...]
    columns: tuple[str, ...]
    rows: int
    make: Callable[[Runs], Made] = field(repr=False)
    figures: tuple[str, ...] = ()


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    return "\n".join([f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *(f"| {' | '.join(row)} |" for row in rows)])
