"""What is known of a plan without loading it: from the file beside it, and from how it begins."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tofu_export.engines.check import RTX_MAGIC
from tofu_export.engines.flavours import FLAVOURS, RTX, TENSORRT, Flavour
from tofu_export.engines.receipt import sidecar_path
from tofu_export.errors import EngineBuildError, OptionError
from tofu_export.files import sha256_of
from tofu_export.options import BatchRange, Precision

__all__ = ["EngineFile", "read_engine_file"]


@dataclass(frozen=True)
class EngineFile:
    """A plan on the disk.

    Attributes:
        path: the plan.
        flavour: the TensorRT that runs it.
        onnx_path: the ONNX file that it was built from; None where that is not known.
        batch: batch sizes of its profile; None where that is not known, or where they are fixed.
        precision: as its sidecar says; None without one.
        compute_capabilities: likewise; empty for classic TensorRT, which builds for the GPU that is there.
    """

    path: Path
    flavour: Flavour
    onnx_path: Path | None
    batch: BatchRange | None
    precision: Precision | None
    compute_capabilities: tuple[str, ...]


def read_engine_file(path: Path, onnx_path: Path | None = None) -> EngineFile:
    """Read what is beside a plan.

    Args:
        path: the plan.
        onnx_path: the file that it was built from, where the sidecar does not lead to it.

    Raises:
        EngineBuildError: there is no such plan.
        OptionError: the sidecar is damaged, or the ONNX file beside the plan is not the one that it was built from.
    """
    if not path.is_file():
        raise EngineBuildError(f"{path} is not a file, expected a TensorRT plan")
    facts = _sidecar(path)
    if facts is None:
        with path.open("rb") as file:
            flavour = RTX if file.read(len(RTX_MAGIC)) == RTX_MAGIC else TENSORRT
        return EngineFile(path, flavour, onnx_path, None, None, ())
    try:
        named = {flavour.name: flavour for flavour in FLAVOURS}[facts["flavour"]]
        source = _source(path, facts["onnx"])
        return EngineFile(
            path,
            named,
            source or onnx_path,
            _batch(facts["profiles"]),
            Precision(facts["precision"]),
            tuple(str(name) for name in facts["compute_capabilities"]),
        )
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        if isinstance(error, OptionError):
            raise
        raise OptionError(
            f"{sidecar_path(path)} is not what this version writes ({type(error).__name__}: {error}): build the engine "
            "again, or take the file away"
        ) from error


def _sidecar(path: Path) -> dict[str, Any] | None:
    place = sidecar_path(path)
    try:
        found = json.loads(place.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise OptionError(f"{place} cannot be read ({error}): copy it again, or take it away") from error
    if not isinstance(found, dict):
        raise OptionError(f"{place} is not a sidecar of an engine: copy it again, or take it away")
    return found


def _source(path: Path, onnx: Mapping[str, str]) -> Path | None:
    """The ONNX file, if it lies beside the plan."""
    source = path.parent / Path(onnx["file"]).name
    if not source.is_file():
        return None
    if sha256_of(source) != onnx["sha256"]:
        raise OptionError(
            f"{source} is not the file that {path.name} was built from (its SHA-256 is another): build the engine "
            "again, or put the right file there"
        )
    return source


def _batch(profiles: Mapping[str, Mapping[str, list[int]]]) -> BatchRange | None:
    """The range of the first sizes of an input; None where inputs have no such range in common."""
    ranges = {tuple(sizes[key][0] for key in ("min", "opt", "max")) for sizes in profiles.values()}
    return BatchRange(*ranges.pop()) if len(ranges) == 1 else None
