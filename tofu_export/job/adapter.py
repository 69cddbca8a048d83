"""What the pipeline needs to know of a kind of model."""

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
    """One model that is exported: a Vision Transformer of timm, a UNet of diffusers.

    The pipeline calls `load` first, then traces and verifies one file per precision, traces the unreduced model, and
    calls `release`; everything behind that works on files.
    """

    @property
    def measures_accuracy(self) -> bool:
        """True if `inspect` compares with the unreduced model, which has to be exported for that."""
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
        """The canonical graph in the type that `precision` is traced in, of the reduced or of the plain model."""
        ...

    def gmacs(self, graph: ir.Model, *, reduced: bool) -> float | None:
        """Multiply-accumulates of a lowered graph for one image, in 10^9; None if unknown."""
        ...

    def metadata(self) -> JsonObject:
        """What travels inside the ONNX files. No times and no paths: equal runs write equal bytes."""
        ...

    def quantize(self, draft: Path, path: Path, precision: Precision, metadata: Mapping[str, Any]) -> Calibration:
        """Write the quantised form of a lowered file; called for quantised precisions alone.

        Args:
            draft: the file in the type that `precision` is traced in.
            path: the file to write.
            precision: which form.
            metadata: what to write into it.

        Raises:
            TofuError: it cannot be calibrated, or what is asked for does not fit it.
        """
        ...

    def verify(
        self, path: Path, precision: Precision, *, layers: bool, on_batch: Callable[[int], None]
    ) -> VerificationResult:
        """Compare the ONNX file at `path` with the eager model.

        Args:
            path: the file.
            precision: its precision.
            layers: also compare block by block.
            on_batch: called with each batch size before it runs.
        """
        ...

    def release(self) -> None:
        """Let go of the weights."""
        ...

    def inspect(self, files: Mapping[Precision, Path], full: Path | None, stage: Staging, progress: Progress) -> None:
        """Add to the report what a kind of model has beside outputs and times, such as accuracy.

        Args:
            files: the files that onnxruntime can run.
            full: the file of the unreduced model, where there is one.
            stage: where further files go.
            progress: of the job.
        """
        ...

    def feeds(self, batch: int) -> dict[str, NDArray[Any]]:
        """Inputs of a file for one batch, by name."""
        ...

    def verify_engine(self, path: Path, on_step: Callable[[str], None]) -> tuple[VerificationResult, ...]:
        """Run the engine at `path`, which lies beside its ONNX file, and compare it with all that it can be held to.

        Raises:
            BackendMissingError: it cannot be run here.
        """
        ...
