"""Explain why a file is not a readable checkpoint: what it is instead, and what to do."""

from __future__ import annotations

import codecs
import pickletools
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

import torch

__all__ = ["other_kind", "why_unreadable"]

_PLAIN_WEIGHTS: Final = (
    "torch._utils.",
    "torch._tensor.",
    "torch.serialization.",
    "torch.storage.",
    "torch.nn.parameter.Parameter",
    "torch.nn.parameter.Buffer",
    "collections.OrderedDict",
    "argparse.Namespace",
    "numpy.core.multiarray.",
    "numpy._core.multiarray.",
    "numpy.ndarray",
    "numpy.dtype",
    "pathlib.",
    "_codecs.encode",
)
"""Beginnings of the globals that a pickle of tensors and settings names."""

_TYPE: Final = re.compile(r"torch\.\w+")
"""Types of torch, of numbers and storages."""

_ADVICE: Final = "Expected .safetensors, or a file written by torch.save(model.state_dict(), PATH)"

_SHOWN: Final = 60
"""Number of letters of a text that a message shows."""

_TEXTS: Final[tuple[tuple[bytes, str], ...]] = (
    (
        b"version https://git-lfs.github.com/spec",
        "is a pointer of git-lfs, not the file itself: run `git lfs pull` in its repository, or download the file",
    ),
    (b"<!doctype html", "is a web page (HTML), not a checkpoint: download the file itself, not the page about it"),
    (b"<html", "is a web page (HTML), not a checkpoint: download the file itself, not the page about it"),
)

_PACKED: Final[tuple[tuple[bytes, str, str], ...]] = (
    (b"\x1f\x8b", "gzip", "gunzip"),
    (b"BZh", "bzip2", "bunzip2"),
    (b"\xfd7zXZ\x00", "xz", "unxz"),
    (b"\x28\xb5\x2f\xfd", "zstd", "unzstd"),
    (b"7z\xbc\xaf\x27\x1c", "7-Zip", "7z x"),
)


def why_unreadable(path: Path, error: Exception) -> str:
    """Return a message for a file that could not be read.

    Args:
        path: the file.
        error: what reading it raised.
    """
    return other_kind(path) or _unsafe(path) or _other_text(path) or _damaged(path, error)


def other_kind(path: Path) -> str:
    """Return what a file is instead of a checkpoint of its suffix; empty if unknown."""
    head = _head(path)
    name, suffix = path.name, path.suffix.lower()
    text = head.removeprefix(codecs.BOM_UTF8).lstrip().lower()
    for beginning, words in _TEXTS:
        if text.startswith(beginning):
            return f"{name} {words}"
    for beginning, kind, unpack in _PACKED:
        if head.startswith(beginning):
            return f"{name} is compressed with {kind}: unpack it first, for example with `{unpack}`"
    if head[257:262] == b"ustar":
        return f"{name} is a tar archive: unpack it first, for example with `tar -xf`"
    if head.startswith(b"\x93NUMPY"):
        return f"{name} is one array of numpy. {_ADVICE}"
    if head.startswith(b"\x89HDF"):
        return f"{name} is an HDF5 file, as Keras writes it. {_ADVICE}"
    if suffix != ".safetensors" and _is_safetensors(head):
        return f"{name} is .safetensors under another suffix: rename it to {path.stem}.safetensors"
    archive = zipfile.is_zipfile(path)
    if archive and (words := _other_archive(path)):
        return words
    if suffix in (".safetensors", ".npz") and (head.startswith(b"\x80") or (archive and not _is_numpy(path))):
        return f"{name} was written by torch.save, not as {suffix}: rename it to {path.stem}.pth"
    return _other_text(path) if suffix == ".npz" else ""  # a pickle can be a text as well


def _other_archive(path: Path) -> str:
    names = _names_in(path)
    if any(name.endswith("archive_format") for name in names):
        return (
            f"{path.name} is an exported program (torch.export): save the state dict of it, "
            f"torch.save(torch.export.load({path.name!r}).state_dict, 'weights.pth'), and give that"
        )
    if any(name.endswith(("constants.pkl", ".torchscript")) or "/code/" in name for name in names):
        return (
            f"{path.name} is a TorchScript model, which holds code: save the state_dict() of it, "
            f"torch.save(torch.jit.load({path.name!r}, map_location='cpu').state_dict(), 'weights.pth'), and give that"
        )
    if _is_numpy(path):
        other = path.suffix.lower() != ".npz"
        return f"{path.name} is an archive of numpy under another suffix: rename it to {path.stem}.npz" if other else ""
    if not any(name.endswith("data.pkl") for name in names):
        return f"{path.name} is a zip archive without weights of PyTorch in it: unpack it first. {_ADVICE}"
    return ""


def _names_in(path: Path) -> list[str]:
    with zipfile.ZipFile(path) as archive:
        return archive.namelist()


def _is_numpy(path: Path) -> bool:
    names = _names_in(path)
    return bool(names) and all(name.endswith(".npy") for name in names)


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(512)


def _other_text(path: Path) -> str:
    """Return how a text begins; empty for other content."""
    text = codecs.getincrementaldecoder("utf-8")(errors="replace").decode(_head(path)).strip()
    if not text or not all(letter.isprintable() or letter.isspace() for letter in text) or "\ufffd" in text:
        return ""
    beginning = " ".join(text.split())[:_SHOWN]
    return (
        f"{path.name} is a text that begins with {beginning!r}, not a checkpoint: download the file itself. {_ADVICE}"
    )


def _is_safetensors(head: bytes) -> bool:
    return len(head) > 9 and head[8:9] == b"{" and 2 < int.from_bytes(head[:8], "little") < 1 << 32


def _unsafe(path: Path) -> str:
    objects = _unsafe_objects(path)
    if not objects:
        return ""
    return (
        f"{path.name} holds pickled Python objects ({', '.join(objects[:3])}), which could run code when loaded; "
        "it was not loaded. Expected plain tensors: save model.state_dict() with torch.save or, better, as "
        ".safetensors"
    )


def _damaged(path: Path, error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = lines[0] if lines and "weights_only" not in lines[0] else ""
    detail = f"{type(error).__name__}{f': {said}' if said else ''}"
    return (
        f"{path.name} is truncated or not a checkpoint ({path.stat().st_size:,} bytes; {detail}). "
        f"{_ADVICE}: copy or download it again"
    )


def _unsafe_objects(path: Path) -> list[str]:
    """Return globals in a pickle that plain weights do not need, found without running it; empty if none."""
    try:
        names = list(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # not a zip archive: a bare pickle, several in a row, or anything at all
        with path.open("rb") as file:
            names = list(_globals(file))
    return [name for name in names if name and not name.startswith(_PLAIN_WEIGHTS) and not _TYPE.fullmatch(name)]


def _globals(file: BinaryIO) -> Iterator[str]:
    """Yield every `module.name` in a series of pickles, up to the first byte that is not part of a pickle."""
    texts: list[str] = []
    try:
        while True:
            for opcode, argument, _ in pickletools.genops(file):
                if opcode.name == "GLOBAL":
                    yield str(argument).replace(" ", ".")
                elif opcode.name == "STACK_GLOBAL":
                    yield ".".join(texts[-2:])
                elif "UNICODE" in opcode.name:
                    texts.append(str(argument))
    except (ValueError, UnicodeDecodeError, IndexError):
        return
