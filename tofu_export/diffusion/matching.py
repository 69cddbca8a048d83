"""The eager reference of one grid reduction: match, merge, and restore every token.

Attention is independent of the order of its tokens, so the reduced sequence is in the cheapest order: sources that
stay, least similar first, then destinations. Axes: B batch, N tokens, S sources, T destinations, R removed, C channels.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from tofu_export.diffusion.plan import BlockPlan
from tofu_export.patch.matching import NORM_FLOOR, Matching, Scores, gather_rows
from tofu_export.patch.merging import merge
from tofu_export.patch.observe import current_observer

__all__ = ["GridMatching", "match_grid", "merge_grid", "unmerge_grid"]


class GridMatching(NamedTuple):
    """Decisions of one block.

    Attributes:
        places: [B, S-R] int64, positions in the grid of the sources that stay.
        rows: [B, N] int64, the row of the reduced sequence that stands for each token.
        matching: decisions as indices among sources and destinations; None while a graph is traced.
    """

    places: Tensor | None
    rows: Tensor
    matching: Matching | None


def match_grid(tokens: Tensor, plan: BlockPlan) -> GridMatching:
    """Match the `plan.removed` sources that are most similar to a destination.

    Args:
        tokens: [B, N, C] tokens that enter the block; cosine similarity is computed in float32.
        plan: plan of the block.

    Ties: a source joins the destination of lowest index, and of equally similar sources the lower index stays.

    Source: arXiv 2312.01026, section 3.1, with the partition of arXiv 2303.17604, section 4.1.
    """
    if torch.onnx.is_in_onnx_export():
        return _match_symbolically(tokens, plan)
    sources, destinations = _partition(plan, tokens.device)
    keys = tokens.float()
    inverse = keys.square().sum(-1, keepdim=True).clamp_min(NORM_FLOOR**2).rsqrt()
    product = keys[:, sources] @ keys[:, destinations].mT
    scores = product * inverse[:, sources] * inverse[:, destinations].mT
    best, nearest = scores.max(dim=-1)
    order = best.argsort(dim=-1, stable=True)
    kept, matched = order[:, : plan.kept], order[:, plan.kept :]
    matching = Matching(kept, matched, nearest.gather(1, matched))
    observer = current_observer()
    if observer is not None:
        matching = observer.decide(plan.block, Scores(scores), matching)
    return _placed(matching, plan, sources, destinations)


def merge_grid(tokens: Tensor, found: GridMatching, plan: BlockPlan) -> Tensor:
    """Return the reduced sequence [B, N - R, C] of `tokens` [B, N, C]: sources that stay, then destinations.

    Source: arXiv 2312.01026, equations 6, 9 and 10; `tome` is tomesd's mean, in which every token counts once.
    """
    if found.matching is None:
        return _merge_symbolically(tokens, found, plan)
    sources, positions = _partition(plan, tokens.device)
    destinations = tokens[:, positions]
    if plan.method.merges:
        leaving = gather_rows(tokens[:, sources], found.matching.matched)
        destinations = merge(
            destinations, leaving, found.matching.target, None, keeps_norm=plan.method.keeps_norm
        )  # fmt: skip
    if found.places is None:
        return destinations
    return torch.cat([gather_rows(tokens, found.places), destinations], dim=1)


def unmerge_grid(reduced: Tensor, found: GridMatching) -> Tensor:
    """Restore all tokens [B, N, C]: each is a copy of the row of `reduced` [B, N - R, C] that stands for it."""
    if found.matching is None:
        shape = (*found.rows.shape, reduced.shape[-1])
        return torch.onnx.ops.symbolic(
            "tofu::GridUnmerge", (reduced, found.rows), {}, dtype=reduced.dtype, shape=shape, version=1
        )
    return gather_rows(reduced, found.rows)


def _partition(plan: BlockPlan, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the positions of sources and destinations, ascending."""
    positions = torch.tensor(plan.destinations, dtype=torch.int64, device=device)
    stays = torch.ones(plan.tokens, dtype=torch.bool, device=device)
    stays[positions] = False
    return stays.nonzero().squeeze(1), positions


def _placed(matching: Matching, plan: BlockPlan, sources: Tensor, destinations: Tensor) -> GridMatching:
    """Return the positions and rows that follow from decisions."""
    kept = matching.kept
    batch = len(kept)
    rows = torch.empty(batch, plan.tokens, dtype=torch.int64, device=kept.device)
    rows[:, destinations] = plan.kept + torch.arange(len(destinations), device=kept.device)
    rows.scatter_(1, sources[matching.matched], plan.kept + matching.target)
    if not plan.kept:
        return GridMatching(None, rows, matching)
    places = sources[kept]
    rows.scatter_(1, places, torch.arange(plan.kept, device=kept.device).expand(batch, -1))
    return GridMatching(places, rows, matching)


def _match_symbolically(tokens: Tensor, plan: BlockPlan) -> GridMatching:
    """Leave one `tofu::GridMatch` node (see `graph_patterns.grid`)."""
    batch = tokens.shape[0]
    shapes = ((batch, plan.tokens), (batch, plan.kept)) if plan.kept else ((batch, plan.tokens),)
    rows, *places = torch.onnx.ops.symbolic_multi_out(
        "tofu::GridMatch",
        (tokens,),
        _attributes(plan),
        dtypes=(torch.int64,) * len(shapes),
        shapes=shapes,
        version=1,
    )
    return GridMatching(places[0] if places else None, rows, None)


def _merge_symbolically(tokens: Tensor, found: GridMatching, plan: BlockPlan) -> Tensor:
    inputs = (tokens, found.rows) if found.places is None else (tokens, found.rows, found.places)
    shape = (tokens.shape[0], plan.tokens - plan.removed, tokens.shape[-1])
    return torch.onnx.ops.symbolic(
        "tofu::GridMerge", inputs, _attributes(plan), dtype=tokens.dtype, shape=shape, version=1
    )


def _attributes(plan: BlockPlan) -> dict[str, Any]:
    return {
        "tokens": plan.tokens,
        "destinations": list(plan.destinations),
        "r": plan.removed,
        "method": plan.method.word,
        "block": plan.path,
    }
