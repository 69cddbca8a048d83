"""What was built: the facts that go with an engine file, and the JSON file beside it."""

from __future__ import annotations

import json
import os
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tofu_export.engines.kernel_log import KernelLog
from tofu_export.engines.structure import Structure
from tofu_export.errors import OutputError
from tofu_export.files import flush_to_disk
from tofu_export.options import BatchRange, Precision

__all__ = ["SCHEMA_VERSION", "EngineReceipt", "sidecar_document", "sidecar_path", "write_sidecar"]

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class EngineReceipt:
    """Facts about one engine.

    Attributes:
        flavour: name of the TensorRT flavour.
        version: its version.
        compute_capabilities: what it was built for; empty for classic TensorRT, which builds for the GPU present.
        gpu: the GPU that it was built for; None where it is built for compute capabilities.
        driver: version of the NVIDIA driver while building; None without one.
        batch: batch sizes that were asked for; None for those of the profiles.
        profiles: smallest, preferred and largest shape of each dynamic input.
        precision: what the ONNX file was said to be typed as, or what it was found to be.
        options: what was asked of the builder, by the name of the option.
        layers: for each network layer type, the number of layer outputs of each data type.
        structure: layers, kernels, multiply-accumulates and bytes by part of the model, and types.
        decomposable_attention: names of the attention layers that may run as several kernels.
        kernels: the compiled kernels, as far as the log tells.
        notes: remarks of the pre-flight.
        engine_path: the plan.
        engine_bytes: its size.
        engine_sha256: hash of the plan.
        onnx_path: the file it was built from.
        onnx_sha256: hash of that file, external data not included.
        build_seconds: time in the builder, without starting it and parsing.
        metadata: what this project wrote into the ONNX file (model, plan, preprocessing, …), as text or JSON.
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
    decomposable_attention: tuple[str, ...]
    kernels: KernelLog
    notes: tuple[str, ...]
    engine_path: Path
    engine_bytes: int
    engine_sha256: str
    onnx_path: Path
    onnx_sha256: str
    build_seconds: float
    metadata: Mapping[str, str]

    @property
    def layer_dtypes(self) -> dict[str, int]:
        """Number of layer outputs of each data type in the whole network."""
        total: Counter[str] = Counter()
        for dtypes in self.layers.values():
            total.update(dtypes)
        return dict(total.most_common())

    def to_dict(self) -> dict[str, Any]:
        """The receipt as plain values, kernels as a summary."""
        return {
            "flavour": self.flavour,
            "version": self.version,
            "compute_capabilities": list(self.compute_capabilities),
            "gpu": self.gpu,
            "driver": self.driver,
            "batch": None if self.batch is None else str(self.batch),
            "profiles": {
                name: dict(zip(("min", "opt", "max"), map(list, shapes), strict=True))
                for name, shapes in self.profiles.items()
            },
            "precision": self.precision.value,
            "options": dict(self.options),
            "structure": self.structure.to_dict(),
            "network": {
                "layer_dtypes": self.layer_dtypes,
                "layers": {kind: dict(dtypes) for kind, dtypes in self.layers.items()},
                "decomposable_attention": list(self.decomposable_attention),
            },
            "kernels": self.kernels.summary(),
            "notes": list(self.notes),
            "engine": {"file": self.engine_path.name, "bytes": self.engine_bytes, "sha256": self.engine_sha256},
            "onnx": {"file": self.onnx_path.name, "sha256": self.onnx_sha256},
            "build_seconds": round(self.build_seconds, 3),
            "source": {key: _value(text) for key, text in self.metadata.items()},
        }


def _value(text: str) -> Any:
    """What was stored in a file's metadata: JSON, or plain text."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def sidecar_path(path: Path) -> Path:
    """Where the facts about the plan at `path` lie: in `<engine name>.json` beside it."""
    return path.with_name(f"{path.name}.json")


def sidecar_document(receipt: EngineReceipt, extra: Mapping[str, Any]) -> dict[str, Any]:
    """What `write_sidecar` writes."""
    return {"schema_version": SCHEMA_VERSION, **receipt.to_dict(), "extra": dict(extra)}


def write_sidecar(receipt: EngineReceipt, path: Path, extra: Mapping[str, Any]) -> Path:
    """Write `<engine name>.json` beside the plan at `path`, complete or not at all, and return where it is.

    Args:
        receipt: what `build_engine` returned.
        path: the plan, for example `out/model.fp16.tensorrt-rtx.engine`.
        extra: what else belongs to the engine (model, plan, command), stored under `extra`.

    Raises:
        OutputError: the file cannot be written.
    """
    target = sidecar_path(path)
    text = json.dumps(sidecar_document(receipt, extra), indent=2, ensure_ascii=False) + "\n"
    try:
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as scratch:
            draft = Path(scratch, target.name)
            with draft.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(target)
        flush_to_disk(target.parent)
    except OSError as error:
        raise OutputError(f"cannot write {target}: {error}; choose a writable output folder") from error
    return target
