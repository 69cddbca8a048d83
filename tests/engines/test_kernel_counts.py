"""Kernels of whole engines: what token sizes and masks cost, and that every attention is fused."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm

import tofu_export
from tests.engines.rtx import needs_rtx, rtx
from tofu_export.engines.building.build import EngineRequest, build_engine
from tofu_export.engines.describing.kernel_log import KernelLog
from tofu_export.engines.flavours import RTX
from tofu_export.graph_patterns.lowering import lower
from tofu_export.options import BatchRange, Mode, Precision, Reduction, Selection, Target
from tofu_export.trace.export import InputShape, save, trace

DEPTH = 4

pytestmark = [pytest.mark.e2e, rtx, needs_rtx]


def kernels_of(folder: Path, reduction: Reduction) -> KernelLog:
    """Of an FP16 engine for SM89 of a shallow ViT-Ti."""
    model = tofu_export.apply(timm.create_model("vit_tiny_patch16_224", depth=DEPTH).eval(), reduction)
    batch = BatchRange(1, 8, 64)
    graph = trace(model, InputShape(3, 224, 224), precision=Precision.FP16, batch=batch)
    path = folder / "model.onnx"
    save(lower(graph, Target.PORTABLE, Precision.FP16), path, {})
    kernels = build_engine(
        EngineRequest(path, path.with_suffix(".engine"), RTX, batch, Precision.FP16, ("SM89",))
    ).kernels
    assert sum("_mha_" in record.tactic for record in kernels.launched) == DEPTH
    return kernels


def test_sizes_cost_few_kernels(tmp_path: Path) -> None:
    without = kernels_of(tmp_path, Reduction(r=16, mode=Mode.MLERP, prop_attn=False))
    with_sizes = kernels_of(tmp_path, Reduction(r=16, mode=Mode.MLERP))
    default = kernels_of(tmp_path, Reduction(r=16))
    assert len(without.launched) <= 65
    assert len(with_sizes.launched) <= len(without.launched) + DEPTH
    assert len(default.launched) <= 70


@pytest.mark.parametrize(("r", "most"), [(0, 50), ((0, 30, 20, 0), 60)], ids=["masked", "places"])
def test_tokens_that_halt(tmp_path: Path, r: int | tuple[int, ...], most: int) -> None:
    assert len(kernels_of(tmp_path, Reduction(r=r, select=Selection.HALTING)).launched) <= most
