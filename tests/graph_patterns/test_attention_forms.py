"""Attention in other forms: the same numbers, other kernels."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import onnx
import onnx_ir as ir
import pytest

from tests import tiny
from tests.engines.rtx import needs_rtx, rtx
from tests.graph_patterns.attention_files import SOME, written
from tofu_export.artifact import onnx_file
from tofu_export.engines.building.build import EngineRequest, build_engine
from tofu_export.engines.flavours import RTX
from tofu_export.errors import OptionError, PrecisionMismatchError
from tofu_export.graph_patterns.attention.find import attentions_of
from tofu_export.graph_patterns.attention.forms import write_attention
from tofu_export.graph_patterns.lowering import lower
from tofu_export.graph_patterns.table import RECIPES, recipe_for
from tofu_export.options import AttentionForm, BatchRange, Precision, Reduction, Target
from tofu_export.patch import apply
from tofu_export.trace.export import InputShape, trace
from tofu_export.verification.eager import verify
from tofu_export.zoo.create import create_model
from tofu_export.zoo.specs import plan_model
from tofu_export.zoo.weights import WeightsSource

BATCH = BatchRange(1, 2, 3)
OTHERS = (AttentionForm.FP32_ACCUMULATE, AttentionForm.UNFUSED)


@pytest.mark.e2e
@pytest.mark.parametrize("form", AttentionForm)
@pytest.mark.parametrize("target", list(Target))
def test_the_file_passes_verification(form: AttentionForm, target: Target, tmp_path: Path) -> None:
    """Once more with rounding taken away: nothing but types and a difference that softmax forgets have changed."""
    path = tmp_path / "model.onnx"
    onnx_file.save(written(form, target=target), path, {})
    onnx.checker.check_model(path, full_check=True)
    result = verify(
        path, tiny.reduced("cls", SOME), tiny.pixels(8, seed=1), precision=Precision.FP16, batch=BATCH, source="noise"
    )
    assert result.passed
    assert result.in_fp32 is not None
    assert result.in_fp32.passed


@pytest.mark.parametrize("form", OTHERS)
def test_half_precision_alone_is_written_otherwise(form: AttentionForm) -> None:
    model = tiny.lowered("cls", SOME)
    before = [node.name for node in model.graph]
    assert write_attention(model, form) == 0
    assert [node.name for node in model.graph] == before
    assert write_attention(tiny.lowered("cls", SOME, precision=Precision.BF16), form) == tiny.DEPTH


@pytest.mark.parametrize("form", OTHERS)
def test_names_and_ends_stay(form: AttentionForm) -> None:
    """What reads attention reads what it read, in the type that it had; kernels are told by these names."""
    plain, other = written(AttentionForm.FUSED), written(form)
    kept = {node.name for node in plain.graph}
    assert kept < {node.name for node in other.graph}
    for before in attentions_of(plain):
        result = before.attended.outputs[0]
        (found,) = (value for node in other.graph for value in node.outputs if value.name == result.name)
        assert found.dtype == result.dtype == ir.DataType.FLOAT16
        assert [reader.name for reader, _ in found.uses()] == [reader.name for reader, _ in result.uses()]


def test_types_of_the_products() -> None:
    """Widened products take FP32 in; beside an FP32 softmax they stay in FP16."""
    for form, dtype in ((AttentionForm.FP32_ACCUMULATE, 1), (AttentionForm.UNFUSED, 10)):
        graph = onnx.shape_inference.infer_shapes(ir.to_proto(written(form))).graph
        types = {value.name: value.type.tensor_type.elem_type for value in graph.value_info}
        products = [node for node in graph.node if node.name.endswith(("/scores", "/attended"))]
        assert len(products) == 2 * tiny.DEPTH
        assert {types[name] for node in products for name in (*node.input, *node.output)} == {dtype}
        softmax = next(node for node in graph.node if node.op_type == "Softmax")
        assert types[softmax.input[0]] == onnx.TensorProto.FLOAT


def test_the_table_gives_each_form_to_every_target() -> None:
    for target, precision in RECIPES:
        for form in AttentionForm:
            recipe = recipe_for(target, precision, form)
            assert recipe.attention is form
            assert (form is AttentionForm.FUSED) is (form.value not in str(recipe))
        assert recipe_for(target, precision) == RECIPES[target, precision]


def test_what_is_tried_after_what() -> None:
    assert AttentionForm.FUSED.fallbacks == OTHERS
    assert AttentionForm.FP32_ACCUMULATE.fallbacks == (AttentionForm.UNFUSED,)
    assert AttentionForm.UNFUSED.fallbacks == ()


# --- In engines ---------------------------------------------------------------------------------------------------

NAME = "test_vit"
"""Six blocks with two heads of 32 numbers: TensorRT-RTX fuses heads of 16 to 256."""


@cache
def canonical() -> ir.Model:
    spec, plan = plan_model(NAME, Reduction(r=8))
    model = apply(create_model(NAME, weights=WeightsSource.parse("random")).model, plan)
    return trace(model, InputShape(spec.in_chans, *spec.image_size), precision=Precision.FP16)


def request(form: AttentionForm, folder: Path, capability: str = "SM89", **metadata: str) -> EngineRequest:
    path = folder / f"{form.value}.onnx"
    model = lower(
        canonical().clone(), Target.PORTABLE, Precision.FP16, recipe_for(Target.PORTABLE, Precision.FP16, form)
    )
    onnx_file.save(model, path, metadata)
    return EngineRequest(path, path.with_suffix(".engine"), RTX, BATCH, Precision.FP16, (capability,))


@pytest.mark.e2e
@rtx
@needs_rtx
@pytest.mark.parametrize(("form", "fused"), [*zip(AttentionForm, (6, 0, 0), strict=True)])
def test_fused_attentions_of_a_real_build(form: AttentionForm, fused: int, tmp_path: Path) -> None:
    receipt = build_engine(request(form, tmp_path, attention=form.value))
    assert receipt.fusions is not None
    assert (receipt.fusions.fused_attention.in_file, receipt.fusions.fused_attention.in_engine) == (6, fused)
    assert sum("_mha_" in record.tactic for record in receipt.kernels.launched) == fused


@pytest.mark.e2e
@rtx
@needs_rtx
def test_fp32_products_are_no_mistake_where_the_file_says_so(tmp_path: Path) -> None:
    """They are a third of the multiply-accumulates of this model."""
    form = AttentionForm.FP32_ACCUMULATE
    with pytest.raises(PrecisionMismatchError, match="fp16 was asked for, but only"):
        build_engine(request(form, tmp_path))
    receipt = build_engine(request(form, tmp_path, attention=form.value))
    assert receipt.structure.macs["fp32"] > 0.1 * receipt.structure.macs["fp16"]


@rtx
@needs_rtx
def test_turing_cannot_widen(tmp_path: Path) -> None:
    form = AttentionForm.FP32_ACCUMULATE
    with pytest.raises(OptionError, match=r"SM75 has no FP32 matrix products.*--attention unfused"):
        build_engine(request(form, tmp_path, "SM75", attention=form.value))
    assert not (tmp_path / f"{form.value}.engine").exists()
