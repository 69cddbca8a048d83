"""`tofu-export analyze`: how linear the halves of each block are on the pairs that would be merged."""

from __future__ import annotations

import json
import logging
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tofu_export.cli.parameters import ImageSize
from tofu_export.options import DEFAULT_R

if TYPE_CHECKING:
    from tofu_export.analyze import Analysis

__all__ = ["analyze_command"]


@click.command("analyze", short_help="Functional linearity and token lengths by layer, on real images.")
@click.argument("model")
@click.option("--images", type=click.Path(path_type=Path), default=None, metavar="DIR",
              help="Real images.  [default: demo_vit's own]")  # fmt: skip
@click.option("--limit", type=click.IntRange(min=1), default=32, show_default=True, metavar="N",
              help="So many images, spread evenly over all.")  # fmt: skip
@click.option("--r", "r", type=click.IntRange(min=1), default=DEFAULT_R, show_default=True, metavar="N",
              help="Pairs of an image in each layer: those that --r N would match.")  # fmt: skip
@click.option("--steps", type=click.IntRange(min=2), default=10, show_default=True, metavar="K",
              help="Points between the two tokens of a pair.")  # fmt: skip
@click.option("--batch", type=click.IntRange(min=1), default=16, show_default=True, metavar="N",
              help="Images at a time.")  # fmt: skip
@click.option("--weights", default="pretrained", show_default=True, metavar="pretrained|random|PATH",
              help="Where the weights come from.")  # fmt: skip
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of random weights.")
@click.option("--image-size", type=ImageSize(), default=None, metavar="H[xW]", help="Input size in pixels.")
@click.option("--figure", type=click.Path(path_type=Path), default=None, metavar="FILE",
              help="Also draw it, as .svg, .png or .pdf.")  # fmt: skip
@click.option("-o", "--output", type=click.Path(path_type=Path), default=None, metavar="FILE",
              help="Also write the JSON document there.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
@click.option("-q", "--quiet", is_flag=True, help="Only errors.")
def analyze_command(
    model: str,
    weights: str,
    figure: Path | None,
    output: Path | None,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Measure how linear the blocks of MODEL, not reduced, are on the pairs of tokens that they would match.

    Linearity is how straight the MLP and the attention map the way from one token of a pair to the other, on real
    images (1 = linear; equation 8 of the paper). Beside it: how pruning, averaging and MLERP change tokens' length.

    \b
    tofu-export analyze demo_vit --figure linearity.svg
    tofu-export analyze vit_base --images photos --json
    """  # fmt: skip
    logging.basicConfig(level=logging.ERROR, format="%(name)s: %(message)s")
    from rich.console import Console

    from tofu_export.analyze import AnalyzeRequest, analyze  # imports torch
    from tofu_export.analyze.figure import check_name, draw
    from tofu_export.cli.console import ConsoleListener
    from tofu_export.files import write_text
    from tofu_export.zoo.weights import WeightsSource

    if figure is not None:
        check_name(figure)
    request = AnalyzeRequest(model, weights=WeightsSource.parse(weights), **options)
    listener = ConsoleListener(Console(stderr=True), quiet=quiet)
    listener.step(f"analyzing {model}")
    try:
        analysis = analyze(request, listener.tick)
    finally:
        listener.close()
    text = json.dumps(analysis.to_dict(shlex.join(["tofu-export", *sys.argv[1:]])), indent=2, allow_nan=False)
    if figure is not None:
        draw(analysis, figure)
    if output is not None:
        write_text(output, f"{text}\n")
    if not quiet:
        click.echo(_text(analysis), err=True)
        for path in filter(None, (figure, output)):
            click.echo(f"written: {path}", err=True)
    if as_json:
        click.echo(text)


def _text(analysis: Analysis) -> str:
    """A table for people."""
    lines = [
        f"{analysis.model}: {analysis.images} images, {analysis.source}; {analysis.r} pairs of each in every layer",
        "",
        "linearity (1 = linear), mean and standard deviation         merged token / longest    all tokens / full model",
        "layer  similarity    MLP            attention               average   MLERP           prune  average  MLERP",
    ]
    for row in analysis.layers:
        layer = row["layer"]
        norms = [analysis.token_norms[name][layer] for name in ("prune", "average", "mlerp")]
        merged = [row["merged_norm"][name]["mean"] for name in ("average", "mlerp")]
        lines.append(
            f"{layer:>5}  {_number(row['similarity']['mean']):>10}    {_spread(row.get('mlp')):<14} "
            f"{_spread(row['attention']):<23} {_number(merged[0]):<9} {_number(merged[1]):<15} "
            f"{_number(norms[0]):<6} {_number(norms[1]):<8} {_number(norms[2])}"
        )
    return "\n".join(lines)


def _spread(summary: Any) -> str:
    if summary is None or summary["mean"] is None:
        return "-"
    return f"{summary['mean']:.3f} ± {summary['std']:.3f}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
