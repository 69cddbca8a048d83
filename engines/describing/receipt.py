"""Receipt of a build: the facts that go with an engine file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tofu_export.artifact.card import ModelCard
from tofu_export.engines.describing.kernel_log import KernelLog
from tofu_export.engines.describing.structure import Structure
from tofu_export.options import BatchRange, Precision
from tofu_export.report.artifacts import Fusions
from tofu_export.system.typed_json import JsonObject, to_object

__all__ = ["EngineReceipt"]


@dataclass(frozen=True)
class EngineReceipt:
    """Facts about one engine.

    Attributes:
        flavour: name of the TensorRT flavour.
        version: its version.
        compute_capabilities: those it was built for; empty for classic TensorRT, which builds for the GPU present.
        gpu: the GPU that it was built for; None if built for compute capabilities.
        driver: version of the NVIDIA driver while building; None without one.
        batch: batch sizes asked for; None for those of the profiles.
        profiles: smallest, preferred and largest shape of each dynamic input.
        precision: stated or detected precision of the ONNX file.
        options: options of the builder, by name.
        layers: for each network layer type, the number of layer outputs of each data type.
        structure: layers, kernels, multiply-accumulates and bytes by part of the model, and types.
        fusions: fusion of quantised products and of attention; None if the kernels do not tell.
        decomposable_attention: names of the attention layers that may run as several kernels.
        kernels: the compiled kernels, as far as the log tells.
        notes: notes of the pre-flight, and about the engine.
        engine_path: the engine.
        engine_bytes: its size.
        engine_sha256: hash of the engine.
        onnx_path: the file it was built from.
        onnx_sha256: hash of that file and its external data.
        build_seconds: time in the builder, without starting it and parsing.
        card: metadata of the ONNX file.
    """

    flavour: str
    version: str
    compute_capabilities: tuple[str, ...]
    gpu: str | None
    driver: str | None
    batch: BatchRange | None
    profiles: Mapping[str, tuple[tuple[int, ...], ...]]
    precision: Precision
    options: Mapping[str, Any]
    layers: Mapping[str, Mapping[str, int]]
    structure: Structure
    fusions: Fusions | None
    decomposable_attention: tuple[str, ...]
    kernels: KernelLog
    notes: tuple[str, ...]
    engine_path: Path
    engine_bytes: int
    engine_sha256: str
    onnx_path: Path
    onnx_sha256: str
    build_seconds: float
    card: ModelCard

    @property
    def layer_dtypes(self) -> dict[str, int]:
        """Number of layer outputs of each data type in the whole network."""
        total: Counter[str] = Counter()
        for dtypes in self.layers.values():
            total.update(dtypes)
        return dict(total.most_common())

    def to_dict(self) -> JsonObject:
        """Return the receipt as plain values, kernels as a summary."""
        return to_object(
            {
                "flavour": self.flavour,
                "version": self.version,
                "compute_capabilities": self.compute_capabilities,
                "gpu": self.gpu,
                "driver": self.driver,
                "batch": None if self.batch is None else str(self.batch),
                "profiles": {
                    name: dict(zip(("min", "opt", "max"), shapes, strict=True))
                    for name, shapes in self.profiles.items()
                },
                "precision": self.precision,
                "options": self.options,
                "structure": self.structure.to_dict(),
                "network": {
                    "layer_dtypes": self.layer_dtypes,
                    "layers": self.layers,
                    "decomposable_attention": self.decomposable_attention,
                },
                "kernels": self.kernels.summary(),
                "fusions": self.fusions,
                "notes": self.notes,
                "engine": {"file": self.engine_path.name, "bytes": self.engine_bytes, "sha256": self.engine_sha256},
                "onnx": {"file": self.onnx_path.name, "sha256": self.onnx_sha256},
                "build_seconds": round(self.build_seconds, 3),
                "source": self.card.entries,
            }
        )
