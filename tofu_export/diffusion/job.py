"""What a UNet job is asked to do."""

from __future__ import annotations

from dataclasses import dataclass, field

from tofu_export.diffusion.configs import TEXT_TOKENS
from tofu_export.diffusion.options import LatentSize, UnetReduction
from tofu_export.errors import OptionError
from tofu_export.job.request import ExportJob
from tofu_export.options import BatchRange, Precision

__all__ = ["DEFAULT_BATCH", "UnetJob"]

DEFAULT_BATCH = BatchRange(1, 2, 8)
"""One prompt with its unprompted twin at best, up to four of them."""

_PRECISIONS = (Precision.FP32, Precision.FP16, Precision.BF16)


@dataclass(frozen=True)
class UnetJob(ExportJob):
    """What is asked for of a UNet: a name of `configs.CONFIGS`, or a diffusers folder of a UNet or a pipeline.

    Attributes:
        weights: `random`, a file, or None for those beside the config.
        reduction: which tokens leave, and where.
        latent: the latent size that the files are for; None for the one that the UNet was trained for.
        text_tokens: text tokens that the files take.
    """

    batch: BatchRange = DEFAULT_BATCH
    bench: bool = False
    weights: str | None = None
    reduction: UnetReduction = field(default_factory=UnetReduction)
    latent: LatentSize | None = None
    text_tokens: int = TEXT_TOKENS

    def __post_init__(self) -> None:
        super().__post_init__()
        if wrong := [precision.value for precision in self.precisions if precision not in _PRECISIONS]:
            raise OptionError(f"precision {', '.join(wrong)} is not available for a UNet, expected fp32, fp16 or bf16")
