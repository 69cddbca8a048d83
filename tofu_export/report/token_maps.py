"""The document of `tofu-export tokens --json`: what became of the patches of some images, layer by layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["TokenDocument", "TokenImage", "TokenState"]


@dataclass(frozen=True, kw_only=True)
class TokenState:
    """One image after one layer.

    Attributes:
        layer: index of the block.
        method: what it does with tokens that leave.
        tokens: tokens that are left, prefix included.
        pruned: patches that are gone; None where an early version did not count.
        merged: patches that share a token; None likewise.
        alone: patches that have one of their own; None likewise.
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
    """One image: its name, a PNG in base64, and its states."""

    name: str
    png: str
    states: tuple[TokenState, ...]


@dataclass(frozen=True, kw_only=True)
class TokenDocument:
    """Token maps of some images.

    Attributes:
        schema_version: of the document.
        kind: what it is.
        file: name of the file that decided.
        model: name of its model.
        backend: what ran it.
        output: the file's own output that the last state is; None where only decisions say it.
        grid: rows and columns of patches.
        prefix_tokens: protected tokens at the front.
        tokens: tokens that enter the first block, prefix included.
        pattern: one letter per layer.
        notes: what a reader must know.
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
