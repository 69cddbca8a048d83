"""`tofu-export analyze`: how linear the halves of each block are on the pairs that would be merged."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tofu_export.cli.parameters import command_line
from tofu_export.cli.sections import Section, command, option
from tofu_export.cli.shared_options import (
    image_batch_option,
    image_size_option,
    images_option,
    json_option,
    limit_option,
    output_option,
    quiet_option,
    seed_option,
    weights_option,
)
from tofu_export.options import DEFAULT_R

if TYPE_CHECKING:
    from tofu_export.analyze import Analysis
    from tofu_export.zoo.weights import WeightsSource

__all__ = ["analyze_command"]


@command("analyze", short_help="Functional linearity and token lengths by layer, on real images.")
@click.argument("model")
@weights_option()
@image_size_option()
@seed_option("random weights")
@option(Section.REDUCTION, "--r", "r", type=click.IntRange(min=1), default=DEFAULT_R, show_default=True, metavar="N",
        help="Pairs of an image in each layer: those that --r N would match.")  # fmt: skip
@option(Section.REDUCTION, "--steps", type=click.IntRange(min=2), default=10, show_default=True, metavar="K",
        help="Points between the two tokens of a pair.")  # fmt: skip
@images_option(", without labels", unless="demo_vit's own")
@limit_option(32)
@image_batch_option(16)
@option(Section.OUTPUT, "--figure", type=click.Path(path_type=Path), default=None, metavar="FILE",
        help="Also draw it, as .svg, .png or .pdf.")  # fmt: skip
@output_option("Also write the JSON document there.", "FILE", default=None)
@json_option()
@quiet_option()
def analyze_command(
    model: str,
    weights: WeightsSource,
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
    from tofu_export.analyze import AnalyzeRequest, analyze  # imports torch
    from tofu_export.analyze.figure import check_name, draw
    from tofu_export.cli.console import listening
    from tofu_export.system.files import write_text

    if figure is not None:
        check_name(figure)
    request = AnalyzeRequest(model, weights=weights, **options)
    with listening(quiet=quiet, first=f"analyzing {model}") as listener:
        analysis = analyze(request, listener.tick)
    text = json.dumps(analysis.to_dict(command_line()), indent=2, allow_nan=False)
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
        f"weights: {analysis.loaded}",
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
