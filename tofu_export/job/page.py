"""Visual output of the main job: token maps, and the HTML page."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path

from tofu_export.errors import TofuError
from tofu_export.images.inputs import InputSet, pictures
from tofu_export.options import Precision
from tofu_export.planning.plan import ModelSpec, Plan
from tofu_export.report.document import Report
from tofu_export.report.html import read_evidence, render
from tofu_export.report.html.token_maps import MOST_IMAGES
from tofu_export.system.files import Staging
from tofu_export.system.ort import NO_BFLOAT16
from tofu_export.system.typed_json import to_plain
from tofu_export.tokens.document import token_document
from tofu_export.tokens.source import grid_of, no_grid
from tofu_export.tokens.token_file import TokenFile

__all__ = ["PAGE", "TOKENS", "draw_tokens", "why_no_token_maps", "write_page"]

PAGE = "report.html"
TOKENS = "tokens.json"


def why_no_token_maps(
    spec: ModelSpec, plan: Plan, precisions: Collection[Precision], *, real: bool, reads_patches: bool
) -> str | None:
    """Return why a job draws no token maps, or None if it does.

    Args:
        spec: the model.
        plan: its reduction.
        precisions: precisions of the files.
        real: there are images that were not generated.
        reads_patches: an output depends on patch tokens after the last block (`patch.reads_patches`).
    """
    reducing = [layer.layer for layer in plan.layers if layer.removed]
    patches = spec.tokens - spec.prefix_tokens
    if not reducing:
        return "no token is removed"
    if not real:
        return "there are no real images: give some with --images DIR"
    if set(precisions) == {Precision.BF16}:
        return NO_BFLOAT16
    if grid_of(patches, spec.image_size) is None:
        return no_grid(patches, spec.image_size)
    if reducing == [spec.depth - 1] and not (reads_patches or plan.reduction.select.is_before_block):
        return f"no output depends on the only reduction, that of the last block ({spec.depth - 1})"
    return None


def draw_tokens(path: Path, inputs: InputSet, destination: Path) -> str | None:
    """Write token maps of the first images by the file's decisions; return why that is impossible, if it is.

    The job does not fail for that.
    """
    pixels = inputs.pixels[:MOST_IMAGES]
    names = [f"image {index + 1} of {inputs.source}" for index in range(len(pixels))]
    try:
        file = TokenFile.read(path)
        document = token_document(file, file.run(pixels), names, pictures(pixels, file.preprocessing))
    except TofuError as error:
        return str(error)
    destination.write_text(
        json.dumps(to_plain(document), separators=(",", ":"), allow_nan=False) + "\n", encoding="utf-8"
    )
    return None


def write_page(report: Report, stage: Staging) -> list[str]:
    """Write the page of a report; return the names of the files to publish, token maps first."""
    tokens = stage.path(TOKENS)
    shown = [tokens] if tokens.is_file() and report.artifacts else []
    stage.path(PAGE).write_text(render(report, read_evidence(shown)), encoding="utf-8")
    return [*(path.name for path in shown), PAGE]
