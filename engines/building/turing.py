"""Rewrite FP32 matrix products of activations for SM75, which has none, as sums of element products.

TensorRT-RTX has no FP32 GEMM for Turing, and an FP16 file of Token Fusion keeps one in FP32, the similarity of keys.
`Mul` and `ReduceSum` do build there. The rewritten file refers to the existing weights, so nothing is copied.

Reason: "Cannot compile operation for Turing (SM75): FP32 GEMM is not supported" (TensorRT-RTX 1.7.1). Remove when it
has one.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tofu_export.artifact.external import external_files
from tofu_export.errors import EngineBuildError
from tofu_export.linting.graph import infer
from tofu_export.linting.onnx_files import default_opset

__all__ = ["pairwise_products", "write_beside_links"]

_AXES_AS_INPUTS = 13
"""Opset from which Unsqueeze and ReduceSum take their axes as inputs."""


def pairwise_products(model: onnx.ModelProto) -> tuple[str, ...]:
    """Rewrite, in place, every FP32 MatMul of two activations of equal rank; return the names of those nodes.

    `[.., M, K] @ [.., K, N]` becomes the sum over K of `[.., M, 1, K] * [.., 1, N, K]`. Products with weights stay: a
    file with such products in FP32 is an FP32 file, which SM75 does not run.
    """
    if (default_opset(model) or 0) < _AXES_AS_INPUTS:
        return ()
    known = infer(model).graph
    ranks = {
        value.name: len(value.type.tensor_type.shape.dim)
        for value in (*known.input, *known.value_info, *known.output)
        if value.type.tensor_type.elem_type == TensorProto.FLOAT and value.type.tensor_type.HasField("shape")
    }
    constants = {tensor.name for tensor in model.graph.initializer}
    constants |= {node.output[0] for node in model.graph.node if node.op_type == "Constant"}
    rewritten: list[str] = []
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        rank = ranks.get(node.input[0], 0) if node.op_type == "MatMul" and node.domain in ("", "ai.onnx") else 0
        if rank < 2 or ranks.get(node.input[1]) != rank or constants & set(node.input):
            nodes.append(node)
            continue
        nodes += _summed(node, rank)
        rewritten.append(node.name or node.output[0])
    if rewritten:
        del model.graph.node[:]
        model.graph.node.extend(nodes)
        model.graph.initializer.extend(
            numpy_helper.from_array(np.array([axis], np.int64), _axis(axis)) for axis in (-1, -2, -3)
        )
    return tuple(rewritten)


def write_beside_links(model: onnx.ModelProto, source: Path, folder: Path) -> Path:
    """Write a model that was read from `source` without weights into a folder, with links to its weight files.

    Raises:
        EngineBuildError: weights are in a subfolder, which this does not link.
        OSError: the folder cannot be written.
    """
    for location in external_files(model):
        if Path(location).name != location:
            raise EngineBuildError(f"{source} keeps weights in {location!r}: put them beside it")
        (folder / location).symlink_to(source.parent / location)
    path = folder / f"rewritten-{source.name}"
    path.write_bytes(model.SerializeToString())
    return path


def _summed(node: onnx.NodeProto, rank: int) -> list[onnx.NodeProto]:
    name, (left, right), (output,) = node.name or node.output[0], node.input, node.output
    swapped = [*range(rank - 2), rank - 1, rank - 2]
    steps = [
        helper.make_node("Unsqueeze", [left, _axis(-2)], [f"{name}/rows"]),
        helper.make_node("Transpose", [right], [f"{name}/across"], perm=swapped),
        helper.make_node("Unsqueeze", [f"{name}/across", _axis(-3)], [f"{name}/columns"]),
        helper.make_node("Mul", [f"{name}/rows", f"{name}/columns"], [f"{name}/pairs"]),
        helper.make_node("ReduceSum", [f"{name}/pairs", _axis(-1)], [output], keepdims=0),
    ]
    for step in steps:
        step.name = name if step.op_type == "ReduceSum" else step.output[0]
        step.metadata_props.extend(node.metadata_props)
    return steps


def _axis(axis: int) -> str:
    return f"tofu_export/axis{axis}"
