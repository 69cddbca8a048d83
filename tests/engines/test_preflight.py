from __future__ import annotations

import importlib.util
import re
from dataclasses import asdict

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.engines import models
from tofu_export.engines.building._process import run_worker
from tofu_export.engines.building.builder_options import BuilderOptions
from tofu_export.engines.building.preflight import InputShape, preflight
from tofu_export.engines.building.profiles import make_profiles
from tofu_export.engines.flavours import RTX, TENSORRT
from tofu_export.errors import EngineBuildError, ExitCode, OptionError
from tofu_export.options import BatchRange, Precision

NO_OPTIONS = asdict(BuilderOptions())
BAD = {
    "scatter add": models.scatter("add"),
    "scatter max": models.scatter("max"),
    "scatter_nd mul": models.scatter("mul", "ScatterND"),
    "topk 3841": models.topk(3841),
    "nonzero": models.nonzero(),
    "antialias": models.resize(1),
    "softmax_precision": models.attention("fp16", softmax_precision=1),
    "bf16 LpNormalization": models.lp_normalization("bf16"),
}
GOOD = {
    "block": models.block(),
    "scatter none": models.scatter("none"),
    "scatter_nd none": models.scatter("none", "ScatterND"),
    "topk 3840": models.topk(3840),
    "resize": models.resize(0),
    "attention fp16": models.attention("fp16"),
    "LpNormalization": models.lp_normalization("fp32"),
}


@pytest.mark.parametrize("name", BAD)
def test_names_the_refused_node(name, tmp_path):
    proto = BAD[name]
    with pytest.raises(EngineBuildError, match=re.escape(f"node '{proto.graph.node[0].name}'")) as caught:
        preflight(models.save(proto, tmp_path), RTX)
    assert caught.value.exit_code is ExitCode.ENGINE_BUILD


@pytest.mark.parametrize("name", GOOD)
def test_does_not_fire(name, tmp_path):
    checked = preflight(models.save(GOOD[name], tmp_path), RTX)
    assert checked.notes == ()
    assert checked.nodes == len(GOOD[name].graph.node)


@pytest.mark.rtx
@pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed")
@pytest.mark.parametrize("name", BAD)
def test_the_builder_really_refuses_it(name, tmp_path):
    """When this fails, the builder has learnt something and the row goes."""
    path = models.save(BAD[name], tmp_path)
    inputs = preflight(path, TENSORRT).inputs if name in ("scatter add", "scatter max") else _inputs(BAD[name])
    request = {
        "onnx_path": str(path),
        "shown_path": "model.onnx",
        "plan_path": str(tmp_path / "plan"),
        "flavour": RTX.name,
        "profiles": make_profiles(inputs, BatchRange(1, 2, 4)),
        "precision": Precision.FP32.value,
        "compute_capabilities": ["SM89"],
        "least_share": 0.0,
        "inspect": False,
        "options": NO_OPTIONS,
    }
    with pytest.raises(EngineBuildError):
        run_worker(request, tmp_path, None)


def _inputs(proto: onnx.ModelProto) -> tuple[InputShape, ...]:
    return tuple(
        InputShape(entry.name, tuple(dim.dim_value or "b" for dim in entry.type.tensor_type.shape.dim))
        for entry in proto.graph.input
    )


def test_fp32_attention_is_a_remark(tmp_path):
    (note,) = preflight(models.save(models.attention("fp32"), tmp_path), RTX).notes
    assert note.build_copes
    assert "'/blocks.0/Attention' (Attention)" in str(note)
    assert "decomposable" in str(note)


def test_classic_has_a_plugin_for_scatter_elements(tmp_path):
    (note,) = preflight(models.save(models.scatter("add"), tmp_path), TENSORRT).notes
    assert "plugin library" in str(note)
    with pytest.raises(EngineBuildError, match="ScatterND"):
        preflight(models.save(models.scatter("add", "ScatterND"), tmp_path), TENSORRT)


def test_canonical_file_has_to_be_lowered(tmp_path):
    node = helper.make_node("Fuse", ["x"], ["y"], name="/blocks.0/Fuse", domain="tofu", r=8)
    proto = models.model([node], [models.value("x", ["b", 8])], [models.value("y", ["b", 8])])
    with pytest.raises(EngineBuildError, match=r"'/blocks.0/Fuse' .tofu::Fuse.*lower"):
        preflight(models.save(proto, tmp_path), RTX)


@pytest.mark.parametrize("attribute", ["value", "value_int", "value_ints"])
def test_k_from_a_constant_node(attribute, tmp_path):
    values = {
        "value": numpy_helper.from_array(np.array([4000], dtype=np.int64)),
        "value_int": 4000,
        "value_ints": [4000],
    }
    nodes = [
        helper.make_node("Constant", [], ["k"], **{attribute: values[attribute]}),
        helper.make_node("TopK", ["x", "k"], ["y", "i"]),
    ]
    proto = models.model(nodes, [models.value("x", ["b", 5000])], [models.value("y", ["b", 4000])])
    with pytest.raises(EngineBuildError, match=r"computes y, i.*K is 4000.*3840"):
        preflight(models.save(proto, tmp_path), RTX)


def test_looks_into_branches(tmp_path):
    inner = models.scatter("add").graph.node[0]
    branch = helper.make_graph([inner], "then", [], [models.value("y", ["b", 8])])
    other = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "else", [], [models.value("y", ["b", 8])])
    node = helper.make_node("If", ["c"], ["z"], then_branch=branch, else_branch=other)
    inputs = [*models.scatter("add").graph.input, models.value("c", [], TensorProto.BOOL)]
    proto = models.model([node], inputs, [models.value("z", ["b", 8])])
    with pytest.raises(EngineBuildError, match=r"/blocks.0/ScatterElements"):
        preflight(models.save(proto, tmp_path), RTX)


def test_looks_into_functions(tmp_path):
    function = helper.make_function(
        "local", "Where", ["x"], ["y"], [helper.make_node("NonZero", ["x"], ["y"])], [helper.make_opsetid("", 18)]
    )
    proto = models.block()
    proto.functions.append(function)
    preflight(models.save(proto, tmp_path), RTX)  # nobody calls it
    proto.opset_import.add(domain="local", version=1)
    proto.graph.node.append(helper.make_node("Where", [proto.graph.input[0].name], ["places"], domain="local"))
    with pytest.raises(EngineBuildError, match="NonZero"):
        preflight(models.save(proto, tmp_path), RTX)


def test_many_refusals_are_counted(tmp_path):
    nodes = [helper.make_node("NonZero", ["x"], [f"y{index}"], name=f"n{index}") for index in range(8)]
    outputs = [models.value(f"y{index}", [2, None], TensorProto.INT64) for index in range(8)]
    with pytest.raises(EngineBuildError, match=r"(?s)'n0'.*'n4'.*and 3 more") as caught:
        preflight(models.save(models.model(nodes, [models.value("x", ["b", 8])], outputs), tmp_path), RTX)
    assert "'n5'" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no graph"),
        (b"this is a text file\n" * 5, "not an ONNX file"),
        (models.block().SerializeToString()[:-7], "not an ONNX file"),
        (models.block().SerializeToString()[:200], "not an ONNX file"),
        (onnx.ModelProto(ir_version=10).SerializeToString(), "holds no graph"),
    ],
    ids=["empty", "text", "cut at the end", "cut early", "no graph"],
)
def test_not_a_model(content, message, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(EngineBuildError, match=message):
        preflight(path, RTX)


def test_missing_and_folder(tmp_path):
    with pytest.raises(OptionError, match="does not exist"):
        preflight(tmp_path / "nope.onnx", RTX)
    with pytest.raises(OptionError, match="is a folder"):
        preflight(tmp_path, RTX)


def test_no_outputs(tmp_path):
    proto = models.block()
    del proto.graph.output[:]
    with pytest.raises(EngineBuildError, match="without outputs"):
        preflight(models.save(proto, tmp_path), RTX)


def test_opset(tmp_path):
    proto = models.block()
    proto.opset_import[0].version = 99
    with pytest.raises(EngineBuildError, match="opset 99"):
        preflight(models.save(proto, tmp_path), RTX)
    del proto.opset_import[:]
    with pytest.raises(EngineBuildError, match="no default operator set"):
        preflight(models.save(proto, tmp_path), RTX)


def test_external_data(tmp_path):
    path = tmp_path / "model.onnx"
    onnx.save(models.block(), path, save_as_external_data=True, location="model.data", size_threshold=0)
    assert preflight(path, RTX).nodes == 5
    data = tmp_path / "model.data"
    data.write_bytes(data.read_bytes()[:100])
    with pytest.raises(EngineBuildError, match="was cut"):
        preflight(path, RTX)
    data.unlink()
    with pytest.raises(EngineBuildError, match=r"'model.data', which is not beside it"):
        preflight(path, RTX)


def test_inputs_leave_initializers_out(tmp_path):
    proto = models.block(batch="batch")
    proto.graph.input.append(models.value("w1", [32, 64]))
    (only,) = preflight(models.save(proto, tmp_path), RTX).inputs
    assert only == InputShape("x", ("batch", 16, 32))


def test_input_without_a_shape(tmp_path):
    proto = models.block()
    proto.graph.input[0].type.tensor_type.ClearField("shape")
    with pytest.raises(EngineBuildError, match=r"'x'.*known rank"):
        preflight(models.save(proto, tmp_path), RTX)
