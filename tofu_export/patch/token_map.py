"""Follow the original tokens through the reductions, in two maps. Both are tracked only on request.

`rows` serves to restore: int64 [B, N0, 1], N0 being the tokens that entered the first block, prefix included. The row
of a merged token is that of its destination, the row of a pruned one that of its most similar destination.

`groups` says where each patch ended: int64 [B, N0-P, 1], P being the prefix. A patch that merged is part of its
destination's row, and one that was pruned, alone or with the token that it had joined, is part of none. Rows are
counted from 1 in it and 0 is none, so that no runtime meets a negative index; `outputs` shifts them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

from tofu_export.options import Roles
from tofu_export.patch.matching import Matching, gather_rows
from tofu_export.patch.state import TokenState

__all__ = ["TokenMap", "collect_token_map", "current_token_map", "follow", "follow_groups", "restore"]


class TokenMap:
    """Record of how the output of the last block stands for the original tokens.

    Attributes:
        wants_rows: track `rows`.
        wants_groups: track `groups`.
        tokens: tokens that left the last block; 0 until it ran.
        rows: [B, N0, 1] int64; None if each token stands for itself.
        groups: [B, N0-P, 1] int64; None if each patch is a token of its own.
        over: [B] int64, tokens that had to leave before they halted; None if tokens do not halt, or none leaves.
    """

    def __init__(self, *, rows: bool, groups: bool) -> None:
        self.wants_rows = rows
        self.wants_groups = groups
        self.tokens = 0
        self.rows: Tensor | None = None
        self.groups: Tensor | None = None
        self.over: Tensor | None = None

    def note(self, state: TokenState) -> None:
        """Record the state that leaves the last block."""
        self.tokens = state.tokens.shape[1]
        self.rows = state.rows
        self.groups = state.groups
        self.over = state.over


_COLLECTOR: ContextVar[TokenMap | None] = ContextVar("tofu_export_token_map", default=None)


def current_token_map() -> TokenMap | None:
    """Return the record for the token map of the running model; None if none is requested."""
    return _COLLECTOR.get()


@contextmanager
def collect_token_map(*, rows: bool = False, groups: bool = False) -> Iterator[TokenMap]:
    """Make patched models track the requested maps inside the context, and record them."""
    found = TokenMap(rows=rows, groups=groups)
    token = _COLLECTOR.set(found)
    try:
        yield found
    finally:
        _COLLECTOR.reset(token)


def follow(rows: Tensor, matching: Matching, roles: Roles, prefix: int) -> Tensor:
    """Update `rows` for one more reduction.

    Args:
        rows: [B, N0, 1] int64, the map before the reduction.
        matching: decisions of the reduction.
        roles: roles of its input tokens.
        prefix: protected tokens at the front.

    Returns:
        [B, N0, 1] int64 rows of its output: prefix, kept sources, destinations.
    """
    return gather_rows(_row_of(matching, roles, prefix).unsqueeze(-1), rows.squeeze(-1))


def follow_groups(groups: Tensor, matching: Matching, roles: Roles, prefix: int, *, merges: bool) -> Tensor:
    """Update `groups` for one more reduction.

    Args:
        groups: [B, N0-P, 1] int64, the map before the reduction.
        matching: decisions of the reduction.
        roles: roles of its input tokens.
        prefix: protected tokens P at the front.
        merges: matched sources join their destinations; else they are pruned.

    Returns:
        [B, N0-P, 1] int64.
    """
    row_of = _row_of(matching, roles, prefix) + 1
    if not merges:
        row_of.scatter_(1, _places(roles, matching.matched), 0)
    none = row_of.new_zeros(row_of.shape[0], 1)
    return gather_rows(torch.cat([none, row_of], dim=1).unsqueeze(-1), groups.squeeze(-1))


def _row_of(matching: Matching, roles: Roles, prefix: int) -> Tensor:
    """Return the output row of each input token, [B, N] int64; a matched source has the row of its destination."""
    batch, staying = matching.kept.shape
    row_of = matching.kept.new_zeros(batch, roles.tokens)
    row_of[:, :prefix] = torch.arange(prefix, device=row_of.device)
    first = prefix + staying
    row_of[:, list(roles.destinations)] = first + torch.arange(len(roles.destinations), device=row_of.device)
    ranks = prefix + torch.arange(staying, device=row_of.device)
    row_of.scatter_(1, _places(roles, matching.kept), ranks.expand(batch, -1))
    return row_of.scatter_(1, _places(roles, matching.matched), roles.first_row + matching.target)


def _places(roles: Roles, sources: Tensor) -> Tensor:
    """Return the positions of sources in the sequence."""
    return torch.tensor(roles.sources, dtype=torch.int64, device=sources.device)[sources]


def restore(state: TokenState) -> TokenState:
    """Restore all original tokens, [B, N0, C], each as a bitwise copy of the one that stands for it.

    In the result `rows` is the identity; `groups` still refers to the rows before the restoration.
    """
    tokens, rows = state.tokens, state.rows
    if rows is None:
        return TokenState(tokens, groups=state.groups)
    if not torch.onnx.is_in_onnx_export():
        return TokenState(gather_rows(tokens, rows.squeeze(-1)), groups=state.groups)
    shape = (tokens.shape[0], rows.shape[1], tokens.shape[2])
    whole = torch.onnx.ops.symbolic("tofu::Restore", (tokens, rows), dtype=tokens.dtype, shape=shape, version=1)
    return TokenState(whole, groups=state.groups)
