"""One reduction R between the attention and the MLP of a block: eager tensors in, fewer tokens out.

While a model is traced for ONNX the same call leaves a single `tofu::Fuse` node, which `graph_patterns` lowers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tofu_export.options import Method
from tofu_export.patch.matching import Partition, gather_rows, match, similarity
from tofu_export.patch.merging import merge, merge_sizes
from tofu_export.patch.observe import current_observer
from tofu_export.plan import removable

__all__ = ["fuse"]


def fuse(
    x: Tensor,
    metric: Tensor,
    *,
    method: Method,
    removed: int,
    prefix: int,
    sizes: Tensor | None = None,
    track_sizes: bool = False,
    layer: int = 0,
) -> tuple[Tensor, Tensor | None]:
    """Remove `removed` tokens from every sequence of a batch.

    Args:
        x: [B, N, C] tokens, the first `prefix` of them protected.
        metric: [B, N, D] what similarity is measured on: the attention keys averaged over heads.
        method: what happens to the matched sources.
        removed: tokens to remove, 0 <= removed <= (N - prefix) // 2.
        prefix: protected tokens at the front; they come out first and unchanged.
        sizes: [B, N, 1] float32 patches behind each token; None: 1 each.
        track_sizes: also return the sizes of the tokens that stay.
        layer: index of the block, for names and observers.

    Returns:
        The tokens [B, N - removed, C] in the type of x (prefix, unmatched sources, destinations, each in
        ascending order of position), and their sizes [B, N - removed, 1], or None if sizes are not tracked.

    Raises:
        ValueError: `removed` is out of range, or a size-weighted mean is asked for without tracking sizes.

    Source: arXiv 2312.01026, section 3 and algorithm 1.
    """
    if not 0 <= removed <= removable(x.shape[1], prefix):
        raise ValueError(
            f"layer {layer}: cannot remove {removed} of {x.shape[1]} tokens ({prefix} protected), "
            f"the most is {removable(x.shape[1], prefix)}"
        )
    if method is Method.TOME and not track_sizes:
        raise ValueError(f"layer {layer}: tome weighs tokens by their size, which needs track_sizes=True")
    if removed == 0 or method is Method.NONE:
        return x, (_ones(x) if sizes is None else sizes) if track_sizes else None
    if torch.onnx.is_in_onnx_export():
        return _fuse_symbolically(
            x, metric, sizes, method=method, removed=removed, prefix=prefix, track_sizes=track_sizes, layer=layer
        )
    scores = similarity(metric, prefix)
    matching = match(scores, removed)
    observer = current_observer()
    if observer is not None:
        matching = observer.decide(layer, scores, matching)
    parts = Partition.of(prefix)
    if sizes is None:
        sizes = _ones(x)
    sources, destinations = (x[:, part] for part in parts)
    source_sizes, destination_sizes = (sizes[:, part] for part in parts)
    if method.merges:
        leaving, leaving_sizes = (gather_rows(rows, matching.matched) for rows in (sources, source_sizes))
        destinations = merge(destinations, leaving, matching.target, method, (destination_sizes, leaving_sizes))
        destination_sizes = merge_sizes(destination_sizes, leaving_sizes, matching.target)
    tokens = torch.cat([x[:, :prefix], gather_rows(sources, matching.kept), destinations], dim=1)
    if not track_sizes:
        return tokens, None
    return tokens, torch.cat([sizes[:, :prefix], gather_rows(source_sizes, matching.kept), destination_sizes], dim=1)


def _ones(x: Tensor) -> Tensor:
    return torch.ones(*x.shape[:2], 1, dtype=torch.float32, device=x.device)


def _fuse_symbolically(
    x: Tensor,
    metric: Tensor,
    sizes: Tensor | None,
    *,
    method: Method,
    removed: int,
    prefix: int,
    track_sizes: bool,
    layer: int,
) -> tuple[Tensor, Tensor | None]:
    """Leave one `tofu::Fuse(x, metric)` node, or `tofu::FuseSized(x, metric, sizes)`, in the traced graph."""
    batch, tokens, channels = x.shape
    attributes: dict[str, Any] = {
        "r": removed,
        "method": method.name.lower(),
        "prefix": prefix,
        "tokens": tokens,
        "layer": layer,
    }
    shape = (batch, tokens - removed, channels)
    if not track_sizes:
        fused = torch.onnx.ops.symbolic("tofu::Fuse", (x, metric), attributes, dtype=x.dtype, shape=shape, version=1)
        return fused, None
    if sizes is None:
        sizes = _ones(x)
    fused, new_sizes = torch.onnx.ops.symbolic_multi_out(
        "tofu::FuseSized",
        (x, metric, sizes),
        attributes,
        dtypes=(x.dtype, torch.float32),
        shapes=(shape, (batch, tokens - removed, 1)),
        version=1,
    )
    return fused, new_sizes
