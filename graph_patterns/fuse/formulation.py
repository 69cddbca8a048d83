"""Formulation of a reduction: a way to match and a way to merge, which fit each other."""

from __future__ import annotations

from dataclasses import dataclass

from tofu_export.graph_patterns.fuse.matching import Match
from tofu_export.graph_patterns.fuse.merging import Merge

__all__ = ["Formulation"]


@dataclass(frozen=True)
class Formulation:
    """Way to match and way to merge. Merging by scatter needs a list of joining sources, which ranking lacks."""

    match: Match
    merge: Merge

    def __str__(self) -> str:
        return f"{self.match.__name__}, {self.merge.__name__}"
