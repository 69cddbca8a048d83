"""Effect of merging on token length: of a merged token relative to its group, and of all tokens, block by block.

Axes: B batch, N tokens, P prefix tokens, C channels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tofu_export.analyze.pairs import LayerView
from tofu_export.options import Method
from tofu_export.patch.matching import gather_rows, take
from tofu_export.patch.merging import merge
from tofu_export.patch.state import TokenState

__all__ = ["block_norms", "merged_norms"]


def merged_norms(view: LayerView, method: Method) -> Tensor:
    """Return the length of each merged token as a share of the longest of its group, [joined destinations] float64.

    Measured between the halves of a block of the full model, under its own matching. MLERP keeps the length at 1.

    Source: arXiv 2312.01026, section 3.2.
    """
    destinations = take(view.attended, view.roles.destinations)
    leaving = gather_rows(take(view.attended, view.roles.sources), view.matching.matched)
    merged = merge(destinations, leaving, view.matching.target, None, keeps_norm=method.keeps_norm)
    longest = destinations.norm(dim=-1).scatter_reduce(1, view.matching.target, leaving.norm(dim=-1), "amax")
    joined = torch.zeros_like(longest).scatter_add(1, view.matching.target, torch.ones_like(leaving[..., 0])) > 0
    share: Tensor = merged.norm(dim=-1) / longest
    return share[joined]


@torch.no_grad()
def block_norms(model: nn.Module, pixels: Tensor, prefix: int) -> list[Tensor]:
    """Return the length of the unprotected tokens that leave each block of a model: [B, N' - P] per block."""
    found: list[Tensor] = []

    def note(_block: nn.Module, _args: Any, output: Tensor | TokenState) -> None:
        tokens = output.tokens if isinstance(output, TokenState) else output
        found.append(tokens[:, prefix:].norm(dim=-1))

    architecture: Any = model
    handles = [block.register_forward_hook(note) for block in architecture.blocks]
    try:
        architecture.forward_features(pixels)
    finally:
        for handle in handles:
            handle.remove()
    return found
