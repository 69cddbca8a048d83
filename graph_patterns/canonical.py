"""The canonical operators, and how to read them.

Domain `tofu`, version 1:

- `Fuse(x [B,N,C], metric [B,N,D]) -> [B,N-r,C]`
- `FuseSized(x, metric, sizes [B,N,1] float32) -> ([B,N-r,C], [B,N-r,1])`
- `FusePlaced(x, metric, positions [B,N,1] int64) -> ([B,N-r,C], [B,N-r,1])`, where a model
  has rotary or relative positions
- `FuseSizedPlaced(x, metric, sizes, positions)`, both
- `Attention(q, k, v [B,H,N,D]) -> [B,H,N,D]`, attribute `scale`
- `BiasedAttention(q, k, v, bias)`, the bias broadcasting to [B,H,N,M]
- `Gelu(x)`, attribute `approximate`: none or tanh

All fuse operators carry the attributes r, method, prefix, tokens (N) and layer.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import onnx_ir as ir

__all__ = ["DECISIONS", "DOMAIN", "FuseNode", "decision_name", "is_decision"]

DOMAIN = "tofu"


@dataclass(frozen=True)
class FuseNode:
    """The attributes of a `tofu::Fuse` node or a variant of it, and what follows from them.

    Sources are the even positions of the sequence from the prefix on, destinations the odd ones.
    """

    removed: int
    method: str
    prefix: int
    tokens: int
    layer: int
    dtype: ir.DataType

    @classmethod
    def read(cls, node: ir.Node) -> FuseNode:
        """Read the attributes of a canonical node."""
        dtype = node.outputs[0].dtype
        assert dtype is not None  # the tracer always declares it
        return cls(
            removed=node.attributes["r"].as_int(),
            method=node.attributes["method"].as_string(),
            prefix=node.attributes["prefix"].as_int(),
            tokens=node.attributes["tokens"].as_int(),
            layer=node.attributes["layer"].as_int(),
            dtype=dtype,
        )

    @property
    def first_source(self) -> int:
        """Position of the first source."""
        return self.prefix + self.prefix % 2

    @property
    def first_destination(self) -> int:
        """Position of the first destination."""
        return self.prefix + 1 - self.prefix % 2

    @property
    def sources(self) -> int:
        """Number of sources, S."""
        return len(range(self.first_source, self.tokens, 2))

    @property
    def destinations(self) -> int:
        """Number of destinations, T."""
        return len(range(self.first_destination, self.tokens, 2))

    @property
    def stage(self) -> str:
        """Prefix of all names that this reduction leaves in the graph."""
        return f"blocks.{self.layer}/fuse"


DECISIONS = ("kept", "matched", "target", "assigned")
"""Kinds of decisions, see `decision_name`."""


def decision_name(layer: int, kind: str) -> str:
    """Name of the int64 value that holds one kind of a layer's decisions in every lowered graph.

    - `kept` [B, S-R]: sources that stay, ascending; missing where none stays
    - where sources merge, either `matched` [B, R], most similar first, and `target` [B, R], the destination of each,
      or `assigned` [B, S]: the destination of each source, -1 for one that stays

    All are indices among the layer's sources or destinations. `graph_patterns.matching` says which formulation has
    which.
    """
    return f"blocks.{layer}/fuse/match/{kind}"


def is_decision(name: str) -> bool:
    """True if a value of this name holds decisions of some layer."""
    return re.fullmatch(rf"blocks\.\d+/fuse/match/({'|'.join(DECISIONS)})", name) is not None
