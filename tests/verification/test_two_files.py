"""What two files state about their inputs and reductions, before they are compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tofu_export.artifact.card import ModelCard
from tofu_export.errors import OptionError
from tofu_export.system.ort import TensorSpec
from tofu_export.verification.facts import FileFacts
from tofu_export.verification.two_files import check_inputs, counterparts, other_plan


def file(
    name: str = "a.onnx", entries: dict[str, Any] | None = None, **inputs: tuple[Any, tuple[Any, ...]]
) -> FileFacts:
    specs = {key: TensorSpec(np.dtype(dtype), shape) for key, (dtype, shape) in inputs.items()}
    return FileFacts(Path(name), specs, {}, ModelCard(name, entries or {}), None)


def planned(*rows: Any, **plan: Any) -> FileFacts:
    return file("b.onnx", {"model": "m", "plan": {"layers": list(rows), **plan}})


def unet(*removed: int) -> FileFacts:
    return file("u.onnx", {"model": "m", "unet_plan": {"blocks": [{"method": "mlerp", "removed": r} for r in removed]}})


PRUNE, NONE = {"method": "prune", "removed": 4}, {"method": "none", "removed": 0}


def test_counterparts_go_by_name_then_by_order() -> None:
    assert counterparts(["x", "y"], ["y", "x"]) == {"x": "x", "y": "y"}
    assert counterparts(["x", "y"], ["a", "x"]) == {"x": "a", "y": "x"}
    assert counterparts(["x"], ["x", "y"]) is None


def test_real_types_suit_each_other_and_no_others() -> None:
    single = file(x=(np.float32, (None, 4)))
    for dtype in (np.float16, ml_dtypes.bfloat16):
        check_inputs(single, file(x=(dtype, (2, 4))))
    check_inputs(single, file(x=(np.float32, ())))  # unstated
    check_inputs(single, file(x=(np.float32, (1,)), y=(np.float32, (1,))))  # refused later, as inputs without others
    for dtype in (np.int64, np.bool_):
        with pytest.raises(
            OptionError, match=r"x of a\.onnx is float32\[\?, 4\], x of a\.onnx is .*no input suits both"
        ):
            check_inputs(single, file(x=(dtype, (2, 4))))


@pytest.mark.parametrize(
    ("one", "two", "words"),
    [
        (planned(PRUNE, PRUNE), planned(NONE, PRUNE), "4 by prune (bipartite), there no token leaves"),
        (planned(PRUNE, PRUNE), planned({**PRUNE, "removed": 5}, PRUNE), "4 by prune (bipartite), there 5 by prune"),
        (planned(PRUNE, NONE, select="energy"), planned(PRUNE, NONE), "(energy), there 4 by prune (bipartite)"),
        (unet(0, 8), unet(8, 8), "-, 8 by mlerp (by cell), there 8 by mlerp, 8 by mlerp (by cell)"),
        (unet(0, 8), unet(0, 0), "there no token leaves"),
    ],
)
def test_other_reductions_are_named(one: FileFacts, two: FileFacts, words: str) -> None:
    (said,) = other_plan(one, two)
    assert words in said
    assert said.startswith(f"it states another reduction than {two.path.name}")


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (planned(PRUNE, PRUNE), planned(PRUNE, NONE)),
        (planned(NONE, NONE, select="energy"), planned(NONE, NONE)),
        (planned(PRUNE, PRUNE), file()),
        (planned(), planned(None, "rows", {"removed": "4"})),
        (unet(8), unet(8)),
    ],
    ids=["last-block", "nothing-leaves", "foreign", "damaged", "unet"],
)
def test_reductions_that_do_not_tell(one: FileFacts, two: FileFacts) -> None:
    assert other_plan(one, two) == other_plan(two, one) == ()
