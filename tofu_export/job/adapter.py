"""Protocol of what the pipeline needs to know of a kind of model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

import onnx_ir as ir
from numpy.typing import NDArray

from tofu_export.job.progress import Progress
from tofu_export.options import Precision
from tofu_export.report.document import Report
from tofu_export.system.files import Staging
from tofu_export.system.typed_json import JsonObject
from tofu_export.trace.quantize import Calibration
from tofu_export.verification.result import VerificationResult

__all__ = ["ModelAdapter"]

ReportT = TypeVar("ReportT", bound=Report, covariant=True)


class ModelAdapter(Protocol[ReportT]):
    """Adapter of one model to export: a Vision Transformer of timm, a UNet of diffusers.

    The pipeline calls `load` first, then traces and verifies one file per precision, traces the unreduced model, and
    calls `release`; all later steps work on files.
    """

    @property
    def measures_accuracy(self) -> bool:
        """True if `inspect` compares with the unreduced model, which must be exported for that."""
        ...

    def load(self, progress: Progress) -> ReportT:
        """Plan the reduction, load the model and apply the plan to it.

        Returns:
            A report with model, plan, output, command and environment.

        Raises:
            TofuError: the model is unknown or unsupported, or the options do not fit it.
        """
        ...

    def trace(self, precision: Precision, *, reduced: bool) -> ir.Model:
        """Return the canonical graph of the reduced or plain model, in the type that `precision` is traced in."""
        ...

    def gmacs(self, graph: ir.Model, *, reduced: bool) -> float | None:
        """Return the multiply-accumulates of a lowered graph for one image, in 10^9; None if unknown."""
        ...

    def metadata(self) -> JsonObject:
        """Return the metadata for the ONNX files. No times and no paths: equal runs write equal bytes."""
        ...

    def quantize(self, draft: Path, path: Path, precision: Precision, metadata: Mapping[str, Any]) -> Calibration:
        """Write the quantised form of a lowered file; called only for quantised precisions.

        Args:
            draft: the file in the type that `precision` is traced in.
            path: the file to write.
            precision: the quantised precision.
            metadata: metadata to write into the file.

        Raises:
            TofuError: the file cannot be calibrated, or the options do not fit it.
        """
        ...

    def verify(
        self, path: Path, precision: Precision, *, layers: bool, on_batch: Callable[[int], None]
    ) -> VerificationResult:
        """Compare an ONNX file with the eager model.

        Args:
            path: the file.
            precision: its precision.
            layers: also compare block by block.
            on_batch: called with each batch size before it runs.
        """
        ...

    def release(self) -> None:
        """Release the weights."""
        ...

    def inspect(self, files: Mapping[Precision, Path], full: Path | None, stage: Staging, progress: Progress) -> None:
        """Add to the report what a kind of model has besides outputs and times, such as accuracy.

        Args:
            files: the files that onnxruntime can run.
            full: the file of the unreduced model, if there is one.
            stage: staging folder for further files.
            progress: progress of the job.
        """
        ...

    def feeds(self, batch: int) -> dict[str, NDArray[Any]]:
        """Return inputs of a file for one batch, by name."""
        ...

    def verify_engine(self, path: Path, on_step: Callable[[str], None]) -> tuple[VerificationResult, ...]:
        """Run an engine that lies beside its ONNX file, and compare it with all available references.

        Raises:
            BackendMissingError: the engine cannot run here.
        """
        ...
