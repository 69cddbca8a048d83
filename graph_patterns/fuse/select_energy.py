"""Selection by energy: one product of all pairs, one small product of leaving tokens and possible partners.

Source: PiToMe, arXiv 2405.16148, section 3.2; see `patch.energy`.
"""

from __future__ import annotations

import onnx_ir as ir

from tofu_export.graph_patterns.canonical import FuseNode
from tofu_export.graph_patterns.fuse.matching import Decisions, keys_and_inverse_norms
from tofu_export.graph_patterns.fuse.pool import ascending, joining_kept, ranked
from tofu_export.graph_patterns.fuse.rows import take
from tofu_export.graph_patterns.stage import Stage

__all__ = ["select_energy"]


def select_energy(stage: Stage, fuse: FuseNode, metric: ir.Value) -> Decisions:
    """Rank by energy: of the first 2R, every first one leaves, and joins the nearest of every second one."""
    keys, inverse = keys_and_inverse_norms(stage, metric)
    keys = take(stage, "match/keys/sources", keys, fuse.roles.sources)
    inverse = take(stage, "match/inverse/sources", inverse, fuse.roles.sources)
    order = ranked(stage, fuse, _energy(stage, fuse, keys, inverse), largest=True)

    mergeable = 2 * fuse.removed
    # Its name marks it as a decision, which it is if something joins.
    partners = stage.slice("match/partners" if fuse.follows else "match/second", order, 1, stop=mergeable, step=2)
    staying = partners
    if mergeable < fuse.sources:
        protected = stage.slice("match/protected", order, mergeable)
        staying = stage.add("Concat", "match/staying", partners, protected, axis=1)
    kept = ascending(stage, fuse, staying)
    if not fuse.follows:
        return Decisions(kept, None, None)
    matched = stage.slice("match/matched", order, 0, stop=mergeable, step=2)

    def rows(name: str, values: ir.Value, index: ir.Value) -> ir.Value:
        column = stage.add("Unsqueeze", f"{name}/column", index, stage.ints(f"{name}/axis", -1))
        return stage.add("GatherND", name, values, column, batch_dims=1)

    def across(name: str, values: ir.Value) -> ir.Value:
        return stage.add("Transpose", f"{name}/across", values, perm=[0, 2, 1])

    partner_keys = across("match/keys/partners", rows("match/keys/partners", keys, partners))
    product = stage.add("MatMul", "match/product", rows("match/keys/matched", keys, matched), partner_keys)
    norms = across("match/inverse/partners", rows("match/inverse/partners", inverse, partners))
    # The leaving token's own norm scales a whole row: it cannot change which partner is best.
    scaled = stage.add("Mul", "match/partners/scaled", product, norms)
    nearest = stage.add("ArgMax", "match/nearest", scaled, axis=-1, keepdims=0)
    joined = stage.add("GatherElements", "match/joined", partners, nearest, axis=1)
    return joining_kept(stage, kept, matched, joined)


def _energy(stage: Stage, fuse: FuseNode, keys: ir.Value, inverse: ir.Value) -> ir.Value:
    """Return the energy of each source, [B, S] float32."""
    product = stage.add("MatMul", "match/all", keys, stage.add("Transpose", "match/all/across", keys, perm=[0, 2, 1]))
    columns = stage.add("Transpose", "match/inverse/across", inverse, perm=[0, 2, 1])
    pairs = stage.add("Mul", "match/pairs", stage.add("Mul", "match/all/scaled", product, inverse), columns)
    margin = stage.floats("match/margin", fuse.margin)
    power = stage.add("Exp", "match/power", stage.add("Sub", "match/beyond", pairs, margin))
    far = stage.add("Sub", "match/far", power, stage.floats("match/one", 1.0))
    near = stage.add("GreaterOrEqual", "match/near", pairs, margin)
    shares = stage.add("Where", "match/shares", near, pairs, far)
    return stage.add("ReduceMean", "match/energy", shares, stage.ints("match/energy/axis", -1), keepdims=0)
