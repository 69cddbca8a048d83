"""The `Attention` operator of others: masks as it defines them, and nothing of its newer versions is dropped."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from tofu_export.graph_patterns.foreign.rewrite import rewrite
from tofu_export.options import Target
from tofu_export.system.ort import open_session

B, H, N, M, D = 2, 3, 4, 5, 8
FLOAT = TensorProto.FLOAT


def attention(
    mask: tuple[int, list[Any]] | None = None,
    *,
    inputs: tuple[str, ...] = (),
    outputs: tuple[str, ...] = ("y",),
    opset: int = 23,
    keys: int = M,
    **attributes: Any,
) -> onnx.ModelProto:
    shapes: dict[str, tuple[int, list[Any]]] = {
        "q": (FLOAT, ["b", H, N, D]), "k": (FLOAT, ["b", H, keys, D]), "v": (FLOAT, ["b", H, keys, D]),
    }  # fmt: skip
    if mask is not None:
        shapes["m"] = mask
    more = {"nonpad": (TensorProto.INT64, ["b"]), "past": (FLOAT, ["b", H, 2, D])}
    shapes |= {name: more[name.rstrip("0123456789")] for name in inputs if name}
    names = ["q", "k", "v", "m" if mask is not None else ""][: 4 if mask is not None or inputs else 3]
    node = helper.make_node("Attention", [*names, *inputs], [*outputs], name="attend", **attributes)
    graph = helper.make_graph(
        [node],
        "attend",
        [helper.make_tensor_value_info(name, *kind) for name, kind in shapes.items()],
        [helper.make_tensor_value_info(name, FLOAT, None) for name in outputs if name],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=12)


def left(proto: onnx.ModelProto) -> str:
    (change,) = rewrite(ir.from_proto(proto), Target.TENSORRT_RTX)
    return change.left


def feeds(mask: np.ndarray) -> dict[str, np.ndarray]:
    random = np.random.default_rng(3)
    sizes = {"q": N, "k": M, "v": M}
    return {name: random.standard_normal((B, H, size, D), np.float32) for name, size in sizes.items()} | {"m": mask}


@pytest.mark.parametrize("shape", [[N, M], ["b", 1, N, M], [1, H, N, M], ["b", 1, 1, M]], ids=str)
@pytest.mark.parametrize("kind", [np.bool_, np.float32])
def test_a_query_without_open_keys_gives_zeros(kind: type, shape: list[Any]) -> None:
    dtype = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    proto = attention((dtype, shape))
    found = ir.from_proto(proto)
    assert [change.left for change in rewrite(found, Target.TENSORRT_RTX)] == [""]
    sizes = [B if size == "b" else size for size in shape]
    mask = np.random.default_rng(4).random(sizes) < 0.5
    mask.reshape(-1, M)[0] = False
    given = feeds(mask if kind is np.bool_ else np.where(mask, np.float32(0.25), np.float32(-np.inf)))
    expected = ReferenceEvaluator(proto).run(None, given)[0]
    assert (np.abs(expected).max(axis=-1) == 0).any()
    result = open_session(ir.to_proto(found).SerializeToString()).run(given)["y"]
    np.testing.assert_allclose(result, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("proto", "words"),
    [
        (attention(opset=25, left_window_size=1), "left_window_size"),
        (attention(opset=25, right_window_size=2), "right_window_size"),
        (attention(softcap=2.0), "softcap"),
        (attention(is_causal=1), "is_causal"),
        (attention(inputs=("", "", "nonpad"), opset=24), "keys that do not count"),
        (attention(inputs=("past", "past2"), outputs=("y", "pk", "pv")), "earlier calls"),
        (attention(outputs=("y", "", "", "qk")), "more than its first output"),
        (attention((FLOAT, [N, 3]), opset=24), "an entry for every key"),
        (attention((FLOAT, [N, "m"])), "an entry for every key"),
        (attention((TensorProto.BOOL, [M])), "an entry for every key"),
        (attention(scale=-1.0), "its scale is -1"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_has_no_form_is_left(proto: onnx.ModelProto, words: str) -> None:
    assert words in left(proto)


def test_a_window_without_bounds_is_none() -> None:
    assert left(attention(opset=25, left_window_size=-1, right_window_size=-1)) == ""


@pytest.mark.parametrize("dtype", [TensorProto.FLOAT, TensorProto.FLOAT16])
def test_in_a_branch_it_is_decomposed_in_any_precision(dtype: int) -> None:
    shape = [1, 2, 4, 8]
    inner = helper.make_graph(
        [helper.make_node("Attention", ["q", "k", "v"], ["t"], name="inner")], "then", [],
        [helper.make_tensor_value_info("t", dtype, shape)],
    )  # fmt: skip
    other = helper.make_graph(
        [helper.make_node("Identity", ["q"], ["o"])], "other", [], [helper.make_tensor_value_info("o", dtype, shape)]
    )
    node = helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=other)
    inputs = [helper.make_tensor_value_info("c", TensorProto.BOOL, [])]
    inputs += [helper.make_tensor_value_info(name, dtype, shape) for name in "qkv"]
    graph = helper.make_graph([node], "g", inputs, [helper.make_tensor_value_info("y", dtype, shape)])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=11)
    found = ir.from_proto(proto)
    assert [change.left for change in rewrite(found, Target.TENSORRT_RTX)] == [""]
    kind = np.float32 if dtype == FLOAT else np.float16
    random = np.random.default_rng(6)
    given = {name: random.standard_normal(shape).astype(kind) for name in "qkv"}
    for chosen in (True, False):
        feeds_ = {**given, "c": np.array(chosen)}
        expected = ReferenceEvaluator(proto).run(None, feeds_)[0]
        result = open_session(ir.to_proto(found).SerializeToString()).run(feeds_)["y"]
        np.testing.assert_allclose(result, expected, atol=1e-5 if dtype == FLOAT else 5e-3)


@pytest.mark.parametrize("kind", [TensorProto.INT64, TensorProto.DOUBLE])
def test_a_mask_of_another_type_is_left(kind: int) -> None:
    assert "its mask is of" in left(attention((kind, [N, M])))


def test_a_constant_mask_of_the_lowest_number_makes_no_nan_in_half_precision() -> None:
    """Its sum with a negative score is beyond the type."""
    half = TensorProto.FLOAT16
    shapes = [helper.make_tensor_value_info(name, half, [1, 1, 2, D]) for name in "qkv"]
    mask = numpy_helper.from_array(np.full((2, 2), np.finfo(np.float16).min, np.float16), "m")
    node = helper.make_node("Attention", ["q", "k", "v", "m"], ["y"], name="attend")
    output = helper.make_tensor_value_info("y", half, [1, 1, 2, D])
    graph = helper.make_graph([node], "attend", shapes, [output], [mask])
    proto = ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=11))
    assert [change.left for change in rewrite(proto, Target.ONNXRUNTIME)] == [""]
    query, key = np.full((1, 1, 2, D), 4, np.float16), np.full((1, 1, 2, D), -4, np.float16)
    found = open_session(ir.to_proto(proto).SerializeToString()).run({"q": query, "k": key, "v": query})["y"]
    assert np.isfinite(found).all()
