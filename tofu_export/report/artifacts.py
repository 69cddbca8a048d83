"""What report.json says of the files that a job wrote."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from tofu_export.options import Precision
from tofu_export.system.typed_json import optional

__all__ = [
    "Artifact",
    "Beside",
    "CalibrationEntry",
    "EngineFile",
    "FusionCounts",
    "FusionsEntry",
    "KernelSummary",
    "OnnxFile",
]


@dataclass(frozen=True)
class Beside:
    """A file that belongs to another: external weights, or a sidecar."""

    path: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class CalibrationEntry:
    """How a quantised file came about: images, where from, whether real; products in `numbers`, and left in `rest`."""

    images: int
    source: str
    real: bool
    method: str
    numbers: str = "int8"
    products: int
    rest: str = "fp32"
    left: int

    def __str__(self) -> str:
        return (
            f"{self.products} products in {self.numbers} and {self.left} in {self.rest}; ranges ({self.method}) from "
            f"{self.images} images, {self.source}{'' if self.real else ', **which are generated, not real ones**'}."
        )


@dataclass(frozen=True)
class FusionCounts:
    """Things that a file has, how many of them an engine made as wanted, and the nodes of the others."""

    in_file: int
    in_engine: int
    left: tuple[str, ...]


@dataclass(frozen=True)
class FusionsEntry:
    """What became of quantised products and of attention in an engine."""

    quantized_products: FusionCounts
    fused_attention: FusionCounts

    def __str__(self) -> str:
        parts = ((self.quantized_products, "products quantised"), (self.fused_attention, "attentions fused"))
        return "".join(f", {one.in_engine} of {one.in_file} {what}" for one, what in parts if one.in_file)


@dataclass(frozen=True)
class KernelSummary:
    """Kernels of an engine: in all, by type and by ONNX stage, and their share per output data type."""

    kernels: int
    host_calls: int = 0
    by_type: Mapping[str, int] = field(default_factory=dict)
    by_stage: Mapping[str, int] = field(default_factory=dict)
    output_dtype_share: Mapping[str, float] = field(default_factory=dict)
    unparsed_lines: int = 0
    activation_bytes: int | None = None
    weight_bytes: int | None = None


@dataclass(frozen=True)
class Artifact:
    """A file.

    Attributes:
        kind: which kind of file.
        precision: its type.
        target: the runtime that it is for.
        path: its name in the output folder.
        bytes: its size, external weights included.
        sha256: its hash.
        beside: what lies beside it.
    """

    kind: str
    precision: Precision
    target: str
    path: str
    bytes: int
    sha256: str
    beside: tuple[Beside, ...] = ()


@dataclass(frozen=True)
class OnnxFile(Artifact):
    """An ONNX file: opset, work for one image, number of nodes, in all and by operator, and how it was quantised."""

    kind: Literal["onnx"]
    opset: int | None = None
    gmacs: float | None = None
    nodes: int | None = None
    ops: Mapping[str, int] = field(default_factory=dict)
    calibration: CalibrationEntry | None = optional()


@dataclass(frozen=True)
class EngineFile(Artifact):
    """A TensorRT engine: what it runs on, its kernels, layer outputs by data type, and arithmetic by precision."""

    kind: Literal["engine"]
    compute_capabilities: tuple[str, ...] = ()
    kernels: KernelSummary | None = None
    layer_dtypes: Mapping[str, int] = field(default_factory=dict)
    mac_share: Mapping[str, float] = field(default_factory=dict)
    fusions: FusionsEntry | None = None
