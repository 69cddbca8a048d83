"""Signals at every stage: the program says on a terminal what it is doing, and is sent one while it does."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import NamedTuple

from tofu_export.engines.flavours import RTX, available
from tools.reliability.outcome import Row
from tools.reliability.program import (
    EXPORT,
    Program,
    Trials,
    call,
    contents,
    in_turn,
    not_whole,
    orphans,
    said_badly,
)
from tools.reliability.seeds import Seeds

__all__ = ["TRIALS"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}
_PUBLISHING = "publishing"
"""Not announced: seen by the first file that shows under its final name."""

_STARTING = "starting"
"""Before anything is said: the interpreter and the libraries load."""


class _Moment(NamedTuple):
    """When a signal is sent: this long after the stage begins."""

    signal: signal.Signals
    stage: str
    delay_s: float


class _Command(NamedTuple):
    """A command line to disturb: its arguments, and its stages with the longest time into each."""

    arguments: tuple[str, ...]
    stages: Mapping[str, float]
    visible: Callable[[Path], bool]


def _shows(folder: Path) -> bool:
    return folder.is_dir() and any(not path.name.startswith(".") for path in folder.iterdir())


def _main_job(seeds: Seeds) -> _Command:
    stages = {
        _STARTING: 1.5, "loading test_vit": 0.3, "exporting model.onnx": 3.0, "verifying model.onnx": 0.8,
        "exporting the full model": 2.0, "timing full against reduced": 3.0, _PUBLISHING: 0.004,
    }  # fmt: skip
    engine = RTX in available()
    if engine:
        stages["building model.fp32"] = 1.8
    more = ("--engine", "--compute-capability", "SM89") if engine else ("--no-engine",)
    return _Command((*EXPORT, *more, "--bench-batch", "1", "-o", "out"), stages, _shows)


def _int8_job(seeds: Seeds) -> _Command:
    arguments = ["int8" if part == "fp32" else part for part in EXPORT]
    stages = {"exporting model.onnx": 6.0, "verifying model.onnx": 0.5}
    return _Command((*arguments, "--no-bench", "--no-engine", "-o", "out"), stages, _shows)


def _build(seeds: Seeds) -> _Command:
    arguments = ("build", str(seeds.path("ours.onnx")), "-o", "out/x.engine", "--compute-capability", "SM89")
    return _Command(arguments, {_STARTING: 1.0, "building x.engine": 2.0, _PUBLISHING: 0.004}, _shows)


def _lower(seeds: Seeds) -> _Command:
    arguments = ("lower", str(seeds.path("scatter.onnx")), "-o", "out/x.onnx")
    return _Command(arguments, {_STARTING: 1.3, _PUBLISHING: 0.002}, _shows)


def _trials(
    command: Callable[[Seeds], _Command], signals: Sequence[signal.Signals], repeats: int
) -> Callable[..., None]:
    def body(row: Row, seed: int, seeds: Seeds, folder: Path) -> None:
        if command is _build and RTX not in available():
            row.not_tried = "needs TensorRT-RTX"
            return
        chosen = command(seeds)
        undisturbed = folder / "undisturbed"
        done = call(chosen.arguments, undisturbed)
        if done.returncode:
            raise RuntimeError(f"{chosen.arguments} fails undisturbed: {done.stderr.decode()}")
        golden = contents(undisturbed / "out")
        random = Random(f"{seed}/{row.name}")
        moments = [
            _Moment(sent, stage, random.uniform(0, longest) if repeat or repeats == 1 else 0.0)
            for stage, longest in chosen.stages.items()
            for sent in signals
            for repeat in range(repeats)
        ]

        def trial(numbered: tuple[int, _Moment]) -> None:
            number, moment = numbered
            place = folder / str(number)
            code, wrong = _disturb(chosen, moment, place, golden, seeds)
            row.add(code, wrong, f"{moment.signal.name} {moment.delay_s:.3f} s into {moment.stage!r}")
            shutil.rmtree(place, ignore_errors=True)

        in_turn(trial, list(enumerate(moments)))

    return body


def _disturb(
    command: _Command, moment: _Moment, folder: Path, golden: Mapping[str, bytes], seeds: Seeds
) -> tuple[str, list[str]]:
    out = folder / "out"
    with Program(command.arguments, folder) as program:
        if moment.stage == _STARTING:
            seen = True
        elif moment.stage == _PUBLISHING:
            seen = program.until(lambda: command.visible(out))
        else:
            seen = program.until(lambda: moment.stage in program.text)
        program.wait(moment.delay_s)
        program.send(moment.signal)
        code = program.end()
        text = program.text
    wrong = list(_wrong(moment, code, text, folder, golden))
    if not seen and moment.stage != _PUBLISHING:  # the publishing of a few files may be over before it is seen
        wrong.append("the stage never began")
    if moment.signal == signal.SIGKILL:
        wrong += _next_run(folder, seeds)
    return str(code), wrong


def _wrong(moment: _Moment, code: int | None, text: str, folder: Path, golden: Mapping[str, bytes]) -> Iterator[str]:
    out = folder / "out"
    found = contents(out)
    shown = {name for name in found if not name.startswith(".")}
    # The interpreter alone is there, before our first line or after our last one: it ends as the system has it.
    outside = code == -moment.signal and (moment.stage == _STARTING or shown == set(golden))
    if moment.stage == _STARTING and "KeyboardInterrupt" in text and "/cli/main.py" not in text:
        outside = True  # Ctrl-C while Python itself starts, before it reads a line of ours: it has words of its own
    if code is None:
        yield "does not end"
    elif code not in (0, _CODES[moment.signal]) and not outside:
        yield f"exit code {code}, expected {_CODES[moment.signal]}"
    if moment.signal != signal.SIGKILL:
        yield from () if outside else said_badly(text, code)
    yield from not_whole(out, golden)
    if code == 0 and shown != set(golden):
        yield f"ended well with {', '.join(sorted(shown)) or 'nothing'}"
    if shown not in (set(), set(golden)) and moment.stage != _PUBLISHING:
        yield f"wrote {', '.join(sorted(shown))} alone"
    if moment.signal != signal.SIGKILL:
        left = [name for name in found if name.startswith(".")]
        left += [path.name for path in (folder / "tmp").iterdir()]
        if out.is_dir() and not any(out.iterdir()):
            left.append("an empty folder")
        if left:
            yield f"left behind: {', '.join(left[:5])}"
    if running := orphans(folder):
        yield f"{len(running)} processes still run"


def _next_run(folder: Path, seeds: Seeds) -> Iterator[str]:
    """After a kill the next run into the same folder works, and clears what the killed one left."""
    done = call(("lower", str(seeds.path("scatter.onnx")), "-o", "out/x.onnx", "-q"), folder)
    if done.returncode:
        yield f"the next run fails: {done.stderr.decode(errors='replace').strip()[-200:]}"
    hidden = [path.name for path in (folder / "out").iterdir() if path.name.startswith(".")]
    if hidden:
        yield f"the next run leaves {', '.join(hidden)}"


_CALM = "exit code 130 or 143, one line that says so; no file, no temporary file, no process left"
_KILLED = "no file under its final name but whole ones; no process left; the next run clears the rest"
TRIALS = (
    Trials("SIGINT at each stage of the main job", _CALM, _trials(_main_job, (signal.SIGINT,), 2)),
    Trials("SIGTERM at each stage of the main job", _CALM, _trials(_main_job, (signal.SIGTERM,), 2)),
    Trials("SIGKILL at each stage of the main job", _KILLED, _trials(_main_job, (signal.SIGKILL,), 2)),
    Trials("signals while an int8 file is made", f"{_CALM}; {_KILLED}", _trials(_int8_job, _SIGNALS, 1)),
    Trials("signals while an engine is built", f"{_CALM}; {_KILLED}", _trials(_build, _SIGNALS, 3)),
    Trials("signals while a file is lowered", f"{_CALM}; {_KILLED}", _trials(_lower, _SIGNALS, 4)),
)
