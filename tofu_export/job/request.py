"""What an export is asked for: model, reduction, files, engines, checks."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from tofu_export.errors import OptionError
from tofu_export.options import MINIMUM_OPSET, BatchRange, IoType, OutputKind, Precision, Reduction, Target
from tofu_export.zoo.preprocessing import Preprocessing
from tofu_export.zoo.weights import WeightsSource

__all__ = ["ExportJob", "Job"]


@dataclass(frozen=True)
class ExportJob:
    """What is asked for of any kind of model. Values are checked where their type is defined.

    Attributes:
        model: name or folder of the model.
        output: folder for the files; created if need be.
        batch: batch sizes that files and engines serve.
        precisions: one ONNX file, and one engine, each.
        target: runtime that the ONNX files are written for.
        opset: ONNX opset; files in int8-fp16 and fp8 have 19 at least.
        io_type: type of the files' real inputs and outputs.
        engine: build engines: yes, no, or None for "if a TensorRT is installed".
        flavour: which TensorRT; None for the one that is installed.
        compute_capabilities: what engines run on (TensorRT-RTX); empty for SM80 and newer.
        verify: compare every file with the eager model.
        bench: time the reduced against the full model in onnxruntime.
        bench_batches: batch sizes to time; empty for the preferred one.
        threads: threads of onnxruntime in the benchmark.
        seed: of random weights and generated inputs.
        bundle: new folder for all that is needed to look closer, if a file is wrong or an engine cannot be built.
        command: how the user asked for it, for the report.
    """

    model: str
    output: Path
    batch: BatchRange = field(default_factory=BatchRange)
    precisions: tuple[Precision, ...] = (Precision.FP32, Precision.FP16)
    target: Target = Target.PORTABLE
    opset: int = MINIMUM_OPSET
    io_type: IoType = IoType.FP32
    engine: bool | None = None
    flavour: str | None = None
    compute_capabilities: tuple[str, ...] = ()
    verify: bool = True
    bench: bool = True
    bench_batches: tuple[int, ...] = ()
    threads: int | None = None
    seed: int = 0
    bundle: Path | None = None
    command: str = ""

    def __post_init__(self) -> None:
        if self.engine and self.target is Target.ONNXRUNTIME:
            raise OptionError(
                "--target onnxruntime uses scatter reductions that TensorRT rejects: "
                "build engines from --target portable, or leave out --engine"
            )
        if self.engine and not all(precision.built for precision in self.precisions):
            raise OptionError(
                "--engine builds none of int8 files, which are for CPUs: what is not int8 in them is FP32, slower on a "
                "GPU than FP16. Ask for --precision int8-fp16 or fp8 in its place, or leave out --engine"
            )
        if self.opset < MINIMUM_OPSET:
            raise OptionError(f"opset is {self.opset}, expected {MINIMUM_OPSET} or newer")
        for size in self.bench_batches:
            if not self.batch.minimum <= size <= self.batch.maximum:
                raise OptionError(f"batch {size} is to be timed, but the files serve {self.batch}: change --batch")

    def opset_of(self, precision: Precision) -> int:
        """Opset of the file of a precision: what was asked for, or the oldest that can say it."""
        return max(self.opset, precision.least_opset)

    def onnx_name(self, precision: Precision) -> str:
        """Name of the ONNX file of a precision; one file alone is called `model.onnx`."""
        return "model.onnx" if len(self.precisions) == 1 else f"model.{precision.value}.onnx"

    def file_names(self) -> tuple[str, ...]:
        """Names of the ONNX files."""
        return tuple(self.onnx_name(precision) for precision in self.precisions)


@dataclass(frozen=True)
class Job(ExportJob):
    """What is asked for of a Vision Transformer: timm name, alias, hub name or the demo model.

    Attributes:
        reduction: how many tokens leave, where and how; a grid output makes it restore the grid.
        output_kind: what the files give; None for logits, or features where the model has no classifier.
        token_map: they also give what became of each patch.
        weights: where the weights come from.
        image_size: height and width in pixels; None for the model's own.
        num_classes: width of the classifier; None for the model's own.
        preprocessing: of images, where it is not as the weights or timm say.
        images: folder of images to verify with; None for the demo set or seeded noise.
        labels: class names to store in the files, in order.
    """

    reduction: Reduction = field(default_factory=Reduction)
    output_kind: OutputKind | None = None
    token_map: bool = False
    weights: WeightsSource = field(default_factory=lambda: WeightsSource.parse("pretrained"))
    image_size: tuple[int, int] | None = None
    num_classes: int | None = None
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    images: Path | None = None
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.labels and self.output_kind not in (None, OutputKind.LOGITS):
            raise OptionError(
                f"labels name the classes of logits, the output is {self.output_kind.value}: leave out --labels"
            )
        object.__setattr__(self, "reduction", self.reduction.restoring_for(self.output_kind))
