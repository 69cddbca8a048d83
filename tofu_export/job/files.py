"""Describe the files of a job, and write sidecars of engines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypedDict

from tofu_export.artifact.external import sha256_of_model
from tofu_export.artifact.onnx_file import EXTERNAL_DATA_BYTES
from tofu_export.engines.building.build import EngineRequest
from tofu_export.engines.describing.receipt import EngineReceipt
from tofu_export.engines.describing.sidecar import write_sidecar
from tofu_export.engines.describing.structure import shares
from tofu_export.job.page import PAGE, TOKENS
from tofu_export.job.request import ExportJob
from tofu_export.options import Precision
from tofu_export.report.artifacts import Beside, EngineFile
from tofu_export.report.document import Report
from tofu_export.system.files import Staging, sha256_of
from tofu_export.system.typed_json import to_plain

__all__ = ["REPORTS", "FileFacts", "describe_file", "planned_names", "record_engine", "with_data"]

REPORTS = ("report.md", "report.json")
"""Names of the report for people and for programs; the page (`PAGE`) is its third form."""

_WEIGHT_BYTES: Mapping[Precision, int] = {
    Precision.FP32: 4, Precision.FP16: 2, Precision.BF16: 2,
    Precision.INT8: 1, Precision.INT8_FP16: 1, Precision.FP8: 1,
}  # fmt: skip
"""Bytes of nearly every weight in a file of a precision."""


class FileFacts(TypedDict):
    """Fields of `tofu_export.report.artifacts.Artifact`, except its kind."""

    precision: Precision
    target: str
    path: str
    bytes: int
    sha256: str
    beside: tuple[Beside, ...]


def planned_names(job: ExportJob, params: int, engines: Sequence[str], *, token_maps: bool) -> tuple[str, ...]:
    """Return the names of the files that a job will publish.

    Args:
        job: the export request.
        params: number of parameters of the model.
        engines: names of the engines.
        token_maps: maps of the tokens of real images are drawn.
    """
    names: list[str] = []
    for precision in job.precisions:
        name = job.onnx_name(precision)
        external = params * _WEIGHT_BYTES[precision] > EXTERNAL_DATA_BYTES
        names += [f"{name}.data", name] if external else [name]
    for name in engines:
        names += [name, f"{name}.json"]
    return (*names, *([TOKENS] if token_maps else []), PAGE, *REPORTS)


def with_data(stage: Staging, name: str) -> list[str]:
    """Return a staged file's external weights, the file, and its sidecar if there is one, in this order."""
    return [file for file in (f"{name}.data", name, f"{name}.json") if stage.path(file).exists()]


def describe_file(stage: Staging, precision: Precision, target: str, name: str) -> FileFacts:
    """Return the facts of any staged file; `bytes` and `sha256` cover its external weights."""
    path, data = stage.path(name), stage.path(f"{name}.data")
    beside = [stage.path(file) for file in with_data(stage, name) if file != name]
    return {
        "precision": precision,
        "target": target,
        "path": name,
        "bytes": sum(file.stat().st_size for file in (path, data) if file.exists()),
        "sha256": sha256_of_model(path) if path.suffix == ".onnx" else sha256_of(path),
        "beside": tuple(Beside(file.name, sha256_of(file)) for file in beside),
    }


def record_engine(
    receipt: EngineReceipt, request: EngineRequest, precision: Precision, report: Report, stage: Staging
) -> str:
    """Write the sidecar of an engine, add it to the report, and return the result as a line of text."""
    job = {"model": to_plain(report.model), "plan": to_plain(report.plan), "output": to_plain(report.output)}
    write_sidecar(
        receipt, request.engine_path, {**job, "onnx": request.onnx_path.name, "command": report.command}
    )  # fmt: skip
    name = request.engine_path.name
    fusions = receipt.fusions
    file = EngineFile(
        kind="engine",
        **describe_file(stage, precision, request.flavour.name, name),
        compute_capabilities=receipt.compute_capabilities,
        kernels=receipt.kernels.summary(),
        layer_dtypes=receipt.layer_dtypes,
        mac_share=shares(receipt.structure.macs),
        fusions=fusions,
    )
    report.artifacts += (file,)
    for note in () if fusions is None else fusions.remarks(precision):
        report.skip(f"fusion in {name}", note)
    where = ", ".join(receipt.compute_capabilities) or "the GPU of this machine"
    made = f"; {fusions}" if fusions is not None and str(fusions) else ""
    return f"{name}: {receipt.engine_bytes / 1e6:.1f} MB, for {where}{made}"
