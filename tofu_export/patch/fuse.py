"""Token reduction, inside a block or before it: eager tensors in, fewer tokens out.

While a model is traced for ONNX, the call leaves a single `tofu::Fuse` node, which `graph_patterns` lowers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tofu_export.options import Method, PrunedSizes, Selection, energy_margin
from tofu_export.patch.matching import Candidates, gather_rows, take
from tofu_export.patch.merging import merge, merge_sizes
from tofu_export.patch.observe import current_observer
from tofu_export.patch.places import all_positions
from tofu_export.patch.selections import SELECTORS
from tofu_export.patch.state import TokenState
from tofu_export.patch.token_map import follow, follow_groups
from tofu_export.planning.plan import removable

__all__ = ["Step", "Tracked", "fuse", "reduce_state"]

_COMPANIONS = ("sizes", "positions", "rows", "groups")
_MAPS = ("rows", "groups")
"""Companions that keep an entry for each original token, however few are left."""


@dataclass(frozen=True)
class Step:
    """What one layer does to its tokens.

    Attributes:
        method: what happens to the tokens that leave.
        removed: tokens to remove, at least 0 and at most `removable`.
        prefix: protected tokens at the front; they come out first and unchanged.
        pruned_sizes: what happens to the sizes of pruned tokens.
        select: how the tokens that leave are chosen.
        layer: index of the block, for names, observers, and selections that differ by layer.
        depth: number of blocks, for such selections.
    """

    method: Method
    removed: int
    prefix: int
    pruned_sizes: PrunedSizes = PrunedSizes.TAKE_OVER
    select: Selection = Selection.BIPARTITE
    layer: int = 0
    depth: int = 1


class Tracked(NamedTuple):
    """Companions of the tokens to keep.

    Attributes:
        sizes: patches behind each token.
        positions: positions in the grid; a merged token has its destination's.
        rows: the row map (`tofu_export.patch.token_map`).
        groups: the group map (`tofu_export.patch.token_map`).
    """

    sizes: bool = False
    positions: bool = False
    rows: bool = False
    groups: bool = False


NOTHING = Tracked()


def fuse(
    x: Tensor,
    metric: Tensor | None,
    step: Step,
    *,
    sizes: Tensor | None = None,
    track_sizes: bool = False,
    importance: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Remove tokens from every sequence of a batch.

    Args:
        x: [B, N, C] tokens, the first of them protected.
        metric: [B, N, D] vectors that tokens are compared by: the attention keys averaged over heads. None if the
            selection compares none.
        step: how many tokens leave, and how.
        sizes: [B, N, 1] float32 patches behind each token; None: 1 each.
        track_sizes: also return the sizes of the tokens that stay.
        importance: [B, N] float32, over 0, if the selection ranks tokens by it: the attention of the class token, or
            what a trained predictor says. It then also weighs tokens that merge.

    Returns:
        The tokens [B, N - removed, C] in the type of x (prefix, sources that stay, destinations, each in
        ascending order of position), and their sizes [B, N - removed, 1], or None if sizes are not tracked.

    Raises:
        ValueError: the number of tokens to remove is out of range, a size-weighted mean is asked for without tracking
            sizes, or the metric or the importance is missing that the selection reads.

    Source: arXiv 2312.01026, section 3 and algorithm 1.
    """
    reduced = reduce_state(TokenState(x, sizes), metric, step, Tracked(sizes=track_sizes), importance)
    return reduced.tokens, reduced.sizes


def reduce_state(
    state: TokenState, metric: Tensor | None, step: Step, tracked: Tracked = NOTHING, importance: Tensor | None = None
) -> TokenState:
    """Remove tokens together with their companions: `fuse`, with positions and token maps.

    Args:
        state: tokens [B, N, C] and their companions; sizes of None are 1 each, positions, rows and groups of None
            those of a sequence that no token has left.
        metric: [B, N, D] vectors that tokens are compared by, as in `fuse`.
        step: how many tokens leave, and how.
        tracked: companions to keep.
        importance: what tokens are ranked by, as in `fuse`.

    Returns:
        The remaining tokens, in the order of `fuse`; companions that are not tracked are None.

    Raises:
        ValueError: as in `fuse`.
    """
    method, removed, prefix, select, layer = step.method, step.removed, step.prefix, step.select, step.layer
    x, sizes, positions, rows, groups, *_ = state
    most = removable(x.shape[1], prefix, select)
    if not 0 <= removed <= most:
        raise ValueError(
            f"layer {layer}: cannot remove {removed} of {x.shape[1]} tokens ({prefix} protected), the most is {most}"
        )
    if method.weighs and not tracked.sizes:
        name = method.word
        raise ValueError(f"layer {layer}: {name} weighs tokens by their size, which needs track_sizes=True")
    if select.reads_importance and importance is None:
        raise ValueError(f"layer {layer}: {select.value} needs importance")
    if metric is None and not select.reads_importance:
        raise ValueError(f"layer {layer}: {select.value} compares tokens, which needs metric")
    sizes = (_ones(x) if sizes is None else sizes) if tracked.sizes else None
    if removed == 0 or method is Method.NONE:
        positions, rows = positions if tracked.positions else None, rows if tracked.rows else None
        return TokenState(x, sizes, positions, rows, groups if tracked.groups else None, state.bias)
    positions = (all_positions(x) if positions is None else positions) if tracked.positions else None
    rows = (all_positions(x) if rows is None else rows) if tracked.rows else None
    groups = (all_positions(x)[:, prefix:] + 1 if groups is None else groups) if tracked.groups else None
    if torch.onnx.is_in_onnx_export():
        state = TokenState(x, sizes, positions, rows, groups)
        return _reduce_symbolically(state, metric, step, importance)
    roles = select.roles(x.shape[1], prefix, removed, layer)
    selector = SELECTORS[select]
    scores = selector.score(Candidates(metric, roles, layer, step.depth, importance))
    matching = selector.match(scores, removed)
    observer = current_observer()
    if observer is not None:
        matching = observer.decide(layer, scores, matching)

    def staying(values: Tensor) -> list[Tensor]:
        """Split values into prefix, kept sources, and destinations if separate: the last part can be joined."""
        kept = gather_rows(take(values, roles.sources), matching.kept)
        apart = [] if roles.pooled else [take(values, roles.destinations)]
        return [values[:, :prefix], kept, *apart]

    def leaving(values: Tensor) -> Tensor:
        return gather_rows(take(values, roles.sources), matching.matched)

    tokens = staying(x)
    if method.merges:
        weights = sizes if method.weighs else None
        if importance is not None:
            weights = importance.unsqueeze(-1)
        pair = None if weights is None else (staying(weights)[-1], leaving(weights))
        tokens[-1] = merge(tokens[-1], leaving(x), matching.target, pair, keeps_norm=method.keeps_norm)
    left_sizes = None
    if sizes is not None:
        parts = staying(sizes)
        if method.merges or step.pruned_sizes is PrunedSizes.TAKE_OVER:
            parts[-1] = merge_sizes(parts[-1], leaving(sizes), matching.target)
        left_sizes = torch.cat(parts, dim=1)
    return TokenState(
        torch.cat(tokens, dim=1),
        left_sizes,
        None if positions is None else torch.cat(staying(positions), dim=1),
        None if rows is None else follow(rows, matching, roles, prefix),
        None if groups is None else follow_groups(groups, matching, roles, prefix, merges=method.merges),
    )


def _ones(x: Tensor) -> Tensor:
    return torch.ones(*x.shape[:2], 1, dtype=torch.float32, device=x.device)


def _reduce_symbolically(state: TokenState, metric: Tensor | None, step: Step, importance: Tensor | None) -> TokenState:
    """Leave one `tofu::Fuse(x, metric, sizes?, positions?, rows?, groups?, importance?)` node in the graph."""
    batch, tokens, channels = state.tokens.shape
    left = tokens - step.removed
    companions = {name: getattr(state, name) for name in _COMPANIONS}
    given = {name: value for name, value in companions.items() if value is not None}
    shapes = [(batch, value.shape[1] if name in _MAPS else left, 1) for name, value in given.items()]
    attributes: dict[str, Any] = {
        "r": step.removed,
        "method": step.method.word,
        "prefix": step.prefix,
        "tokens": tokens,
        "layer": step.layer,
        "pruned_sizes": step.pruned_sizes.value,
    }
    if step.select is not Selection.BIPARTITE:
        attributes["select"] = step.select.value
    if step.select is Selection.ENERGY:
        attributes["margin"] = energy_margin(step.layer, step.depth)
    fused, *reduced = torch.onnx.ops.symbolic_multi_out(
        "tofu::Fuse",
        (state.tokens, metric, *companions.values(), *(() if importance is None else (importance,))),
        attributes,
        dtypes=(state.tokens.dtype, *(value.dtype for value in given.values())),
        shapes=((batch, left, channels), *shapes),
        version=1,
    )
    return TokenState(fused, **dict(zip(given, reduced, strict=True)))
