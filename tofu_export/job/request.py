"""Requests for an export: model, reduction, files, engines, checks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tofu_export.errors import OptionError
from tofu_export.options import (
    MINIMUM_OPSET,
    PATCH_GROUPS,
    AttentionForm,
    BatchRange,
    IoType,
    OutputKind,
    Precision,
    Quantization,
    Reduction,
    Target,
    shared,
)
from tofu_export.options.declaration import Section, group, opt, positional
from tofu_export.zoo.preprocessing import PreprocessingOptions
from tofu_export.zoo.weights import WeightsSource, pretrained

__all__ = ["ExportJob", "Job", "read_labels"]


def read_labels(path: Path) -> tuple[str, ...]:
    """Read class names, one per line.

    Raises:
        OptionError: the file cannot be read, or has none.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(
            f"cannot read labels from {path}: {error}; expected a text file, one label per line"
        ) from error
    labels = tuple(line.strip() for line in lines if line.strip())
    if not labels:
        raise OptionError(f"{path} has no labels; expected a text file, one label per line")
    return labels


@dataclass(frozen=True)
class ExportJob:
    """Export request for any kind of model. Values are checked where their type is defined.

    Attributes:
        model: name or folder of the model.
        output: folder for the files; created if need be. None: `MODEL-tofu` here.
        batch: batch sizes that files and engines serve.
        precisions: precisions to write, each as one ONNX file and one engine.
        target: runtime that the ONNX files are written for.
        opset: ONNX opset; files in int8-fp16 and fp8 have 19 at least.
        attention: form of attention in half-precision files.
        io_type: type of the files' real inputs and outputs.
        engine: build engines: yes, no, or None for "if a TensorRT is installed".
        flavour: which TensorRT; None for the one that is installed.
        compute_capabilities: GPUs that engines run on (TensorRT-RTX); empty for SM80 and newer.
        verify: compare every file with the eager model.
        bench: time the reduced against the full model in onnxruntime.
        bench_batches: batch sizes to time; empty for the preferred one.
        threads: threads of onnxruntime in the benchmark.
        seed: seed of random weights and generated inputs.
        bundle: new folder for what is needed to debug, if a file is wrong or an engine cannot be built.
        command: the user's command line or Python call, for the report.
    """

    model: str = positional()
    output: Path = shared.output("Folder for the files.", "DIR", unless="MODEL-tofu")
    batch: BatchRange = shared.served_batch(BatchRange())
    precisions: tuple[Precision, ...] = shared.precisions(
        (Precision.FP32, Precision.FP16),
        "Some of fp32, fp16, bf16, int8, int8-fp16, fp8: one file each.",
    )
    target: Target = shared.target()
    opset: int = shared.opset()
    attention: AttentionForm = shared.attention()
    io_type: IoType = shared.io_type()
    engine: bool | None = opt(
        None, "Build TensorRT engines.", Section.ENGINE, unless="if a TensorRT is installed", everyday=True
    )
    flavour: str | None = None
    compute_capabilities: tuple[str, ...] = shared.capabilities()
    verify: bool = shared.verify()
    bench: bool = shared.bench(True)
    bench_batches: tuple[int, ...] = shared.bench_batches()
    threads: int | None = shared.threads()
    seed: int = shared.seed("random weights and generated images")
    bundle: Path | None = None
    command: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "output", self.output or Path(f"{self.folder_name()}-tofu"))
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
        if self.attention is not AttentionForm.FUSED and not any(map(self.attention_of, self.precisions)):
            raise OptionError(
                f"--attention {self.attention.value} is for files in half precision, and none is asked for: add fp16 "
                "to --precision, or leave it out"
            )
        if self.opset < MINIMUM_OPSET:
            raise OptionError(f"opset is {self.opset}, expected {MINIMUM_OPSET} or newer")
        for size in self.bench_batches:
            if not self.batch.minimum <= size <= self.batch.maximum:
                raise OptionError(f"batch {size} is to be timed, but the files serve {self.batch}: change --batch")

    def folder_name(self) -> str:
        """Return the model's name as used in the default output folder."""
        return Path(self.model).name.replace(":", "-")

    def opset_of(self, precision: Precision) -> int:
        """Return the opset of the file of a precision: as asked for, or the oldest that supports the precision."""
        return max(self.opset, precision.least_opset)

    def attention_of(self, precision: Precision) -> AttentionForm | None:
        """Return the attention form in the file of a precision; None for FP32, where nothing is fused."""
        return None if precision.traced is Precision.FP32 else self.attention

    def onnx_name(self, precision: Precision) -> str:
        """Return the name of the ONNX file of a precision; a single file is called `model.onnx`."""
        return "model.onnx" if len(self.precisions) == 1 else f"model.{precision.value}.onnx"


@dataclass(frozen=True)
class Job(ExportJob):
    """Export request for a Vision Transformer: timm name, alias, hub name or the demo model.

    Attributes:
        weights: where the weights come from.
        preprocessing: preprocessing of images that overrides the weights and timm.
        reduction: how many tokens leave, where and how; a grid output makes it restore the grid.
        image_size: height and width in pixels; None for the model's own.
        num_classes: width of the classifier; None for the model's own.
        output_kind: what the files output; None for logits, or features if the model has no classifier.
        token_map: the files also output the final row of each patch.
        quantization: options of int8, int8-fp16 and fp8 files.
        images: folder of images to verify with; None for the demo set or seeded noise.
        labels: class names to store in the files, in order; empty for those that the weights name.
    """

    weights: WeightsSource = pretrained()
    preprocessing: PreprocessingOptions = group(PreprocessingOptions)
    reduction: Reduction = group(Reduction)
    image_size: tuple[int, int] | None = shared.image_size()
    num_classes: int | None = shared.num_classes()
    output_kind: OutputKind | None = shared.output_kind("logits, or features without a classifier")
    token_map: bool = opt(
        False, f"One more output, {PATCH_GROUPS}: the token that each input patch ended in, -1 if pruned.",
        Section.MODEL,
    )  # fmt: skip
    quantization: Quantization = group(Quantization)
    images: Path | None = shared.images(
        " to verify and calibrate int8 and fp8 with",
        unless="demo_vit's own; for others generated ones",
        section=Section.CHECK,
    )
    labels: tuple[str, ...] = opt(
        (), "Class names to store in the files, one per line.", Section.FILES, metavar="FILE", typed=Path,
        parse=read_labels, unless="those that the weights name",
    )  # fmt: skip
    bundle: Path | None = shared.bundle()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.labels and self.output_kind not in (None, OutputKind.LOGITS):
            raise OptionError(
                f"labels name the classes of logits, the output is {self.output_kind.value}: leave out --labels"
            )
        if self.reduction.select.halts and self.output_kind is OutputKind.TOKENS:
            raise OptionError(
                "of tokens that halt only the class token has an output: ask for --output-kind logits or features"
            )
        asked = {"--quantize-skip": self.quantization.skip, "--calibration-images": self.quantization.images}
        unused = [flag for flag, value in asked.items() if value]
        if unused and not any(precision.calibrated for precision in self.precisions):
            raise OptionError(
                f"{unused[0]} is for int8 and fp8 files, and none is asked for: add one to --precision, or leave it out"
            )
        if self.quantization.attention and Precision.FP8 not in self.precisions:
            raise OptionError(
                "--quantize-attention is for fp8 files, and none is asked for: add fp8 to --precision, or leave it out"
            )
        if self.quantization.attention and self.attention is not AttentionForm.FUSED:
            raise OptionError(
                f"--quantize-attention is for fused kernels, and --attention {self.attention.value} asks for none: "
                "leave out one of them"
            )
        object.__setattr__(self, "reduction", self.reduction.restoring_for(self.output_kind))
