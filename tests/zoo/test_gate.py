"""Checkpoints in the format of A-ViT: names of DeiT, and a gate that only options or the file's name tell."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import tiny
from tofu_export.errors import WeightsError
from tofu_export.options import Halting, HaltingOptions, Reduction, Selection
from tofu_export.planning.plan import make_plan
from tofu_export.zoo.create import LoadedModel, create_model
from tofu_export.zoo.specs import spec_as_loaded, spec_of
from tofu_export.zoo.weights import WeightsSource

MODEL = "test_vit"
OPTIONS = {
    "model": "avit_tiny_patch16_224",
    "gate_scale": 10.0,
    "gate_center": 75.0,
    "nb_classes": 1000,
    "input_size": 160,
}
HALTING = Reduction(select=Selection.HALTING)


def file_of(folder: Path, name: str, args: Any = None) -> Path:
    model = create_model(MODEL, weights=WeightsSource.parse("random")).model
    path = folder / name
    torch.save({"model": model.state_dict(), "epoch": 99, **({} if args is None else {"args": args})}, path)
    return path


def loaded(path: Path) -> LoadedModel:
    return create_model(MODEL, weights=WeightsSource.parse(str(path)))


@pytest.mark.parametrize(
    ("name", "args", "gate"),
    [
        ("checkpoint.pth", Namespace(**OPTIONS), Halting(10, 75)),
        ("checkpoint.pth", OPTIONS, Halting(10, 75)),
        ("small-10-75.pth", None, Halting(10, 75)),
        ("tiny-10-30.pth", None, Halting(10, 30)),
        ("avit_tiny-5-12.5.pth", None, Halting(5, 12.5)),
        ("small-10-75.pth", Namespace(**OPTIONS), Halting(10, 75)),
        ("checkpoint.pth", Namespace(lr=0.1), None),
        ("vit-16-224.pth", None, None),
        ("deit_small.pth", None, None),
    ],
)
def test_a_gate_is_read_where_it_is_said(tmp_path: Path, name: str, args: Any, gate: Halting | None) -> None:
    model = loaded(file_of(tmp_path, name, args))
    assert model.gate == gate
    said = [note for note in model.weights.notes if "trained to halt tokens" in note]
    assert len(said) == (gate is not None)
    if gate is not None:
        plan = make_plan(spec_as_loaded(spec_of(MODEL), model), HALTING)
        assert plan.halting == gate


@pytest.mark.parametrize(
    ("given", "gate"),
    [
        (HaltingOptions(4, 9), Halting(4, 9)),
        (HaltingOptions(10, 30), Halting(10, 30)),  # the defaults, but asked for
        (HaltingOptions(least=0.2), Halting(10, 75, 0.2)),
    ],
)
def test_what_is_given_of_a_gate_wins(tmp_path: Path, given: HaltingOptions, gate: Halting) -> None:
    spec = spec_as_loaded(spec_of(MODEL), loaded(file_of(tmp_path, "small-10-75.pth")))
    assert make_plan(spec, Reduction(select=Selection.HALTING, halting=given)).halting == gate
    assert make_plan(spec, Reduction(r=2)).halting is None


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("small-10-30.pth", OPTIONS, r"args .* scale 10 and center 75, its name says 10 and 30"),
        ("checkpoint.pth", {**OPTIONS, "gate_scale": 0}, r"args in checkpoint\.pth says an impossible gate"),
        ("checkpoint.pth", {"gate_center": 75.0}, r"args in checkpoint\.pth say gate_center without gate_scale"),
        ("checkpoint.pth", {**OPTIONS, "gate_center": "x"}, "halting center is 'x', expected a finite number"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, name: str, args: Any, message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        loaded(file_of(tmp_path, name, args))


def test_tiny_models_have_no_gate() -> None:
    assert tiny.spec("cls").gate is None
