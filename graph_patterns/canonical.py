"""The canonical operators, and readers of their nodes.

Domain `tofu`, version 1:

- `Fuse(x [B,N,C], metric? [B,N,D], sizes?, positions?, rows?, groups?, importance?) -> (fused [B,N-r,C], ...)`,
  attributes r, method, prefix, tokens (N), layer, pruned_sizes (take-over or lost), select (a value of
  `options.Selection`, bipartite if missing) and margin, which energy reads. `importance [B,N] float32` is present if
  the selection ranks tokens by it, and only then `metric` may be missing. The inputs between are companions of the
  tokens. Each that is given has its own output, after `fused` and in the same order:
  - `sizes [B,N,1] float32 -> [B,N-r,1]`, patches behind each token, where token sizes are tracked;
  - `positions [B,N,1] int64 -> [B,N-r,1]`, where a model has rotary or relative positions;
  - `rows [B,N0,1] int64 -> [B,N0,1]`, the row of `x`, then of `fused`, that stands for each of the N0 original tokens,
    where the grid is restored or the token map is an output;
  - `groups [B,patches,1] int64 -> [B,patches,1]`, one more than the row of `x`, then of `fused`, that each original
    patch is part of, 0 once it was pruned, where that is an output.

  `x` may be missing if nothing reads `fused` (`tail`); then only maps are given.
- `Halt(x [B,N,C], budget [B,N,1] float32) -> [B,N,1] float32`, what a block leaves of the budgets of its output tokens,
  0 for tokens that have halted; attributes scale, center, least (`options.Halting`) and layer
- `Restore(x [B,N,C], rows [B,N0,1] int64) -> [B,N0,C]`, each original token as the row that stands for it
- `Attention(q, k, v [B,H,N,D]) -> [B,H,N,D]`, attribute `scale`
- `BiasedAttention(q, k, v, bias)`, the bias broadcasting to [B,H,N,M]
- `Gelu(x)`, attribute `approximate`: none or tanh
- `GridMatch`, `GridMerge`, `GridUnmerge`: see `grid`
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import onnx_ir as ir

from tofu_export.options import PrunedSizes, Roles, Selection

__all__ = [
    "COMPANIONS",
    "DECISIONS",
    "DOMAIN",
    "IMPORTANCE",
    "FuseNode",
    "decision_name",
    "is_decision",
    "with_methods",
]

DOMAIN = "tofu"
COMPANIONS = ("sizes", "positions", "rows", "groups")
"""Optional inputs of `Fuse` that have an output, in order."""
IMPORTANCE = 2 + len(COMPANIONS)
"""Index of the input `importance` of `Fuse`."""


@dataclass(frozen=True)
class FuseNode:
    """Attributes of a `tofu::Fuse` node, and values derived from them."""

    removed: int
    method: str
    prefix: int
    tokens: int
    layer: int
    dtype: ir.DataType
    sized: bool
    takes_over: bool
    mapped: bool
    grouped: bool
    select: Selection = Selection.BIPARTITE
    margin: float = 0.0

    @classmethod
    def read(cls, node: ir.Node) -> FuseNode:
        """Read the attributes of a canonical node, and whether its sizes are used after it."""
        dtype = node.outputs[0].dtype
        assert dtype is not None  # the tracer always declares it
        companions = cls.companions_of(node)
        sizes = dict(zip(companions, node.outputs[1:], strict=False)).get("sizes")
        select = Selection(node.attributes.get_string("select", Selection.BIPARTITE.value))
        return cls(
            removed=node.attributes["r"].as_int(),
            method=node.attributes["method"].as_string(),
            prefix=node.attributes["prefix"].as_int(),
            tokens=node.attributes["tokens"].as_int(),
            layer=node.attributes["layer"].as_int(),
            dtype=dtype,
            sized=sizes is not None and (bool(sizes.uses()) or sizes.is_graph_output()),
            takes_over=node.attributes["pruned_sizes"].as_string() == PrunedSizes.TAKE_OVER.value,
            mapped="rows" in companions,
            grouped="groups" in companions,
            select=select,
            margin=node.attributes.get_float("margin", 0.0),
        )

    @staticmethod
    def companions_of(node: ir.Node) -> dict[str, ir.Value]:
        """Return the companions of a canonical node, by name and in order."""
        given = zip(COMPANIONS, node.inputs[2:], strict=False)  # trailing ones may be left out
        return {name: value for name, value in given if value is not None}

    @property
    def merges(self) -> bool:
        """True if destinations change."""
        return self.method != "prune"

    @property
    def weighs(self) -> bool:
        """True if the mean is weighted by token sizes, or by importance if the selection reads that."""
        return self.method in ("tome", "weighted-mlerp") and not self.select.reads_importance

    @property
    def keeps_norm(self) -> bool:
        """True if the mean is rescaled to the largest norm of its group."""
        return self.method in ("mlerp", "weighted-mlerp")

    @property
    def follows(self) -> bool:
        """True if the destination of a leaving source matters: for tokens, sizes or the row map."""
        return self.merges or self.mapped or (self.sized and self.takes_over)

    @property
    def lists(self) -> bool:
        """True if a map needs a list of the sources that leave, and of their destinations."""
        return self.mapped or (self.grouped and self.merges)

    @cached_property
    def roles(self) -> Roles:
        """Roles of the tokens: which are sources and destinations."""
        return self.select.roles(self.tokens, self.prefix, self.removed, self.layer)

    @property
    def sources(self) -> int:
        """Number of sources, S."""
        return len(self.roles.sources)

    @property
    def destinations(self) -> int:
        """Number of destinations separate from the sources, T."""
        return len(self.roles.destinations)

    @property
    def stage(self) -> str:
        """Prefix of the names of this reduction's nodes and values in the graph."""
        return f"blocks.{self.layer}/fuse"


def with_methods(model: ir.Model, methods: Sequence[str]) -> ir.Model:
    """Copy a canonical graph with other methods for its layers; the copy shares the weights.

    Graphs of one model that remove equal amounts, and agree in tracking sizes, differ only in this.

    Args:
        model: the graph, which is not changed.
        methods: method of each layer, as in `FuseNode.method`.
    """
    copy = model.clone()
    for node in copy.graph:
        if (node.domain, node.op_type) == (DOMAIN, "Fuse"):
            node.attributes["method"] = ir.AttrString("method", methods[node.attributes["layer"].as_int()])
    return copy


DECISIONS = ("kept", "matched", "target", "partners", "assigned")
"""Kinds of decisions, see `decision_name`."""


def decision_name(layer: int, kind: str) -> str:
    """Return the name of the int64 value that holds one kind of a layer's decisions in every lowered graph.

    - `kept` [B, S-R]: sources that stay, ascending; missing if none stays
    - if sources merge, in the tokens or only in the token map, either `matched` [B, R], the first choice first, and
      `target` [B, R], the destination of each, or `assigned` [B, S]: the destination of each source, -1 for one that
      stays
    - in a pool, without separate destinations: besides `matched` and `target`, an index into `kept`, `partners`
      [B, K]: sources that may be joined

    All are indices among the layer's sources or destinations. `graph_patterns.fuse.matching` says which formulation
    has which.
    """
    return f"blocks.{layer}/fuse/match/{kind}"


def is_decision(name: str) -> bool:
    """True if a value of this name holds decisions of a layer."""
    return re.fullmatch(rf"blocks\.\d+/fuse/match/({'|'.join(DECISIONS)})", name) is not None
