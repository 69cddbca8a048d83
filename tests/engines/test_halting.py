"""Engines of models whose tokens halt: built whole, with every attention fused."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.engines.rtx import needs_rtx, rtx
from tofu_export import patch
from tofu_export.engines.building.build import EngineRequest, build_engine
from tofu_export.engines.flavours import RTX
from tofu_export.graph_patterns.lowering import lower
from tofu_export.options import BatchRange, Precision, Reduction, Selection, Target
from tofu_export.trace.export import InputShape, save, trace
from tofu_export.zoo.create import create_model
from tofu_export.zoo.specs import plan_model
from tofu_export.zoo.weights import WeightsSource


@pytest.mark.e2e
@rtx
@needs_rtx
@pytest.mark.parametrize("r", [0, (0, 0, 0, 30, 40, 30, 20, 20, 10, 10, 10, 0)], ids=["masked", "places"])
def test_an_fp16_engine_of_deit_tiny(tmp_path: Path, r: int | tuple[int, ...]) -> None:
    spec, plan = plan_model("deit_tiny_patch16_224", Reduction(r=r, select=Selection.HALTING))
    model = patch.apply(create_model(spec.name, weights=WeightsSource.parse("random")).model, plan)
    shape, batch = InputShape(spec.in_chans, *spec.image_size), BatchRange(1, 8, 64)
    path = tmp_path / "model.onnx"
    graph = trace(model, shape, precision=Precision.FP16, batch=batch)
    save(lower(graph, Target.PORTABLE, Precision.FP16), path, {})
    request = EngineRequest(path, path.with_suffix(".engine"), RTX, batch, Precision.FP16, ("SM89",))
    launched = build_engine(request).kernels.launched
    assert sum("_mha_" in record.tactic for record in launched) == spec.depth
    assert len(launched) < 200
