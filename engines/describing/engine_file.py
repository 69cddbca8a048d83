"""What is known of an engine file without loading it: from the sidecar beside it, and from how it begins."""

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
"""First bytes of a TensorRT-RTX plan. Source: measured with 1.7.1."""


@dataclass(frozen=True)
class EngineFile:
    """An engine on the disk: the bytes of a TensorRT plan.

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
        OptionError: there is no such plan, its sidecar is damaged, or the ONNX file beside the plan is not the one that
            it was built from.
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
    """The range of the first sizes of an input; None where inputs have no such range in common."""
    ranges = {tuple(shape[0] for shape in shapes) for shapes in profiles.values() if shapes[0]}
    return BatchRange(*ranges.pop()) if len(ranges) == 1 else None
