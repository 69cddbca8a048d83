"""Records in report.json of the files that a job wrote."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from tofu_export.errors import some_of
from tofu_export.options import AttentionForm, Precision
from tofu_export.system.typed_json import optional

__all__ = [
    "Artifact",
    "Beside",
    "CalibrationEntry",
    "EngineFile",
    "FusionCounts",
    "Fusions",
    "KernelSummary",
    "OnnxFile",
]

_SHOWN = 3


@dataclass(frozen=True)
class Beside:
    """File that belongs to another: external weights, or a sidecar."""

    path: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class CalibrationEntry:
    """Calibration of a quantised file.

    Attributes:
        images: number of images that ranges were measured on.
        source: where the images came from.
        real: False for generated images.
        method: how ranges are derived from the images.
        numbers: type of the quantised products.
        products: number of these products.
        rest: type of the other products.
        left: number of the other products.
        attentions: attentions whose two products are quantised.
        skip: blocks and modules excluded by `--quantize-skip`.
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
    """Number of patterns in a file, number that an engine fused as wanted, and the nodes of the others."""

    in_file: int
    in_engine: int
    left: tuple[str, ...]

    @property
    def missed(self) -> str:
        """How many of how many were not fused, for a sentence."""
        return f"{len(self.left)} of {self.in_file}"

    @property
    def some(self) -> str:
        """Names of the first nodes that were not fused, and the number of the others."""
        return some_of(self.left, _SHOWN)


@dataclass(frozen=True)
class Fusions:
    """Fusion of quantised products and of attention in an engine.

    Attributes:
        quantized_products: products whose factors the file quantises; fused if a kernel multiplies in int8 or fp8.
        fused_attention: softmaxes in attention; fused if one kernel computes them with both products around them.
        quantized_attention: attentions whose products the file quantises; fused if that kernel takes int8 or fp8. None
            in reports of early versions.
        why_not_fused: why attentions were not fused, by ONNX node, as far as their nodes tell.
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
        return ", ".join(f"{one.in_engine} of {one.in_file} {what}" for one, what in found)

    def remarks(self, precision: Precision) -> tuple[str, ...]:
        """Return notes on what was not fused as wanted. In FP32 no attention is fused.

        Args:
            precision: precision of the engine.
        """
        found = []
        if self.quantized_products.left:
            found.append(
                f"{self.quantized_products.missed} quantised products multiply in FP16 or FP32: "
                f"{self.quantized_products.some}"
            )
        if self.quantized_attention is not None and self.quantized_attention.left:
            found.append(
                f"{self.quantized_attention.missed} quantised attentions do not multiply in 8 bits: "
                f"{self.quantized_attention.some}"
            )
        if precision.traced is not Precision.FP32 and self.fused_attention.left:
            found.append(
                f"{self.fused_attention.missed} attentions are not fused into one kernel, and read and write their "
                f"scores in memory: {self.fused_attention.some}{self._because(self.fused_attention.left)}"
            )
        return tuple(found)

    def _because(self, left: Sequence[str]) -> str:
        """Return the reasons of attentions, each once, in brackets; empty without any."""
        known = dict.fromkeys(self.why_not_fused[name] for name in left if name in self.why_not_fused)
        return f" ({'; '.join(known)})" if known else ""


@dataclass(frozen=True)
class KernelSummary:
    """Kernels of an engine: in total, by type and by ONNX stage, and their share per output data type."""

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
    """File that a job wrote.

    Attributes:
        kind: which kind of file.
        precision: its precision.
        target: the runtime that it is for.
        path: its name in the output folder.
        bytes: its size, external weights included.
        sha256: its hash.
        beside: files that belong to it.
    """

    kind: str
    precision: Precision
    target: str
    path: str
    bytes: int
    sha256: str
    beside: tuple[Beside, ...] = ()


FILE_GMACS = (
    "GMACs of a file are counted in its graph: products and convolutions, and in the last block only those that the "
    "output depends on. The plan counts as the paper does: norms, and all tokens of all blocks."
)
"""Why the GMACs of a file of a Vision Transformer are fewer than those of its plan."""


@dataclass(frozen=True)
class OnnxFile(Artifact):
    """ONNX file that a job wrote.

    Attributes:
        opset: version of the default operator set.
        gmacs: 10^9 multiply-accumulates for one image.
        nodes: number of nodes.
        ops: number of nodes by operator.
        attention: form of attention, if asked for.
        calibration: how it was quantised.
    """

    kind: Literal["onnx"]
    opset: int | None = None
    gmacs: float | None = None
    nodes: int | None = None
    ops: Mapping[str, int] = field(default_factory=dict)
    attention: AttentionForm | None = optional()
    calibration: CalibrationEntry | None = optional()

    @property
    def gmacs_words(self) -> str:
        """The GMACs with as many digits as those of a plan; empty if unknown."""
        return "" if self.gmacs is None else f"{self.gmacs:.{2 if self.gmacs >= 1 else 3}f}"


@dataclass(frozen=True)
class EngineFile(Artifact):
    """TensorRT engine: supported GPUs, kernels, layer outputs by data type, and arithmetic by precision."""

    kind: Literal["engine"]
    compute_capabilities: tuple[str, ...] = ()
    kernels: KernelSummary | None = None
    layer_dtypes: Mapping[str, int] = field(default_factory=dict)
    mac_share: Mapping[str, float] = field(default_factory=dict)
    fusions: Fusions | None = None
