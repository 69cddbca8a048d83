"""Classes of damaged input, each a way to make one call of the command line from a seeded random generator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import NamedTuple

import onnx

from tools.reliability import hostile
from tools.reliability.mutations import damaged, damaged_document, damaged_message, damaged_text
from tools.reliability.seeds import MODEL, Seeds

__all__ = ["CLASSES", "Call", "InputClass"]


class Call(NamedTuple):
    """A call of the command line.

    Attributes:
        arguments: what it is called with.
        must_fail: exit code 0 would be wrong.
    """

    arguments: tuple[str, ...]
    must_fail: bool = False


Make = Callable[[Random, int, Path, Seeds], Call]


@dataclass(frozen=True)
class InputClass:
    """One class of input.

    Attributes:
        name: what reports call it.
        trials: how many.
        make: writes the files of trial number `index` into a folder, and says what to call.
        needs: a seed that not every machine can make.
        starts_programs: calls of this class may start the build process.
    """

    name: str
    trials: int
    make: Make
    needs: str = "ours.onnx"
    starts_programs: bool = False


# --- ONNX files --------------------------------------------------------------------------------------------------

_GRAPH_SEEDS = ("block.onnx", "scatter.onnx", "rows.onnx", "mask.onnx", "external.onnx")


def _graph(random: Random, folder: Path, seeds: Seeds) -> Path:
    """A damaged ONNX file, its bytes or its fields, and the weights that one of them needs."""
    name = random.choice(_GRAPH_SEEDS)
    data = seeds.content(name)
    path = folder / "in.onnx"
    fields = random.random() < 0.6
    path.write_bytes(damaged_message(onnx.ModelProto.FromString(data), random) if fields else damaged(data, random))
    (folder / "weights.bin").write_bytes(seeds.content("weights.bin"))
    return path


def _command_on(command: str, path: Path, folder: Path, seeds: Seeds, json: bool = False) -> tuple[str, ...]:
    """The command line that reads an ONNX file with a command."""
    more: Mapping[str, tuple[str, ...]] = {
        "lint": (),
        "lower": ("-o", str(folder / "out.onnx")),
        "verify": ("--reference", str(seeds.path("block.onnx")), "--batch", "1"),
        "verify -v": ("--reference", str(path), "--batch", "1", "-v"),
        "as reference": ("--reference", str(path), "--batch", "1"),
        "bench": ("--seconds", "0", "--warmup", "0", "--iterations", "1"),
        "bench --profile": ("--seconds", "0", "--warmup", "0", "--iterations", "1", "--profile", "--products"),
        "triton": ("-o", str(folder / "repository")),
        "build": ("-o", str(folder / "x.engine"), "--compute-capability", "SM89"),
    }
    file = seeds.path("block.onnx") if command == "as reference" else path
    name = "verify" if command == "as reference" else command.split()[0]
    return (name, str(file), *more[command], *(["--json"] if json and name not in ("triton",) else []))


def _onnx(*commands: str) -> Make:
    def make(random: Random, index: int, folder: Path, seeds: Seeds) -> Call:
        path = _graph(random, folder, seeds)
        command = commands[index % len(commands)]
        return Call(_command_on(command, path, folder, seeds, json=random.random() < 0.5))

    return make


def _ours(random: Random, index: int, folder: Path, seeds: Seeds) -> Call:
    """A file of this project with damaged metadata, or a damaged graph that is larger than the others."""
    model = onnx.ModelProto.FromString(seeds.content("ours.onnx"))
    path = folder / "in.onnx"
    if index % 3:
        entries = {entry.key: entry.value for entry in model.metadata_props}
        key = random.choice(sorted(entries))
        try:
            document = __import__("json").loads(entries[key])
            entries[key] = damaged_document(document, random)
        except ValueError:
            entries[key] = damaged_text(entries[key], random)
        entries[key] = entries[key].encode("utf-8", "ignore").decode()
        onnx.helper.set_model_props(model, entries)
        path.write_bytes(model.SerializeToString())
    else:
        path.write_bytes(damaged_message(model, random))
    command = ("verify", "verify", "triton", "lint")[index % 4]
    if command == "verify":
        return Call(("verify", str(path), "--batch", "1", *(["-v"] if random.random() < 0.3 else [])))
    return Call(_command_on(command, path, folder, seeds))


_RUNNING = ("verify", "verify -v", "as reference", "bench", "bench --profile")
_EVERY = ("lint", "lower", "verify", "verify -v", "as reference", "bench", "bench --profile", "triton", "build")


def _crafted(random: Random, index: int, folder: Path, seeds: Seeds) -> Call:
    names = list(hostile.GRAPHS)
    name, command = names[index // len(_EVERY) % len(names)], _EVERY[index % len(_EVERY)]
    if command == "build" and name == "chain of 20,000":
        command = "lint"  # TensorRT-RTX builds it, in minutes
    path = folder / "in.onnx"
    path.write_bytes(hostile.GRAPHS[name]())
    return Call(_command_on(command, path, folder, seeds))


_PLACES = (
    "../secret.bin", "sub/../../secret.bin", "./../secret.bin", "{secret}", "file://{secret}", "link.bin",
    "hard/../../secret.bin", "sub/link.bin", "..\\secret.bin", "../in/../secret.bin", "/dev/zero", "/dev/stdin",
    "/proc/self/environ", "/etc/passwd", "", ".", "..", "missing.bin", "in.onnx", "fifo", "~/secret.bin",
    "$HOME/secret.bin", "\x00", "a\nb", "weights.bin\x00",
)  # fmt: skip
_AWAY = ("lower", "verify -v", "as reference", "bench", "lint", "build", "triton")


def _external(random: Random, index: int, folder: Path, seeds: Seeds) -> Call:
    """Weights outside of the file's folder, or in what is no file; what such a place holds must not be read."""
    import os

    place = _PLACES[index // len(_AWAY) % len(_PLACES)]
    inside = folder / "in"
    (inside / "sub").mkdir(parents=True)
    secret = folder / "secret.bin"
    secret.write_bytes(seeds.content("weights.bin"))
    for link in (inside / "link.bin", inside / "sub" / "link.bin"):
        link.symlink_to(secret)
    if place == "fifo":
        os.mkfifo(inside / "fifo")
    path = inside / "in.onnx"
    proto = onnx.ModelProto.FromString(seeds.content("external.onnx"))
    path.write_bytes(hostile.outside(proto, place.format(secret=secret)))
    command = _AWAY[index % len(_AWAY)]
    # A link was put there by whoever owns the folder: TensorRT follows it, and triton copies what it is given.
    fine = place == "in.onnx" or command == "triton" or (command == "build" and "link" in place)
    return Call(_command_on(command, path, folder, seeds), must_fail=not fine)


_RANGES = (
    "-1",
    "1",
    "255",
    "256",
    "4096",
    str(2**31),
    str(2**62),
    str(2**63),
    str(2**64),
    "x",
    "",
    "1e3",
    "0x10",
    " 4 ",
)


def _external_range(random: Random, index: int, folder: Path, seeds: Seeds) -> Call:
    """Offsets and lengths that the file beside it does not have."""
    proto = onnx.ModelProto.FromString(seeds.content("external.onnx"))
    path = folder / "in.onnx"
    entries = {random.choice(("offset", "length")): random.choice(_RANGES), random.choice(("checksum", "x")): "y"}
    path.write_bytes(hostile.outside(proto, "weights.bin", **entries))
    (folder / "weights.bin").write_bytes(seeds.content("weights.bin"))
    return Call(_command_on(_AWAY[index % len(_AWAY)], path, folder, seeds))


# --- Weights -----------------------------------------------------------------------------------------------------


def _weights(name: str) -> Make:
    def make(random: Random, index: int, folder: Path, seeds: Seeds) -> Call:
        data = seeds.content(name)
        path = folder / f"in{Path(name).suffix}"
        if index % 4 == 0 and name.endswith(".safetensors"):
            data = _damaged_header(data, random)
        else:  # most of such a file are numbers, which any value is: the places that say what they are get hit more
            head = random.choice((64, 1024, len(data)))
            front = random.random() < 0.5
            part = data[:head] if front else data[-head:]
            data = damaged(part, random) + data[head:] if front else data[:-head] + damaged(part, random)
        path.write_bytes(data)
        return Call(("verify", str(seeds.path("ours.onnx")), "--weights", str(path), "--batch", "1"))

    return make


def _damaged_header(data: bytes, random: Random) -> bytes:
    """A safetensors file whose header is another document."""
    import json

    size = int.from_bytes(data[:8], "little")
    header = damaged_document(json.loads(data[8 : 8 + size]), random).encode()
    return len(header).to_bytes(8, "little") + header + data[8 + size :]


def _pickles(random: Random, index: int, folder: Path, seeds: Seeds) -> Call:
    kind, form = hostile.PICKLES[index % len(hostile.PICKLES)]
    (folder / "in").mkdir()
    path = hostile.write_pickle(kind, form, folder / "in" / "evil.pth", folder / "executed")
    return Call(("verify", str(seeds.path("ours.onnx")), "--weights", str(path), "--batch", "1"), must_fail=True)


def _model_folder(random: Random, index: int, folder: Path, seeds: Seeds) -> Call:
    """A local model folder whose config.json is damaged."""
    (folder / "m").mkdir()
    text = damaged_document(seeds.document("config.json"), random)
    (folder / "m" / "config.json").write_text(text, encoding="utf-8", errors="ignore")
    return Call(("plan", f"local-dir:{folder / 'm'}"))


# --- Images, labels, engines, records ----------------------------------------------------------------------------

_IMAGES = ("image.png", "image.jpg", "image.bmp", "image.gif", "image.tiff", "image.webp", "image.ppm", "deep.png")


def _images(random: Random, index: int, folder: Path, seeds: Seeds) -> Call:
    name = _IMAGES[index % len(_IMAGES)]
    data = damaged(seeds.content(name), random)
    if index % 10 == 9:  # what is no image at all
        model, log = seeds.content("ours.onnx")[:5000], seeds.content("trtexec.log")
        script, huge = b"%!PS-Adobe-3.0 EPSF-3.0\n(x) run", b"P6 99999999 99999999 255\n"
        data = random.choice((b"", b"\x00" * 100, log, model, script, huge, b"<svg/>"))
        name = random.choice(_IMAGES)
    (folder / "images").mkdir()
    (folder / "images" / name).write_bytes(data)
    ours = str(seeds.path("ours.onnx"))
    return Call(("verify", ours, "--images", str(folder / "images"), "--batch", "1"))


def _labels(random: Random, index: int, folder: Path, seeds: Seeds) -> Call:
    path = folder / "labels.txt"
    path.write_bytes(damaged(seeds.content("labels.txt")[:2000], random))
    return Call(("export", MODEL, "--weights", "random", "--labels", str(path), "--dry-run"))


def _sidecar(random: Random, index: int, folder: Path, seeds: Seeds) -> Call:
    (folder / "x.engine").write_bytes(seeds.content("x.engine"))
    text = damaged_document(seeds.document("x.engine.json"), random)
    (folder / "x.engine.json").write_text(text, encoding="utf-8", errors="ignore")
    if index % 5 == 0:
        (folder / "a.onnx").write_bytes(seeds.content("block.onnx"))
        return Call(("triton", str(folder), "-o", str(folder / "repository")))
    return Call(("check", str(folder / "x.engine"), *(["--json"] if index % 2 else [])))


def _engine(random: Random, index: int, folder: Path, seeds: Seeds) -> Call:
    (folder / "x.engine").write_bytes(damaged(seeds.content("x.engine"), random))
    if index % 2:
        (folder / "x.engine.json").write_bytes(seeds.content("x.engine.json"))
    command = (
        ("check", str(folder / "x.engine"))
        if index % 4
        else ("bench", str(folder / "x.engine"), "--backend", "trt-rtx")
    )
    return Call(command, must_fail=True)


def _record(random: Random, index: int, folder: Path, seeds: Seeds) -> Call:
    path = folder / "record"
    if index % 2:
        text = damaged_document(seeds.document("times.json"), random)
        path.write_text(text, encoding="utf-8", errors="ignore")
        option = ["--trtexec-times", str(path), "--batch", "8"]
    else:
        data = seeds.content("trtexec.log")
        if random.random() < 0.5:
            path.write_bytes(damaged(data, random))
        else:
            path.write_text(damaged_text(data.decode(), random), encoding="utf-8", errors="ignore")
        option = ["--trtexec-log", str(path)]
    return Call(("bench", *option, *(["--json"] if random.random() < 0.5 else [])))


# --- Options -----------------------------------------------------------------------------------------------------

_OPTIONS: Mapping[str, tuple[str, ...]] = {
    "--r": ("16", "8,8,8,8,8,8", "0"),
    "--pattern": ("PPPMMM", "P-A-M-", "TTTTTT"),
    "--mode": ("mlerp", "tome"),
    "--prune-layers": ("3",),
    "--keep-rate": ("0.9",),
    "--speedup": ("1.2",),
    "--gmacs": ("0.03",),
    "--exclude-layers": ("0,5",),
    "--schedule": ("linear",),
    "--image-size": ("160", "160x192"),
    "--num-classes": ("10",),
}
_EXPORT_OPTIONS: Mapping[str, tuple[str, ...]] = {
    "--batch": ("1:8:64", "4"),
    "--precision": ("fp32,fp16",),
    "--target": ("portable",),
    "--opset": ("18",),
    "--bench-batch": ("1,8",),
    "--compute-capability": ("SM89",),
    "--threads": ("1",),
    "--seed": ("3",),
    "--weights": ("random",),
}


def _options(random: Random, index: int, folder: Path, seeds: Seeds) -> Call:
    """A command line with one to four options, most of them with a damaged value."""
    export = index % 3 == 0
    table = {**_OPTIONS, **_EXPORT_OPTIONS} if export else _OPTIONS
    arguments = ["export" if export else "plan", MODEL if random.random() < 0.9 else damaged_text(MODEL, random)]
    for name in random.sample(sorted(table), random.choice((1, 1, 2, 4))):
        text = random.choice(table[name])
        text = damaged_text(text, random) if random.random() < 0.8 else text
        arguments += [name, text.replace("\x00", "")]  # no system hands over such an argument
    return Call((*arguments, "--dry-run") if export else tuple(arguments))


CLASSES: Mapping[str, InputClass] = {
    entry.name: entry
    for entry in (
        InputClass("ONNX, read alone: lint, triton", 1200, _onnx("lint", "lint", "triton")),
        InputClass("ONNX, rewritten: lower", 500, _onnx("lower")),
        InputClass("ONNX, run: verify, bench", 700, _onnx(*_RUNNING)),
        InputClass("ONNX, built: build", 40, _onnx("build"), "x.engine", starts_programs=True),
        InputClass("ONNX of this project, metadata", 280, _ours),
        InputClass("ONNX made to break readers", len(hostile.GRAPHS) * len(_EVERY), _crafted, starts_programs=True),
        InputClass("external data that leads away", len(_PLACES) * len(_AWAY), _external, starts_programs=True),
        InputClass("external data of other sizes", 140, _external_range, starts_programs=True),
        InputClass("safetensors", 150, _weights("weights.safetensors")),
        InputClass("PyTorch checkpoints", 120, _weights("weights.pth")),
        InputClass("PyTorch checkpoints, old form", 90, _weights("old.pth")),
        InputClass("JAX archives (npz)", 120, _weights("weights.npz")),
        InputClass("pickles that run code", len(hostile.PICKLES), _pickles),
        InputClass("config.json of a model", 120, _model_folder),
        InputClass("images", 120, _images),
        InputClass("labels", 100, _labels),
        InputClass("engines' sidecars", 300, _sidecar, "x.engine"),
        InputClass("engines", 80, _engine, "x.engine"),
        InputClass("records of trtexec", 500, _record),
        InputClass("options and plan texts", 600, _options),
    )
}  # fmt: skip
"""All classes, in the order in which they run."""
