"""The file around the graph, types that are not written down, and what a report says."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.engines import models
from tests.linting.cases import as_measured_ort, of_domain
from tests.system.chains import int8_chain
from tofu_export.errors import ExportError, TofuError
from tofu_export.linting import LintReport, Runtime, Severity, lint_file, runtimes_of
from tofu_export.linting.onnx_files import MAX_IR_VERSION, MAX_OPSET
from tofu_export.options import Target
from tofu_export.system.ort import EXACT_INT8


def report(path: Path) -> LintReport:
    return lint_file(path, list(Runtime))


def rules(path: Path, runtime: Runtime = Runtime.ONNXRUNTIME) -> list[str]:
    return [finding.rule for finding in lint_file(path, [runtime]).findings]


def loads(path: Path) -> bool:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        assert "ONNXRuntimeError" in str(error)
        return False
    return True


@pytest.fixture
def external(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    path = folder / "model.onnx"
    onnx.save(models.block(), path, save_as_external_data=True, location="model.data", size_threshold=0)
    return path


def relocate(path: Path, location: str) -> None:
    proto = onnx.load(path, load_external_data=False)
    for tensor in proto.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    path.write_bytes(proto.SerializeToString())


def test_external_data_in_place(external):
    assert rules(external) == []
    assert loads(external)


@as_measured_ort
@pytest.mark.parametrize("spoil", ["missing", "cut", "outside", "absolute", "link"])
def test_external_data(spoil, external, tmp_path):
    data = external.with_name("model.data")
    content = data.read_bytes()
    elsewhere = tmp_path / "elsewhere.data"
    elsewhere.write_bytes(content)
    if spoil == "missing":
        data.unlink()
    elif spoil == "cut":
        data.write_bytes(content[:100])
    elif spoil == "outside":
        relocate(external, "../elsewhere.data")
    elif spoil == "absolute":
        relocate(external, str(elsewhere))
    else:
        data.unlink()
        data.symlink_to(elsewhere)
    expected = {"outside": "external-data-outside", "absolute": "external-data-outside"}
    assert rules(external) == [expected.get(spoil, f"external-data-{spoil}")]
    assert not loads(external)


@pytest.mark.parametrize(
    "location", ["C:\\weights.data", "..\\weights.data", "a/../../weights.data", "\\\\host\\share"]
)
def test_external_data_outside_on_other_systems(location, external):
    relocate(external, location)
    assert rules(external) == ["external-data-outside"]


def test_external_data_of_a_constant_in_a_branch(external):
    proto = onnx.load(external, load_external_data=False)
    tensor = onnx.TensorProto(name="c", data_type=1, dims=[1], data_location=onnx.TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="../secret")
    branch = helper.make_graph(
        [helper.make_node("Constant", [], ["z"], value=tensor)], "then", [], [models.value("z", [1])]
    )
    proto.graph.node.append(helper.make_node("If", ["c"], ["w"], then_branch=branch, else_branch=branch))
    external.write_bytes(proto.SerializeToString())
    assert "external-data-outside" in rules(external)


def test_external_data_at_no_number(external):
    proto = onnx.load(external, load_external_data=False)
    proto.graph.initializer[0].external_data.add(key="offset", value="far")
    external.write_bytes(proto.SerializeToString())
    with pytest.raises(ExportError, match="expected numbers"):
        report(external)


@as_measured_ort
@pytest.mark.parametrize("version", [MAX_OPSET, MAX_OPSET + 1])
def test_opset(version, tmp_path):
    proto = models.block()
    proto.opset_import[0].version = version
    path = models.save(proto, tmp_path)
    good = version <= MAX_OPSET
    assert rules(path) == ([] if good else ["opset"])
    assert loads(path) is good


@as_measured_ort
@pytest.mark.parametrize("version", [MAX_IR_VERSION, MAX_IR_VERSION + 1])
def test_ir_version(version, tmp_path):
    proto = models.block()
    proto.ir_version = version
    path = tmp_path / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    good = version <= MAX_IR_VERSION
    assert rules(path) == ([] if good else ["ir-version"])
    assert rules(path, Runtime.TENSORRT_RTX) == []
    assert loads(path) is good


def test_more_than_two_gigabytes(tmp_path):
    """A sparse file: two gigabytes that take no room."""
    path, size = tmp_path / "model.onnx", 2**31

    def field(number: int, length: int) -> bytes:
        encoded = bytearray([number << 3 | 2])
        while length > 127:
            encoded.append(length & 127 | 128)
            length >>= 7
        return bytes([*encoded, length])

    tensor = onnx.TensorProto(name="big", data_type=2, dims=[size]).SerializeToString() + field(9, size)
    entry = field(5, len(tensor) + size) + tensor
    head = models.block().SerializeToString() + field(7, len(entry) + size) + entry
    path.write_bytes(head)
    os.truncate(path, len(head) + size)
    assert rules(path) == ["over-2-gb"]
    assert not loads(path)


def test_dynamic_axes_are_a_note_for_builders(tmp_path):
    path = models.save(models.block(tokens="tokens"), tmp_path)
    (note,) = lint_file(path, [Runtime.TENSORRT]).findings
    assert (note.severity, note.rule) == (Severity.NOTE, "dynamic-axis")
    assert "'x' leaves more than its batch open (axis 1)" in str(note)
    assert "--opt-shapes" in str(note)
    assert lint_file(path, [Runtime.TENSORRT]).passed
    assert rules(path) == []


def test_8_bit_integers_are_a_note(tmp_path):
    """It depends on the CPU, so the runtime is asked what this one does."""
    path = models.save(int8_chain(shared=False), tmp_path)
    (note,) = lint_file(path, [Runtime.ONNXRUNTIME]).findings
    assert (note.severity, note.rule) == (Severity.NOTE, "int8-overflow")
    assert EXACT_INT8 in note.fix
    assert rules(path, Runtime.TENSORRT) == []
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    if "avx2" in flags:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        (found,) = session.run(["x2"], {"x0": np.ones((8, 64), np.float32)})
        assert np.allclose(found, 1) is ("vnni" in flags)


def test_integers_of_16_bits_are_not(tmp_path):
    proto = int8_chain(shared=False)
    for tensor in proto.graph.initializer:
        if tensor.name == "zero":
            tensor.CopyFrom(numpy_helper.from_array(np.array(0, np.int16), "zero"))
    assert "int8-overflow" not in rules(models.save(proto, tmp_path))


def test_types_are_inferred(tmp_path):
    """Nothing in the file says that `n` is BF16 but the input, two nodes before."""
    proto = models.block("bf16")
    proto.graph.ClearField("value_info")
    found = lint_file(models.save(proto, tmp_path), [Runtime.ONNXRUNTIME]).findings
    assert [finding.op_type for finding in found] == ["MatMul", "Softmax", "MatMul", "Add"]


def test_damage_that_stops_inference_stops_no_lint(tmp_path):
    proto = models.block()
    proto.graph.node[1].op_type = "NonZero"
    proto.graph.node[0].attribute.add(name="axis", type=onnx.AttributeProto.STRING, s=b"x")
    assert "data-dependent-shape" in rules(models.save(proto, tmp_path), Runtime.TENSORRT_RTX)


@pytest.mark.parametrize("name", [b"/blocks.0/mlp/MatMul", b"batch", b"tofu_export.r", b"w1"])
def test_a_name_that_is_no_text_is_damage(name, tmp_path):
    """Found by changing bytes at random: protobuf gives such names as bytes."""
    proto = models.block()
    proto.metadata_props.add(key="tofu_export.r", value="16")
    path = tmp_path / "model.onnx"
    path.write_bytes(proto.SerializeToString().replace(name, name[:-1] + b"\xff"))
    with pytest.raises(ExportError, match="not text"):
        report(path)


def test_changed_bytes_give_a_report_or_an_error_of_ours(tmp_path):
    random = np.random.default_rng(0)
    path = tmp_path / "model.onnx"
    outcomes = set()
    for source in (models.block(), models.topk(4000), models.attention("fp16"), models.scatter("add", "ScatterND")):
        content = source.SerializeToString()
        for _ in range(250):
            changed = bytearray(content)
            for place in random.integers(len(changed), size=random.integers(1, 5)):
                changed[place] = random.integers(256)
            path.write_bytes(changed)
            try:
                outcomes.add(type(report(path)))
            except TofuError as error:
                outcomes.add(type(error))
    assert outcomes == {LintReport, ExportError}


def test_functions_of_the_file_are_no_custom_operators(tmp_path):
    proto = of_domain("local", "Twice")
    function = helper.make_function(
        "local", "Twice", ["a"], ["c"], [helper.make_node("Add", ["a", "a"], ["c"])], [helper.make_opsetid("", 18)]
    )
    proto.functions.append(function)
    path = models.save(proto, tmp_path)
    assert report(path).findings == ()
    assert loads(path)


def test_classic_may_have_a_plugin(tmp_path):
    (finding,) = lint_file(models.save(of_domain("my.domain", "Thing"), tmp_path), [Runtime.TENSORRT]).findings
    assert finding.severity is Severity.WARNING


@pytest.mark.parametrize("target", list(Target))
def test_a_target_is_its_runtime_and_portable_all(target):
    expected = tuple(Runtime) if target is Target.PORTABLE else (Runtime(target.value),)
    assert runtimes_of(target) == expected


def test_report(tmp_path):
    found = report(models.save(models.topk(3841), tmp_path))
    document = found.to_dict()
    assert document["counts"] == {"error": 1, "warning": 0, "note": 0}
    assert document["runtimes"] == ["onnxruntime", "tensorrt", "tensorrt-rtx"]
    (entry,) = document["findings"]
    assert entry["runtimes"] == ["tensorrt", "tensorrt-rtx"]
    assert entry["node"] == "/blocks.0/TopK"
    assert entry["rule"] == "topk-limit"
    assert not document["passed"]


def test_calls_of_functions_are_looked_into_with_their_types(tmp_path):
    """In the function alone, nobody knows that it is in FP32; one that nobody calls is nobody's trouble."""
    bodies = {
        "Called": helper.make_node("Attention", ["a", "a", "a"], ["b"], name="inner"),
        "Uncalled": helper.make_node("NonZero", ["a"], ["b"]),
    }
    opset = [helper.make_opsetid("", 23)]
    functions = [helper.make_function("theirs", name, ["a"], ["b"], [node], opset) for name, node in bodies.items()]
    for dtype, rules in ((TensorProto.FLOAT, ["fp32-attention"]), (TensorProto.FLOAT16, [])):
        values = [helper.make_tensor_value_info(name, dtype, [1, 2, 16, 64]) for name in ("x", "y")]
        graph = helper.make_graph(
            [helper.make_node("Called", ["x"], ["y"], domain="theirs")], "g", values[:1], values[1:]
        )
        imports = [*opset, helper.make_opsetid("theirs", 1)]
        proto = helper.make_model(graph, opset_imports=imports, functions=functions, ir_version=10)
        report = lint_file(models.save(proto, tmp_path), [Runtime.TENSORRT_RTX])
        assert [finding.rule for finding in report.findings] == rules
        assert report.nodes == 1


@pytest.mark.parametrize("fault", ["order", "sizes", "both", "cycle"])
def test_what_the_checker_alone_rejects_is_a_warning(fault, tmp_path):
    nodes = [helper.make_node("Relu", ["x"], ["r"]), helper.make_node("Neg", ["r"], ["y"])]
    if fault == "cycle":
        nodes[0].input[0] = "y"
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["b", 3]) for name in ("x", "y")]
    old = helper.make_tensor_value_info("r", TensorProto.FLOAT, [1, 4])
    graph = helper.make_graph(
        nodes[::-1] if fault in ("order", "both") else nodes, "g", values[:1], values[1:],
        value_info=[old] * (fault in ("sizes", "both")),
    )  # fmt: skip
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    report = lint_file(models.save(proto, tmp_path), list(Runtime))
    severity = Severity.ERROR if fault == "cycle" else Severity.WARNING
    assert [(finding.rule, finding.severity) for finding in report.findings] == [
        ("invalid" if fault == "cycle" else "untidy", severity)
    ]
