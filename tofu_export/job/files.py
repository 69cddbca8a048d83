"""What every job does with the files that it made: describe them, put sidecars beside engines."""

from __future__ import annotations

from typing import Any

from tofu_export.artifact.external import sha256_of_model
from tofu_export.engines.building.build import EngineRequest
from tofu_export.engines.describing.receipt import EngineReceipt
from tofu_export.engines.describing.sidecar import write_sidecar
from tofu_export.engines.describing.structure import shares
from tofu_export.options import Precision
from tofu_export.report.document import Report
from tofu_export.system.files import Staging, sha256_of

__all__ = ["describe_file", "record_engine", "with_data"]


def with_data(stage: Staging, name: str) -> list[str]:
    """A file of the staging folder, after its external weights and before its sidecar, if it has any."""
    return [file for file in (f"{name}.data", name, f"{name}.json") if stage.path(file).exists()]


def describe_file(stage: Staging, kind: str, precision: Precision, target: str, name: str) -> dict[str, Any]:
    """The entry of report.json for a file of the staging folder; `bytes` and `sha256` cover its external weights."""
    path, data = stage.path(name), stage.path(f"{name}.data")
    beside = [stage.path(file) for file in with_data(stage, name) if file != name]
    return {
        "kind": kind,
        "precision": precision.value,
        "target": target,
        "path": name,
        "bytes": sum(file.stat().st_size for file in (path, data) if file.exists()),
        "sha256": sha256_of_model(path) if kind == "onnx" else sha256_of(path),
        "beside": [{"path": file.name, "sha256": sha256_of(file)} for file in beside],
    }


def record_engine(
    receipt: EngineReceipt, request: EngineRequest, precision: Precision, report: Report, stage: Staging
) -> str:
    """Write the sidecar of an engine, enter it into the report, and return the result in a line."""
    extra = {
        "model": report.model, "plan": report.plan, "output": report.output,
        "onnx": request.onnx_path.name, "command": report.command,
    }  # fmt: skip
    write_sidecar(receipt, request.engine_path, extra)
    name = request.engine_path.name
    report.artifacts.append(
        {
            **describe_file(stage, "engine", precision, request.flavour.name, name),
            "compute_capabilities": list(receipt.compute_capabilities),
            "kernels": receipt.kernels.summary(),
            "layer_dtypes": receipt.layer_dtypes,
            "mac_share": shares(receipt.structure.macs),
            "fusions": None if receipt.fusions is None else receipt.fusions.to_dict(),
        }
    )
    for note in () if receipt.fusions is None else receipt.fusions.remarks(precision):
        report.skip(f"fusion in {name}", note)
    where = ", ".join(receipt.compute_capabilities) or "the GPU of this machine"
    made = f"; {receipt.fusions}" if receipt.fusions is not None and str(receipt.fusions) else ""
    return f"{name}: {receipt.engine_bytes / 1e6:.1f} MB, for {where}{made}"
