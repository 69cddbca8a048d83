"""Requests for a UNet export."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tofu_export.diffusion.configs import TEXT_TOKENS
from tofu_export.diffusion.options import LatentSize, UnetReduction
from tofu_export.errors import OptionError
from tofu_export.job.request import ExportJob
from tofu_export.options import BatchRange, Precision, shared
from tofu_export.options.declaration import Section, group, opt

__all__ = ["DEFAULT_BATCH", "UnetJob"]

DEFAULT_BATCH = BatchRange(1, 2, 8)
"""Default batch sizes: preferably one prompt with its negative, at most four of them."""

_PRECISIONS = (Precision.FP32, Precision.FP16, Precision.BF16)


@dataclass(frozen=True)
class UnetJob(ExportJob):
    """Export request for a UNet: a name of `configs.CONFIGS`, or a diffusers folder of a UNet or a pipeline.

    Attributes:
        weights: `random`, a file, or None for the weights beside the config.
        latent: the latent size that the files are for; None for the one that the UNet was trained for.
        text_tokens: number of text tokens of the files.
        reduction: which tokens leave, and where.
    """

    weights: str | None = opt(
        None, "Where the weights come from.", Section.MODEL, metavar="random|PATH", unless="beside the config",
        everyday=True,
    )  # fmt: skip
    latent: LatentSize | None = opt(
        None, "An eighth of the image's pixels; fixed in the files.", Section.MODEL, flags=("--latent-size",),
        metavar="H[xW]", unless="the UNet's own", parse=LatentSize.parse, everyday=True,
    )  # fmt: skip
    text_tokens: int = opt(TEXT_TOKENS, "Length of the text.", Section.MODEL, metavar="N", minimum=1)
    reduction: UnetReduction = group(UnetReduction)
    seed: int = shared.seed("random weights and the inputs that files are verified on")
    batch: BatchRange = shared.served_batch(DEFAULT_BATCH, note="; guidance takes two for each image")
    precisions: tuple[Precision, ...] = shared.precisions(
        (Precision.FP32, Precision.FP16), "Some of fp32, fp16, bf16: one file each."
    )
    engine: bool | None = opt(
        False, "Build TensorRT engines; takes minutes, and 11 GB of memory for sd15 in fp32.", Section.ENGINE,
        flags=("--engine/--no-engine",), everyday=True,
    )  # fmt: skip
    bench: bool = shared.bench(False)

    def folder_name(self) -> str:
        """Return the folder's own name, also if it is given as `.`."""
        return Path(self.model).resolve().name

    def __post_init__(self) -> None:
        super().__post_init__()
        if wrong := [precision.value for precision in self.precisions if precision not in _PRECISIONS]:
            raise OptionError(f"precision {', '.join(wrong)} is not available for a UNet, expected fp32, fp16 or bf16")
