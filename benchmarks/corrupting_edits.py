"""Edits of a graph, its constants or its metadata, as a faulty exporter, rewriter or quantiser would make them.

`CORRUPTIONS` has them by name; `corruptions.py` finds out which of them verification sees.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper, numpy_helper

Array = NDArray[Any]
Edit = Callable[[ModelProto], None]

BLOCK, OTHER, PRUNING = 7, 8, 1
"""The block that is corrupted, another one, and one that prunes."""

E4M3_LARGEST = 448
"""Largest number of FP8."""


class NotHereError(Exception):
    """The file has no place for this corruption."""


# --- Finding and changing things in a graph ------------------------------------------------------------------------


def node(proto: ModelProto, name: str) -> NodeProto:
    """The node of this name."""
    found: list[NodeProto] = [entry for entry in proto.graph.node if entry.name == name]
    if not found:
        raise NotHereError
    (entry,) = found
    return entry


def nodes(proto: ModelProto, ending: str) -> list[NodeProto]:
    """The nodes whose names end like this."""
    found = [entry for entry in proto.graph.node if entry.name.endswith(ending)]
    if not found:
        raise NotHereError
    return found


def tensor(proto: ModelProto, name: str) -> onnx.TensorProto:
    """The initializer of this name."""
    found: list[onnx.TensorProto] = [entry for entry in proto.graph.initializer if entry.name == name]
    if not found:
        raise NotHereError
    (entry,) = found
    return entry


def constant(proto: ModelProto, entry: NodeProto, index: int, edit: Callable[[Array], Array]) -> None:
    """Give a node a changed copy of its constant input; a quantised weight is quantised again."""
    source = entry.input[index]
    maker = next((other for other in proto.graph.node if source in other.output), None)
    if maker is None:
        array = numpy_helper.to_array(tensor(proto, source))
        entry.input[index] = add(proto, edit(np.array(array, np.float32)).astype(array.dtype))
        return
    if maker.op_type != "DequantizeLinear":
        raise NotHereError
    steps, scales = (numpy_helper.to_array(tensor(proto, name)) for name in maker.input[:2])
    weight = edit(steps.astype(np.float32) * scales.astype(np.float32))
    whole = steps.dtype == np.int8
    wide = np.abs(weight).max(axis=0) / np.float32(127 if whole else E4M3_LARGEST)
    changed = weight / wide
    maker.input[0] = add(proto, (np.rint(changed) if whole else changed).astype(steps.dtype))
    maker.input[1] = add(proto, wide.astype(scales.dtype))


def add(proto: ModelProto, array: Any) -> str:
    """Add an initializer."""
    name = f"corrupted_{len(proto.graph.initializer)}"
    proto.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    return name


def real(proto: ModelProto, value: float, wide: bool = False) -> str:
    """Add a number in the precision of the file, or in FP32."""
    halves = any(entry.data_type == onnx.TensorProto.FLOAT16 for entry in proto.graph.initializer)
    return add(proto, np.array(value, np.float16 if halves and not wide else np.float32))


def put(proto: ModelProto, before: NodeProto, op_type: str, inputs: Sequence[str], **attributes: Any) -> str:
    """Add a node before another one, and return its output."""
    name = f"corrupted_node_{len(proto.graph.node)}"
    made = helper.make_node(op_type, list(inputs), [name], name=name, **attributes)
    proto.graph.node.insert(
        next(i for i, entry in enumerate(proto.graph.node) if entry is before or entry == before), made
    )
    return name


def become(entry: NodeProto, op_type: str, *inputs: str, **attributes: Any) -> None:
    """Make another node of one, with the same output."""
    entry.CopyFrom(helper.make_node(op_type, list(inputs), list(entry.output), name=entry.name, **attributes))


def skip(name: str, index: int = 0) -> Edit:
    """Replace a node by one of its inputs."""

    def edit(proto: ModelProto) -> None:
        entry = node(proto, name)
        become(entry, "Identity", entry.input[index])

    return edit


def every(ending: str, edit: Callable[[ModelProto, NodeProto], None]) -> Edit:
    """Do it to all nodes whose names end like this."""

    def all_of_them(proto: ModelProto) -> None:
        for entry in nodes(proto, ending):
            edit(proto, entry)

    return all_of_them


def one(name: str, edit: Callable[[ModelProto, NodeProto], None]) -> Edit:
    """Do it to the node of this name."""
    return lambda proto: edit(proto, node(proto, name))


def weight(name: str, index: int, edit: Callable[[Array], Array]) -> Edit:
    """Change a constant of a node."""
    return lambda proto: constant(proto, node(proto, name), index, edit)


def bias(name: str) -> Edit:
    """Drop a bias: the constant input of an Add."""

    def edit(proto: ModelProto) -> None:
        entry = node(proto, name)
        names = {each.name for each in proto.graph.initializer}
        for index, source in enumerate(entry.input):
            if source in names:
                constant(proto, entry, index, np.zeros_like)
                return
        raise NotHereError

    return edit


# --- What can go wrong ---------------------------------------------------------------------------------------------


def average(proto: ModelProto, mlerp: NodeProto) -> None:
    """The mean in place of MLERP."""
    become(mlerp, "Identity", mlerp.input[0])


def unweighted(proto: ModelProto) -> None:
    """Every token counts once in the mean, however many patches it stands for."""
    stage = f"blocks.{BLOCK}/fuse/merge"
    theirs, own = node(proto, f"{stage}/weights"), node(proto, f"{stage}/own")
    onehot = node(proto, f"{stage}/onehot").output[0]
    axis = add(proto, np.array([-1], np.int64))
    added = put(proto, theirs, "ReduceSum", [onehot, axis], keepdims=1)
    total = put(proto, theirs, "Add", [added, real(proto, 1, wide=True)])
    theirs.input[:] = [onehot, total]
    ones = put(proto, own, "Div", [own.input[0], own.input[0]])
    own.input[:] = [ones, total]


def one_fewer(proto: ModelProto) -> None:
    """The last of the r sources leaves, but its destination does not take it in."""
    stage = f"blocks.{BLOCK}/fuse/match"
    leaves, joins = node(proto, f"{stage}/leaves"), node(proto, f"{stage}/joins")
    removed = numpy_helper.to_array(tensor(proto, leaves.input[1]))
    joins.input[0] = put(proto, joins, "Less", [leaves.input[0], add(proto, removed - 1)])


def patch_for_class(proto: ModelProto, prefix: NodeProto) -> None:
    """The first patch in place of the class token."""
    prefix.input[1:3] = [add(proto, np.array([1])), add(proto, np.array([2]))]


def later_first(proto: ModelProto, tied: NodeProto) -> None:
    """Of two equal sources the later one goes first."""
    tied.input[1] = add(proto, numpy_helper.to_array(tensor(proto, tied.input[1])).swapaxes(1, 2))


def scaled_log(proto: ModelProto, log: NodeProto) -> None:
    """A logarithm to base 2."""
    output = log.output[0]
    log.output[0] = f"{output}_natural"
    at = next(index for index, entry in enumerate(proto.graph.node) if entry == log)
    base = real(proto, 1 / np.log(2), wide=True)
    proto.graph.node.insert(at + 1, helper.make_node("Mul", [log.output[0], base], [output], name=f"{log.name}2"))


def from_queries(proto: ModelProto) -> None:
    """Queries in place of keys decide what is similar."""
    keys = node(proto, f"blocks.{BLOCK}/ReduceMean")
    keys.input[0] = node(proto, f"blocks.{BLOCK}.attn/BiasedAttention/queries").input[0]


def exchanged(proto: ModelProto) -> None:
    """Queries and keys take each other's place in the attention."""
    queries = node(proto, f"blocks.{BLOCK}.attn/BiasedAttention/queries")
    keys = node(proto, f"blocks.{BLOCK}.attn/BiasedAttention/keys")
    queries.input[0], keys.input[0] = keys.input[0], queries.input[0]


def interleaved(array: Array) -> Array:
    """Rows of [H, D] in the order [D, H]."""
    heads = 4 if len(array) % 4 == 0 else 3
    return array.reshape(heads, len(array) // heads, -1).transpose(1, 0, 2).reshape(array.shape)


def epsilon(proto: ModelProto, norm: NodeProto) -> None:
    """PyTorch's default in place of timm's."""
    for attribute in norm.attribute:
        if attribute.name == "epsilon":
            attribute.f = 1e-5


def norms_exchanged(proto: ModelProto) -> None:
    """The two norms of a block take each other's scale."""
    first, second = (node(proto, f"blocks.{BLOCK}.norm{number}/LayerNormalization") for number in (1, 2))
    first.input[1], second.input[1] = second.input[1], first.input[1]


def quick(proto: ModelProto, activated: NodeProto) -> None:
    """X sigmoid(1.702 x) in place of GELU."""
    source = _gelu_input(proto, activated)
    gate = put(proto, activated, "Sigmoid", [put(proto, activated, "Mul", [source, real(proto, 1.702)])])
    become(activated, "Mul", source, gate)


def tanh(proto: ModelProto, activated: NodeProto) -> None:
    """The approximation of GELU by tanh."""
    source = _gelu_input(proto, activated)
    square = put(proto, activated, "Mul", [source, source])
    inner = put(
        proto, activated, "Add", [put(proto, activated, "Mul", [square, real(proto, 0.044715)]), real(proto, 1)]
    )
    inner = put(
        proto, activated, "Mul", [put(proto, activated, "Mul", [inner, source]), real(proto, (2 / np.pi) ** 0.5)]
    )
    gate = put(proto, activated, "Add", [put(proto, activated, "Tanh", [inner]), real(proto, 1)])
    become(activated, "Mul", put(proto, activated, "Mul", [source, real(proto, 0.5)]), gate)


def _gelu_input(proto: ModelProto, activated: NodeProto) -> str:
    return str(node(proto, activated.name.replace("/activated", "/scaled")).input[0])


def first_larger(array: Array) -> Array:
    """One row 5 % larger."""
    changed = array.copy()
    changed[len(changed) // 2] *= 1.05
    return changed


def swapped(array: Array) -> Array:
    """Two rows in each other's place."""
    changed = array.copy()
    changed[[2, 5]] = changed[[5, 2]]
    return changed


def without_keys(array: Array) -> Array:
    """A bias of queries, keys and values without that of the keys."""
    changed = array.copy()
    third = len(array) // 3
    changed[third : 2 * third] = 0
    return changed


def shorter_residual(proto: ModelProto) -> None:
    """What the MLP adds to its tokens, 1 % smaller."""
    total = node(proto, f"blocks.{BLOCK}/Add_1")
    total.input[1] = put(proto, total, "Mul", [total.input[1], real(proto, 0.99)])


def fewer_pooled(proto: ModelProto) -> None:
    """The mean over all tokens but the first."""
    pool = next((entry for entry in proto.graph.node if entry.op_type == "ReduceMean" and "/" in entry.name
                 and not entry.name.startswith("blocks")), None)  # fmt: skip
    if pool is None:
        raise NotHereError
    bounds = [add(proto, np.array([value], np.int64)) for value in (1, 2**31, 1)]
    pool.input[0] = put(proto, pool, "Slice", [pool.input[0], *bounds])


def quantiser(proto: ModelProto, block: int, layer: str, which: str) -> NodeProto:
    """The DequantizeLinear of the `input` or `weight` of a product."""
    return node(proto, f"blocks.{block}.{layer}/MatMul_{which}_DequantizeLinear")


def weight_scales(edit: Callable[[Array], Array], layer: str = "mlp.fc1") -> Edit:
    """Change the scales of a weight's columns."""

    def corrupt(proto: ModelProto) -> None:
        wide = quantiser(proto, BLOCK, layer, "weight")
        scales = numpy_helper.to_array(tensor(proto, wide.input[1]))
        wide.input[1] = add(proto, edit(scales).astype(scales.dtype))

    return corrupt


def scales_exchanged(which: str, layer: str, other: str) -> Edit:
    """Two products take each other's scales."""

    def corrupt(proto: ModelProto) -> None:
        names = {name: f"blocks.{block}.{kind}/MatMul_{which}_" for name, block, kind in
                 (("first", BLOCK, layer), ("second", OTHER, other))}  # fmt: skip
        pairs = [[entry for entry in proto.graph.node if entry.name.startswith(name)] for name in names.values()]
        if not all(pairs):
            raise NotHereError
        scales = [entries[0].input[1] for entries in pairs]
        for entries, scale in zip(pairs, reversed(scales), strict=True):
            for entry in entries:
                entry.input[1] = scale

    return corrupt


def input_scale(factor: float) -> Edit:
    """Change the scale of an activation."""

    def corrupt(proto: ModelProto) -> None:
        for entry in _input_quantisers(proto, "mlp.fc2"):
            scale = numpy_helper.to_array(tensor(proto, entry.input[1]))
            entry.input[1] = add(proto, (scale * factor).astype(scale.dtype))

    return corrupt


def input_zero(proto: ModelProto) -> None:
    """A zero point that is not 0."""
    for entry in _input_quantisers(proto, "mlp.fc2")[1:]:
        zero = numpy_helper.to_array(tensor(proto, entry.input[2]))
        entry.input[2] = add(proto, np.ones_like(zero))


def _input_quantisers(proto: ModelProto, layer: str) -> list[NodeProto]:
    stage = f"blocks.{BLOCK}.{layer}/MatMul_input_"
    return [node(proto, f"{stage}{kind}") for kind in ("QuantizeLinear", "DequantizeLinear")]


def other_axis(proto: ModelProto) -> None:
    """The scales of a weight along its rows."""
    for attribute in quantiser(proto, BLOCK, "attn.proj", "weight").attribute:
        if attribute.name == "axis":
            attribute.i = 0


def coarse(proto: ModelProto) -> None:
    """A weight of 6 bits."""
    wide = quantiser(proto, BLOCK, "attn.proj", "weight")
    steps, scales = (numpy_helper.to_array(tensor(proto, name)) for name in wide.input[:2])
    if steps.dtype != np.int8:
        raise NotHereError  # FP8 has its own steps
    wide.input[0] = add(proto, np.rint(steps / 4).astype(np.int8))
    wide.input[1] = add(proto, (scales * 4).astype(scales.dtype))


def smoothing_forgotten(proto: ModelProto) -> None:
    """A quarter of the channels of a norm keep the factor that the weights behind have taken over."""
    quantiser(proto, BLOCK, "mlp.fc1", "weight")
    norm = node(proto, f"blocks.{BLOCK}.norm2/LayerNormalization")
    constant(proto, norm, 2, lambda array: array * np.where(np.arange(len(array)) % 4, 1, 1.1))


def metadata(key: str, edit: Callable[[Any], Any]) -> Edit:
    """Change an entry of the preprocessing."""

    def corrupt(proto: ModelProto) -> None:
        entry = next(entry for entry in proto.metadata_props if entry.key == "tofu_export.preprocessing")
        found = json.loads(entry.value)
        if key not in found:
            raise NotHereError
        entry.value = json.dumps({**found, key: edit(found[key])})

    return corrupt


def _stage(name: str) -> str:
    return f"blocks.{BLOCK}{name}"


CORRUPTIONS: dict[str, Edit] = {
    # the reduction
    "average for MLERP, every layer": every("/fuse/merge/mlerp", average),
    "average for MLERP, one layer": one(_stage("/fuse/merge/mlerp"), average),
    "MLERP without the destination's own length": skip(_stage("/fuse/merge/longest"), 1),
    "MLERP with the destination's length alone": skip(_stage("/fuse/merge/longest"), 0),
    "mean not weighted by sizes, one layer": unweighted,
    "one of r leaves without being merged": one_fewer,
    "class token replaced by the first patch": one(_stage("/fuse/tokens/prefix"), patch_for_class),
    "later of equal sources first": one(_stage("/fuse/match/tied"), later_first),
    "similarity without the sources' norms": skip(_stage("/fuse/match/cosine")),
    "similarity of queries, not keys": from_queries,
    "sizes of pruned tokens lost": skip(f"blocks.{PRUNING}/fuse/merge/sizes"),
    # attention
    "sizes left out of one attention": skip(_stage(".attn/BiasedAttention/biased")),
    "log2 of sizes, one layer": one(_stage("/Log"), scaled_log),
    "softmax scale 2 % off, one block": weight(_stage(".attn/BiasedAttention/queries"), 1, lambda value: value * 1.02),
    "queries and keys exchanged": exchanged,
    "heads interleaved": weight(_stage(".attn.proj/MatMul"), 1, interleaved),
    "key bias dropped": weight(_stage(".attn.qkv/Add"), 1, without_keys),
    # norms and activations
    "epsilon 1e-5, every norm": every("/LayerNormalization", epsilon),
    "epsilon 1e-5, one norm": one(_stage(".norm2/LayerNormalization"), epsilon),
    "bias of one norm dropped": weight(_stage(".norm1/LayerNormalization"), 2, np.zeros_like),
    "bias of the last norm dropped": weight("norm/LayerNormalization", 2, np.zeros_like),
    "scales of two norms exchanged": norms_exchanged,
    "tanh-GELU, every block": every(".act/Gelu/activated", tanh),
    "tanh-GELU, one block": one(_stage(".mlp.act/Gelu/activated"), tanh),
    "QuickGELU, every block": every(".act/Gelu/activated", quick),
    "QuickGELU, one block": one(_stage(".mlp.act/Gelu/activated"), quick),
    "LayerScale missing, one block": skip(_stage(".ls2/Mul")),
    "MLP of one block 1 % smaller": shorter_residual,
    # weights
    "a weight 1 % larger": weight(_stage(".mlp.fc1/MatMul"), 1, lambda array: array * 1.01),
    "one row of a weight 5 % larger": weight(_stage(".mlp.fc1/MatMul"), 1, first_larger),
    "two rows of a weight swapped": weight(_stage(".mlp.fc2/MatMul"), 1, swapped),
    "bias of one projection dropped": bias(_stage(".attn.proj/Add")),
    "bias of one fc2 dropped": bias(_stage(".mlp.fc2/Add")),
    "bias of the classifier dropped": weight("head/Gemm", 2, np.zeros_like),
    "bias of the patches dropped": weight("patch_embed.proj/Conv", 2, np.zeros_like),
    "positions shifted by one": weight("model/Add", 1, lambda array: np.roll(array, 1, axis=1)),
    "no position for the class token": weight(
        "model/Add", 1, lambda array: np.where(np.arange(array.shape[1])[:, None] == 0, 0, array)
    ),
    "pooled over one token fewer": fewer_pooled,
    # quantised
    "scales of a weight reversed": weight_scales(lambda scales: scales[::-1].copy()),
    "scale of one column from its neighbour": weight_scales(lambda scales: np.r_[scales[1], scales[1:]]),
    "scales of two weights exchanged": scales_exchanged("weight", "mlp.fc1", "mlp.fc1"),
    "scales of a weight along the rows": other_axis,
    "steps of a weight four times too coarse": coarse,
    "scale of an activation 1.5 times too large": input_scale(1.5),
    "scale of an activation half": input_scale(0.5),
    "scales of two activations exchanged": scales_exchanged("input", "attn.proj", "attn.qkv"),
    "zero point of an activation 1": input_zero,
    "smoothing forgotten in a norm's bias": smoothing_forgotten,
    # metadata
    "mean in the metadata changed": metadata("mean", lambda value: [entry + 0.05 for entry in value]),
    "deviation in the metadata changed": metadata("std", lambda value: [entry * 1.1 for entry in value]),
    "interpolation in the metadata changed": metadata(
        "interpolation", lambda value: "bicubic" if value == "nearest" else "nearest"
    ),
    "crop in the metadata changed": metadata("crop_pct", lambda value: value * 0.9),
}
