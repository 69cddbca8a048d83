"""Conditions on what TensorRT-RTX's parser imports, and in which forms."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto

from tofu_export.linting.conditions import CONTRIB_DOMAINS, custom_domain
from tofu_export.linting.finding import Condition
from tofu_export.linting.graph import DEFAULT_DOMAINS, Scope, attribute_int, attribute_ints, attribute_text
from tofu_export.linting.parser_table import IMPORTED, NEEDS_PLUGIN, PLAIN_ZERO_POINTS, QUANTIZED_TYPES, TYPES

__all__ = [
    "becomes_int8",
    "branches_differ",
    "broadcasts_the_old_way",
    "circular_cache",
    "clips_int8",
    "depth_of_no_size",
    "dilated",
    "given_in_fp32",
    "in_a_branch",
    "loop_without_condition",
    "more_outputs",
    "needs_plugin",
    "norm_of_another_order",
    "not_constant",
    "not_imported",
    "of_no_type",
    "other_resize",
    "quantized_by_a_cast",
    "reads_a_quantized_constant",
    "scale_not_positive",
    "slices_axes_that_are_not_said",
    "trains_batches",
    "unsigned",
    "whole_remainder",
    "with_softcap",
]

_ELEMENTWISE_OPSET = 7
"""First opset with numpy's broadcasting."""

_UINT8_INPUTS = frozenset(
    {"Cast", "CastLike", "Concat", "Equal", "Expand", "Flatten", "Gather", "GatherElements",
     "GatherND", "Identity", "Reshape", "Shape", "Size", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"}
)  # fmt: skip
"""Operators that accept 8-bit unsigned integers."""

_READ_QUANTIZED = frozenset({"DequantizeLinear", "QuantizeLinear", "Shape", "Size"})
"""Operators that may read a constant in INT8, FP8 or INT4."""

_COORDINATES = ("align_corners", "asymmetric", "half_pixel", "pytorch_half_pixel", "tf_half_pixel_for_nn")


def not_imported(node: onnx.NodeProto, scope: Scope) -> str | None:
    """Report an operator without an importer, neither public nor the file's own."""
    if (node.domain, node.op_type) in scope.functions or node.domain in ("tofu", *CONTRIB_DOMAINS):
        return None
    if node.domain in DEFAULT_DOMAINS:
        return None if node.op_type in IMPORTED else "has no importer in the parser"
    return None if custom_domain(node, scope) else f"is of the domain {node.domain!r}, of which the parser has nothing"


def needs_plugin(node: onnx.NodeProto, scope: Scope) -> str | None:
    """Report an operator that is parsed to a missing plugin."""
    return "needs a plugin that TensorRT-RTX does not have" if node.op_type in NEEDS_PLUGIN else None


def of_no_type(node: onnx.NodeProto, scope: Scope) -> str | None:
    """Report an operator that reads or makes a tensor of a type that the parser does not know."""
    for name in (*node.input, *node.output):
        dtype = scope.dtypes.get(name, 0)
        if dtype and dtype not in TYPES:
            return f"has {name!r} in {TensorProto.DataType.Name(dtype)}, a type that TensorRT does not have"
    return None


def quantized_by_a_cast(node: onnx.NodeProto, scope: Scope) -> str | None:
    """Report a cast from or to a type that is only for quantised numbers."""
    types = {scope.dtypes.get(name, 0) for name in (*node.input[:1], *node.output)}
    found = types & QUANTIZED_TYPES
    if not found:
        return None
    name = TensorProto.DataType.Name(found.pop())
    return f"casts {name}, which only QuantizeLinear may make and DequantizeLinear read"


def unsigned(node: onnx.NodeProto, scope: Scope) -> str | None:
    """Report arithmetic in 8-bit unsigned integers, or such integers inside the graph."""
    if node.op_type == "DequantizeLinear" and scope.made_by(node.input[0]) == "QuantizeLinear":
        return None  # both become INT8, which `becomes_int8` is about
    if scope.dtype(node) == TensorProto.UINT8 and node.op_type not in _UINT8_INPUTS:
        return "is not possible in UINT8"
    if node.op_type in ("Cast", "CastLike") and any(
        scope.dtypes.get(name) == TensorProto.UINT8 and name not in scope.results for name in node.output
    ):
        return "makes UINT8 numbers inside of the graph, where TensorRT has none"
    return None


def becomes_int8(node: onnx.NodeProto, scope: Scope) -> str | None:
    """Report a quantisation to UINT8, which the parser takes for one to INT8."""
    if scope.dtypes.get(node.output[0]) != TensorProto.UINT8:
        return None
    return "gives UINT8, which is computed in INT8: what is above 127 steps is cut off"


def not_constant(place: int, what: str) -> Condition:
    """Return a condition on inputs that depend on the graph's inputs although the parser needs their values."""

    def problem(node: onnx.NodeProto, scope: Scope) -> str | None:
        if len(node.input) <= place or scope.is_computable(node.input[place]):
            return None
        if scope.dtypes.get(node.input[place]) in PLAIN_ZERO_POINTS:
            return None
        return f"has {what} {node.input[place]!r} that are known when the file runs, and not before"

    return problem


def given_in_fp32(node: onnx.NodeProto, scope: Scope) -> str | None:
    """Report a Range in FP32 with a bound that is an input of the graph: sizes must be integers."""
    given = [name for name in node.input if name not in scope.makers and not scope.is_computable(name)]
    if not given or scope.dtype(node) != TensorProto.FLOAT:
        return None
    return f"has a bound {given[0]!r} that is an input in FP32"


def depth_of_no_size(node: onnx.NodeProto, scope: Scope) -> str | None:
    """Report a OneHot whose depth is known only at run time and is not an integer, as sizes are."""
    if len(node.input) < 2 or scope.is_computable(node.input[1]):
        return None
    whole = scope.dtypes.get(node.input[1]) in (None, TensorProto.INT32, TensorProto.INT64)
    return None if whole else f"has a depth {node.input[1]!r} that is known when the file runs, and no whole number"


def clips_int8(node: onnx.NodeProto, scope: Scope) -> str | None:
    """Report a Clip of INT8 whose bounds are known only at run time."""
    if scope.dtype(node) != TensorProto.INT8 or all(scope.is_computable(name) for name in node.input[1:]):
        return None
    return "is of INT8, with bounds that are known when the file runs, and not before"


def whole_remainder(node: onnx.NodeProto, scope: Scope) -> str | None:
    """Report a Mod with Python's semantics, in other types than INT32 and INT64."""
    dtype = scope.dtype(node)
    if attribute_int(node, "fmod") or dtype in (None, TensorProto.INT32, TensorProto.INT64):
        return None
    return f"is of {TensorProto.DataType.Name(dtype)} with fmod 0, which is for INT32 and INT64"


def other_resize(node: onnx.NodeProto, scope: Scope) -> str | None:
    """Report a Resize in a mode that the parser does not support."""
    mode = attribute_text(node, "coordinate_transformation_mode", "half_pixel")
    if node.op_type == "Resize" and mode not in _COORDINATES:
        return f"has coordinate_transformation_mode {mode!r}, expected one of {', '.join(_COORDINATES)}"
    policy = attribute_text(node, "keep_aspect_ratio_policy", "stretch")
    if policy != "stretch":
        return f"has keep_aspect_ratio_policy {policy!r}, expected 'stretch'"
    scales = node.input[2] if node.op_type == "Resize" and len(node.input) > 2 else ""  # input, region, scales, sizes
    scales = node.input[1] if node.op_type == "Upsample" and len(node.input) > 1 else scales
    if scales and not scope.is_computable(scales):
        return f"has scales {scales!r} that are known when the file runs, and not before"
    axes, shape = attribute_ints(node, "axes"), scope.shapes.get(node.input[0])
    if scales and axes and shape is not None and list(axes) != list(range(len(shape))):
        return f"has scales for the axes {list(axes)} alone"
    return None


def broadcasts_the_old_way(node: onnx.NodeProto, scope: Scope) -> str | None:
    """Report arithmetic of an opset before numpy's broadcasting rules."""
    if scope.opset >= _ELEMENTWISE_OPSET:
        return None
    return f"is of opset {scope.opset}, before broadcasting was that of numpy"


def more_outputs(node: onnx.NodeProto, scope: Scope) -> str | None:
    """Report a node of which more than the first output is used."""
    used = [name for name in node.output[1:] if name]
    return f"has the output {used[0]!r}, and TensorRT computes the first 1 alone" if used else None


def trains_batches(node: onnx.NodeProto, scope: Scope) -> str | None:
    """Report a BatchNormalization that takes its statistics from the batch."""
    return "is in training mode" if attribute_int(node, "training_mode") else None


def dilated(node: onnx.NodeProto, scope: Scope) -> str | None:
    """Report a pooling with dilation."""
    dilations = attribute_ints(node, "dilations")
    return f"has dilations {list(dilations)}" if any(step != 1 for step in dilations) else None


def norm_of_another_order(node: onnx.NodeProto, scope: Scope) -> str | None:
    """Report a pooling by a norm other than the first two."""
    order = attribute_int(node, "p")
    return None if order in (None, 1, 2) else f"has p = {order}, TensorRT has the norms of order 1 and 2"


def circular_cache(node: onnx.NodeProto, scope: Scope) -> str | None:
    """Report a TensorScatter that TensorRT's cache does not support."""
    mode = attribute_text(node, "mode", "linear")
    if mode != "linear":
        return f"has mode {mode!r}, TensorRT has 'linear' alone"
    shape = scope.shapes.get(node.input[0])
    return None if shape is None or len(shape) == 4 else f"has a cache of {len(shape)} axes, TensorRT's has 4"


def in_a_branch(node: onnx.NodeProto, scope: Scope) -> str | None:
    """Report a node in a sub-graph."""
    return "stands in a branch or a loop, where the builder fails with it" if scope.depth else None


def with_softcap(node: onnx.NodeProto, scope: Scope) -> str | None:
    """Report an Attention that bounds its scores, or whose heads are too narrow for a fused kernel."""
    capped = any(attribute.name == "softcap" and attribute.f for attribute in node.attribute)
    return "attribute softcap is not supported" if capped else None


def scale_not_positive(node: onnx.NodeProto, scope: Scope) -> str | None:
    """Report a quantisation by a scale of 0, below 0, or NaN."""
    scale = scope.array(node.input[1]) if len(node.input) > 1 else None
    return None if scale is None or (scale.astype(np.float64) > 0).all() else "has a scale that is not above 0"


def reads_a_quantized_constant(node: onnx.NodeProto, scope: Scope) -> str | None:
    """Report a constant of a type for quantised numbers that something else reads than a dequantisation."""
    if node.op_type in _READ_QUANTIZED:
        return None
    for name in node.input:
        if name in scope.constants and scope.dtypes.get(name) in (TensorProto.INT8, *QUANTIZED_TYPES):
            return f"reads the constant {name!r} in {TensorProto.DataType.Name(scope.dtypes[name])}"
    return None


def branches_differ(node: onnx.NodeProto, scope: Scope) -> str | None:
    """Report branches whose results differ in type or rank, unless it is known before the run which one is taken."""
    if not node.input or scope.is_computable(node.input[0]):
        return None
    branches = [attribute.g.output for attribute in node.attribute if attribute.HasField("g")]
    for results in zip(*branches, strict=False):
        kinds = [result.type.tensor_type for result in results]
        types = {kind.elem_type for kind in kinds if kind.elem_type}
        ranks = {len(kind.shape.dim) for kind in kinds if kind.HasField("shape")}
        if len(types) > 1 or len(ranks) > 1:
            what = "ranks" if len(ranks) > 1 else "types"
            return f"has branches that give {' and '.join(result.name for result in results)}, of different {what}"
    return None


def loop_without_condition(node: onnx.NodeProto, scope: Scope) -> str | None:
    """Report a Loop that leaves its condition out."""
    return None if len(node.input) > 1 and node.input[1] else "leaves its condition out"


def slices_axes_that_are_not_said(node: onnx.NodeProto, scope: Scope) -> str | None:
    """Report a Slice of the first axes that does not name them."""
    if len(node.input) < 2 or (len(node.input) > 3 and node.input[3]):
        return None
    data, starts = (scope.shapes.get(name) for name in node.input[:2])
    if data is None or starts is None or len(starts) != 1 or not isinstance(starts[0], int) or starts[0] == len(data):
        return None
    return f"slices {starts[0]} of {len(data)} axes without their names"
