"""`tofu-export images-compare`: how alike two images, or two folders of them, are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tofu_export.cli.parameters import command_line
from tofu_export.cli.sections import Section, command, option
from tofu_export.cli.shared_options import json_option, quiet_option, seed_option

if TYPE_CHECKING:
    from tofu_export.image_metrics.compare import CompareRequest, Comparison

__all__ = ["images_compare_command"]

_TITLES = {
    "psnr": "PSNR", "ssim": "SSIM", "ms_ssim": "MS-SSIM", "lpips": "LPIPS", "fid": "FID", "kid": "KID",
}  # fmt: skip


@command("images-compare", short_help="PSNR, MS-SSIM, LPIPS, FID and KID of two images or two folders.")
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@option(Section.CHECK, "--metrics", default=None, metavar="LIST",
        help="Some of psnr, ssim, ms-ssim, lpips, fid, kid.  [default: all that can be had]")  # fmt: skip
@option(Section.CHECK, "--lpips-network", type=click.Choice(["alex", "squeeze", "vgg"]), default="alex",
        show_default=True, help="What LPIPS looks with.")  # fmt: skip
@option(Section.CHECK, "--network-weights", type=click.Path(path_type=Path), default=None, metavar="DIR",
        help="Folder of the weights that LPIPS, FID and KID need.  [default: torch's cache]")  # fmt: skip
@option(Section.CHECK, "--download", is_flag=True, help="Download weights that are missing there.")
@seed_option("the subsets of KID")
@option(Section.OUTPUT, "--per-image", is_flag=True, help="Also say the metrics of each pair.")
@json_option()
@quiet_option("Only results and errors.")
def images_compare_command(
    a: Path,
    b: Path,
    metrics: str | None,
    lpips_network: str,
    network_weights: Path | None,
    download: bool,
    seed: int,
    per_image: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Compare image A with B, or the images of folder A with those of folder B.

    Images of the same name and size are compared in pairs; FID and KID compare the folders as whole sets, B being the
    reference. Without --metrics, what cannot be had is left out, and it is said why. Nothing is downloaded unless
    --download is given.

    \b
    tofu-export images-compare full.png tofu.png
    tofu-export images-compare images/tofu images/full --json
    tofu-export images-compare images/tofu coco/val2014 --metrics fid,kid --network-weights weights
    """  # fmt: skip
    from tofu_export.image_metrics.compare import CompareRequest, parse_metrics  # imports torch
    from tofu_export.image_metrics.weights import WeightsFolder

    request = CompareRequest(
        a,
        b,
        metrics=None if metrics is None else parse_metrics(metrics),
        network=lpips_network,
        weights=WeightsFolder(network_weights, download),
        seed=seed,
    )
    result = _run(request, quiet=quiet)
    if as_json:
        document = result.to_dict(command_line(), rows=per_image)
        click.echo(json.dumps(document, indent=2, allow_nan=False))
    else:
        click.echo(_text(result, per_image=per_image))
    if not quiet:
        for line in _remarks(result):
            click.echo(line, err=True)


def _run(request: CompareRequest, *, quiet: bool) -> Comparison:
    from tofu_export.cli.console import listening
    from tofu_export.image_metrics.compare import compare_images

    with listening(quiet=quiet, first="comparing images") as listener:
        return compare_images(request, lambda what, done, total: listener.tick(f"{what}, {done} of {total}"))


def _text(result: Comparison, *, per_image: bool) -> str:
    """The result as a table."""
    lines = [f"{result.a} and {result.b} images, {result.pairs} pairs"]
    lines += [f"  {_TITLES[name]:<8} {_value(name, found)}" for name, found in result.metrics.items()]
    if per_image and result.rows:
        names = [name for name in result.rows[0] if name != "name"]
        lines += ["", "  ".join([*(f"{_TITLES[name]:>9}" for name in names), "image"])]
        lines += ["  ".join([*(f"{_number(row[name]):>9}" for name in names), row["name"]]) for row in result.rows]
    return "\n".join(lines)


def _value(name: str, found: dict[str, Any]) -> str:
    if name == "fid":
        return _number(found["value"], "not finite")
    if name == "kid":
        return f"{found['mean']:.6f}   std {found['std']:.6f} over {found['subsets']} subsets of {found['subset_size']}"
    unit = " dB" if name == "psnr" else ""
    return f"{_number(found['mean'])}{unit}   worst {_number(found['worst'])}{unit}"


def _number(value: float | None, nothing: str = "inf") -> str:
    return nothing if value is None else f"{value:.4f}"


def _remarks(result: Comparison) -> list[str]:
    """What was left out and why, one line for each reason, and what to know."""
    reasons: dict[str, list[str]] = {}
    for row in result.skipped:
        reasons.setdefault(row["reason"], []).append(_TITLES[row["metric"]])
    left = [f"left out: {', '.join(names)}: {reason}" for reason, names in reasons.items()]
    return [*left, *(f"note: {note}" for note in result.notes)]
