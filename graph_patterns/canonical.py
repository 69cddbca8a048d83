"""The canonical operators, and how to read them.

Domain `tofu`, version 1:

- `Fuse(x [B,N,C], metric [B,N,D], sizes?, positions?, rows?) -> (fused [B,N-r,C], ...)`, attributes r, method, prefix,
  tokens (N) and layer. The optional inputs are companions of the tokens. Each that is given has its own output, after
  `fused` and in the same order:
  - `sizes [B,N,1] float32 -> [B,N-r,1]`, patches behind each token, where token sizes are tracked;
  - `positions [B,N,1] int64 -> [B,N-r,1]`, where a model has rotary or relative positions;
  - `rows [B,N0,1] int64 -> [B,N0,1]`, the row of `x`, then of `fused`, that stands for each of the N0 original tokens,
    where the grid is restored or the token map is an output.
- `Restore(x [B,N,C], rows [B,N0,1] int64) -> [B,N0,C]`, each original token as the row that stands for it
- `Attention(q, k, v [B,H,N,D]) -> [B,H,N,D]`, attribute `scale`
- `BiasedAttention(q, k, v, bias)`, the bias broadcasting to [B,H,N,M]
- `Gelu(x)`, attribute `approximate`: none or tanh
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import onnx_ir as ir

__all__ = ["COMPANIONS", "DOMAIN", "FuseNode", "decision_names", "is_decision"]

DOMAIN = "tofu"
COMPANIONS = ("sizes", "positions", "rows")
"""The optional inputs of `Fuse`, in their order."""


@dataclass(frozen=True)
class FuseNode:
    """The attributes of a `tofu::Fuse` node, and what follows from them.

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

    @staticmethod
    def companions_of(node: ir.Node) -> dict[str, ir.Value]:
        """The companions that a canonical node is given, by name and in their order."""
        given = zip(COMPANIONS, node.inputs[2:], strict=False)  # trailing ones may be left out
        return {name: value for name, value in given if value is not None}

    @property
    def merges(self) -> bool:
        """True where destinations change."""
        return self.method != "prune"

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


def decision_names(layer: int, *, merges: bool) -> dict[str, str]:
    """Names of the int64 values that hold a layer's decisions in every lowered graph.

    `kept` [B, S-R] ascending; where sources merge, in the tokens or in the token map alone, also `matched` [B, R],
    most similar first, and `target` [B, R].
    All are indices among the layer's sources or destinations. A layer in which no source stays has no `kept`.
    """
    kinds = ("kept", "matched", "target") if merges else ("kept",)
    return {kind: f"blocks.{layer}/fuse/match/{kind}" for kind in kinds}


def is_decision(name: str) -> bool:
    """True if a value of this name holds decisions of some layer."""
    return re.fullmatch(r"blocks\.\d+/fuse/match/(kept|matched|target)", name) is not None
