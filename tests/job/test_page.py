"""Whether a job draws token maps is known before it begins, with the reason if it does not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.planning.specs import spec
from tofu_export.job.page import why_no_token_maps
from tofu_export.options import Precision, Reduction, Selection
from tofu_export.planning.plan import make_plan

LAST = (0, 0, 4)
TOY = spec(tokens=17, prefix=1, depth=3)


def reason(reduction: Reduction, *precisions: Precision, of: Any = TOY, real: bool = True, read: bool = False) -> Any:
    plan = make_plan(of, reduction)
    return why_no_token_maps(of, plan, precisions or (Precision.FP32,), real=real, reads_patches=read)


@pytest.mark.parametrize("reduction", [Reduction(r=2), Reduction(r=(0, 4, 0)), Reduction(r=(4, 0, 4))])
def test_maps_of_a_reduction_before_the_last_block(reduction: Reduction) -> None:
    assert reason(reduction) is None


def test_maps_of_the_last_block_alone_need_a_reader() -> None:
    last = Reduction(r=LAST)
    assert reason(last) == "no output depends on the only reduction, that of the last block (2)"
    assert reason(last, read=True) is None
    assert reason(replace(last, select=Selection.HALTING)) is None  # the attention of that block reads what stays


def test_other_reasons() -> None:
    some = Reduction(r=2)
    assert reason(Reduction(r=0)) == "no token is removed"
    assert reason(some, real=False) == "there are no real images: give some with --images DIR"
    assert "bfloat16" in reason(some, Precision.BF16)
    assert reason(some, Precision.BF16, Precision.FP16) is None
    assert reason(some, of=spec(tokens=18, depth=3)).startswith("17 patches do not fill a grid over an image of 32x32")
