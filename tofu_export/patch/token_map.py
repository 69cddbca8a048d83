"""Follow the original tokens through the reductions: which row of the reduced sequence stands for each of them.

The map is int64 [B, N0, 1], N0 being the tokens that entered the first block, prefix included. A token that merged
stands where its destination stands, a pruned one where its most similar destination stands.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

from tofu_export.patch.matching import Matching, Partition, gather_rows
from tofu_export.patch.state import TokenState

__all__ = ["TokenMap", "collect_token_map", "current_token_map", "follow", "restore"]


class TokenMap:
    """What the last block of a model noted: how its output stands for the original tokens.

    Attributes:
        tokens: tokens that left the last block; 0 until it ran.
        rows: [B, N0, 1] int64; None where each token stands for itself.
    """

    def __init__(self) -> None:
        self.tokens = 0
        self.rows: Tensor | None = None

    def note(self, state: TokenState) -> None:
        """Keep what leaves the last block."""
        self.tokens = state.tokens.shape[1]
        self.rows = state.rows


_COLLECTOR: ContextVar[TokenMap | None] = ContextVar("tofu_export_token_map", default=None)


def current_token_map() -> TokenMap | None:
    """Where the running model has to note its token map; None if nobody asked."""
    return _COLLECTOR.get()


@contextmanager
def collect_token_map() -> Iterator[TokenMap]:
    """Make patched models track their token map inside the block, and note it."""
    found = TokenMap()
    token = _COLLECTOR.set(found)
    try:
        yield found
    finally:
        _COLLECTOR.reset(token)


def follow(rows: Tensor, matching: Matching, tokens: int, prefix: int) -> Tensor:
    """The map after one more reduction.

    Args:
        rows: [B, N0, 1] int64, the map before it.
        matching: its decisions.
        tokens: tokens N that went in.
        prefix: protected tokens at the front.

    Returns:
        [B, N0, 1] int64 rows of what comes out: prefix, kept sources, destinations.
    """
    batch, staying = matching.kept.shape
    parts = Partition.of(prefix)
    row_of = rows.new_zeros(batch, tokens)
    row_of[:, :prefix] = torch.arange(prefix, device=rows.device)
    destinations = row_of[:, parts.destinations]  # a view, as is the next one
    destinations += prefix + staying + torch.arange(destinations.shape[1], device=rows.device)
    sources = row_of[:, parts.sources]
    ranks = prefix + torch.arange(staying, device=rows.device)
    sources.scatter_(1, matching.kept, ranks.expand(batch, -1))
    sources.scatter_(1, matching.matched, prefix + staying + matching.target)
    return gather_rows(row_of.unsqueeze(-1), rows.squeeze(-1))


def restore(state: TokenState) -> TokenState:
    """All original tokens again, [B, N0, C], each as the one that stands for it, bit for bit; nothing to track."""
    tokens, rows = state.tokens, state.rows
    if rows is None:
        return TokenState(tokens)
    if not torch.onnx.is_in_onnx_export():
        return TokenState(gather_rows(tokens, rows.squeeze(-1)))
    shape = (tokens.shape[0], rows.shape[1], tokens.shape[2])
    whole = torch.onnx.ops.symbolic("tofu::Restore", (tokens, rows), dtype=tokens.dtype, shape=shape, version=1)
    return TokenState(whole)
