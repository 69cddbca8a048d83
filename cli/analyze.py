"""`tofu-export analyze`: linearity of the halves of each block on the pairs that would be merged."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tofu_export.analyze.request import AnalyzeRequest
from tofu_export.cli.command import Run, command
from tofu_export.options import shared
from tofu_export.options.declaration import Section, opt
from tofu_export.system.typed_json import to_object

if TYPE_CHECKING:
    from tofu_export.report.linearity import AnalysisDocument, Summary

__all__ = ["analyze_command"]


@dataclass(frozen=True)
class AnalyzeOutput:
    """Options for further outputs."""

    figure: Path | None = opt(
        None, "Also draw it, as .svg, .png or .pdf.", Section.OUTPUT, metavar="FILE", everyday=True, writes="file"
    )
    output: Path | None = shared.output("Also write the JSON document there.", "FILE")


@command("analyze", short_help="Functional linearity and token lengths by layer, on real images.", quiet="Only errors.")
def analyze_command(request: AnalyzeRequest, written: AnalyzeOutput, run: Run) -> None:
    """Measure how linear the blocks of MODEL, not reduced, are on the pairs of tokens that they would match.

    Linearity is how straight the MLP and the attention map the way from one token of a pair to the other, on real
    images (1 = linear; equation 8 of the paper). Beside it: how pruning, averaging and MLERP change tokens' length.

    \b
    tofu-export analyze demo_vit --figure linearity.svg
    tofu-export analyze vit_base --images photos --json
    """  # fmt: skip
    from tofu_export.analyze.figure import check_name, draw
    from tofu_export.analyze.run import analyze  # imports torch
    from tofu_export.system.files import write_text

    if written.figure is not None:
        check_name(written.figure)
    with run.listening(f"analyzing {request.model}") as listener:
        analysis = replace(analyze(request, listener.tick), command=run.command)
    document = to_object(analysis)
    if written.figure is not None:
        draw(analysis, written.figure)
    if written.output is not None:
        write_text(written.output, f"{json.dumps(document, indent=2, allow_nan=False)}\n")
    run.say(_text(analysis))
    for path in filter(None, (written.figure, written.output)):
        run.say(f"written: {path}")
    run.document(document)


def _text(analysis: AnalysisDocument) -> str:
    """Return the result as a table."""
    lines = [
        f"{analysis.model}: {analysis.images} images, {analysis.source}; {analysis.r} pairs of each in every layer",
        f"weights: {analysis.loaded}",
        "",
        "linearity (1 = linear), mean and standard deviation         merged token / longest    all tokens / full model",
        "layer  similarity    MLP            attention               average   MLERP           prune  average  MLERP",
    ]
    norms = analysis.token_norms
    for row in analysis.layers:
        merged = [row.merged_norm[name].mean for name in ("average", "mlerp")]
        lengths = [of[row.layer] for of in (norms.prune, norms.average, norms.mlerp)]
        lines.append(
            f"{row.layer:>5}  {_number(row.similarity.mean):>10}    {_spread(row.mlp):<14} "
            f"{_spread(row.attention):<23} {_number(merged[0]):<9} {_number(merged[1]):<15} "
            f"{_number(lengths[0]):<6} {_number(lengths[1]):<8} {_number(lengths[2])}"
        )
    return "\n".join(lines)


def _spread(summary: Summary | None) -> str:
    if summary is None or summary.mean is None:
        return "-"
    return f"{summary.mean:.3f} ± {summary.std:.3f}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
