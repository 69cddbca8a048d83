"""Run the build worker: monitor it, capture its output, and end it with this process."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tofu_export import errors
from tofu_export.engines.building._build_log import first_cause
from tofu_export.engines.building._facts import BuildFacts
from tofu_export.errors import EngineBuildError, OutputError, TofuError
from tofu_export.system.typed_json import from_plain

__all__ = ["CANNOT_WRITE", "run_worker"]

CANNOT_WRITE = 74
"""Exit status of a worker that cannot write its result. Source: `EX_IOERR` of sysexits.h."""

WORKER = "tofu_export.engines.building._build_worker"
TICK_SECONDS = 0.1
"""Time between two calls of `on_tick`."""


def run_worker(request: Mapping[str, Any], scratch: Path, on_tick: Callable[[float], None] | None) -> BuildFacts:
    """Run one build in a new process and return its facts.

    Args:
        request: plain values for the worker.
        scratch: an empty folder, also the worker's working directory; the caller removes it.
        on_tick: called with the elapsed seconds, at the start and every tenth of a second.

    Raises:
        TofuError: the error that the worker reports, as the class that it names.
        OutputError: the worker cannot write to the folder.
        EngineBuildError: the worker ended without a result.
    """
    request_path, result_path = scratch / "request.json", scratch / "result.json"
    output_path, error_path = scratch / "stdout.txt", scratch / "stderr.txt"
    request_path.write_text(json.dumps(request), encoding="utf-8")
    with output_path.open("wb") as output, error_path.open("wb") as error:
        process = subprocess.Popen(
            [sys.executable, "-m", WORKER, str(request_path), str(result_path)],
            stdin=subprocess.PIPE,  # stays open: its end tells the worker that we have ended
            stdout=output,
            stderr=error,
            cwd=scratch,
            env=_environment(),
            start_new_session=True,  # a process group to kill; Ctrl-C reaches us, and we end it
        )
        try:
            _wait(process, on_tick)
        except BaseException:
            _kill(process)
            raise
        finally:
            if process.stdin is not None:
                process.stdin.close()
    if process.returncode == CANNOT_WRITE:
        raise OutputError("the build process cannot write its result, the disk is full: choose another folder with -o")
    if process.returncode != 0 or not result_path.is_file():
        raise EngineBuildError(f"the build process {_ending(process.returncode)}{_quoted(error_path, output_path)}")
    result = json.loads(result_path.read_text(encoding="utf-8"))
    if "error" in result:
        raise _error(result["error"], result["message"])
    return from_plain(BuildFacts, result)


def _wait(process: subprocess.Popen[bytes], on_tick: Callable[[float], None] | None) -> None:
    start = time.monotonic()
    while True:
        if on_tick is not None:
            on_tick(time.monotonic() - start)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(TICK_SECONDS)
            return


def _kill(process: subprocess.Popen[bytes]) -> None:
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()


def _environment() -> dict[str, str]:
    """Return our environment, adapted so that the worker imports the same modules from any working directory."""
    root = Path(errors.__file__).resolve().parents[1]
    paths = [str(root), *(entry for entry in sys.path if entry)]  # absolute since start-up; "" is the working directory
    return {**os.environ, "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)), "PYTHONSAFEPATH": "1"}


def _error(name: str, message: str) -> TofuError:
    kind = getattr(errors, name, None)
    if isinstance(kind, type) and issubclass(kind, TofuError):
        return kind(message)
    return EngineBuildError(f"{name}: {message}")


def _ending(code: int) -> str:
    if code >= 0:
        return f"ended with status {code} and no result"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"was ended by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")


def _quoted(*captured: Path) -> str:
    """Quote the first file that is not empty as the cause of a failure."""
    for path in captured:
        lines = [line for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
        marked = [line for line in lines if "Internal Error" in line or line.startswith("Fatal Python error")]
        if lines:
            return f": {first_cause(marked or lines[-1:])}"
    return " and printed nothing"
