"""Table of supported block kinds. Explicit, no registration by import."""

from __future__ import annotations

from torch import nn

from tofu_export.patch.adapters.adapter import BlockAdapter
from tofu_export.patch.adapters.beit import BEIT
from tofu_export.patch.adapters.cait import CAIT
from tofu_export.patch.adapters.eva import EVA, EVA_POSTNORM
from tofu_export.patch.adapters.parallel import PARALLEL
from tofu_export.patch.adapters.postnorm import POSTNORM
from tofu_export.patch.adapters.prenorm import PRENORM
from tofu_export.patch.adapters.relpos import RELPOS, RELPOS_POSTNORM
from tofu_export.patch.adapters.scaling import DIFF_SCALING, SCALING

__all__ = ["ADAPTERS", "BlockAdapter", "adapter_for"]

ADAPTERS: tuple[BlockAdapter, ...] = (
    PRENORM,
    POSTNORM,
    PARALLEL,
    SCALING,
    DIFF_SCALING,
    EVA,
    EVA_POSTNORM,
    BEIT,
    RELPOS,
    RELPOS_POSTNORM,
    CAIT,
)


def adapter_for(block: nn.Module) -> BlockAdapter | None:
    """Return the adapter of a block's exact class, or None if there is none."""
    return next((adapter for adapter in ADAPTERS if type(block) is adapter.kind), None)
