"""Plans as text for a terminal."""

from __future__ import annotations

from tofu_export.planning.plan import ModelSpec, Plan

__all__ = ["plan_table"]


def plan_table(spec: ModelSpec, plan: Plan) -> str:
    """Return a table of the tokens by layer and what the plan saves."""
    entry = plan.entry()
    lines = [
        f"{spec.name}  {spec.image_size[0]}x{spec.image_size[1]}  {spec.params / 1e6:.1f} M parameters  "
        f"{spec.tokens} tokens ({spec.prefix_tokens} protected)  pattern {plan.pattern}",
        "",
        "layer  method          tokens in  removed  tokens out",
    ]
    lines += [
        f"{row.layer:>5}  {row.method:<15} {row.tokens_in:>8} {row.removed:>8} {row.tokens_out:>11}"
        for row in entry.layers
    ]
    asked = f"r      {','.join(str(layer.removed) for layer in plan.layers)} (from {entry.asked_words})"
    masked = ", masked: halted tokens stay, which saves nothing; --capacity or --r lets them leave"
    gate = plan.halting
    if plan.removes or not plan.reduction.select.halts:
        masked = ""
    lines += [
        "",
        *([asked] if entry.asked_words else []),
        *([] if entry.select is None else [f"select {entry.select}{masked}"]),
        *([] if gate is None else [f"gate   scale {gate.scale:g}, center {gate.center:g}, least {gate.least:g}"]),
        f"sizes  {entry.sizes_words}",
        *(["grid   restored after the last layer"] if plan.restores_grid else []),
        f"GMACs  {plan.gmacs_full:.2f} full, {plan.gmacs_reduced:.2f} reduced: {plan.flop_ratio:.2f}x fewer",
    ]
    return "\n".join(lines)
