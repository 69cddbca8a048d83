"""Sidecar of an engine: `<engine name>.json` beside it, which describes it. Written and read only here.

All code that meets an engine calls `read_sidecar`, so that the same files are refused with the same messages.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from tofu_export.artifact.card import ModelCard
from tofu_export.artifact.external import data_files, sha256_of_model
from tofu_export.engines.describing.receipt import EngineReceipt
from tofu_export.engines.flavours import FLAVOURS, Flavour
from tofu_export.errors import ExportError, OptionError
from tofu_export.options import Precision
from tofu_export.system.files import sha256_of, write_text
from tofu_export.system.json_file import read_json
from tofu_export.system.typed_json import JsonObject, from_plain

__all__ = [
    "SCHEMA_VERSION",
    "Sidecar",
    "missing_sidecar",
    "read_sidecar",
    "sidecar_document",
    "sidecar_path",
    "write_sidecar",
]

SCHEMA_VERSION = 1
MAX_BYTES = 64 * 2**20
"""Size limit in bytes: the receipt of a large model takes less than 1 MB."""

_REMEDY = "copy it again, build the engine again, or take the file away"
_T = TypeVar("_T")


@dataclass(frozen=True)
class Sidecar:
    """Description of an engine that was built here or elsewhere. Made by `read_sidecar`.

    Attributes:
        path: the sidecar.
        engine_path: the engine that it belongs to.
        flavour_name: the TensorRT that built the engine and runs it.
        version: its version.
        compute_capabilities: those it was built for; empty for classic TensorRT.
        gpu: the GPU that it was built for; None if built for compute capabilities.
        precision: precision of the ONNX file.
        profiles: smallest, preferred and largest shape of each dynamic input.
        options: options of the builder.
        engine_bytes: size of the engine that was built.
        engine_sha256: hash of the engine.
        onnx_name: name of the ONNX file that it was built from.
        onnx_sha256: hash of that file and its external data.
        card: metadata of that file (`source` in the sidecar); empty for a foreign file.
    """

    path: Path
    engine_path: Path
    flavour_name: str
    version: str
    compute_capabilities: tuple[str, ...]
    gpu: str | None
    precision: Precision
    profiles: Mapping[str, tuple[tuple[int, ...], ...]]
    options: Mapping[str, Any]
    engine_bytes: int
    engine_sha256: str
    onnx_name: str
    onnx_sha256: str
    card: ModelCard

    @property
    def flavour(self) -> Flavour:
        """TensorRT flavour that runs the engine.

        Raises:
            OptionError: this version does not know the flavour.
        """
        for flavour in FLAVOURS:
            if flavour.name == self.flavour_name:
                return flavour
        known = ", ".join(flavour.name for flavour in FLAVOURS)
        raise OptionError(
            f"{self.engine_path.name} is for {self.flavour_name!r}, which this version does not know (it knows {known})"
        )

    def check_engine(self) -> None:
        """Check that the engine is the one that was built.

        Raises:
            OptionError: its size or its hash differs.
        """
        found = self.engine_path.stat().st_size
        if found != self.engine_bytes:
            raise OptionError(
                f"{self.engine_path} has {found} bytes, but {self.engine_bytes} were built: it was cut or replaced; "
                f"{self._again}"
            )
        if sha256_of(self.engine_path) != self.engine_sha256:
            raise OptionError(
                f"{self.engine_path} is not what was built (its SHA-256 is another): it was changed or replaced; "
                f"{self._again}"
            )

    @property
    def _again(self) -> str:
        return f"copy it or build it again, or take {self.path.name} away if that belongs to another engine"

    def onnx_beside(self) -> Path | None:
        """Return the ONNX file that the engine was built from; None if no file of its name is beside the engine.

        Raises:
            OptionError: the file of that name or its external data differs, or the external data is missing.
        """
        found = self.engine_path.parent / Path(self.onnx_name).name
        if not found.is_file():
            return None
        again = "build the engine again, or put the right {} there"
        try:
            changed = sha256_of_model(found) != self.onnx_sha256
        except ExportError as error:
            raise OptionError(f"{error}, or {again.format('files')}") from error
        if changed:
            data = data_files(found)
            whole = f"{found} with its external data {', '.join(data)}" if data else str(found)
            raise OptionError(
                f"{whole} is not the file that {self.engine_path.name} was built from (its SHA-256 is another): "
                f"{again.format('files' if data else 'file')}"
            )
        return found


def sidecar_path(engine: Path) -> Path:
    """Return the path of the sidecar of an engine."""
    return engine.with_name(f"{engine.name}.json")


def missing_sidecar(engine: Path) -> str:
    """Return the message on an engine without a sidecar, to follow its name."""
    return f"there is no {sidecar_path(engine).name} beside it, which says what it was built with: copy both files"


def read_sidecar(engine: Path) -> Sidecar | None:
    """Read the sidecar of an engine; None if there is no such file.

    The engine itself is not read: `Sidecar.check_engine` does that.

    Raises:
        OptionError: the file cannot be read, is not a sidecar, or has another version.
    """
    path = sidecar_path(engine)
    if not path.exists():
        return None
    document = read_json(path, f"the sidecar of an engine: {_REMEDY}", most_bytes=MAX_BYTES)
    version = _parsed(path, _Version, document).schema_version
    if version != SCHEMA_VERSION:
        raise OptionError(
            f"{path} has schema version {version}, expected {SCHEMA_VERSION}: use the tofu-export that built the "
            "engine, or build it again"
        )
    found = _parsed(path, _Document, document)
    return Sidecar(
        path,
        engine,
        found.flavour,
        found.version,
        found.compute_capabilities,
        found.gpu,
        found.precision,
        {name: _shapes(path, name, shapes) for name, shapes in found.profiles.items()},
        found.options,
        found.engine.bytes,
        found.engine.sha256,
        found.onnx.file,
        found.onnx.sha256,
        ModelCard(path.name, found.source),
    )


@dataclass(frozen=True)
class _Version:
    schema_version: int


@dataclass(frozen=True)
class _Shapes:
    min: tuple[int, ...]
    opt: tuple[int, ...]
    max: tuple[int, ...]


@dataclass(frozen=True)
class _Built:
    bytes: int
    sha256: str


@dataclass(frozen=True)
class _BuiltFrom:
    file: str
    sha256: str


@dataclass(frozen=True)
class _Document:
    """What is read of the document that `sidecar_document` makes."""

    flavour: str
    version: str
    compute_capabilities: tuple[str, ...]
    precision: Precision
    profiles: Mapping[str, _Shapes]
    options: Mapping[str, Any]
    engine: _Built
    onnx: _BuiltFrom
    source: Mapping[str, Any]
    gpu: str | None = None


def _parsed(path: Path, kind: type[_T], document: object) -> _T:
    if not isinstance(document, Mapping):
        _refuse(path, "it is no object")
    try:
        return from_plain(kind, document)
    except OptionError as error:
        _refuse(path, str(error))


def _shapes(path: Path, name: str, found: _Shapes) -> tuple[tuple[int, ...], ...]:
    low, best, high = shapes = (found.min, found.opt, found.max)
    axes = zip(low, best, high, strict=False)
    if not len(low) == len(best) == len(high) or not all(1 <= least <= some <= most for least, some, most in axes):
        _refuse(path, f"profiles.{name} has sizes that are no range")
    return shapes


def _refuse(path: Path, what: str) -> NoReturn:
    raise OptionError(f"{path} is not the sidecar of an engine ({what}): {_REMEDY}")


def sidecar_document(receipt: EngineReceipt, extra: Mapping[str, Any]) -> JsonObject:
    """Return the document that `write_sidecar` writes."""
    return {"schema_version": SCHEMA_VERSION, **receipt.to_dict(), "extra": dict(extra)}


def write_sidecar(receipt: EngineReceipt, path: Path, extra: Mapping[str, Any]) -> Path:
    """Write the sidecar of an engine, complete or not at all, and return its path.

    Args:
        receipt: result of `build_engine`.
        path: the engine, for example `out/model.fp16.tensorrt-rtx.engine`.
        extra: further facts about the engine (model, plan, command), stored under `extra`.

    Raises:
        OutputError: the file cannot be written.
    """
    target = sidecar_path(path)
    write_text(target, json.dumps(sidecar_document(receipt, extra), indent=2, ensure_ascii=False) + "\n")
    return target
