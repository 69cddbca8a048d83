"""What token sizes cost in an engine: kernels of a whole ViT, with and without them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.engines.rtx import needs_rtx, rtx
from tofu_export import patch
from tofu_export.engines.building.build import EngineRequest, build_engine
from tofu_export.engines.describing.kernel_log import KernelLog
from tofu_export.engines.flavours import RTX
from tofu_export.graph_patterns.lowering import lower
from tofu_export.options import BatchRange, Mode, Precision, Reduction, Target
from tofu_export.trace.export import InputShape, save, trace
from tofu_export.zoo.create import create_model
from tofu_export.zoo.specs import plan_model
from tofu_export.zoo.weights import WeightsSource

MODEL = "vit_tiny_patch16_224"


def kernels_of(folder: Path, reduction: Reduction) -> KernelLog:
    """Of an FP16 engine for SM89."""
    spec, plan = plan_model(MODEL, reduction)
    model = patch.apply(create_model(MODEL, weights=WeightsSource.parse("random")).model, plan)
    shape, batch = InputShape(spec.in_chans, *spec.image_size), BatchRange(1, 8, 64)
    graph = trace(model, shape, precision=Precision.FP16, batch=batch)
    path = folder / "model.onnx"
    save(lower(graph, Target.PORTABLE, Precision.FP16), path, {})
    request = EngineRequest(path, path.with_suffix(".engine"), RTX, batch, Precision.FP16, ("SM89",))
    return build_engine(request).kernels


@pytest.mark.e2e
@rtx
@needs_rtx
def test_sizes_cost_few_kernels_and_leave_all_attention_fused(tmp_path: Path) -> None:
    without = kernels_of(tmp_path, Reduction(r=16, mode=Mode.MLERP, prop_attn=False))
    with_sizes = kernels_of(tmp_path, Reduction(r=16, mode=Mode.MLERP))
    default = kernels_of(tmp_path, Reduction(r=16))
    for kernels in (without, with_sizes, default):
        assert sum("_mha_" in record.tactic for record in kernels.launched) == 12
    assert len(without.launched) <= 164
    assert len(with_sizes.launched) <= len(without.launched) + 10
    assert len(default.launched) <= 184
