"""Every plain vision transformer of timm by name: supported, or refused with a reason that we wrote down. Takes long.

`make coverage` runs it.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import timm
import torch
from torch import nn

from tofu_export import patch
from tofu_export.errors import UnsupportedModelError
from tofu_export.options import Mode, Reduction
from tofu_export.patch.describe import describe
from tofu_export.patch.support import REFUSED
from tofu_export.planning.plan import ModelSpec, make_plan
from tofu_export.zoo.create import create_meta
from tofu_export.zoo.survey import FAMILIES, survey

pytestmark = pytest.mark.coverage

NAMES = sorted(timm.list_models(module=FAMILIES))
LEAST = 316
"""Names supported with timm 1.0.31."""
DEPTH = 2
LARGEST = 500_000_000
"""Most parameters of a model that is run as a whole."""


@pytest.fixture(scope="module")
def sorted_names() -> tuple[dict[str, ModelSpec], dict[str, str]]:
    specs, refused = survey(NAMES)
    return {spec.name: spec for spec in specs}, refused


def test_every_name_is_supported_or_refused_with_a_reason(
    sorted_names: tuple[dict[str, ModelSpec], dict[str, str]],
) -> None:
    specs, refused = sorted_names
    assert {*specs, *refused} == set(NAMES)
    assert len(specs) >= LEAST
    unknown = {name: reason for name, reason in refused.items() if not reason.endswith(tuple(REFUSED.values()))}
    assert not unknown


@pytest.mark.parametrize("name", NAMES)
def test_a_plan_fits(name: str, sorted_names: tuple[dict[str, ModelSpec], dict[str, str]]) -> None:
    """Some 40 % of the tokens leave, and what comes out has the shape that it had. On the meta device."""
    specs, refused = sorted_names
    if name in refused:
        return
    spec = specs[name]
    plan = make_plan(spec, Reduction(r=math.ceil(0.4 * spec.tokens / spec.depth)))
    model = create_meta(name)
    image = torch.empty(2, spec.in_chans, *spec.image_size, device="meta")
    expected = model(image).shape
    assert patch.apply(model, plan)(image).shape == expected
    assert plan.macs_reduced < plan.macs_full


@pytest.mark.parametrize("name", NAMES)
def test_nothing_removed_changes_nothing(name: str, sorted_names: tuple[dict[str, ModelSpec], dict[str, str]]) -> None:
    """Bit for bit, on the first blocks, filled at random."""
    specs, refused = sorted_names
    if name in refused:
        return
    spec = specs[name]
    model = shortened(name)
    image = torch.randn(1, spec.in_chans, *spec.image_size, generator=torch.Generator().manual_seed(0))
    short = describe(shortened(name, device="meta"), name, spec.image_size)
    assert (short.tokens, short.prefix_tokens) == (spec.tokens, spec.prefix_tokens)
    with torch.inference_mode():
        expected = model(image)
        assert torch.equal(patch.apply(model, make_plan(short, Reduction(r=0)))(image), expected)
        reduced = patch.apply(model, make_plan(short, Reduction(r=16, mode=Mode.TOME)))(image)
    assert reduced.shape == expected.shape
    assert bool(torch.isfinite(reduced).all())


def shortened(name: str, **kwargs: Any) -> nn.Module:
    """A model with its first blocks only; all of them where the others differ from block to block."""
    try:
        return timm.create_model(name, depth=DEPTH, **kwargs).eval().requires_grad_(False)
    except (AssertionError, TypeError, IndexError):
        if sum(weight.numel() for weight in create_meta(name).parameters()) > LARGEST:
            pytest.skip("it cannot be shortened, and is too large as a whole")
        return timm.create_model(name, **kwargs).eval().requires_grad_(False)


def test_what_is_refused_is_refused_by_both_doors() -> None:
    model = create_meta("xcit_nano_12_p16_224")
    with pytest.raises(UnsupportedModelError, match="Xcit"):
        describe(model, "it")
