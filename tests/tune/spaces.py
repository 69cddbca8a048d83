"""A small search space."""

from __future__ import annotations

from collections.abc import Sequence

from tests.planning.specs import spec
from tofu_export.options import Reduction
from tofu_export.planning.plan import make_plan
from tofu_export.tune.space import Space

MODEL = spec(tokens=33, depth=4)


def macs(removed: Sequence[int]) -> float:
    return make_plan(MODEL, Reduction(r=tuple(removed))).macs_reduced


def space(limit: float, excluded: frozenset[int] = frozenset()) -> Space:
    return Space(MODEL, "PAM", macs, limit, excluded)
