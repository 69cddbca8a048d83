"""Rules that replace `tofu::Fuse` and its variants with sizes and positions by standard operators."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from onnxscript.rewriter import MatchResult, RewriteRuleClassBase

from tofu_export.graph_patterns.canonical import DOMAIN, FuseNode
from tofu_export.graph_patterns.formulation import Formulation
from tofu_export.graph_patterns.matching import MAX_TOPK, similarity
from tofu_export.graph_patterns.merging import Members
from tofu_export.graph_patterns.selection import gather_sources, joining_rows
from tofu_export.graph_patterns.stage import Stage

__all__ = ["FUSE_RULES", "FusePlacedRule", "FuseRule", "FuseSizedPlacedRule", "FuseSizedRule"]

_METHODS = ("prune", "average", "mlerp", "tome")


class FuseRule(RewriteRuleClassBase):
    """`tofu::Fuse` by matching, gathering and merging.

    Args:
        formulation: how to match and how to merge.
    """

    def __init__(self, formulation: Formulation) -> None:
        super().__init__(name=f"{type(self).__name__}[{formulation}]")
        self._formulation = formulation

    def pattern(self, op: Any, x: Any, metric: Any) -> Any:
        """What it looks like."""
        return op.Fuse(x, metric, _domain=DOMAIN, _outputs=["fused"])

    def check(self, op: Any, *args: Any, **kwargs: Any) -> MatchResult:
        """Whether this graph may hold it."""
        return _check(kwargs["fused"])

    def rewrite(self, op: Any, x: ir.Value, metric: ir.Value, fused: ir.Value) -> ir.Value:
        """What instead."""
        return _lower(op, x, metric, None, None, fused, self._formulation)[0]


class FuseSizedRule(FuseRule):
    """`tofu::FuseSized`: the same, with the sizes of the tokens carried along."""

    def pattern(self, op: Any, x: Any, metric: Any, sizes: Any) -> Any:  # type: ignore[override]
        """What it looks like."""
        return op.FuseSized(x, metric, sizes, _domain=DOMAIN, _outputs=["fused", "new_sizes"])

    def rewrite(  # type: ignore[override]
        self, op: Any, x: ir.Value, metric: ir.Value, sizes: ir.Value, fused: ir.Value, **_others: Any
    ) -> tuple[ir.Value, ir.Value]:
        """What instead."""
        tokens, new_sizes = _lower(op, x, metric, sizes, None, fused, self._formulation)[:2]
        assert new_sizes is not None  # sizes went in
        return tokens, new_sizes


class FusePlacedRule(FuseRule):
    """`tofu::FusePlaced`: the same, with the positions of the tokens carried along."""

    def pattern(self, op: Any, x: Any, metric: Any, positions: Any) -> Any:  # type: ignore[override]
        """What it looks like."""
        return op.FusePlaced(x, metric, positions, _domain=DOMAIN, _outputs=["fused", "new_positions"])

    def rewrite(  # type: ignore[override]
        self, op: Any, x: ir.Value, metric: ir.Value, positions: ir.Value, fused: ir.Value, **_others: Any
    ) -> tuple[ir.Value, ir.Value]:
        """What instead."""
        tokens, _new_sizes, new_positions = _lower(op, x, metric, None, positions, fused, self._formulation)
        assert new_positions is not None  # positions went in
        return tokens, new_positions


class FuseSizedPlacedRule(FuseRule):
    """`tofu::FuseSizedPlaced`: the same, with sizes and positions carried along."""

    def pattern(self, op: Any, x: Any, metric: Any, sizes: Any, positions: Any) -> Any:  # type: ignore[override]
        """What it looks like."""
        outputs = ["fused", "new_sizes", "new_positions"]
        return op.FuseSizedPlaced(x, metric, sizes, positions, _domain=DOMAIN, _outputs=outputs)

    def rewrite(  # type: ignore[override]
        self,
        op: Any,
        x: ir.Value,
        metric: ir.Value,
        sizes: ir.Value,
        positions: ir.Value,
        fused: ir.Value,
        **_others: Any,
    ) -> tuple[ir.Value, ir.Value, ir.Value]:
        """What instead."""
        tokens, new_sizes, new_positions = _lower(op, x, metric, sizes, positions, fused, self._formulation)
        assert new_sizes is not None and new_positions is not None  # both went in
        return tokens, new_sizes, new_positions


FUSE_RULES = (FuseRule, FuseSizedRule, FusePlacedRule, FuseSizedPlacedRule)
"""One for each variant of the operator; all take the formulation."""


def _check(fused: ir.Value) -> MatchResult:
    result = MatchResult()
    node = fused.producer()
    assert node is not None  # the pattern has a producer
    fuse = FuseNode.read(node)
    if fuse.method not in _METHODS:
        return result.fail(f"layer {fuse.layer}: unknown method {fuse.method!r}", node)
    if fuse.sources > MAX_TOPK:
        return result.fail(
            f"layer {fuse.layer} has {fuse.sources} source tokens, but TensorRT sorts at most {MAX_TOPK}: "
            "use a smaller --image-size or a larger patch",
            node,
        )
    return result


def _lower(
    op: Any,
    x: ir.Value,
    metric: ir.Value,
    sizes: ir.Value | None,
    positions: ir.Value | None,
    fused: ir.Value,
    formulation: Formulation,
) -> tuple[ir.Value, ir.Value | None, ir.Value | None]:
    node = fused.producer()
    assert node is not None and metric.dtype is not None
    fuse = FuseNode.read(node)
    stage = Stage(op, fuse.stage)
    decisions = formulation.match(stage, fuse, similarity(stage, fuse, metric))

    def destinations_of(name: str, rows: ir.Value) -> ir.Value:
        return stage.slice(f"{name}/destinations", rows, fuse.first_destination, step=2)

    def assemble(name: str, rows: ir.Value, destinations: ir.Value) -> ir.Value:
        parts = [destinations]
        if decisions.kept is not None:
            parts.insert(0, gather_sources(stage, fuse, f"{name}/kept", rows, decisions.kept))
        if fuse.prefix:
            parts.insert(0, stage.slice(f"{name}/prefix", rows, 0, stop=fuse.prefix))
        return stage.add("Concat", name, *parts, axis=1) if len(parts) > 1 else parts[0]

    destinations = destinations_of("tokens", x)
    destination_sizes = None if sizes is None else destinations_of("sizes", sizes)
    if decisions.target is not None:

        def joining(name: str, rows: ir.Value) -> ir.Value:
            return joining_rows(stage, fuse, f"{name}/joining", rows, decisions.matched)

        members = Members(
            destinations,
            joining("tokens", x),
            decisions.target,
            destination_sizes,
            None if sizes is None else joining("sizes", sizes),
        )
        destinations, destination_sizes = formulation.merge(stage, fuse, members)
    return (
        assemble("tokens", x, destinations),
        None if sizes is None or destination_sizes is None else assemble("sizes", sizes, destination_sizes),
        None if positions is None else assemble("positions", positions, destinations_of("positions", positions)),
    )
