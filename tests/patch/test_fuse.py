"""The torch reduction against the oracle of `tests/reference.py`, and properties that need no oracle.

Decisions are compared only where they are decidable in FP32: either the metric makes every similarity exact (entries
of -1, 0 and 1 with norms that are powers of two), so that ties are ties everywhere, or `margin` is far from rounding.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from torch import Tensor

from tests import reference
from tofu_export.options import Method, PrunedSizes
from tofu_export.patch.fuse import Step, fuse

METHODS = [Method.named(name) for name in reference.METHODS]
MERGES = [method for method in METHODS if method is not Method.PRUNE]
# Methods with and without tracked sizes; those that weigh by them cannot do without.
TRACKED = [(method, track) for method in METHODS for track in (False, True) if track or not method.weighs]

DECIDABLE = 1e-5
"""Margin from which FP32 similarities (error about 1e-7) cannot flip a decision."""

RTOL = {torch.float64: 1e-5, torch.float32: 1e-5, torch.bfloat16: 2.0**-7, torch.float16: 2.0**-10}
"""Of the largest token entry. FP32: sums of 21 terms and, for mlerp, the length of a mean up to 10 times shorter than
its members. Half types: two roundings of the result. FP64: the islands may be FP32."""

Groups = list[list[tuple[int, ...]]]

properties = settings(
    deadline=None, derandomize=True, max_examples=60, suppress_health_check=[HealthCheck.filter_too_much]
)


def _normal(seed: int, *shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def _signs(seed: int, *shape: int) -> Tensor:
    """Entries of -1 and 1: with a last axis of 4 or 16 every similarity is exact, and most of them tie."""
    return torch.from_numpy(np.random.default_rng(seed).choice([-1.0, 1.0], size=shape).astype(np.float32))


def _f64(tensor: Tensor) -> np.ndarray:
    return tensor.detach().double().numpy()


def _name(method: Method) -> str:
    return method.word


def _margins(metric: Tensor, prefix: int, removed: int) -> float:
    return min(reference.margin(reference.match(_f64(one), prefix, removed)) for one in metric)


def check(
    x: Tensor,
    metric: Tensor,
    method: Method,
    *,
    prefix: int,
    removed: int,
    sizes: Tensor | None = None,
    track: bool = False,
    rtol: float | None = None,
) -> Tensor:
    """Hold one call to the oracle and return its tokens. Singles must be bit-identical, merged tokens close."""
    batch, tokens, channels = x.shape
    if track and sizes is None and removed == 0:
        sizes = torch.ones(batch, tokens, 1)  # None has a test of its own
    before = x.clone(), metric.clone()
    out, out_sizes = fuse(
        x, metric, Step(method=method, removed=removed, prefix=prefix, layer=3), sizes=sizes, track_sizes=track
    )
    assert torch.equal(x, before[0])
    assert torch.equal(metric, before[1])
    assert out.shape == (batch, tokens - removed, channels)
    assert out.dtype == x.dtype
    assert bool(torch.isfinite(out).all())

    np_sizes = (np.ones((batch, tokens)) if sizes is None else _f64(sizes)[..., 0]) if track else None
    tolerance = (RTOL[x.dtype] if rtol is None else rtol) * float(x.abs().max())
    expected_sizes = []
    for image in range(batch):
        matching = reference.match(_f64(metric[image]), prefix, removed)
        expected, sizes_one = reference.apply_matching(
            _f64(x[image]), matching, _name(method), prefix, None if np_sizes is None else np_sizes[image]
        )
        hit = set() if method is Method.PRUNE else {destination for _, destination in matching.matched}
        rows = [*range(prefix), *matching.kept, *matching.destinations] if removed else range(tokens)
        single = [row for row, position in enumerate(rows) if position not in hit]
        assert_array_equal(_f64(out[image])[single], expected[single])
        assert_allclose(_f64(out[image]), expected, rtol=0.0, atol=tolerance)
        expected_sizes.append(sizes_one)
    if track:
        assert out_sizes is not None
        assert out_sizes.shape == (batch, tokens - removed, 1)
        assert out_sizes.dtype == torch.float32
        assert_array_equal(_f64(out_sizes)[..., 0], expected_sizes)
    else:
        assert out_sizes is None
    return out


def groups(metric: Tensor, prefix: int, removed: int, dtype: torch.dtype = torch.float32) -> Groups:
    """Which original positions stand behind each row of the output, seen from outside by averaging unit vectors."""
    batch, tokens, _ = metric.shape
    unit = torch.eye(tokens, dtype=dtype).expand(batch, tokens, tokens)
    out, _ = fuse(unit, metric, Step(method=Method.AVERAGE, removed=removed, prefix=prefix))
    return [[tuple(np.flatnonzero(_f64(row)).tolist()) for row in image] for image in out]


# --- Against the oracle ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("tokens", [17, 18])
@pytest.mark.parametrize("prefix", [0, 1, 2, 5])
@pytest.mark.parametrize(("method", "track"), TRACKED)
def test_every_r(method: Method, track: bool, prefix: int, tokens: int, batch: int) -> None:
    x = _normal(1, batch, tokens, 16)
    metric = _normal(2, batch, tokens, 8)
    sizes = torch.from_numpy(np.random.default_rng(3).integers(1, 9, size=(batch, tokens, 1)).astype(np.float32))
    for removed in range((tokens - prefix) // 2 + 1):
        assert _margins(metric, prefix, removed) > DECIDABLE, "choose another seed"
        check(x, metric, method, prefix=prefix, removed=removed, sizes=sizes if track else None, track=track)


@pytest.mark.parametrize(("method", "track"), TRACKED)
@pytest.mark.parametrize("group", range(1, 21))
def test_groups_of_every_size(group: int, method: Method, track: bool) -> None:
    """In each of two images all sources that leave go to one destination, not the same one."""
    prefix, tokens = 1, 1 + 2 * (group + 3)
    metric = torch.zeros(2, tokens, 4)
    metric[:, 1::2, 0] = 1.0  # destinations: east
    metric[:, 2::2, 1] = 1.0  # sources: north
    targets = (1, 2 * (group + 2) + 1)
    for image, target in enumerate(targets):
        leaving = [position for position in range(2, tokens, 2) if position not in (4, 6, tokens - 1)][:group]
        assert len(leaving) == group
        metric[image, [target, *leaving]] = torch.tensor([0.0, 0.0, 0.0, 1.0])
        assert reference.match(_f64(metric[image]), prefix, group).matched == [(s, target) for s in leaving]
    sizes = torch.arange(1.0, tokens + 1).reshape(1, tokens, 1).expand(2, tokens, 1) if track else None
    check(_normal(group, 2, tokens, 12), metric, method, prefix=prefix, removed=group, sizes=sizes, track=track)


@pytest.mark.parametrize(("method", "track"), TRACKED)
@pytest.mark.parametrize("dim", [4, 16])
@pytest.mark.parametrize("prefix", [0, 1, 2, 5])
def test_exact_ties(prefix: int, dim: int, method: Method, track: bool) -> None:
    for tokens in (6, 21, 40):
        metric = _signs(tokens, 2, tokens, dim)
        x = _normal(tokens, 2, tokens, 8)
        cap = reference.cap(tokens, prefix)
        for removed in {0, 1, 2, cap // 2, cap - 1, cap}:
            if 0 <= removed <= cap:
                check(x, metric, method, prefix=prefix, removed=removed, track=track)


@pytest.mark.parametrize("removed", [8, 97])
@pytest.mark.parametrize("kinds", [1, 2, 5])
def test_ties_of_duplicates_in_a_vit_base(kinds: int, removed: int) -> None:
    """Many tokens with the very same key, whose entries are anything: the same numbers must give the same result.

    Sources and destinations do not share a key: one against itself is 1 only up to rounding, another way for each key.
    """
    rng = np.random.default_rng(kinds)
    keys = _normal(kinds, 2, kinds, 32)
    metric = keys[np.arange(197) % 2, rng.integers(0, kinds, size=(2, 197))]
    values = sorted({value for one in metric for value in reference.match(_f64(one), 1, 0).similarity.values()})
    assert np.diff(values).min(initial=1.0) > DECIDABLE, "choose another seed"
    check(_normal(0, 2, 197, 8), metric, Method.AVERAGE, prefix=1, removed=removed)


@pytest.mark.parametrize("method", METHODS)
def test_zero_keys(method: Method) -> None:
    """A zero key is similar to nothing: 0, above a negative similarity and below a positive one."""
    metric = _signs(7, 2, 24, 4)
    metric[:, [0, 3, 4, 9, 10, 23]] = 0.0
    for removed in range(12):
        check(_normal(1, 2, 24, 8), metric, method, prefix=1, removed=removed, track=True)
        check(_normal(1, 2, 24, 8), torch.zeros(2, 24, 4), method, prefix=1, removed=removed, track=True)


@pytest.mark.parametrize("scale", [1e-13, 3e-13, 1e-6, 1e6])
def test_short_and_long_keys(scale: float) -> None:
    """Below a norm of 1e-12 keys are divided by 1e-12: they count for less; above, length does not matter."""
    metric = _normal(5, 2, 20, 8)
    metric[:, 2::5] *= scale
    for removed in range(1, 10):
        assert _margins(metric, 1, removed) > DECIDABLE, "choose another seed"
        check(_normal(6, 2, 20, 8), metric, Method.AVERAGE, prefix=1, removed=removed)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("some", [True, False])
def test_zero_tokens(method: Method, some: bool) -> None:
    x = _normal(1, 2, 17, 8)
    x[:, 3 if some else 0 :] = 0.0
    metric = _normal(2, 2, 17, 8)
    for removed in range(9):
        check(x, metric, method, prefix=1, removed=removed, track=True)


@pytest.mark.parametrize("method", MERGES)
def test_antipodal_tokens(method: Method) -> None:
    """Groups whose mean is exactly zero: pairs, and threes with a zero token."""
    x = _normal(1, 2, 6, 8)
    x[:, 1] = -x[:, 0]
    x[:, 3] = -x[:, 2]
    x[:, 4] = 0.0
    metric = torch.zeros(2, 6, 2)
    metric[:, :2, 0] = 1.0  # 0 -> 1
    metric[:, 2:5, 1] = 1.0  # 2, 4 -> 3
    metric[:, 5, 0] = -1.0
    out = check(x, metric, method, prefix=0, removed=3, track=True)
    assert torch.equal(out[:, :2], torch.zeros(2, 2, 8))


@pytest.mark.parametrize("scale", [1.0, 2.0**-20, 2.0**20])
def test_mlerp_of_nearly_antipodal_tokens_keeps_the_length(scale: float) -> None:
    """The guard of the zero mean must not reach means that are merely short; every step here is exact in FP32."""
    x = torch.tensor([[[1.0, 0.0], [-1.0 + 2.0**-14, 0.0]]]) * scale
    out = check(x, torch.ones(1, 2, 2), Method.MLERP, prefix=0, removed=1)
    assert out.norm() == pytest.approx(scale, rel=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_one_destination_and_nothing_else(method: Method) -> None:
    check(_normal(1, 2, 2, 4), _normal(2, 2, 2, 4), method, prefix=0, removed=1, track=True)
    check(_normal(1, 2, 7, 4), _normal(2, 2, 7, 4), method, prefix=5, removed=1, track=True)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("tokens", "prefix"), [(1, 0), (1, 1), (5, 5), (6, 5), (9, 2)])
def test_nothing_removed_is_the_identity(tokens: int, prefix: int, method: Method) -> None:
    x = _normal(1, 2, tokens, 4)
    sizes = torch.arange(1.0, 2 * tokens + 1).reshape(2, tokens, 1)
    out, out_sizes = fuse(
        x, _normal(2, 2, tokens, 4), Step(method=method, removed=0, prefix=prefix), sizes=sizes, track_sizes=True
    )
    assert torch.equal(out, x)
    assert out_sizes is not None
    assert torch.equal(out_sizes, sizes)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("method", "track"), TRACKED)
def test_other_precisions(method: Method, track: bool, dtype: torch.dtype) -> None:
    x, metric = _normal(1, 2, 25, 16).to(dtype), _normal(4, 2, 25, 16).to(dtype)
    for removed in range(13):
        assert _margins(metric, 1, removed) > DECIDABLE, "choose another seed"
        check(x, metric, method, prefix=1, removed=removed, track=track)


def test_half_norms_do_not_overflow() -> None:
    """Norms beyond 256, whose squares are beyond FP16; the sum of a group beyond 65504 too."""
    x = _normal(1, 2, 14, 64).clamp(-2, 2).half() * 15000
    metric = torch.ones(2, 14, 4).half()
    for method in METHODS:
        expected, _ = reference.fuse(_f64(x), _f64(metric), prefix=0, r=7, method=_name(method), sizes=np.ones((2, 14)))
        assert np.abs(expected).max() < 65504
        check(x, metric, method, prefix=0, removed=7, track=True)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_tokens_with_large_sizes(dtype: torch.dtype) -> None:
    """Size times token is beyond FP16, and the sizes are no integers of a half type."""
    x = _normal(1, 2, 14, 8).clamp(-2, 2).to(dtype) * 300
    sizes = 4097.0 + 2 * torch.arange(28.0).reshape(2, 14, 1)
    metric = _normal(7, 2, 14, 8).to(dtype)
    assert _margins(metric, 1, 5) > DECIDABLE, "choose another seed"
    for method in METHODS:
        check(x, metric, method, prefix=1, removed=5, sizes=sizes, track=True)


def test_strided_inputs() -> None:
    x = _normal(1, 12, 21, 3).permute(2, 1, 0)
    metric = _normal(3, 2 * 8, 21, 3).permute(2, 1, 0)[..., ::2]
    assert _margins(metric, 2, 6) > DECIDABLE, "choose another seed"
    for method in METHODS:
        check(x, metric, method, prefix=2, removed=6, track=True)


def test_reductions_in_a_row_stay_with_the_oracle() -> None:
    """Order and sizes feed the next reduction."""
    x = _normal(1, 2, 42, 16)
    sizes: Tensor | None = None
    oracle_x, oracle_sizes = _f64(x), np.ones((2, 42))
    for index, (method, removed) in enumerate(
        [
            (Method.PRUNE, 5),
            (Method.TOME, 7),
            (Method.MLERP, 3),
            (Method.AVERAGE, 6),
            (Method.TOME, 4),
            (Method.TOME, 7),
        ]
    ):
        metric = _normal(10 + index, 2, x.shape[1], 8)
        assert _margins(metric, 2, removed) > DECIDABLE, "choose another seed"
        x, sizes = fuse(x, metric, Step(method=method, removed=removed, prefix=2), sizes=sizes, track_sizes=True)
        oracle_x, oracle_sizes = reference.fuse(
            oracle_x, _f64(metric), prefix=2, r=removed, method=_name(method), sizes=oracle_sizes
        )
        assert sizes is not None
        assert_array_equal(_f64(sizes)[..., 0], oracle_sizes)
        assert_allclose(_f64(x), oracle_x, rtol=0.0, atol=1e-5 * np.abs(oracle_x).max())
    assert x.shape == (2, 10, 16)


@pytest.mark.parametrize("removed", [0, 3])
@pytest.mark.parametrize("method", METHODS)
def test_tracked_sizes_come_back_where_none_were_given(method: Method, removed: int) -> None:
    x = _normal(1, 2, 9, 4)
    _, sizes = fuse(x, _normal(2, 2, 9, 4), Step(method=method, removed=removed, prefix=1), track_sizes=True)
    assert sizes is not None
    assert sizes.shape == (2, 9 - removed, 1)
    assert torch.equal(sizes.sum(1), torch.full((2, 1), 9.0))


# --- Refusals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("tokens", "prefix", "removed"), [(9, 1, 5), (9, 1, -1), (8, 1, 4), (2, 1, 1), (9, 0, 5)])
def test_r_out_of_range_is_refused(tokens: int, prefix: int, removed: int, method: Method) -> None:
    with pytest.raises(ValueError, match=rf"(^|\D){abs(removed)}(\D|$)"):
        fuse(
            torch.ones(1, tokens, 2),
            torch.ones(1, tokens, 2),
            Step(method=method, removed=removed, prefix=prefix),
            track_sizes=True,
        )


@pytest.mark.parametrize("method", [Method.TOME, Method.WEIGHTED_MLERP])
def test_a_weighted_mean_without_sizes_is_refused(method: Method) -> None:
    with pytest.raises(ValueError, match=f"{method.word} weighs tokens by their size"):
        fuse(torch.ones(1, 6, 2), torch.ones(1, 6, 2), Step(method=method, removed=2, prefix=0))


# --- Properties --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """Random inputs of a reduction."""

    x: Tensor
    metric: Tensor
    prefix: int
    removed: int


@st.composite
def cases(draw: st.DrawFn, ties: bool = True) -> Case:
    prefix = draw(st.integers(0, 6))
    tokens = prefix + draw(st.integers(0, 45))
    removed = draw(st.integers(0, (tokens - prefix) // 2))
    batch = draw(st.integers(1, 3))
    seed = draw(st.integers(0, 2**20))
    assume(tokens > 0)
    make = _signs if ties and draw(st.booleans()) else _normal
    metric = make(seed, batch, tokens, draw(st.sampled_from([1, 4, 16])))
    return Case(_normal(seed + 1, batch, tokens, 8), metric, prefix, removed)


def _rows(case: Case) -> list[tuple[int, int, tuple[int, ...]]]:
    return [
        (image, row, group)
        for image, rows in enumerate(groups(case.metric, case.prefix, case.removed))
        for row, group in enumerate(rows)
    ]


@given(cases())
@properties
def test_groups_partition_the_sequence_in_order(case: Case) -> None:
    tokens = case.x.shape[1]
    for rows in groups(case.metric, case.prefix, case.removed):
        assert len(rows) == tokens - case.removed
        assert sorted(itertools.chain.from_iterable(rows)) == list(range(tokens))
        assert rows[: case.prefix] == [(position,) for position in range(case.prefix)]
        if case.removed == 0:
            assert rows == [(position,) for position in range(tokens)]
            continue
        kept = [group[0] for group in rows[case.prefix :] if len(group) == 1 and group[0] % 2 == 0]
        assert kept == sorted(kept)
        odd = [[position for position in group if position % 2] for group in rows[case.prefix + len(kept) :]]
        assert odd == [[position] for position in range(case.prefix, tokens) if position % 2]


@given(cases())
@properties
def test_groups_are_the_oracles(case: Case) -> None:
    exact = bool((case.metric.abs() == 1).all())
    assume(exact or _margins(case.metric, case.prefix, case.removed) > DECIDABLE)
    for image, rows in enumerate(groups(case.metric, case.prefix, case.removed)):
        matching = reference.match(_f64(case.metric[image]), case.prefix, case.removed)
        if case.removed:
            expected: list[tuple[int, ...]] = [(position,) for position in (*range(case.prefix), *matching.kept)]
            for destination in matching.destinations:
                sources = [source for source, chosen in matching.matched if chosen == destination]
                expected.append(tuple(sorted([destination, *sources])))
            assert rows == expected


@given(cases(), st.sampled_from(METHODS))
@properties
def test_prefix_and_singles_are_bit_identical(case: Case, method: Method) -> None:
    out, _ = fuse(
        case.x, case.metric, Step(method=method, removed=case.removed, prefix=case.prefix), track_sizes=method.weighs
    )
    assert out.shape[1] == case.x.shape[1] - case.removed
    assert torch.equal(out[:, : case.prefix], case.x[:, : case.prefix])
    for image, row, group in _rows(case):
        if len(group) == 1:
            assert torch.equal(out[image, row], case.x[image, group[0]])
        elif method is Method.PRUNE:
            (destination,) = (position for position in group if position % 2)
            assert torch.equal(out[image, row], case.x[image, destination])


@given(cases())
@properties
def test_average_is_the_mean_of_the_group(case: Case) -> None:
    out, _ = fuse(case.x, case.metric, Step(method=Method.AVERAGE, removed=case.removed, prefix=case.prefix))
    for image, row, group in _rows(case):
        torch.testing.assert_close(out[image, row], case.x[image, list(group)].mean(0), rtol=1e-5, atol=1e-5)


@given(cases())
@properties
def test_mlerp_has_the_largest_norm_of_the_group_along_its_mean(case: Case) -> None:
    out, _ = fuse(case.x, case.metric, Step(method=Method.MLERP, removed=case.removed, prefix=case.prefix))
    for image, row, group in _rows(case):
        members = case.x[image, list(group)].double()
        merged, mean = out[image, row].double(), members.mean(0)
        assert float(merged.norm()) == pytest.approx(float(members.norm(dim=1).max()), rel=1e-5)
        assert float(merged @ mean / merged.norm() / mean.norm()) == pytest.approx(1.0, abs=1e-6)


@given(cases(), st.integers(1, 9))
@properties
def test_weighted_mlerp_has_the_largest_norm_of_the_group_along_its_weighted_mean(case: Case, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.randint(1, 30, (*case.x.shape[:2], 1), generator=generator).float()
    out, _ = fuse(
        case.x,
        case.metric,
        Step(method=Method.WEIGHTED_MLERP, removed=case.removed, prefix=case.prefix),
        sizes=sizes,
        track_sizes=True,
    )
    for image, row, group in _rows(case):
        members, weights = case.x[image, list(group)].double(), sizes[image, list(group)].double()
        merged, mean = out[image, row].double(), (members * weights).sum(0) / weights.sum()
        assert float(merged.norm()) == pytest.approx(float(members.norm(dim=1).max()), rel=1e-5)
        assert float(merged @ mean / merged.norm() / mean.norm()) == pytest.approx(1.0, abs=1e-6)


@given(cases(), st.sampled_from(METHODS), st.booleans())
@properties
def test_the_total_size_is_conserved_and_by_tome_the_weighted_sum(case: Case, method: Method, given_: bool) -> None:
    batch, tokens, _ = case.x.shape
    rng = np.random.default_rng(tokens)
    sizes = torch.from_numpy(rng.integers(1, 30, size=(batch, tokens, 1)).astype(np.float32)) if given_ else None
    assume(given_ or case.removed)
    out, out_sizes = fuse(
        case.x,
        case.metric,
        Step(method=method, removed=case.removed, prefix=case.prefix),
        sizes=sizes,
        track_sizes=True,
    )
    assert out_sizes is not None
    before = torch.ones(batch, tokens, 1) if sizes is None else sizes
    assert torch.equal(out_sizes.sum(1), before.sum(1))
    for image, row, group in _rows(case):
        assert float(out_sizes[image, row]) == float(before[image, list(group)].sum())
    if method is Method.TOME:
        torch.testing.assert_close((out * out_sizes).sum(1), (case.x * before).sum(1), rtol=1e-4, atol=1e-2)


@given(cases())
@properties
def test_sizes_of_pruned_tokens_can_be_lost(case: Case) -> None:
    batch, tokens, _ = case.x.shape
    sizes = torch.arange(1.0, batch * tokens + 1).reshape(batch, tokens, 1)
    out, out_sizes = fuse(
        torch.cat([case.x, sizes], dim=2),
        case.metric,
        Step(method=Method.PRUNE, removed=case.removed, prefix=case.prefix, pruned_sizes=PrunedSizes.LOST),
        sizes=sizes,
        track_sizes=True,
    )
    assert out_sizes is not None
    assert torch.equal(out[..., -1:], out_sizes)


@given(cases(ties=False), st.sampled_from(METHODS), st.randoms(use_true_random=False))
@properties
def test_images_do_not_see_each_other(case: Case, method: Method, random) -> None:
    assume(_margins(case.metric, case.prefix, case.removed) > DECIDABLE)
    order = list(range(len(case.x)))
    random.shuffle(order)
    x = torch.cat([case.x, torch.arange(1.0, len(order) + 1)[:, None, None].expand(*case.x.shape[:2], 1)], dim=2)
    step = Step(method, case.removed, case.prefix)

    def run(images: list[int]) -> tuple[Tensor, Tensor | None]:
        sizes = torch.ones(len(images), x.shape[1], 1)
        return fuse(x[images], case.metric[images], step, sizes=sizes, track_sizes=True)

    together = run(sorted(order))
    shuffled = run(order)
    for output, moved in zip(together, shuffled, strict=True):
        torch.testing.assert_close(moved, output[order], rtol=1e-6, atol=1e-6)
    for image in order:
        for output, alone in zip(together, run([image]), strict=True):
            torch.testing.assert_close(alone[0], output[image], rtol=1e-6, atol=1e-6)


@given(cases(), st.integers(-20, 20))
@properties
def test_powers_of_two_on_the_metric_change_nothing(case: Case, exponent: int) -> None:
    scaled = groups(case.metric * 2.0**exponent, case.prefix, case.removed)
    assert scaled == groups(case.metric, case.prefix, case.removed)


@given(cases(ties=False), st.floats(1e-3, 1e3))
@properties
def test_positive_factors_on_the_metric_change_nothing(case: Case, factor: float) -> None:
    assume(_margins(case.metric, case.prefix, case.removed) > DECIDABLE)
    assert groups(case.metric * factor, case.prefix, case.removed) == groups(case.metric, case.prefix, case.removed)


@given(cases(), st.sampled_from([torch.float16, torch.bfloat16]))
@properties
def test_half_precision_decides_as_float32_on_the_same_values(case: Case, dtype: torch.dtype) -> None:
    rounded = case.metric.to(dtype)
    expected = groups(rounded.float(), case.prefix, case.removed)
    assert groups(rounded, case.prefix, case.removed, dtype) == expected
    assert groups(rounded, case.prefix, case.removed, torch.float32) == expected
