"""Adapter for BEiT's block: two layer scales or none, and attention that adds its own relative position bias."""

from __future__ import annotations

from timm.models.beit import Block

from tofu_export.patch.adapters import gammas
from tofu_export.patch.adapters.adapter import BlockAdapter

__all__ = ["BEIT"]

BEIT = BlockAdapter(Block, gammas.attend, gammas.feed, gammas.FEED_MODULES)
