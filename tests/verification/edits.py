"""Files of a tiny model, and edits that make them wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from tests import tiny
from tofu_export.compare.decisions import Decisions
from tofu_export.options import BatchRange, Precision, Reduction, Target
from tofu_export.verification.eager import verify
from tofu_export.verification.result import VerificationResult

AMOUNTS = (3, 2, 4)

SOME = Reduction(r=AMOUNTS, pattern="PAM")

TOME = Reduction(r=AMOUNTS, pattern="TTT")

BATCH = BatchRange(1, 2, 3)

Array = NDArray[Any]

Mutation = Callable[[onnx.ModelProto], None]


def write(folder: Path, proto: onnx.ModelProto, name: str = "model.onnx") -> Path:
    path = folder / name
    path.write_bytes(proto.SerializeToString())
    return path


def file_of(
    folder: Path,
    name: str = "cls",
    reduction: Reduction = SOME,
    mutation: Mutation | None = None,
    target: Target = Target.PORTABLE,
    precision: Precision = Precision.FP32,
    *,
    token_map: bool = False,
) -> Path:
    """A lowered file, changed by `mutation`."""
    return written(folder, tiny.lowered(name, reduction, target, precision=precision, token_map=token_map), mutation)


def written(folder: Path, graph: ir.Model, mutation: Mutation | None = None) -> Path:
    """A graph as a file, changed by `mutation`."""
    proto = ir.to_proto(graph)
    if mutation is not None:
        before = proto.SerializeToString()
        mutation(proto)
        assert proto.SerializeToString() != before
    return write(folder, proto)


def node(proto: onnx.ModelProto, name: str) -> onnx.NodeProto:
    (found,) = (entry for entry in proto.graph.node if entry.name == name)
    return found


def constant(proto: onnx.ModelProto, name: str) -> onnx.TensorProto:
    (found,) = (entry for entry in proto.graph.initializer if entry.name == name)
    return found


def change(proto: onnx.ModelProto, owner: str, index: int, edit: Callable[[Array], Array]) -> None:
    """Give one node a constant of its own: others may share the one that it has."""
    consumer = node(proto, owner)
    value = numpy_helper.to_array(constant(proto, consumer.input[index])).copy()
    name = f"mutant/{owner}/{index}"
    proto.graph.initializer.append(numpy_helper.from_array(edit(value), name))
    consumer.input[index] = name


def set_attribute(of: onnx.NodeProto, name: str, value: int) -> None:
    kept = [each for each in of.attribute if each.name != name]
    del of.attribute[:]
    of.attribute.extend([*kept, helper.make_attribute(name, value)])


def one_weight(value: Array) -> Array:
    value[3, 5] += 0.5
    return value


def corrupted_weight(proto: onnx.ModelProto) -> None:
    change(proto, "blocks.2.mlp.fc1/MatMul", 1, one_weight)


def corrupted_first_weight(proto: onnx.ModelProto) -> None:
    change(proto, "blocks.0.attn.qkv/MatMul", 1, one_weight)


def swapped_layers(proto: onnx.ModelProto) -> None:
    one, other = node(proto, "blocks.1.mlp.fc1/MatMul"), node(proto, "blocks.2.mlp.fc1/MatMul")
    one.input[1], other.input[1] = other.input[1], one.input[1]


def shifted_kept(proto: onnx.ModelProto) -> None:
    change(proto, "blocks.0/fuse/tokens/kept/position", 1, lambda value: value - 1)


def shifted_joining(proto: onnx.ModelProto) -> None:
    # not in the last block: a class token does not see what merges there
    change(proto, "blocks.1/fuse/tokens/joining", 1, lambda value: value - 1)
    change(proto, "blocks.1/fuse/tokens/joining", 2, lambda value: np.array([13], dtype=np.int64))


def shifted_destinations(proto: onnx.ModelProto) -> None:
    # one less at the end, so that the count stays: 0, 2, 4, ... in place of 1, 3, 5, ...
    change(proto, "blocks.0/fuse/tokens/destinations", 1, lambda value: value - 1)
    change(proto, "blocks.0/fuse/tokens/destinations", 2, lambda value: np.array([16], dtype=np.int64))


def other_order(proto: onnx.ModelProto) -> None:
    concat = node(proto, "blocks.0/fuse/tokens")
    concat.input[1], concat.input[2] = concat.input[2], concat.input[1]


def least_similar(proto: onnx.ModelProto) -> None:
    if "blocks.1/fuse/match/sorted" in {entry.name for entry in proto.graph.node}:
        sort = node(proto, "blocks.1/fuse/match/sorted")
        (largest,) = (entry for entry in sort.attribute if entry.name == "largest")
        largest.i = 0
    else:
        node(proto, "blocks.1/fuse/match/more").op_type = "Less"


def farthest(proto: onnx.ModelProto) -> None:
    if "blocks.1/fuse/match/lowest" not in {entry.name for entry in proto.graph.node}:
        node(proto, "blocks.1/fuse/match/nearest").op_type = "ArgMin"
        return
    met, best = node(proto, "blocks.1/fuse/match/met"), node(proto, "blocks.1/fuse/match/best")
    least = helper.make_node("ReduceMin", best.input, ["least"], name="least", keepdims=1)
    met.input[1] = "least"
    proto.graph.node.insert(list(proto.graph.node).index(met), least)


def not_normalised(proto: onnx.ModelProto) -> None:
    for entry in proto.graph.node:
        for index, name in enumerate(entry.input):
            if name == "blocks.1/fuse/match/scaled":
                entry.input[index] = "blocks.1/fuse/match/product"
            if name == "blocks.1/fuse/match/cosine":
                entry.input[index] = "blocks.1/fuse/match/best"


def unsorted(proto: onnx.ModelProto) -> None:
    if "blocks.0/fuse/match/staying" in {entry.name for entry in proto.graph.node if entry.op_type == "Where"}:
        change(proto, "blocks.0/fuse/match/staying", 2, lambda value: value[:, ::-1].copy())
    else:
        sort = node(proto, "blocks.0/fuse/match/kept")
        sort.CopyFrom(helper.make_node("Identity", sort.input[:1], sort.output[:1], name=sort.name))


def nan_bias(proto: onnx.ModelProto) -> None:
    change(proto, "head/Gemm", 2, lambda value: np.full_like(value, np.nan))


def infinite_bias(proto: onnx.ModelProto) -> None:
    change(proto, "head/Gemm", 2, lambda value: np.full_like(value, np.inf))


def tilted_scores(tilt: float | Array) -> Mutation:
    """Add a constant to every source's score in layer 0; a number means that many times the source's index."""
    constants = np.arange(8) * tilt if isinstance(tilt, float) else tilt

    def mutate(proto: onnx.ModelProto) -> None:
        graph = proto.graph
        cosine = node(proto, "blocks.0/fuse/match/cosine")
        graph.initializer.append(numpy_helper.from_array(constants.astype(np.float32)[:, None], "tilt"))
        tilted = helper.make_node("Add", ["straight", "tilt"], list(cosine.output), name="tilt")
        cosine.output[0] = "straight"
        graph.node.insert(list(graph.node).index(cosine) + 1, tilted)

    return mutate


def renamed(old: str) -> Mutation:
    def mutate(proto: onnx.ModelProto) -> None:
        for entry in proto.graph.node:
            for names in (entry.input, entry.output):
                for index, name in enumerate(names):
                    if name == old:
                        names[index] = "elsewhere"

    return mutate


def checked(
    path: Path,
    model: torch.nn.Module,
    *,
    precision: Precision = Precision.FP32,
    batch: BatchRange = BATCH,
    pixels: Array | None = None,
    **kwargs: Any,
) -> VerificationResult:
    """Verify, and hold what is true of every result."""
    before = sorted(file.name for file in path.parent.iterdir())
    pixels = tiny.pixels(8) if pixels is None else pixels
    try:
        result = verify(path, model, pixels, precision=precision, batch=batch, source="noise", **kwargs)
    finally:
        assert sorted(file.name for file in path.parent.iterdir()) == before
    entry = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert entry["passed"] is result.passed
    assert ("FAILED" in str(result)) is not result.passed
    decisions = result.decisions
    assert decisions.flips == decisions.near_tie_flips + decisions.wrong
    return result


def decisions(kept: list[int], matched: list[int], target: list[int] | None) -> Decisions:
    return Decisions(
        np.array([kept], dtype=np.int64),
        np.array([matched], dtype=np.int64),
        None if target is None else np.array([target], dtype=np.int64),
    )
