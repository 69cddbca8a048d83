"""Names of what a file outputs."""

from __future__ import annotations

from tofu_export.options import OVER_CAPACITY, PATCH_GROUPS, OutputKind
from tofu_export.planning.plan import Plan

__all__ = ["names_of_outputs"]


def names_of_outputs(kind: OutputKind, plan: Plan | None, *, token_map: bool = False) -> tuple[str, ...]:
    """Return the names of all outputs of a model, in order.

    Args:
        kind: what it outputs.
        plan: its reduction; None without one. Its count of images over capacity follows (`Plan.counts_over_capacity`).
        token_map: the final row of each patch comes last (`--token-map`).
    """
    counts = plan is not None and plan.counts_over_capacity
    more = ((counts, OVER_CAPACITY), (token_map, PATCH_GROUPS))
    return (*kind.names, *(name for is_there, name in more if is_there))
