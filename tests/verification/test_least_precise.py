"""Values too small for FP16: what its rounding explains is allowed, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from tests import tiny
from tests.verification.edits import change
from tofu_export import patch
from tofu_export.compare.outputs import TOLERANCES
from tofu_export.graph_patterns.lowering import lower
from tofu_export.options import Precision, Reduction, Target
from tofu_export.trace.export import save, trace
from tofu_export.verification.eager import verify
from tofu_export.verification.least_precise import half_precision_tolerance
from tofu_export.verification.result import VerificationResult

SOME = Reduction(r=(3, 2, 0), pattern="MPA")
SMALL = 3e-7
"""Deviation of the class token, and layer scale: 5 steps of FP16. In untrained models of timm they are 1e-6."""
USUAL = TOLERANCES[Precision.FP16]


def untrained() -> nn.Module:
    """A model whose logits come out of a class token that norms make 1000 times larger."""
    model = tiny.build("layer-scale")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        model.cls_token.copy_(torch.randn(model.cls_token.shape, generator=generator) * SMALL)
        model.pos_embed[:, 0] = 0
        for name, parameter in model.named_parameters():
            if name.endswith("gamma"):
                parameter.fill_(SMALL)
        for part in (model.norm.bias, model.head.bias):
            part.zero_()
    return patch.apply(model, tiny.plan_of("layer-scale", SOME))


@pytest.fixture(scope="module")
def right(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("files") / "model.onnx"
    graph = trace(untrained(), tiny.SHAPE, precision=Precision.FP16)
    save(lower(graph, Target.PORTABLE, Precision.FP16), path, {})
    return path


def verified(path: Path, precision: Precision = Precision.FP16) -> VerificationResult:
    return verify(path, untrained(), tiny.pixels(4), precision=precision, batch=(1, 3), source="noise")


def test_a_right_file_passes_and_the_reason_is_said(right: Path) -> None:
    result = verified(right)
    assert not result.outputs.within(USUAL)
    assert result.outputs.only_turned(USUAL)
    assert result.passed, result.failure()
    assert 0.9 < result.tolerance.cosine_min < result.outputs.cosine_min
    assert replace(result.tolerance, cosine_min=USUAL.cosine_min) == USUAL
    (note,) = [note for note in result.notes if "too small for FP16" in note]
    assert f"as low as {result.tolerance.cosine_min:.4f}" in note


def reversed_norm(proto: onnx.ModelProto) -> None:
    change(proto, "norm/LayerNormalization", 1, lambda value: value[::-1].copy())


def moved_class_token(proto: onnx.ModelProto) -> None:
    """Its channels shifted by one: the outputs differ by less than the tolerance of 3e-2, and point elsewhere."""
    for tensor in proto.graph.initializer:
        if "cls_token" in tensor.name:
            value = onnx.numpy_helper.to_array(tensor)
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.roll(value, 1, axis=-1), tensor.name))


@pytest.mark.parametrize("edit", [reversed_norm, moved_class_token])
def test_a_wrong_file_does_not(edit: Callable[[onnx.ModelProto], None], right: Path, tmp_path: Path) -> None:
    proto = onnx.load(right)
    before = proto.SerializeToString()
    edit(proto)
    assert proto.SerializeToString() != before
    onnx.save(proto, tmp_path / "model.onnx")
    assert not verified(tmp_path / "model.onnx").passed


def test_the_tolerance_of_a_usual_model_stays() -> None:
    model = tiny.build("cls")
    images = torch.from_numpy(tiny.pixels(2))

    def run() -> list[np.ndarray]:
        with torch.no_grad():
            return [model(images).numpy()]

    before = run()
    assert half_precision_tolerance(model, run, before, USUAL) == USUAL
    assert np.array_equal(run()[0], before[0])  # the weights are restored
