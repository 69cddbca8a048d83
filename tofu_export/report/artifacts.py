"""What report.json says of the files that a job wrote."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from tofu_export.options import AttentionForm, Precision
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
    """How a quantised file came about.

    Attributes:
        images: number of images that ranges were measured on.
        source: where they came from.
        real: False for generated ones.
        method: how ranges follow from them.
        numbers: type of the quantised products.
        products: how many there are.
        rest: type of the others.
        left: how many products have it.
        attentions: attentions whose two products are quantised.
        skip: what was left out by `--quantize-skip`.
    """

    images: int
    source: str
    real: bool
    method: str
    numbers: str = "int8"
    products: int
    rest: str = "fp32"
    left: int
    attentions: int = 0
    skip: tuple[str, ...] = ()

    def __str__(self) -> str:
        attentions = f" and {self.attentions} attentions" if self.attentions else ""
        return (
            f"{self.products} products{attentions} in {self.numbers} and {self.left} in {self.rest}; ranges "
            f"({self.method}) from {self.images} images, {self.source}"
            f"{'' if self.real else ', **which are generated, not real ones**'}."
        )


@dataclass(frozen=True)
class FusionCounts:
    """Things that a file has, how many of them an engine made as wanted, and the nodes of the others."""

    in_file: int
    in_engine: int
    left: tuple[str, ...]


@dataclass(frozen=True)
class FusionsEntry:
    """What became of quantised products and of attention in an engine.

    Attributes:
        quantized_products: products in 8 bits.
        fused_attention: attentions that are one kernel.
        quantized_attention: attentions whose two products are in 8 bits.
        why_not_fused: the reason found for each attention that is not fused, by its ONNX node.
    """

    quantized_products: FusionCounts
    fused_attention: FusionCounts
    quantized_attention: FusionCounts | None = None
    why_not_fused: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        parts = (
            (self.quantized_products, "products quantised"),
            (self.fused_attention, "attentions fused"),
            (self.quantized_attention, "attentions in 8 bits"),
        )
        found = [(one, what) for one, what in parts if one is not None and one.in_file]
        return "".join(f", {one.in_engine} of {one.in_file} {what}" for one, what in found)


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
    """An ONNX file.

    Attributes:
        opset: version of the default operator set.
        gmacs: 10^9 multiply-accumulates for one image.
        nodes: number of nodes.
        ops: the same by operator.
        attention: how attention is written, where it was asked for.
        calibration: how it was quantised.
    """

    kind: Literal["onnx"]
    opset: int | None = None
    gmacs: float | None = None
    nodes: int | None = None
    ops: Mapping[str, int] = field(default_factory=dict)
    attention: AttentionForm | None = optional()
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
