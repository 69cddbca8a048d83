"""A call written as text is the call: run, it gives the function what was given to it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import tofu_export
from tofu_export.options import (
    BatchRange,
    HaltingOptions,
    KeySource,
    Mode,
    Precision,
    Quantization,
    Reduction,
    Selection,
)
from tofu_export.system.python_call import Name, python_call


def received(text: str, **variables: object) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    """Run a program, with `tofu_export.export` replaced by a function that keeps its arguments."""
    found: list[tuple[tuple[Any, ...], Mapping[str, Any]]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tofu_export, "export", lambda *given, **options: found.append((given, options)), raising=False)
        exec(text, dict(variables))  # the text is ours
    ((given, options),) = found
    return given, options


@pytest.mark.parametrize(
    "reduction",
    [
        Reduction(r=(8, 0, 3), pattern="PA-", prop_attn=False, keys=KeySource.PRE_ROPE),
        Reduction(select=Selection.HALTING, halting=HaltingOptions(center=75.0)),
        Reduction(speedup=1.8, mode=Mode.TOME, exclude_layers=(0,)),
    ],
)
def test_reductions(reduction: Reduction) -> None:
    assert received(python_call("export", "vit_base", "out", reduction)) == (("vit_base", "out", reduction), {})


def test_options_of_every_kind() -> None:
    options: dict[str, Any] = {
        "precisions": (Precision.FP16,),
        "batch": BatchRange(1, 8, 64),
        "labels": ["it's", "a \\ b"],
        "quantization": Quantization(skip=("3.mlp",)),
        "preprocessing": {"mean": (0.5,), "crop_pct": None},
        "bench": False,
    }
    assert received(python_call("export", "vit_base", "o'ut", **options)) == (("vit_base", "o'ut"), options)


def test_a_path_becomes_text_and_a_variable_stays_one() -> None:
    model = object()
    text = python_call("export", Name("model"), "out", None, images=Path("photos"))
    assert received(text, model=model) == ((model, "out"), {"images": "photos"})


def test_what_has_its_default_is_left_out() -> None:
    text = python_call("export", "vit_base", "out", Reduction(r=8))
    assert text == "import tofu_export\n\ntofu_export.export('vit_base', 'out', tofu_export.Reduction(r=8))"
