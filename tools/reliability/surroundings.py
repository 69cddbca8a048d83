"""Disks that are full or read-only, strange names, two runs at once, little memory, no network."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tofu_export.engines.flavours import RTX, available
from tofu_export.system.files import is_text
from tools.reliability.outcome import TYPED, Row
from tools.reliability.program import (
    EXPORT,
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

_OWN = ("unshare", "--mount", "sh", "-c")
_MOUNT = 'mount {how} && "$@"; code=$?; find {folder} -mindepth 1 > {folder}.left; exit $code'
"""What it mounts only this process tree sees, so what is left is listed inside of it."""

_PLAIN = (*EXPORT, "--no-bench", "--no-engine")


class _Case(NamedTuple):
    """A call of the command line, named."""

    name: str
    arguments: tuple[str, ...]


def _writers(seeds: Seeds, out: str) -> Iterator[_Case]:
    """Everything that writes, into the folder `out`."""
    ours, scatter, block = (str(seeds.path(name)) for name in ("ours.onnx", "scatter.onnx", "block.onnx"))
    quick = ("--seconds", "0", "--warmup", "0", "--iterations", "1")
    yield _Case("export", (*_PLAIN, "-o", f"{out}/o"))
    yield _Case("lower", ("lower", scatter, "-o", f"{out}/x.onnx"))
    yield _Case("triton", ("triton", ours, "-o", f"{out}/repository"))
    yield _Case("bench --csv", ("bench", block, *quick, "--csv", f"{out}/x.csv"))
    yield _Case("verify --bundle", ("verify", ours, "--atol", "0", "--bundle", f"{out}/bundle"))
    if RTX in available():
        yield _Case("build", ("build", block, "-o", f"{out}/x.engine", "--compute-capability", "SM89"))


def _can_mount(folder: Path) -> str:
    """Why nothing can be mounted here, empty if it can."""
    if shutil.which("unshare") is None:
        return "there is no program unshare"
    place = folder / "probe"
    place.mkdir()
    done = subprocess.run([*_OWN, f"mount -t tmpfs none '{place}'"], capture_output=True, text=True, check=False)
    return done.stderr.strip()


def _mounted(arguments: Sequence[str], place: Path, disk: Path, how: str, **more: str) -> tuple[int, str, list[str]]:
    """Exit code, words and files left of a call for which `how` is mounted at `disk`."""
    script = _MOUNT.format(how=how, folder=f"'{disk}'")
    done = call(arguments, place, before=(*_OWN, script, "sh"), **more)
    listing = Path(f"{disk}.left")
    left = listing.read_text(encoding="utf-8").splitlines() if listing.is_file() else []
    return done.returncode, done.stderr.decode("utf-8", "replace"), left


# --- Disks -------------------------------------------------------------------------------------------------------

_SIZES = ("4k", "32k", "256k", "800k", "1536k", "1700k", "3m", "3200k", "4m", "16m")


def _small_disk(row: Row, seed: int, seeds: Seeds, folder: Path) -> None:
    """A disk that is full at the first byte, at the last, or in between; the largest size suffices for most."""
    row.not_tried = _can_mount(folder)
    if row.not_tried:
        return

    def trial(numbered: tuple[int, tuple[str, _Case]]) -> None:
        number, (size, case) = numbered
        disk = folder / str(number) / "disk"
        disk.mkdir(parents=True)
        how = f"-t tmpfs -o size={size} none '{disk}'"
        code, text, left = _mounted(_within(case, disk), folder / str(number), disk, how)
        row.add(code, _refused(code, text, left, folder / str(number)), f"{case.name} on {size}")

    cases = [
        (size, _in_int8(case) if case.name == "export" and number % 2 else case)
        for case in _writers(seeds, "DISK")
        for number, size in enumerate(_SIZES)
    ]
    in_turn(trial, list(enumerate(cases)))


def _in_int8(case: _Case) -> _Case:
    return _Case(f"{case.name} int8", tuple("int8" if part == "fp32" else part for part in case.arguments))


def _within(case: _Case, disk: Path) -> tuple[str, ...]:
    return tuple(part.replace("DISK", str(disk)) for part in case.arguments)


def _refused(code: int, text: str, left: Sequence[str], folder: Path) -> Iterator[str]:
    """What is wrong with a run that may not have been able to write."""
    if code not in TYPED:
        yield f"exit code {code}"
    yield from said_badly(text, code)
    names = [Path(name).name for name in left]
    if code not in (0, 4) and names:
        yield f"left behind: {', '.join(names[:5])}"
    hidden = [name for name in names if name.startswith(".")]
    if hidden:
        yield f"left behind: {', '.join(hidden[:5])}"
    temporary = [path.name for path in (folder / "tmp").iterdir()]
    if temporary:
        yield f"left in the temporary folder: {', '.join(temporary[:5])}"


def _full_temporary_disk(row: Row, seed: int, seeds: Seeds, folder: Path) -> None:
    row.not_tried = _can_mount(folder)
    if row.not_tried:
        return

    def trial(numbered: tuple[int, tuple[str, _Case]]) -> None:
        number, (size, case) = numbered
        place = folder / str(number)
        disk, out = place / "disk", place / "out"
        for path in (disk, out):
            path.mkdir(parents=True)
        how = f"-t tmpfs -o size={size} none '{disk}'"
        code, text, left = _mounted(_within(case, out), place, disk, how, TMPDIR=str(disk))
        row.add(code, _refused(code, text, left, place), f"{case.name} with {size} for temporary files")

    cases = [(size, case) for case in _writers(seeds, "DISK") for size in ("4k", "256k")]
    in_turn(trial, list(enumerate(cases)))


def _read_only(row: Row, seed: int, seeds: Seeds, folder: Path) -> None:
    """A folder on a read-only file system; file modes would not stop root."""
    row.not_tried = _can_mount(folder)
    if row.not_tried:
        return

    def trial(numbered: tuple[int, _Case]) -> None:
        number, case = numbered
        disk = folder / str(number) / "disk"
        disk.mkdir(parents=True)
        how = f"--bind '{disk}' '{disk}' && mount -o remount,ro,bind '{disk}'"
        code, text, left = _mounted(_within(case, disk), folder / str(number), disk, how)
        wrong = list(_refused(code, text, left, folder / str(number)))
        if code != 2 and not (case.name.startswith("verify") and code == 4):
            wrong.append(f"exit code {code}, expected 2")
        row.add(code, wrong, case.name)

    in_turn(trial, list(enumerate(_writers(seeds, "DISK"))))


# --- Names -------------------------------------------------------------------------------------------------------

_NAMES = (
    "with space", "ünï 模型 💥", "a'b\"c", "-dash", "new\nline", "[bold]x", "%s {0} $HOME `id`", "..x", "a\\b",
    "\udcff\udcfe", "n" * 200, "\u202e\u0301", "~",
)  # fmt: skip


def _names(row: Row, seed: int, seeds: Seeds, folder: Path) -> None:
    """Good input in a folder of a strange name, and good output: it has to work, and where it does not, to say so."""
    rtx = RTX in available()

    def trial(name: str) -> None:
        place = folder / name
        place.mkdir()
        for file in (
            "ours.onnx",
            "scatter.onnx",
            "labels.txt",
            "weights.pth",
            *(("x.engine", "x.engine.json") if rtx else ()),
        ):
            shutil.copyfile(seeds.path(file), place / file)
        (place / "images").mkdir()
        shutil.copyfile(seeds.path("image.png"), place / "images" / f"i{name[:100]}.png")
        at = str(place)
        calls: list[tuple[tuple[str, ...], int]] = [
            (("lint", f"{at}/ours.onnx", "--json"), 0),
            (("verify", f"{at}/ours.onnx", "--weights", f"{at}/weights.pth", "--images", f"{at}/images", "--json"), 0),
            (("lower", f"{at}/scatter.onnx", "-o", f"{at}/out/x.onnx", "--json"), 0),
            (("triton", f"{at}/ours.onnx", "-o", f"{at}/repository"), 0),
            (
                (
                    "bench",
                    f"{at}/ours.onnx",
                    "--seconds",
                    "0",
                    "--iterations",
                    "1",
                    "--csv",
                    f"{at}/out/x.csv",
                    "--json",
                ),
                0,
            ),
        ]
        if _NAMES.index(name) % 3 == 0:  # it takes longest
            export = (*_PLAIN, "--weights", "random", "--labels", f"{at}/labels.txt", "-o", f"{at}/export", "--json")
            calls.append((export, 0))
        if rtx:
            build = ("build", f"{at}/ours.onnx", "-o", f"{at}/out/x.engine", "--compute-capability", "SM89", "--json")
            calls += [(build, 0), (("check", f"{at}/x.engine", "--json"), 5)]
        for arguments, expected in calls:
            done = call([os.fsencode(part) for part in arguments], folder)
            text = done.stderr.decode("utf-8", "replace")
            # onnxruntime and TensorRT open no path that is not UTF-8: that has to be said.
            refused = not is_text(place) and done.returncode in (3, 6)
            wrong = [*said_badly(text, done.returncode)] if refused else []
            if done.returncode != expected and not refused:
                wrong.append(f"exit code {done.returncode}: {text.strip()[-300:]}")
            if "Traceback" in text:
                wrong.append("traceback")
            if "--json" in arguments and not refused:
                try:
                    json.loads(done.stdout)
                except ValueError:
                    wrong.append(f"--json printed no document: {done.stdout[:80]!r}")
            row.add(done.returncode, wrong, f"{arguments[0]} in {name!r}")

    in_turn(trial, _NAMES)


# --- Two at once -------------------------------------------------------------------------------------------------


def _at_once(row: Row, seed: int, seeds: Seeds, folder: Path) -> None:
    """Two exports that differ, into one folder: afterwards it holds the files of one of them, whole."""

    def trial(number: int) -> None:
        place = folder / str(number)
        out = place / "out"
        jobs = []
        for r in ("4", "8"):
            arguments = ["8" if part == "8" else part for part in _PLAIN]
            arguments[arguments.index("--r") + 1] = r
            (place / r / "tmp").mkdir(parents=True)
            jobs.append(
                subprocess.Popen(
                    [sys.executable, "-m", "tofu_export.cli", *arguments, "-o", str(out), "-q"],
                    stderr=subprocess.PIPE, env=_at(place / r), cwd=place,
                )
            )  # fmt: skip
        texts = [job.communicate(timeout=180)[1].decode("utf-8", "replace") for job in jobs]
        codes = [job.returncode for job in jobs]
        wrong = [f"exit codes {codes}: {' '.join(texts).strip()[-300:]}"] * any(codes)
        names = {path.name for path in out.iterdir()}
        if names != {"model.onnx", "report.html", "report.json", "report.md"}:
            wrong.append(f"the folder has {', '.join(sorted(names))}")
        wrong += not_whole(out, {"model.onnx": contents(out).get("model.onnx", b"")})
        row.add(",".join(map(str, codes)), wrong, f"pair {number}")

    in_turn(trial, range(4), jobs=1)


def _at(folder: Path) -> dict[str, str]:
    from tools.reliability.program import environment

    return environment(folder)


# --- Memory, size of files ---------------------------------------------------------------------------------------

_MEGABYTES = (300, 600, 900, 1200, 2000, 3000, 6000)
_LIMITED = 'ulimit {what} {amount}; exec "$@"'


def _little_memory(row: Row, seed: int, seeds: Seeds, folder: Path) -> None:
    """An address space that does not suffice for the libraries, for the model, or for the work."""
    cases = [case for case in _writers(seeds, "OUT") if case.name in ("export", "lower", "build")]
    cases.append(_Case("verify", ("verify", str(seeds.path("ours.onnx")))))
    cases.append(_Case("lint", ("lint", str(seeds.path("ours.onnx")))))
    _limit(row, folder, [(case, "-v", megabytes * 1024) for case in cases for megabytes in _MEGABYTES])


def _file_limit(row: Row, seed: int, seeds: Seeds, folder: Path) -> None:
    """A limit on the size of a file, in blocks of 1,024 bytes."""
    _limit(row, folder, [(case, "-f", blocks) for case in _writers(seeds, "OUT") for blocks in (1, 100, 1000)])


def _limit(row: Row, folder: Path, trials: Sequence[tuple[_Case, str, int]]) -> None:
    def trial(numbered: tuple[int, tuple[_Case, str, int]]) -> None:
        number, (case, what, amount) = numbered
        place = folder / str(number)
        out = place / "out"
        out.mkdir(parents=True)
        arguments = tuple(part.replace("OUT", str(out)) for part in case.arguments)
        done = call(arguments, place, before=("bash", "-c", _LIMITED.format(what=what, amount=amount), "bash"))
        text = done.stderr.decode("utf-8", "replace")
        left = [str(path) for path in out.rglob("*")]
        code = done.returncode
        wrong = list(
            _refused(0 if code == 1 and "out of memory" in text else code, text, [] if code in (0, 4) else left, place)
        )
        if running := orphans(place):
            wrong.append(f"{len(running)} processes still run")
        row.add(code, wrong, f"{case.name} with ulimit {what} {amount}: {text.strip()[-160:]}")
        shutil.rmtree(place)

    in_turn(trial, list(enumerate(trials)))


# --- Network -----------------------------------------------------------------------------------------------------


def _no_network(row: Row, seed: int, seeds: Seeds, folder: Path) -> None:
    """No network at all, and each use of a socket of the internet is counted in spite of that, native ones too."""
    if shutil.which("strace") is None:
        row.not_tried = "there is no program strace, without which native code is not seen to connect"
        return
    cases = [*_writers(seeds, "OUT"), _Case("demo", ("demo_vit", "--no-bench", "--no-engine", "-o", "OUT/o"))]
    ours = str(seeds.path("ours.onnx"))
    cases += [
        _Case("bench", ("bench", ours, "--seconds", "0.1")),
        _Case("lint", ("lint", ours)),
        _Case("verify", ("verify", ours)),
        _Case("plan", ("plan", "vit_base")),
        _Case("models", ("models", "vit_tiny*")),
        _Case("doctor", ("doctor",)),
    ]

    def trial(numbered: tuple[int, _Case]) -> None:
        number, case = numbered
        place = folder / str(number)
        out = place / "out"
        out.mkdir(parents=True)
        log = place / "trace"
        alone = () if os.geteuid() else ("unshare", "--net")
        watched = ("strace", "-f", "-qq", "-e", "trace=connect,sendto,sendmsg", "-o", str(log))
        more = {"CI": "", "GITHUB_ACTIONS": "", "TF_BUILD": ""}  # what libraries take for a reason to be quiet
        done = call(
            tuple(part.replace("OUT", str(out)) for part in case.arguments), place, before=(*alone, *watched), **more
        )
        calls = [line for line in log.read_text(errors="replace").splitlines() if "AF_INET" in line]
        wrong = [f"connects: {line[:120]}" for line in calls[:3]]
        if done.returncode not in (0, 4) and case.name != "doctor":
            wrong.append(f"exit code {done.returncode}: {done.stderr.decode(errors='replace').strip()[-200:]}")
        row.add(done.returncode, wrong, case.name)

    in_turn(trial, list(enumerate(cases)))


_REFUSED = "exit code 2 and a line that says so, or success; nothing left behind"
_Body = Callable[[Row, int, Seeds, Path], None]
TRIALS = (
    Trials("a disk that fills up", _REFUSED, _small_disk),
    Trials("a full disk for temporary files", _REFUSED, _full_temporary_disk),
    Trials("a read-only folder", "exit code 2 and a line that says so", _read_only),
    Trials("a limit on the size of files", _REFUSED, _file_limit),
    Trials("strange names of folders", "it works, or is refused where it is not UTF-8", _names),
    Trials("two exports into one folder at once", "both end well, the files of one of them are there", _at_once),
    Trials("little memory", "a typed error, or 'out of memory'; nothing left behind", _little_memory),
    Trials("no network", "it works, and no socket of the internet is used", _no_network),
)
