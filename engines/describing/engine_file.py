"""Facts about an engine file that need no loading: from its sidecar, and from its first bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tofu_export.engines.describing.sidecar import read_sidecar
from tofu_export.engines.flavours import RTX, TENSORRT, Flavour
from tofu_export.options import BatchRange, Precision
from tofu_export.system.files import require_file

__all__ = ["RTX_MAGIC", "EngineFile", "read_engine_file"]

RTX_MAGIC = b"vtrt"
"""First bytes of a TensorRT-RTX engine. Source: measured with 1.7.1."""


@dataclass(frozen=True)
class EngineFile:
    """Engine on disk.

    Attributes:
        path: the engine.
        flavour: the TensorRT that runs it.
        onnx_path: the ONNX file that it was built from; None if unknown.
        batch: batch sizes of its profile; None if unknown or fixed.
        precision: precision in its sidecar; None without one.
        compute_capabilities: those in its sidecar; empty for classic TensorRT, which builds for the GPU present.
    """

    path: Path
    flavour: Flavour
    onnx_path: Path | None
    batch: BatchRange | None
    precision: Precision | None
    compute_capabilities: tuple[str, ...]


def read_engine_file(path: Path, onnx_path: Path | None = None) -> EngineFile:
    """Read the facts about an engine file.

    Args:
        path: the engine.
        onnx_path: the file that it was built from, if the sidecar does not lead to it.

    Raises:
        OptionError: there is no such engine, its sidecar is damaged, or the ONNX file beside the engine is not the one
            that it was built from.
    """
    require_file(path, "a TensorRT plan")
    sidecar = read_sidecar(path)
    if sidecar is None:
        with path.open("rb") as file:
            flavour = RTX if file.read(len(RTX_MAGIC)) == RTX_MAGIC else TENSORRT
        return EngineFile(path, flavour, onnx_path, None, None, ())
    return EngineFile(
        path,
        sidecar.flavour,
        sidecar.onnx_beside() or onnx_path,
        _batch(sidecar.profiles),
        sidecar.precision,
        sidecar.compute_capabilities,
    )


def _batch(profiles: Mapping[str, tuple[tuple[int, ...], ...]]) -> BatchRange | None:
    """Return the range of the first sizes of the inputs; None without a common range."""
    ranges = {tuple(shape[0] for shape in shapes) for shapes in profiles.values() if shapes[0]}
    return BatchRange(*ranges.pop()) if len(ranges) == 1 else None
