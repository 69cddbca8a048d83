"""Slow, obvious oracle of Token Fusion, written from `shared/design.md` section 1 alone.

Everything is float64, scalar where a decision is taken, and looped where a loop reads like the sentence it stands for.
It shares no code and no formulation with `tofu_export`; where both agree, two readings of the definition agree.

Where the paper is silent this file fixes:

- **Partition** by absolute position in the whole sequence: even positions are sources, odd ones destinations, and the
  first `prefix` positions play neither role.
- **Cosine similarity** with norms raised to at least 1e-12: a zero vector has similarity 0 with everything.
- **Ties**: the lowest destination for a source; the lowest source for a place among the matched.
- **Sizes**, where tracked: every merge adds them up and a prune drops them; only `tome` weights the mean by them.
- **Order of the output**: prefix, unmatched sources ascending, destinations ascending.
- **r = 0** is the identity: no token changes, and none moves.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "METHODS", "WEIGHED", "Matching", "apply_matching", "cap", "fuse", "groups", "margin", "match", "stand_ins",
    "vit_forward",
]  # fmt: skip

Array = NDArray[np.float64]

METHODS = ("prune", "average", "mlerp", "weighted_mlerp", "tome")
WEIGHED = ("weighted_mlerp", "tome")
"""Methods whose mean is weighted by sizes."""
TINY = 1e-12


@dataclass(frozen=True)
class Matching:
    """The decisions of one reduction on one image. Every position is one in the sequence before the reduction."""

    kept: list[int]
    """Unmatched sources, ascending."""
    matched: list[tuple[int, int]]
    """`(source, destination)`, by decreasing similarity, equal ones by ascending source."""
    destinations: list[int]
    """Every destination, ascending."""
    scores: dict[int, float]
    """Source to its best similarity."""
    similarity: dict[tuple[int, int], float]
    """`(source, destination)` to cosine similarity."""


Choose = Callable[[Array, Array, int, int, int], tuple[Matching, "Array | None"]]
"""A selection: from metric, attention of the first token, prefix, r and layer what leaves, and what counts in means."""


def cap(tokens: int, prefix: int) -> int:
    """The most tokens that one reduction may remove."""
    return (tokens - prefix) // 2


def _norm(vector: Array) -> float:
    return math.sqrt(math.fsum(value * value for value in vector.tolist()))


def _dot(one: list[float], other: list[float]) -> float:
    return math.fsum(a * b for a, b in zip(one, other, strict=True))


def match(metric_one: Array, prefix: int, r: int) -> Matching:
    """Decide what one image's reduction matches.

    Args:
        metric_one: `[N, D]`.
        prefix: Protected tokens at the start.
        r: Sources to match.

    Raises:
        ValueError: if `r` is not in `0..(N - prefix) // 2`.
    """
    metric = np.asarray(metric_one, dtype=np.float64)
    tokens = len(metric)
    if not 0 <= r <= cap(tokens, prefix):
        raise ValueError(f"r = {r} is not in 0..{cap(tokens, prefix)} for {tokens} tokens, {prefix} of them protected")

    sources, destinations = [], []
    for position in range(prefix, tokens):
        if position % 2 == 0:
            sources.append(position)
        else:
            destinations.append(position)

    keys = metric.tolist()
    lengths = [max(_norm(key), TINY) for key in metric]
    similarity = {}
    for source in sources:
        for destination in destinations:
            dot = _dot(keys[source], keys[destination])
            similarity[source, destination] = dot / (lengths[source] * lengths[destination])

    best: dict[int, int] = {}
    scores: dict[int, float] = {}
    for source in sources:
        for destination in destinations:  # ascending: only a strictly better one takes the place
            if source not in best or similarity[source, destination] > scores[source]:
                best[source] = destination
                scores[source] = similarity[source, destination]

    ranked = sorted(scores, key=lambda source: (-scores[source], source))
    matched = [(source, best[source]) for source in ranked[:r]]
    taken = {source for source, _ in matched}
    kept = [source for source in sources if source not in taken]
    return Matching(kept, matched, destinations, scores, similarity)


def margin(matching: Matching) -> float:
    """How much a similarity may change before a decision can flip, times two; 0 for a tie, infinity if nothing can.

    Two decisions count: which sources are matched, and where each *matched* source goes.
    """
    gaps = []
    taken = {source for source, _ in matching.matched}
    unmatched = [matching.scores[source] for source in matching.kept if source in matching.scores]
    if taken and unmatched:
        gaps.append(min(matching.scores[source] for source in taken) - max(unmatched))
    for source, chosen in matching.matched:
        others = (destination for destination in matching.destinations if destination != chosen)
        gaps.extend(matching.similarity[source, chosen] - matching.similarity[source, other] for other in others)
    return min(gaps, default=math.inf)


def _mean(members: list[Array], weights: list[float]) -> Array:
    total = np.zeros_like(members[0])
    for member, weight in zip(members, weights, strict=True):
        total = total + weight * member
    return total / sum(weights)


def _merge(members: list[Array], sizes: list[float], method: str) -> Array:
    """The token that stands for a group: its destination and that destination's matched sources."""
    mean = _mean(members, [1.0] * len(members))
    if method == "average":
        return mean
    if method == "mlerp":
        longest = max(_norm(member) for member in members)
        return mean / max(_norm(mean), TINY) * longest
    if method == "tome":
        return _mean(members, sizes)
    if method == "weighted_mlerp":
        mean = _mean(members, sizes)
        return mean / max(_norm(mean), TINY) * max(_norm(member) for member in members)
    raise ValueError(f"unknown merge {method!r}")


def apply_matching(
    x_one: Array,
    matching: Matching,
    method: str,
    prefix: int,
    sizes_one: Array | None,
    *,
    takes_over: bool = True,
    weights_one: Array | None = None,
) -> tuple[Array, Array | None]:
    """Reduce one image as decided.

    Args:
        x_one: `[N, C]`.
        matching: What to match, with positions in `x_one`.
        method: One of `METHODS`.
        prefix: Protected tokens at the start.
        sizes_one: `[N]`, or None where sizes are not tracked.
        takes_over: Whether a destination takes over the sizes of what is pruned into it.
        weights_one: `[N]`, what tokens count in a mean, whatever the method; None where the method says it.

    Returns:
        Tokens `[N - r, C]` and, where tracked, sizes `[N - r]`.

    Raises:
        ValueError: for an unknown method, or for `tome` without sizes.
    """
    if method not in METHODS:
        raise ValueError(f"method {method!r} is not one of {METHODS}")
    if method in WEIGHED and sizes_one is None:
        raise ValueError(f"{method} weights tokens by their sizes: pass sizes")
    x = np.asarray(x_one, dtype=np.float64)
    sizes = None if sizes_one is None else np.asarray(sizes_one, dtype=np.float64)
    if not matching.matched:
        return x.copy(), None if sizes is None else sizes.copy()

    tokens: list[Array] = []
    out_sizes: list[float] = []

    def keep(position: int) -> None:
        tokens.append(x[position])
        if sizes is not None:
            out_sizes.append(float(sizes[position]))

    for position in range(prefix):
        keep(position)
    for position in matching.kept:
        keep(position)
    for destination in matching.destinations:
        group = [destination] + [source for source, chosen in matching.matched if chosen == destination]
        if len(group) == 1 or (method == "prune" and not takes_over):
            keep(destination)
            continue
        group_sizes = [1.0 if sizes is None else float(sizes[position]) for position in group]
        members = [x[position] for position in group]
        weights, merging = group_sizes, method
        if weights_one is not None:
            weights = [float(weights_one[position]) for position in group]
            merging = {"average": "tome", "mlerp": "weighted_mlerp"}.get(method, method)
        tokens.append(x[destination] if method == "prune" else _merge(members, weights, merging))
        if sizes is not None:
            out_sizes.append(sum(group_sizes))
    return np.stack(tokens), None if sizes is None else np.array(out_sizes)


def fuse(
    x: Array,
    metric: Array,
    *,
    prefix: int,
    r: int,
    method: str,
    sizes: Array | None = None,
    takes_over: bool = True,
) -> tuple[Array, Array | None]:
    """Reduce a batch by `r` tokens an image.

    Args:
        x: `[B, N, C]`.
        metric: `[B, N, D]`.
        prefix: Protected tokens at the start.
        r: Tokens to remove, at most `(N - prefix) // 2`.
        method: One of `METHODS`.
        sizes: `[B, N]`, or None where sizes are not tracked.
        takes_over: As in `apply_matching`.

    Returns:
        Tokens `[B, N - r, C]` and, where tracked, sizes `[B, N - r]`.
    """
    tokens: list[Array] = []
    out_sizes: list[Array] = []
    for image in range(len(x)):
        matching = match(metric[image], prefix, r)
        sizes_one = None if sizes is None else sizes[image]
        tokens_one, out_one = apply_matching(x[image], matching, method, prefix, sizes_one, takes_over=takes_over)
        tokens.append(tokens_one)
        if out_one is not None:
            out_sizes.append(out_one)
    return np.stack(tokens), np.stack(out_sizes) if out_sizes else None


def stand_ins(matchings: list[Matching], prefix: int, tokens: int) -> list[int]:
    """For each token of one image, the row of the reduced sequence that stands for it after reductions in a row.

    A source that left, merged or pruned, is where its destination is.

    Args:
        matchings: One for each reduction, in order.
        prefix: Protected tokens at the start.
        tokens: Length of the sequence before the first one.
    """
    rows = []
    for original in range(tokens):
        here = original
        for matching in matchings:
            for source, destination in matching.matched:
                if source == here:
                    here = destination
                    break
            here = [*range(prefix), *matching.kept, *matching.destinations].index(here)
        rows.append(here)
    return rows


def groups(matchings: list[Matching], methods: list[str], prefix: int, tokens: int) -> list[int]:
    """For each token of one image, the row of the reduced sequence that it is part of after reductions in a row.

    A source that merged is where its destination is. One that was pruned is nowhere, -1, and so is all that had merged
    into it before.

    Args:
        matchings: One for each reduction, in order.
        methods: What each of them does to its matched sources.
        prefix: Protected tokens at the start.
        tokens: Length of the sequence before the first one.
    """
    rows = []
    for original in range(tokens):
        here = original
        for matching, method in zip(matchings, methods, strict=True):
            joins = dict(matching.matched)
            if here in joins and method == "prune":
                here = -1
                break
            here = [*range(prefix), *matching.kept, *matching.destinations].index(joins.get(here, here))
        rows.append(here)
    return rows


# --- The whole model ---------------------------------------------------------------------------------------------


class _Weights:
    """A state dict that remembers what was read, so that nothing in it can be ignored by accident."""

    def __init__(self, state: dict[str, Array]) -> None:
        self._state = {name: np.asarray(value, dtype=np.float64) for name, value in state.items()}
        self._unread = set(state)

    def __contains__(self, name: str) -> bool:
        return name in self._state

    def __getitem__(self, name: str) -> Array:
        self._unread.discard(name)
        return self._state[name]

    def finish(self) -> None:
        if self._unread:
            raise ValueError(f"the oracle does not know what these weights do: {sorted(self._unread)}")


def _linear(weights: _Weights, name: str, x: Array) -> Array:
    y = x @ weights[f"{name}.weight"].T
    return y + weights[f"{name}.bias"] if f"{name}.bias" in weights else y


def _layer_norm(weights: _Weights, name: str, x: Array, eps: float) -> Array:
    """Norm over the last axis; nothing where the model has none of that name."""
    if f"{name}.weight" not in weights:
        return x
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = (centred**2).mean(axis=-1, keepdims=True)
    return centred / np.sqrt(variance + eps) * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def _gelu(x: Array) -> Array:
    flat = [0.5 * value * (1.0 + math.erf(value / math.sqrt(2.0))) for value in x.ravel().tolist()]
    return np.array(flat).reshape(x.shape)


def _mlp(weights: _Weights, name: str, x: Array) -> Array:
    return _linear(weights, f"{name}.fc2", _gelu(_linear(weights, f"{name}.fc1", x)))


def _softmax(scores: Array) -> Array:
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def _layer_scale(weights: _Weights, name: str, x: Array) -> Array:
    return x * weights[f"{name}.gamma"] if f"{name}.gamma" in weights else x


def _embed_patches(weights: _Weights, image: Array, patch: int) -> Array:
    """Patch embedding of one image `[ch, H, W]`, as `[patches, C]`, row by row."""
    kernel = weights["patch_embed.proj.weight"]
    _, height, width = image.shape
    rows = []
    for top in range(0, height - patch + 1, patch):
        for left in range(0, width - patch + 1, patch):
            window = image[:, top : top + patch, left : left + patch]
            rows.append(np.array([(channel * window).sum() for channel in kernel]))
    tokens = np.stack(rows)
    return tokens + weights["patch_embed.proj.bias"] if "patch_embed.proj.bias" in weights else tokens


def _embed(weights: _Weights, image: Array, patch: int, prefix: int) -> Array:
    """The sequence of one image before the first block: class, distillation, registers, patches."""
    patches = _embed_patches(weights, image, patch)
    tokens = []
    for name in ("cls_token", "dist_token", "reg_token"):
        if name in weights:
            tokens.extend(weights[name][0])
    if len(tokens) != prefix:
        raise ValueError(f"the weights have {len(tokens)} prefix tokens, the caller says {prefix}")
    whole = np.stack([*tokens, *patches])
    if "pos_embed" not in weights:
        return whole
    positions = weights["pos_embed"][0]
    if len(positions) == len(whole):
        return whole + positions
    if len(positions) == len(patches):
        return np.stack([*tokens, *(patches + positions)])
    raise ValueError(f"pos_embed has {len(positions)} rows for {len(patches)} patches and {len(tokens)} prefix tokens")


def _attention(
    weights: _Weights, name: str, x: Array, heads: int, eps: float, key_bias: Array | None
) -> tuple[Array, Array, Array]:
    """Self-attention on `[N, C]`: its output `[N, C]`, and means over heads of its keys `[N, D]` and its first row."""
    tokens = len(x)
    qkv = _linear(weights, f"{name}.qkv", x).reshape(tokens, 3, heads, -1)
    outputs, keys, firsts = [], [], []
    for head in range(heads):
        query, key, value = qkv[:, 0, head], qkv[:, 1, head], qkv[:, 2, head]
        query = _layer_norm(weights, f"{name}.q_norm", query, eps)
        key = _layer_norm(weights, f"{name}.k_norm", key, eps)
        scores = query @ key.T / math.sqrt(key.shape[1])
        if key_bias is not None:
            scores = scores + key_bias[None, :]
        shares = _softmax(scores)
        outputs.append(shares @ value)
        keys.append(key)
        firsts.append(shares[0])
    out = _linear(weights, f"{name}.proj", np.concatenate(outputs, axis=1))
    return out, sum(keys) / heads, sum(firsts) / heads


def _attention_pool(weights: _Weights, x: Array, heads: int, eps: float) -> Array:
    """Latent-attention pooling (`global_pool="map"`) of `[N, C]` to `[C]`."""
    query = _linear(weights, "attn_pool.q", weights["attn_pool.latent"][0]).reshape(heads, -1)
    keys_values = _linear(weights, "attn_pool.kv", x).reshape(len(x), 2, heads, -1)
    outputs = []
    for head in range(heads):
        key, value = keys_values[:, 0, head], keys_values[:, 1, head]
        outputs.append(_softmax(key @ query[head] / math.sqrt(key.shape[1])) @ value)
    pooled = _linear(weights, "attn_pool.proj", np.concatenate(outputs))
    return pooled + _mlp(weights, "attn_pool.mlp", _layer_norm(weights, "attn_pool.norm", pooled, eps))


def _pool(weights: _Weights, x: Array, pool: str, heads: int, prefix: int, pool_prefix: bool, eps: float) -> Array:
    pooled_tokens = x if pool_prefix else x[prefix:]
    pools: dict[str, Callable[[], Array]] = {
        "token": lambda: x[0],
        "avg": lambda: pooled_tokens.mean(axis=0),
        "map": lambda: _attention_pool(weights, pooled_tokens, heads, eps),
    }
    return pools[pool]()


def vit_forward(
    state: dict[str, Array],
    image: Array,
    *,
    patch: int,
    heads: int,
    layers: list[tuple[str, int]],
    prefix: int = 1,
    prop_attn: bool = False,
    takes_over: bool = True,
    eps: float = 1e-6,
    pool: str | None = None,
    pool_prefix: bool = False,
    restore: bool = False,
    choose: Choose | None = None,
    trace: list[list[Matching]] | None = None,
    enter: Callable[[int, Array], Array] | None = None,
) -> Array:
    """Logits `[B, classes]` of a timm pre-norm `VisionTransformer` whose blocks are reduced, in float64.

    Args:
        state: The model's `state_dict` as arrays. A weight that goes unused is an error.
        image: `[B, ch, H, W]`, of the size that `pos_embed` is for.
        patch: Side of a patch in pixels.
        heads: Attention heads.
        layers: `(method, r)` for every block; `("none", 0)` or any other `r = 0` leaves the block alone.
        prefix: Class, distillation and register tokens together.
        prop_attn: Add the logarithm of each token's size to the scores of its key. Sizes are tracked for that, and for
            the weights of `tome` in any case.
        takes_over: Whether a destination takes over the sizes of what is pruned into it.
        eps: Of every LayerNorm.
        pool: `token`, `avg` or `map`; by default what the weights suggest (a latent: `map`, an `fc_norm` or no class
            token: `avg`).
        pool_prefix: Whether `avg` and `map` see the prefix tokens (timm's `pool_include_prefix`).
        restore: After the last block, put a copy of its stand-in in the place of every token that entered the first.
        choose: Another selection than `match`: from metric, attention of the first token, prefix, r and layer.
        trace: Collects, where given, the matchings of every reducing block: a list with one entry an image.
        enter: Changes the tokens `[N, C]` that enter a block, given its index; it may remove some.
    """
    weights = _Weights(state)
    if pool is None:
        averages = "fc_norm.weight" in weights or "cls_token" not in weights
        pool = "map" if "attn_pool.latent" in weights else "avg" if averages else "token"
    depth = len({name.split(".")[1] for name in state if name.startswith("blocks.")})
    if depth != len(layers):
        raise ValueError(f"the weights have {depth} blocks, layers describes {len(layers)}")
    track = prop_attn or any(method in WEIGHED and r > 0 for method, r in layers)
    matchings: list[list[Matching]] = [[] for _, r in layers if r > 0]

    logits = []
    for picture in np.asarray(image, dtype=np.float64):
        x = _embed(weights, picture, patch, prefix)
        x = _layer_norm(weights, "norm_pre", x, eps)
        sizes = np.ones(len(x)) if track else None
        reductions = iter(matchings)
        before, mine = len(x), []
        for index, (method, r) in enumerate(layers):
            block = f"blocks.{index}"
            x = x if enter is None else enter(index, x)
            key_bias = np.log(sizes) if prop_attn and sizes is not None else None
            normed = _layer_norm(weights, f"{block}.norm1", x, eps)
            attended, metric, first_row = _attention(weights, f"{block}.attn", normed, heads, eps, key_bias)
            x = x + _layer_scale(weights, f"{block}.ls1", attended)
            if r > 0:
                matching, counts = match(metric, prefix, r), None
                if choose is not None:
                    matching, counts = choose(metric, first_row, prefix, r, index)
                next(reductions).append(matching)
                mine.append(matching)
                x, sizes = apply_matching(x, matching, method, prefix, sizes, takes_over=takes_over, weights_one=counts)
            expanded = _mlp(weights, f"{block}.mlp", _layer_norm(weights, f"{block}.norm2", x, eps))
            x = x + _layer_scale(weights, f"{block}.ls2", expanded)
        if restore:
            x = np.stack([x[row] for row in stand_ins(mine, prefix, before)])
        x = _layer_norm(weights, "norm", x, eps)
        pooled = _pool(weights, x, pool, heads, prefix, pool_prefix, eps)
        pooled = _layer_norm(weights, "fc_norm", pooled, eps)
        row = _linear(weights, "head", pooled)
        if "head_dist.weight" in weights:
            row = (row + _linear(weights, "head_dist", x[1])) / 2
        logits.append(row)
    weights.finish()
    if trace is not None:
        trace.extend(matchings)
    return np.stack(logits)
