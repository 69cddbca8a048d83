"""Files read without their weights: the same model, the weights where they were, and damage told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, external_data_helper, helper, numpy_helper

from tofu_export.artifact.onnx_file import LARGE_BYTES, load_without_weights
from tofu_export.errors import ExportError, OptionError
from tofu_export.system.ort import open_copy, open_session

WIDE = 640  # 640 x 640 numbers of 2 or 4 bytes: 0.8 and 1.6 MB


def layer(dtype: int = TensorProto.FLOAT, width: int = WIDE, doc: str = "") -> onnx.ModelProto:
    """y = relu(x w) + b."""
    kind = helper.tensor_dtype_to_np_dtype(dtype)
    random = np.random.default_rng(0)
    weights = {"w": random.standard_normal((width, width)), "b": random.standard_normal(width)}
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["inner"]),
            helper.make_node("Relu", ["inner"], ["bent"]),
            helper.make_node("Add", ["bent", "b"], ["y"]),
        ],
        "layer",
        [helper.make_tensor_value_info("x", dtype, ["batch", width])],
        [helper.make_tensor_value_info("y", dtype, ["batch", width])],
        [numpy_helper.from_array(value.astype(kind), name) for name, value in weights.items()],
        doc_string=doc,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, {"key": "value"})
    return model


def with_weights(model: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    """The same with external data read into it, as `onnx.load` does."""
    external_data_helper.load_external_data_for_model(model, str(folder))
    for tensor in model.graph.initializer:
        tensor.ClearField("data_location")
        del tensor.external_data[:]
    return model


@pytest.mark.parametrize("dtype", [TensorProto.FLOAT, TensorProto.DOUBLE])
def test_it_is_the_same_model_without_its_large_weights(dtype: int, tmp_path: Path) -> None:
    path = tmp_path / "a layer.onnx"
    onnx.save(layer(dtype), path)
    light = load_without_weights(path)
    first, second = light.graph.initializer
    assert first.data_location == TensorProto.EXTERNAL
    assert second.data_location == TensorProto.DEFAULT
    assert light.ByteSize() < 10_000 < path.stat().st_size
    assert with_weights(light, tmp_path) == onnx.load(path)


def test_small_weights_stay_in_the_graph(tmp_path: Path) -> None:
    path = tmp_path / "layer.onnx"
    onnx.save(layer(width=16), path)
    assert load_without_weights(path) == onnx.load(path)


def test_weights_beside_the_file_are_left_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "layer.onnx"
    onnx.save_model(layer(), path, save_as_external_data=True, location="layer.data", size_threshold=0)
    assert load_without_weights(path) == onnx.load(path, load_external_data=False)


@pytest.mark.parametrize("shift", range(5))
def test_weights_at_any_place_of_the_file_compute_the_same(shift: int, tmp_path: Path) -> None:
    """Protocol buffers do not align what they hold."""
    path = tmp_path / "layer.onnx"
    model = layer()
    model.producer_name = "x" * shift
    onnx.save(model, path)
    x = np.random.default_rng(1).standard_normal((3, WIDE), dtype=np.float32)
    light = load_without_weights(path)
    light.graph.output.append(helper.make_tensor_value_info("inner", TensorProto.FLOAT, None))
    found, expected = open_copy(light, path).run({"x": x}), open_session(path).run({"x": x})
    np.testing.assert_array_equal(found["y"], expected["y"])
    np.testing.assert_array_equal(
        np.maximum(found["inner"], 0) + numpy_helper.to_array(model.graph.initializer[1]), found["y"]
    )
    assert [entry.name for entry in tmp_path.iterdir()] == ["layer.onnx"]


def test_a_graph_in_several_pieces_is_one(tmp_path: Path) -> None:
    """Protocol buffers merge the occurrences of a message, and keep no order."""
    whole = layer()
    light, heavy = onnx.ModelProto(), onnx.ModelProto()
    light.CopyFrom(whole)
    del light.graph.initializer[:]
    heavy.graph.initializer.extend(whole.graph.initializer)
    path = tmp_path / "layer.onnx"
    path.write_bytes(heavy.SerializeToString() + light.SerializeToString())
    assert with_weights(load_without_weights(path), tmp_path) == onnx.load(path)


@pytest.mark.parametrize("content", [b"", b"no model", b"\xff" * 100, b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\x7f"])
def test_what_is_no_model_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ExportError, match="not an ONNX file"):
        load_without_weights(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"nothing\.onnx does not exist, expected an ONNX file"):
        load_without_weights(tmp_path / "nothing.onnx")


def test_a_cut_file_is_refused_wherever_it_is_cut(tmp_path: Path) -> None:
    data = layer().SerializeToString()
    assert len(data) > LARGE_BYTES
    path = tmp_path / "layer.onnx"
    for kept in (1, 50, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:kept])
        with pytest.raises(ExportError, match="not an ONNX file"):
            load_without_weights(path)


SMALL = layer(width=8).SerializeToString()


@settings(max_examples=300)
@given(place=st.integers(0, len(SMALL) - 1), byte=st.integers(0, 255))
def test_a_changed_byte_gives_a_model_or_an_error_and_no_other_than_protobuf_reads(
    tmp_path_factory: pytest.TempPathFactory, place: int, byte: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "changed.onnx"
    data = bytearray(SMALL)
    data[place] = byte
    path.write_bytes(data)
    try:
        found = load_without_weights(path)
    except ExportError:
        return
    # As text: fields of unknown numbers, which may come in another order, are not in it.
    assert str(found) == str(onnx.ModelProto.FromString(bytes(data)))
