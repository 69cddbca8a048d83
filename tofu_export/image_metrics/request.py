"""Requests to compare images. Importing this module loads neither torch nor numpy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tofu_export.errors import OptionError
from tofu_export.image_metrics.weights import LPIPS_NETWORKS, WeightsFolder
from tofu_export.options import shared
from tofu_export.options.declaration import Section, group, opt, positional

__all__ = ["METRICS", "CompareRequest", "parse_metrics"]

PSNR, SSIM, MS_SSIM, LPIPS, FID, KID = METRICS = ("psnr", "ssim", "ms_ssim", "lpips", "fid", "kid")
"""Names in requests and results. By default SSIM is used only in place of MS-SSIM."""


def parse_metrics(text: str) -> tuple[str, ...]:
    """Read metrics from a comma list; hyphens count as underscores."""
    return tuple(dict.fromkeys(part.strip().lower().replace("-", "_") for part in text.split(",") if part.strip()))


@dataclass(frozen=True)
class CompareRequest:
    """Request to compare images.

    Attributes:
        a: an image, or a folder of images.
        b: a path of the same kind; for FID and KID the reference.
        metrics: some of `METRICS`, all of which must be possible; None for all possible ones.
        network: network of LPIPS: alex, vgg or squeeze.
        weights: folder of the networks' weights.
        seed: seed of the subsets of KID.

    Raises:
        OptionError: a metric or the network is unknown.
    """

    a: Path = positional()
    b: Path = positional()
    metrics: tuple[str, ...] | None = opt(
        None, "Some of psnr, ssim, ms-ssim, lpips, fid, kid.", Section.CHECK, metavar="LIST",
        unless="all that can be had", parse=parse_metrics,
    )  # fmt: skip
    network: str = opt(
        "alex", "What LPIPS looks with.", Section.CHECK, flags=("--lpips-network",), choices=tuple(LPIPS_NETWORKS)
    )
    weights: WeightsFolder = group(WeightsFolder)
    seed: int = shared.seed("the subsets of KID")

    def __post_init__(self) -> None:
        unknown = [name for name in self.metrics or () if name not in METRICS]
        if unknown or self.metrics == ():
            raise OptionError(f"metrics are {', '.join(unknown) or 'none'}, expected some of {', '.join(METRICS)}")
        if self.network not in LPIPS_NETWORKS:
            raise OptionError(f"network is {self.network!r}, expected {', '.join(LPIPS_NETWORKS)}")

    def wants(self, name: str) -> bool:
        """True if a metric is asked for, or none is named."""
        return self.metrics is None or name in self.metrics
