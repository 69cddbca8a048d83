"""Runs the trials of a class in child processes: a crash or a hang costs one trial and is counted as lost."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tools.reliability.inputs import CLASSES
from tools.reliability.outcome import Row
from tools.reliability.seeds import Seeds

__all__ = ["INPUT_EXPECTED", "run_class"]

INPUT_EXPECTED = "an error with exit code 2 to 7, or success; nothing left, nothing run, no connection, no hang"

TRIAL_SECONDS = 120.0
"""Longest time of one trial, on a machine that others use too."""

START_SECONDS = 180.0
"""Longest time until the first trial begins."""

ROOT = Path(__file__).parents[2]


def run_class(name: str, seed: int, seeds: Seeds, jobs: int, only: int | None = None, share: float = 1.0) -> Row:
    """All trials of a class.

    Args:
        name: key of `CLASSES`.
        seed: of all damage.
        seeds: the good files.
        jobs: processes at the same time.
        only: number of the one trial to run.
        share: of the trials, to run fewer, the first ones, or more.
    """
    kind = CLASSES[name]
    row = Row(name, INPUT_EXPECTED)
    if not seeds.has(kind.needs):
        row.not_tried = "needs TensorRT-RTX"
        return row
    trials = max(1, round(kind.trials * share))
    numbers = range(trials) if only is None else range(only, only + 1)
    start = time.monotonic()
    parts = [numbers[len(numbers) * part // jobs : len(numbers) * (part + 1) // jobs] for part in range(jobs)]
    with ThreadPoolExecutor(jobs) as threads:
        for results in threads.map(lambda part: list(_run_part(name, seed, seeds, part)), parts):
            for code, wrong, where in results:
                row.add(code, wrong, where)
    row.seconds = time.monotonic() - start
    return row


def _run_part(name: str, seed: int, seeds: Seeds, numbers: range) -> Iterator[tuple[object, list[str], str]]:
    """Code, complaints and place of each trial; a new process after one that died."""
    start = numbers.start
    while start < numbers.stop:
        done = start
        for result in _run_process(name, seed, seeds, start, numbers.stop):
            yield result
            done += 1
        if done == start:
            raise RuntimeError(f"the process for {name!r} does not begin: run tools.reliability.worker by hand")
        start = done


def _run_process(name: str, seed: int, seeds: Seeds, start: int, stop: int) -> Iterator[tuple[object, list[str], str]]:
    command = [
        sys.executable,
        "-m",
        "tools.reliability.worker",
        name,
        str(seed),
        str(seeds.folder),
        str(start),
        str(stop),
    ]
    environment = {
        **os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1", "TMPDIR": "/tmp",
        "PYTHONPATH": str(ROOT), "MALLOC_ARENA_MAX": "2",
    }  # fmt: skip
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, cwd=ROOT, env=environment
    )
    assert process.stdout is not None and process.stderr is not None
    began: int | None = None
    try:
        for line in _lines(process, START_SECONDS):
            if line is None:
                if began is None:
                    raise RuntimeError(f"the process for {name!r} does not begin within {START_SECONDS:.0f} s")
                yield "hang", [f"no end within {TRIAL_SECONDS:.0f} s"], f"trial {began}"
                return
            document = json.loads(line)
            if "begin" in document:
                began = document["begin"]
                continue
            called = " ".join(map(str, document["call"]))
            yield document["code"], document["wrong"], f"trial {began} ({called}): {document['said']}"
            began = None
        process.wait(10)
        if began is not None:
            said = process.stderr.read().decode("utf-8", "replace").strip()[-400:]
            yield (
                f"crash {process.returncode}",
                [f"the process ended with {process.returncode}"],
                f"trial {began}: {said}",
            )
        elif process.returncode:
            raise RuntimeError(process.stderr.read().decode("utf-8", "replace")[-2000:])
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


def _lines(process: subprocess.Popen[bytes], first: float) -> Iterator[str | None]:
    """Lines of its output; None where the next one does not come in time."""
    assert process.stdout is not None
    buffer, limit = b"", first
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while True:
            if not selector.select(limit):
                yield None
                return
            data = os.read(process.stdout.fileno(), 1 << 16)
            if not data:
                return
            limit = TRIAL_SECONDS
            buffer += data
            *whole, buffer = buffer.split(b"\n")
            yield from (line.decode() for line in whole)
