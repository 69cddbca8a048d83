"""The canonical operators of a reduction on a grid, whose tokens come back (Stable Diffusion's UNet).

Domain `tofu`, version 1. N tokens of which T, at fixed positions, are destinations and S = N - T sources; R sources
leave. The reduced sequence is U = S - R sources that stay, least similar first, then the destinations in order.

- `GridMatch(tokens [B,N,C]) -> (rows [B,N] int64, places [B,U] int64)`: the row of the reduced sequence that stands for
  each token, and the positions of the sources that stay; without `places` where U is 0
- `GridMerge(tokens [B,N,C], rows, places?) -> [B,N-R,C]`
- `GridUnmerge(reduced [B,N-R,C], rows) -> [B,N,C]`

Attributes of the first two: tokens (N), destinations (their positions, ascending), r, method, and block, the path of
the module.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

__all__ = ["GRID_OPERATORS", "GridNode", "grid_stage"]

GRID_OPERATORS = frozenset({"GridMatch", "GridMerge", "GridUnmerge"})


@dataclass(frozen=True)
class GridNode:
    """Attributes of a `tofu::GridMatch` or `tofu::GridMerge` node, and values derived from them."""

    block: str
    tokens: int
    positions: tuple[int, ...]
    removed: int
    method: str
    dtype: ir.DataType

    @classmethod
    def read(cls, node: ir.Node) -> GridNode:
        """Read the attributes of a canonical node."""
        first = node.inputs[0]
        assert first is not None and first.dtype is not None  # the tracer always declares it
        return cls(
            block=node.attributes["block"].as_string(),
            tokens=node.attributes["tokens"].as_int(),
            positions=tuple(node.attributes["destinations"].as_ints()),
            removed=node.attributes["r"].as_int(),
            method=node.attributes["method"].as_string(),
            dtype=first.dtype,
        )

    @property
    def destinations(self) -> int:
        """Number of destinations, T."""
        return len(self.positions)

    @property
    def sources(self) -> int:
        """Number of sources, S."""
        return self.tokens - len(self.positions)

    @property
    def kept(self) -> int:
        """Number of sources that stay, U."""
        return self.sources - self.removed

    @property
    def merges(self) -> bool:
        """True if destinations change."""
        return self.method != "prune"

    @property
    def source_positions(self) -> NDArray[np.int64]:
        """Positions of the sources, ascending, [S]."""
        return np.setdiff1d(np.arange(self.tokens, dtype=np.int64), np.array(self.positions, dtype=np.int64))


def grid_stage(block: str) -> str:
    """Return the prefix of the names of a block's reduction in the graph.

    Decisions are the int64 values `match/kept` [B, U], sources that stay, and `match/nearest` [B, S], the destination
    that each source would join, both as indices among the block's sources or destinations.
    """
    return f"{block}/tofu"
