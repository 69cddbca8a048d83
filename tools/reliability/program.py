"""The command line as a process of its own: started, watched, ended, and what it left behind."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from tools.reliability.outcome import Row

if TYPE_CHECKING:
    from collections.abc import Callable

    from tools.reliability.seeds import Seeds

__all__ = ["EXPORT", "ROOT", "Program", "Trials", "call", "contents", "in_turn", "not_whole", "orphans", "said_badly"]

ROOT = Path(__file__).parents[2]
EXPORT = ("test_vit", "--r", "8", "--weights", "random", "--batch", "1:1:2", "--precision", "fp32")
"""The smallest job: a file of 1.5 MB, and an engine of 10 MB where TensorRT-RTX is installed."""

END_SECONDS = 300.0
"""Longest time from a signal to the end, and to the next stage, on a machine that others use too."""
JOBS = max(1, min(2, os.cpu_count() or 1))

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")
Item = TypeVar("Item")


@dataclass(frozen=True)
class Trials:
    """One class of trials, of processes.

    Attributes:
        name: what the table calls it.
        expected: what counts as survived.
        body: runs the trials and counts them in a row.
    """

    name: str
    expected: str
    body: Callable[[Row, int, Seeds, Path], None]

    def run(self, seed: int, seeds: Seeds, scratch: Path) -> Row:
        """Run all of them in a new folder below `scratch`."""
        row = Row(self.name, self.expected)
        start = time.monotonic()
        folder = scratch / hashlib.sha256(self.name.encode()).hexdigest()[:8]
        folder.mkdir()
        try:
            self.body(row, seed, seeds, folder)
        except RuntimeError as error:  # it cannot be tried as it stands: that is no success
            row.add("-", [str(error)], "before the trials")
        row.seconds = time.monotonic() - start
        return row


class Program:
    """A running command line on a terminal of its own, so that it says what it is doing.

    Args:
        arguments: of `tofu-export`.
        folder: an empty one; the working directory, with a `tmp` inside for temporary files.
    """

    def __init__(self, arguments: Sequence[str], folder: Path) -> None:
        (folder / "tmp").mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.text = ""
        self._master, slave = pty.openpty()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tofu_export.cli", *arguments],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=slave, cwd=folder,
            env=environment(folder), start_new_session=True,
        )  # fmt: skip
        os.close(slave)

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, 9)
        self._process.wait()
        os.close(self._master)

    def read(self, seconds: float) -> bool:
        """Take in what it says for at most this long; False at its end."""
        with contextlib.suppress(OSError):  # what a terminal answers when nobody is on the other side
            if not select.select([self._master], [], [], seconds)[0]:
                return True
            data = os.read(self._master, 1 << 16)
            self.text += _ESCAPES.sub("", data.decode("utf-8", "replace"))
            return bool(data)
        return False

    def until(self, seen: Callable[[], bool]) -> bool:
        """Wait for something to be seen; False if it ended, or did not happen in time."""
        limit = time.monotonic() + END_SECONDS
        while not seen():
            if time.monotonic() > limit or not self.read(0.002):
                return False
        return True

    def wait(self, seconds: float) -> None:
        """Let it run on, listening."""
        limit = time.monotonic() + seconds
        while time.monotonic() < limit and self.read(min(0.02, seconds)):
            pass

    def send(self, signal: int) -> None:
        """Send a signal to this process alone, not to what it has started."""
        self._process.send_signal(signal)

    def end(self) -> int | None:
        """Exit code, negative for a signal; None if it does not end."""
        limit = time.monotonic() + END_SECONDS
        while self._process.poll() is None:
            if time.monotonic() > limit:
                return None
            if not self.read(0.05):
                time.sleep(0.01)
        while self.read(0.05) and select.select([self._master], [], [], 0)[0]:
            pass
        return self._process.returncode


def environment(folder: Path, **more: str) -> dict[str, str]:
    """Ours, with temporary files in the folder, no hub, and one thread."""
    return {
        **os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(folder / "tmp"), "HF_HUB_OFFLINE": "1", "COLUMNS": "200",
        "OMP_NUM_THREADS": "1", "TERM": "xterm", "PYTHONDONTWRITEBYTECODE": "1", **more,
    }  # fmt: skip


def call(
    arguments: Sequence[str | bytes], folder: Path, *, before: Sequence[str] = (), **more: str
) -> subprocess.CompletedProcess[bytes]:
    """Run the command line to its end, behind another program if there is one; exit code 124 if it does not end."""
    (folder / "tmp").mkdir(parents=True, exist_ok=True)
    command = [*before, sys.executable, "-m", "tofu_export.cli", *arguments]
    try:
        return subprocess.run(
            command, cwd=folder, env=environment(folder, **more), stdin=subprocess.DEVNULL, capture_output=True,
            timeout=2 * END_SECONDS, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        return subprocess.CompletedProcess(command, 124, error.stdout or b"", error.stderr or b"no end")


def in_turn(trial: Callable[[Item], None], items: Sequence[Item], jobs: int = JOBS) -> None:
    """Run the trials, some at a time; each takes about as long as the others."""
    with ThreadPoolExecutor(jobs) as threads:
        list(threads.map(trial, items))


def contents(folder: Path) -> dict[str, bytes]:
    """Digests of the files below a folder, hidden ones included, by name; nothing if it is not there."""
    if not folder.is_dir():
        return {}
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).digest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def not_whole(folder: Path, golden: Mapping[str, bytes]) -> Iterator[str]:
    """What is wrong with the files that show in a folder: each has to be complete, and what the report says of it.

    Args:
        folder: the output.
        golden: digests of the files of an undisturbed run; reports, which hold times, are looked into instead.
    """
    for name, digest in contents(folder).items():
        if name.startswith("."):
            continue
        path = folder / name
        if name == "report.json":
            yield from _differs_from_report(folder)
        elif name.endswith((".engine.json", "report.md", "report.html")):
            text = path.read_text(encoding="utf-8")
            if not text.endswith("\n") or (name.endswith(".json") and not _is_json(text)):
                yield f"{name} is cut"
        elif golden.get(name) != digest:
            yield f"{name} is not what an undisturbed run writes"


def _differs_from_report(folder: Path) -> Iterator[str]:
    text = (folder / "report.json").read_text(encoding="utf-8")
    if not _is_json(text):
        yield "report.json is cut"
        return
    for entry in json.loads(text)["artifacts"]:
        path = folder / entry["path"]
        if not path.is_file():
            yield f"report.json lists {entry['path']}, which is not there"
        elif hashlib.sha256(path.read_bytes()).hexdigest() != entry["sha256"]:
            yield f"{entry['path']} is not what report.json says"


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def orphans(folder: Path) -> list[int]:
    """Processes that still run with this folder's temporary one, after a moment to end."""
    mark = f"TMPDIR={folder / 'tmp'}".encode()
    found: list[int] = []
    for _ in range(50):
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdecimal() and mark in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
        if not found:
            break
        time.sleep(0.1)
    return found


def said_badly(text: str, code: int | None) -> Iterator[str]:
    """What is wrong with the words of a program that ended badly."""
    if "Traceback (most recent call last)" in text:
        yield f"traceback: {' '.join(text.split())[-300:]}"
    if code not in (0, None) and "tofu-export: error: " not in text:
        yield f"no error line, but: {' '.join(text.split())[-200:]}"
