"""`tofu-export images-compare`: similarity of two images, or of two folders of images."""

from __future__ import annotations

from dataclasses import dataclass

import click

from tofu_export.cli.command import Run, command
from tofu_export.image_metrics.request import CompareRequest
from tofu_export.image_metrics.result import Comparison, Fid, Kid, Metric
from tofu_export.options.declaration import Section, opt

__all__ = ["images_compare_command"]

_TITLES = {
    "psnr": "PSNR", "ssim": "SSIM", "ms_ssim": "MS-SSIM", "lpips": "LPIPS", "fid": "FID", "kid": "KID",
}  # fmt: skip


@dataclass(frozen=True)
class CompareOutput:
    """Options for how much is shown."""

    per_image: bool = opt(False, "Also say the metrics of each pair.", Section.OUTPUT)


@command(
    "images-compare", short_help="PSNR, MS-SSIM, LPIPS, FID and KID of two images or two folders.",
    quiet="Only results and errors.",
)  # fmt: skip
def images_compare_command(request: CompareRequest, shown: CompareOutput, run: Run) -> None:
    """Compare image A with B, or the images of folder A with those of folder B.

    Images of the same name and size are compared in pairs; FID and KID compare the folders as whole sets, B being the
    reference. Without --metrics, what cannot be had is left out, and it is said why. Nothing is downloaded unless
    --download is given.

    \b
    tofu-export images-compare full.png tofu.png
    tofu-export images-compare images/tofu images/full --json
    tofu-export images-compare images/tofu coco/val2014 --metrics fid,kid --network-weights weights
    """  # fmt: skip
    from tofu_export.image_metrics.compare import compare_images  # imports torch

    with run.listening("comparing images") as listener:
        result = compare_images(request, lambda what, done, total: listener.tick(f"{what}, {done} of {total}"))
    run.document(lambda: result.to_dict(run.command, rows=shown.per_image))
    if not run.as_json:
        click.echo(_text(result, per_image=shown.per_image))
    for line in _remarks(result):
        run.say(line)


def _text(result: Comparison, *, per_image: bool) -> str:
    """Return the result as a table."""
    lines = [f"{result.a} and {result.b} images, {result.pairs} pairs"]
    lines += [f"  {_TITLES[name]:<8} {_value(found)}" for name, found in result.metrics.items()]
    if per_image and result.rows:
        lines += ["", "  ".join([*(f"{_TITLES[name]:>9}" for name in result.rows[0].values), "image"])]
        lines += ["  ".join([*(f"{_number(one):>9}" for one in row.values.values()), row.name]) for row in result.rows]
    return "\n".join(lines)


def _value(found: Metric) -> str:
    if isinstance(found, Fid):
        return _number(found.value, "not finite")
    if isinstance(found, Kid):
        return f"{found.mean:.6f}   std {found.std:.6f} over {found.subsets} subsets of {found.subset_size}"
    unit = f" {found.unit}" if found.unit else ""
    return f"{_number(found.mean)}{unit}   worst {_number(found.worst)}{unit}"


def _number(value: float | None, nothing: str = "inf") -> str:
    return nothing if value is None else f"{value:.4f}"


def _remarks(result: Comparison) -> list[str]:
    """Return what was left out, one line for each reason, and notes."""
    reasons: dict[str, list[str]] = {}
    for left_out in result.skipped:
        reasons.setdefault(left_out.reason, []).append(_TITLES[left_out.metric])
    left = [f"left out: {', '.join(names)}: {reason}" for reason, names in reasons.items()]
    return [*left, *(f"note: {note}" for note in result.notes)]
