"""Inputs made on purpose to break a reader: graphs no exporter writes, pickles that run code, paths that lead away."""

from __future__ import annotations

import io
import itertools
import os
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.engines.models import model, value
from tools.reliability.mutations import varint

__all__ = ["GRAPHS", "PICKLES", "outside", "write_pickle"]

_X, _Y = value("x", ["batch", 8]), value("y", ["batch", 8])


def _node(op_type: str, inputs: list[str], outputs: list[str], **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op_type, inputs, outputs, name=f"{op_type}_{outputs[0] if outputs else ''}", **attributes)


def _unshaped(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, None)


def _cycle() -> bytes:
    nodes = [_node("Add", ["x", "b"], ["a"]), _node("Relu", ["a"], ["b"]), _node("Neg", ["b"], ["y"])]
    return model(nodes, [_X], [_Y]).SerializeToString()


def _self_loop() -> bytes:
    return model([_node("Add", ["x", "y"], ["y"])], [_X], [_Y]).SerializeToString()


def _chain(length: int) -> bytes:
    names = ["x", *(f"v{index}" for index in range(length - 1)), "y"]
    nodes = [_node("Neg", [first], [second]) for first, second in itertools.pairwise(names)]
    return model(nodes, [_X], [_Y]).SerializeToString()


def _doubling(length: int) -> bytes:
    """Each node uses the one before it twice: a reader that follows paths never ends."""
    names = ["x", *(f"v{index}" for index in range(length - 1)), "y"]
    nodes = [_node("Add", [first, first], [second]) for first, second in itertools.pairwise(names)]
    return model(nodes, [_X], [_Y]).SerializeToString()


def _growing(steps: int) -> bytes:
    """Each node doubles what it is given: eight numbers become 8 * 2 ** steps."""
    names = ["x", *(f"v{index}" for index in range(steps - 1)), "y"]
    nodes = [_node("Concat", [first, first], [second], axis=1) for first, second in itertools.pairwise(names)]
    return model(nodes, [value("x", [1, 8])], [value("y", [1, 8 * 2**steps])]).SerializeToString()


def _constant_of(dims: list[int]) -> bytes:
    """A constant whose sizes say more than any memory holds, made by a node."""
    shape = numpy_helper.from_array(np.array(dims, dtype=np.int64), "shape")
    nodes = [_node("ConstantOfShape", ["shape"], ["c"]), _node("ReduceSum", ["c"], ["s"], keepdims=0),
             _node("Add", ["x", "s"], ["y"])]  # fmt: skip
    return model(nodes, [_X], [_Y], [shape]).SerializeToString()


def _weights_of(dims: list[int], data: bytes = b"") -> bytes:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=dims, raw_data=data)
    return model([_node("Add", ["x", "w"], ["y"])], [_X], [_Y], [tensor]).SerializeToString()


def _nested(depth: int) -> bytes:
    """`If` inside `If`."""
    condition = numpy_helper.from_array(np.array(True), "c")
    inner = helper.make_graph([_node("Neg", ["x"], ["y0"])], "g", [], [_unshaped("y0")])
    for index in range(1, depth):
        node = _node("If", ["c"], [f"y{index}"], then_branch=inner, else_branch=inner if index < 3 else _leaf(index))
        inner = helper.make_graph([node], "g", [], [_unshaped(f"y{index}")])
    node = _node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)
    try:
        return model([node], [_X], [_Y], [condition]).SerializeToString()
    except Exception:  # deeper than protocol buffers go
        return _groups(depth)


def _leaf(index: int) -> onnx.GraphProto:
    return helper.make_graph([_node("Neg", ["x"], [f"z{index}"])], "g", [], [_unshaped(f"z{index}")])


def _groups(depth: int) -> bytes:
    """Messages in messages by hand: graph, node, attribute, graph, node, ..."""
    data = b""
    for _ in range(depth):
        for number in (6, 5, 1):  # attribute.g, node.attribute, graph.node
            data = varint(number << 3 | 2) + varint(len(data)) + data
    return varint(7 << 3 | 2) + varint(len(data)) + data


def _recursive_function() -> bytes:
    proto = model([helper.make_node("F", ["x"], ["y"], domain="own")], [_X], [_Y])
    call = helper.make_node("F", ["a"], ["b"], domain="own")
    proto.functions.append(helper.make_function("own", "F", ["a"], ["b"], [call], [helper.make_opsetid("own", 1)]))
    proto.opset_import.add(domain="own", version=1)
    return proto.SerializeToString()


def _names() -> bytes:
    strange = "\x1b[31mred\x1b[0m\n[bold]x[/bold] \u202e ../../x " + "n" * 5000
    nodes = [helper.make_node("ScatterElements", ["x", "i", "u"], ["y"], name=strange, reduction="add")]
    inputs = [value("x", ["b", 8]), value("i", ["b", 4], TensorProto.INT64), value("u", ["b", 4])]
    return model(nodes, inputs, [value("y", ["b", 8])]).SerializeToString()


def _metadata(text: str) -> bytes:
    proto = model([_node("Neg", ["x"], ["y"])], [value("x", ["batch", 3, 8, 8])], [value("y", ["batch", 3, 8, 8])])
    keys = ("model", "plan", "weights", "output", "batch", "precision", "preprocessing", "labels", "num_classes")
    helper.set_model_props(proto, {f"tofu_export.{key}": text for key in keys})
    return proto.SerializeToString()


def _opset(version: int) -> bytes:
    proto = model([_node("Neg", ["x"], ["y"])], [_X], [_Y])
    proto.opset_import[0].version = version
    return proto.SerializeToString()


def _sparse() -> bytes:
    values = numpy_helper.from_array(np.ones(2, dtype=np.float32), "w")
    indices = numpy_helper.from_array(np.array([2**40, -5], dtype=np.int64), "i")
    proto = model([_node("Add", ["x", "w"], ["y"])], [_X], [_Y])
    proto.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [1, 8]))
    return proto.SerializeToString()


def _sequence() -> bytes:
    kind = helper.make_tensor_sequence_value_info("x", TensorProto.FLOAT, None)
    return model(
        [_node("SequenceLength", ["x"], ["y"])], [kind], [value("y", [], TensorProto.INT64)]
    ).SerializeToString()


def _custom() -> bytes:
    proto = model([helper.make_node("Evil", ["x"], ["y"], domain="com.evil")], [_X], [_Y])
    proto.opset_import.add(domain="com.evil", version=1)
    return proto.SerializeToString()


GRAPHS: Mapping[str, Callable[[], bytes]] = {
    "cycle": _cycle,
    "self loop": _self_loop,
    "chain of 3,000": lambda: _chain(3000),
    "chain of 20,000": lambda: _chain(20_000),
    "doubling use": lambda: _doubling(64),
    "2^36 numbers": lambda: _growing(33),
    "constant of 2^40": lambda: _constant_of([2**20, 2**20]),
    "constant of 2^126": lambda: _constant_of([2**62, 2**62, 4]),
    "negative constant": lambda: _constant_of([-5]),
    "weights of 2^62": lambda: _weights_of([2**62]),
    "weights of 2^63 * 2": lambda: _weights_of([2**62, 4]),
    "weights of -1": lambda: _weights_of([-1]),
    "too few weights": lambda: _weights_of([8], b"1234"),
    "too many weights": lambda: _weights_of([8], b"1" * 320),
    "nested 20": lambda: _nested(20),
    "nested 5,000": lambda: _groups(5000),
    "nested 100,000": lambda: _groups(100_000),
    "recursive function": _recursive_function,
    "strange names": _names,
    "metadata text": lambda: _metadata("x"),
    "metadata nested": lambda: _metadata("[" * 100_000),
    "metadata number": lambda: _metadata("1" + "0" * 5000),
    "metadata nan": lambda: _metadata('{"a": NaN}'),
    "opset 0": lambda: _opset(0),
    "opset -1": lambda: _opset(-1),
    "opset 2^62": lambda: _opset(2**62),
    "sparse": _sparse,
    "sequence": _sequence,
    "unknown domain": _custom,
    "no graph": lambda: onnx.ModelProto(ir_version=8).SerializeToString(),
    "empty": lambda: b"",
    "zeros": lambda: bytes(4096),
    "length of 2^63": lambda: varint(7 << 3 | 2) + varint(2**63) + b"x" * 100,
    "pickle": lambda: pickle.dumps({"a": 1}),
    "html": lambda: b"<!DOCTYPE html><html><body>404</body></html>",
    "lfs pointer": lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 12345\n",
    "zip": lambda: _zip({"a": b"b"}),
}
"""Files that are no good model, by name."""


def outside(proto: onnx.ModelProto, place: str, **entries: str) -> bytes:
    """The model with its weights in a file at `place`."""
    changed = onnx.ModelProto.FromString(proto.SerializeToString())
    (tensor,) = changed.graph.initializer
    del tensor.external_data[:]
    for key, text in {"location": place, "offset": "0", "length": "256", **entries}.items():
        tensor.external_data.add(key=key, value=text)
    return changed.SerializeToString()


# --- Pickles -----------------------------------------------------------------------------------------------------


class _Call:
    """Pickles as a call of a function with arguments."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


def _evil(kind: str, marker: Path) -> Any:
    code = f"open({str(marker)!r}, 'w').write('ran')"
    if kind == "system":
        return _Call(os.system, f"touch {marker}")
    if kind == "exec":
        return _Call(exec, code)
    if kind == "eval":
        return _Call(eval, code)
    if kind == "open":
        return _Call(open, str(marker), "w")
    if kind == "mkdir":
        return _Call(os.mkdir, str(marker))
    if kind == "getattr":
        return _Call(getattr, _Call(__import__, "os"), "getcwd")
    return _Call(np.load, str(marker))


PICKLES = tuple(
    (kind, form)
    for kind in ("system", "exec", "eval", "open", "mkdir", "getattr", "numpy")
    for form in ("0", "2", "4", "5", "in a state dict", "torch", "old torch", "zip", "npz", "npy", "second", "subclass")
)
"""What a pickle calls, and how it is packed."""


def write_pickle(kind: str, form: str, path: Path, marker: Path) -> Path:
    """Write a pickle that would make a file or folder at `marker`, or load something; returns where it is."""
    import torch

    evil = _evil(kind, marker)
    if form.isdecimal():
        path.write_bytes(pickle.dumps(evil, protocol=int(form)))
    elif form == "in a state dict":
        path.write_bytes(pickle.dumps({"cls_token": evil}))
    elif form in ("torch", "old torch"):
        state = {"cls_token": torch.zeros(1, 1, 64), "extra": evil}
        torch.save(state, path, _use_new_zipfile_serialization=form == "torch")
    elif form == "zip":
        path.write_bytes(_zip({"archive/data.pkl": pickle.dumps(evil), "archive/version": b"3\n"}))
    elif form == "npz":
        path = path.with_suffix(".npz")
        path.write_bytes(_zip({"cls.npy": _npy(evil)}))
    elif form == "npy":
        path = path.with_suffix(".npz")
        path.write_bytes(_npy(evil))
    elif form == "second":  # after one that is good, as torch's old form has several in a row
        path.write_bytes(pickle.dumps({"a": 1}) + pickle.dumps(evil))
    else:
        path = path.with_suffix(".safetensors")
        path.write_bytes(pickle.dumps(evil))
    return path


def _npy(content: Any) -> bytes:
    buffer = io.BytesIO()
    array = np.empty(1, dtype=object)
    array[0] = content
    np.lib.format.write_array(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def _zip(entries: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return buffer.getvalue()
