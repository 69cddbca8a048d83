"""`tofu-export models`: list what can be reduced, from the catalogue, without torch."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

import click

from tofu_export.cli.command import Run, command
from tofu_export.errors import UnknownModelError
from tofu_export.options.declaration import positional
from tofu_export.planning.entry import Gmacs
from tofu_export.system.typed_json import to_plain

__all__ = ["models_command"]

_WILDCARDS = "*?["


@dataclass(frozen=True)
class ModelsWork:
    """Options for which models to list."""

    filter_text: str = positional("", metavar="[FILTER]")


@dataclass(frozen=True)
class ModelRow:
    """Row of one model: its names, sizes, and its cost for one image without and with the default reduction."""

    name: str
    aliases: tuple[str, ...]
    image_size: tuple[int, int]
    tokens: int
    prefix_tokens: int
    depth: int
    params: int
    gmacs: Gmacs


@command("models", short_help="List the models that can be reduced; say why one cannot.")
def models_command(work: ModelsWork, run: Run) -> None:
    """List the timm models that can be reduced.

    FILTER is a part of a name, or a pattern such as 'vit_*_dinov2' (in quotes). The full name of a model that cannot be
    reduced is refused with the reason.

    \b
    tofu-export models dinov3
    tofu-export models swin_tiny_patch4_window7_224       refused, exit code 3

    The last column is for the default reduction: r = 16 in each layer.
    """
    from tofu_export.options import DEFAULT_R
    from tofu_export.zoo import catalog

    text = work.filter_text
    others = catalog.others()
    found = () if text.strip() in others else catalog.search(text)
    rows = [_row(name) for name in found] or [_measured(text)]
    if run.as_json:
        run.document({"timm": catalog.timm_version(), "r": DEFAULT_R, "models": to_plain(rows)})
        return
    head = ("model", "image", "tokens", "protected", "depth", "GMACs", f"r = {DEFAULT_R}")
    cells = [
        (
            row.name, "x".join(map(str, row.image_size)), str(row.tokens), str(row.prefix_tokens),
            str(row.depth), f"{row.gmacs.full:.2f}", f"{row.gmacs.reduced:.2f}",
        )
        for row in rows
    ]  # fmt: skip
    click.echo(_table(head, cells))
    refused = catalog.search(text, others) if text.strip() else ()
    if refused:
        one = len(refused) == 1
        click.echo(
            f"{len(refused)} more model{'' if one else 's'} of timm match{'es' if one else ''} and cannot be reduced: "
            f"tofu-export models {refused[0]} says why",
            err=True,
        )


def _row(name: str) -> ModelRow:
    """Return the row of a model in the catalogue, or of one that is measured."""
    from tofu_export.options import Reduction
    from tofu_export.zoo.names import ALIASES
    from tofu_export.zoo.specs import plan_model

    spec, plan = plan_model(name, Reduction())
    return ModelRow(
        spec.name,
        tuple(alias for alias, full in ALIASES.items() if full == spec.name),
        spec.image_size,
        spec.tokens,
        spec.prefix_tokens,
        spec.depth,
        spec.params,
        plan.entry().gmacs,
    )


def _measured(text: str) -> ModelRow:
    """Measure the model with exactly this name, which the catalogue does not hold.

    Raises:
        UnknownModelError: there is no such model.
        UnsupportedModelError: the model cannot be reduced; the message says why.
    """
    from tofu_export.zoo import catalog

    known = catalog.names()
    if not known and not text.strip():
        raise UnknownModelError(
            f"the list is for timm {catalog.timm_version()}, and another timm is installed: "
            f"pip install timm=={catalog.timm_version()}, or give the full name of one model, which is then measured"
        )
    if any(letter in text for letter in _WILDCARDS):
        close = difflib.get_close_matches(text.strip().lower().strip("*"), known, n=3, cutoff=0.4)
        hint = f"the closest are {', '.join(close)}" if close else "`tofu-export models` lists all"
        raise UnknownModelError(f"no supported model matches {text!r}: {hint}")
    return _row(text)  # imports torch and timm


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return columns as wide as needed: the first one left-aligned, the others right-aligned."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = []
    for cells in (head, *rows):
        padded = [cells[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))]
        lines.append("  ".join([padded[0], *padded[2:]]))
    return "\n".join(lines)
