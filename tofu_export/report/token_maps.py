"""Document of `tofu-export tokens --json`: what became of the patches of some images, layer by layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["TokenDocument", "TokenImage", "TokenState"]


@dataclass(frozen=True, kw_only=True)
class TokenState:
    """State of one image after one layer.

    Attributes:
        layer: index of the block.
        method: method for tokens that leave.
        tokens: tokens that are left, prefix included.
        pruned: number of pruned patches; None in documents of early versions.
        merged: number of patches that share a token; None in documents of early versions.
        alone: number of patches with a token of their own; None in documents of early versions.
        groups: the token that each original one is part of, prefix included; -1 for none.
    """

    layer: int
    method: str
    tokens: int
    pruned: int | None = None
    merged: int | None = None
    alone: int | None = None
    groups: tuple[int, ...]


@dataclass(frozen=True)
class TokenImage:
    """Token maps of one image: its name, a PNG in base64, and its states."""

    name: str
    png: str
    states: tuple[TokenState, ...]


@dataclass(frozen=True, kw_only=True)
class TokenDocument:
    """Token maps of some images.

    Attributes:
        schema_version: version of the document.
        kind: kind of document.
        file: name of the file whose decisions are shown.
        model: name of its model.
        backend: backend that ran the file.
        output: output of the file that gives the last state; None if only decisions do.
        grid: rows and columns of patches.
        prefix_tokens: protected tokens at the front.
        tokens: tokens that enter the first block, prefix included.
        pattern: one letter per layer.
        notes: notes for the reader.
        images: the images.
    """

    schema_version: int
    kind: Literal["tokens"]
    file: str
    model: str
    backend: str
    output: str | None = None
    grid: tuple[int, int]
    prefix_tokens: int
    tokens: int
    pattern: str
    notes: tuple[str, ...] = ()
    images: tuple[TokenImage, ...]
