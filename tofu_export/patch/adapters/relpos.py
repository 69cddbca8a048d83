"""Adapters for blocks with a relative position bias, own or shared: pre-norm, and post-norm inside the residual."""

from __future__ import annotations

from timm.models.vision_transformer_relpos import RelPosBlock, ResPostRelPosBlock

from tofu_export.patch.adapters import postnorm, prenorm
from tofu_export.patch.adapters.adapter import BlockAdapter

__all__ = ["RELPOS", "RELPOS_POSTNORM"]

RELPOS = BlockAdapter(RelPosBlock, prenorm.attend, prenorm.feed, prenorm.FEED_MODULES)
RELPOS_POSTNORM = BlockAdapter(ResPostRelPosBlock, postnorm.attend, postnorm.feed, postnorm.FEED_MODULES)
