"""Visual output of the main job: token maps, and the HTML page."""

from __future__ import annotations

import json
from pathlib import Path

from tofu_export.errors import TofuError
from tofu_export.images.inputs import InputSet, pictures
from tofu_export.report.document import Report
from tofu_export.report.html import read_evidence, render
from tofu_export.report.html.token_maps import MOST_IMAGES
from tofu_export.system.files import Staging
from tofu_export.system.typed_json import to_plain
from tofu_export.tokens.document import token_document
from tofu_export.tokens.token_file import TokenFile

__all__ = ["PAGE", "TOKENS", "draw_tokens", "why_no_token_maps", "write_page"]

PAGE = "report.html"
TOKENS = "tokens.json"


def why_no_token_maps(*, real: bool, removes: bool) -> str | None:
    """Return why there are no token maps to draw, or None if there are; `real` images are not generated ones."""
    if not removes:
        return "no token is removed"
    return None if real else "there are no real images: give some with --images DIR"


def draw_tokens(path: Path, inputs: InputSet, destination: Path) -> str | None:
    """Write token maps of the first images by the file's decisions; return why that is impossible, if it is.

    A model whose patches fill no grid, or whose output does not depend on its only reduction, has no maps; the job does
    not fail for that.
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
