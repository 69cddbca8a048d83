"""Runs trials of one class in a process of their own: `python -m tools.reliability.worker CLASS SEED SEEDS START STOP`.

Each trial is announced before it starts, so that the parent knows which one ended the process or never ended. The
command line runs inside this process; what it prints goes to files, and an audit hook notes what it must not do.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import shutil
import sys
import tempfile
from pathlib import Path
from random import Random
from typing import Any

from tools.reliability.inputs import CLASSES, Call
from tools.reliability.outcome import Ended, complaints
from tools.reliability.seeds import MODEL, Seeds

__all__ = ["main", "run_trial"]

MEMORY_BYTES = 12 << 30
"""Address space that a trial may use: what asks for more has to be refused, not tried."""

_CONNECTS = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "urllib.Request")
_STARTS = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "subprocess.Popen", "os.startfile", "pty.spawn")
_CHANGES = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.chmod", "shutil.rmtree")
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_HARMLESS = ("nvidia-smi", "lscpu", "uname")


class _Guard:
    """Notes what a trial does that it must not: connect, start programs, change files elsewhere."""

    def __init__(self) -> None:
        self.folder: Path | None = None
        self.starts_programs = False
        self.seen: list[str] = []
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.folder is None:
            return
        if event in _CONNECTS:
            self.seen.append(f"network: {event} {str(arguments)[:80]}")
        elif event in _STARTS:
            program = str(arguments[0]) if arguments else ""
            ours = self.starts_programs and program == sys.executable
            if Path(program).name not in _HARMLESS and not ours:
                self.seen.append(f"started a program: {event} {str(arguments)[:80]}")
        elif event == "open":
            path, mode, flags = arguments
            writes = bool(flags & _WRITES) if isinstance(flags, int) else set(mode or "") & set("wax+")
            if writes and not self._inside(path):
                self.seen.append(f"wrote {path!r}")
        elif event in _CHANGES and arguments and not self._inside(arguments[0]):
            self.seen.append(f"{event} {arguments[0]!r}")

    def _inside(self, path: Any) -> bool:
        if isinstance(path, int) or str(path) == os.devnull or self.folder is None:
            return True
        resolved = Path(os.fsdecode(path)).absolute()
        return resolved.is_relative_to(self.folder) or "__pycache__" in resolved.parts


def run_trial(call: Call, folder: Path, guard: _Guard) -> Ended:
    """Run the command line on what lies in the folder."""
    from tests.cli.running import run

    outputs = [folder.with_name("stdout"), folder.with_name("stderr")]
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(1), os.dup(2)]
    for number, path in enumerate(outputs, start=1):
        descriptor = os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
        os.dup2(descriptor, number)
        os.close(descriptor)
    guard.seen.clear()
    guard.folder = folder.parent
    try:
        code = run(*call.arguments)
    except BaseException as error:  # what main lets through is what a user would see as a traceback
        code = 1
        print(f"Traceback (most recent call last): {type(error).__name__}: {error}", file=sys.stderr)
    finally:
        guard.folder = None
        sys.stdout.flush()
        sys.stderr.flush()
        for number, descriptor in enumerate(kept, start=1):
            os.dup2(descriptor, number)
            os.close(descriptor)
    out, err = (path.read_text(encoding="utf-8", errors="replace") for path in outputs)
    return Ended(call.arguments, code, out, err, tuple(dict.fromkeys(guard.seen)))


def _load_libraries() -> None:
    """Import what takes long, before anything is watched: torch asks ldconfig for libraries as it starts."""
    from tests.cli.running import run
    from tofu_export.system import ort

    ort.version()
    with contextlib.redirect_stdout(io.StringIO()):
        assert run("export", MODEL, "--weights", "random", "--dry-run") == 0


def main(arguments: list[str]) -> int:
    """Run the trials from START to STOP, one JSON line before each and one after it."""
    name, seed, place, start, stop = arguments
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    kind, seeds = CLASSES[name], Seeds(Path(place))
    _load_libraries()
    guard = _Guard()
    guard.starts_programs = kind.starts_programs
    with tempfile.TemporaryDirectory(prefix="tofu-reliability-") as scratch:
        temporary = Path(scratch, "tmp")
        tempfile.tempdir = str(temporary)
        os.environ["TMPDIR"] = str(temporary)
        for index in range(int(start), int(stop)):
            folder = Path(scratch, "case")
            for path in (folder, temporary):
                shutil.rmtree(path, ignore_errors=True)
                path.mkdir()
            os.chdir(folder)
            print(json.dumps({"begin": index}), flush=True)
            call = kind.make(Random(f"{seed}/{name}/{index}"), index, folder, seeds)
            before = frozenset(path.name for path in folder.iterdir())
            ended = run_trial(call, folder, guard)
            wrong = list(complaints(ended, folder, before, must_fail=call.must_fail))
            left = sorted(path.name for path in temporary.iterdir())
            if left:
                wrong.append(f"left in the temporary folder: {', '.join(left)}")
            last = (ended.stderr.strip().splitlines() or [""])[-1]
            result = {"end": index, "code": ended.code, "wrong": wrong, "call": ended.arguments, "said": last[:300]}
            print(json.dumps(result), flush=True)
        os.chdir("/")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
