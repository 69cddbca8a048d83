"""The hash of an ONNX file knows the weights that lie beside it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tofu_export.artifact.external import data_files, external_files, leaves_folder, sha256_of_model
from tofu_export.errors import ExportError, OptionError
from tofu_export.system.files import sha256_of


def beside(value: float, location: str, name: str = "w") -> onnx.TensorProto:
    """A constant [4] that lies in another file, which is not written."""
    tensor = numpy_helper.from_array(np.full(4, value, np.float32), name)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, text in {"location": location, "offset": "0", "length": "16"}.items():
        tensor.external_data.add(key=key, value=text)
    return tensor


def scaled(*tensors: onnx.TensorProto, nodes: tuple[onnx.NodeProto, ...] = ()) -> onnx.ModelProto:
    """y = x w, with these constants."""
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in ("x", "y")]
    product = helper.make_node("Mul", ["x", "w"], ["y"])
    return helper.make_model(helper.make_graph([*nodes, product], "g", value[:1], value[1:], list(tensors)))


def write(folder: Path, model: onnx.ModelProto, **data: float) -> Path:
    path = folder / "m.onnx"
    path.write_bytes(model.SerializeToString())
    for name, value in data.items():
        (folder / f"{name}.bin").write_bytes(np.full(4, value, np.float32).tobytes())
    return path


def test_a_single_file_has_its_own_hash(tmp_path: Path) -> None:
    path = write(tmp_path, scaled(numpy_helper.from_array(np.zeros(4, np.float32), "w")))
    assert data_files(path) == []
    assert sha256_of_model(path) == sha256_of(path) == hashlib.sha256(path.read_bytes()).hexdigest()


def test_what_is_no_onnx_file_has_its_own_hash(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(b"no graph at all")
    assert sha256_of_model(path) == sha256_of(path)
    with pytest.raises(OptionError, match="does not exist"):
        sha256_of_model(tmp_path / "nothing")


def test_large_weights_inside_of_the_file_are_not_external(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(scaled(numpy_helper.from_array(np.zeros(1 << 19, np.float32), "w")), path)
    assert data_files(path) == []


def another_weight(folder: Path) -> None:
    (folder / "a.bin").write_bytes(np.full(4, 2.0, np.float32).tobytes())


def exchanged(folder: Path) -> None:
    """Both files are there, each under the name of the other."""
    first, second = folder / "a.bin", folder / "b.bin"
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)


def another_graph(folder: Path) -> None:
    model = onnx.load(folder / "m.onnx", load_external_data=False)
    model.graph.node[-1].op_type = "Add"
    (folder / "m.onnx").write_bytes(model.SerializeToString())


@pytest.mark.parametrize("change", [another_weight, exchanged, another_graph])
def test_another_model_has_another_hash(change: Callable[[Path], None], tmp_path: Path) -> None:
    path = write(tmp_path, scaled(beside(1, "a.bin"), beside(3, "b.bin", "v")), a=1, b=3)
    assert data_files(path) == ["a.bin", "b.bin"]
    before = sha256_of_model(path)
    assert before == sha256_of_model(path) != sha256_of(path)
    change(tmp_path)
    assert sha256_of_model(path) != before


def test_constants_of_nodes_sub_graphs_and_functions_count(tmp_path: Path) -> None:
    inner = helper.make_graph(
        [helper.make_node("Constant", [], ["deep"], value=beside(1, "sub.bin"))], "inner", [],
        [helper.make_tensor_value_info("deep", TensorProto.FLOAT, [4])],
    )  # fmt: skip
    branch = helper.make_node("If", ["x"], ["z"], then_branch=inner, else_branch=inner)
    constant = helper.make_node("Constant", [], ["w"], value=beside(1, "node.bin"))
    model = scaled(nodes=(constant, branch))
    of_function = helper.make_node("Constant", [], ["f"], value=beside(1, "function.bin"))
    model.functions.append(helper.make_function("own", "F", [], ["f"], [of_function], [helper.make_opsetid("", 18)]))
    assert external_files(model) == {"node.bin", "sub.bin", "function.bin"}


@pytest.mark.parametrize("location", ["../a.bin", "/etc/hostname", "C:\\a.bin", "sub/../../a.bin"])
def test_files_outside_are_not_read(location: str, tmp_path: Path) -> None:
    assert leaves_folder(location)
    with pytest.raises(ExportError, match=r"m\.onnx keeps weights in .* not inside its folder"):
        sha256_of_model(write(tmp_path, scaled(beside(1, location))))


def test_weights_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"m\.onnx keeps weights in 'a\.bin', which is not beside it: copy both"):
        sha256_of_model(write(tmp_path, scaled(beside(1, "a.bin"))))
