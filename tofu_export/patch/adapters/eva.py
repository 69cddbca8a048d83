"""Adapter for EVA's blocks, also in DINOv3, PE and Sapiens: layer scales optional one by one, rotary positions."""

from __future__ import annotations

from timm.models.eva import EvaBlock, EvaBlockPostNorm

from tofu_export.patch.adapters import gammas, postnorm
from tofu_export.patch.adapters.adapter import BlockAdapter

__all__ = ["EVA", "EVA_POSTNORM"]

EVA = BlockAdapter(EvaBlock, gammas.attend, gammas.feed, gammas.FEED_MODULES)
EVA_POSTNORM = BlockAdapter(EvaBlockPostNorm, postnorm.attend, postnorm.feed, postnorm.FEED_MODULES)
