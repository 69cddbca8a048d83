"""What a UNet job is asked to do."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from tofu_export.diffusion.configs import TEXT_TOKENS
from tofu_export.diffusion.options import LatentSize, UnetReduction
from tofu_export.errors import OptionError
from tofu_export.options import MINIMUM_OPSET, BatchRange, IoType, Precision, Target

__all__ = ["DEFAULT_BATCH", "UnetJob"]

DEFAULT_BATCH = BatchRange(1, 2, 8)
"""One prompt with its unprompted twin at best, up to four of them."""

_PRECISIONS = (Precision.FP32, Precision.FP16, Precision.BF16)


@dataclass(frozen=True)
class UnetJob:
    """What to export, from what, for whom. Fields without a word here are as in `tofu_export.job.Job`.

    Attributes:
        model: a name of `configs.CONFIGS`, or a folder of a UNet or a pipeline.
        output: folder for the files; created if need be.
        weights: `random`, a file, or None for those beside the config.
        reduction: which tokens leave, and where.
        latent: the latent size that the files are for; None for the one that the UNet was trained for.
        text_tokens: text tokens that the files take.
    """

    model: str
    output: Path
    weights: str | None = None
    reduction: UnetReduction = field(default_factory=UnetReduction)
    latent: LatentSize | None = None
    text_tokens: int = TEXT_TOKENS
    batch: BatchRange = DEFAULT_BATCH
    precisions: tuple[Precision, ...] = (Precision.FP32, Precision.FP16)
    target: Target = Target.PORTABLE
    opset: int = MINIMUM_OPSET
    io_type: IoType = IoType.FP32
    engine: bool | None = None
    flavour: str | None = None
    compute_capabilities: tuple[str, ...] = ()
    verify: bool = True
    bench: bool = False
    bench_batches: tuple[int, ...] = ()
    threads: int | None = None
    seed: int = 0
    command: str = ""

    def __post_init__(self) -> None:
        if wrong := [precision.value for precision in self.precisions if precision not in _PRECISIONS]:
            raise OptionError(f"precision {', '.join(wrong)} is not available for a UNet, expected fp32, fp16 or bf16")
        if self.opset < MINIMUM_OPSET:
            raise OptionError(f"opset is {self.opset}, expected {MINIMUM_OPSET} or newer")
        for size in self.bench_batches:
            if not self.batch.minimum <= size <= self.batch.maximum:
                raise OptionError(f"batch {size} is to be timed, but the files serve {self.batch}: change --batch")

    def onnx_name(self, precision: Precision) -> str:
        """Name of the ONNX file of a precision; one file alone has the name that diffusers looks for."""
        return "model.onnx" if len(self.precisions) == 1 else f"model.{precision.value}.onnx"

    def file_names(self) -> tuple[str, ...]:
        """Names of the ONNX files."""
        return tuple(self.onnx_name(precision) for precision in self.precisions)
