"""Sessions of onnxruntime: what it accepts, what it refuses and in which words."""

from __future__ import annotations

import builtins
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.system.chains import int8_chain
from tofu_export.errors import BackendMissingError, ExitCode, ExportError, OptionError
from tofu_export.system import ort
from tofu_export.system.ort.failures import load_hint


def affine_model(
    shape: Sequence[int | str | None] | None = ("batch", 3),
    dtype: int = TensorProto.FLOAT,
    *,
    nodes: list[onnx.NodeProto] | None = None,
) -> onnx.ModelProto:
    """y = x + [1, 2, 3] with a dynamic batch, unless told otherwise."""
    numbers = [b"1", b"2", b"3"] if dtype == TensorProto.STRING else [1.0, 2.0, 3.0]
    weights = helper.make_tensor("w", dtype, [3], numbers)
    graph = helper.make_graph(
        nodes or [helper.make_node("Add", ["x", "w"], ["y"])],
        "affine",
        [helper.make_tensor_value_info("x", dtype, shape)],
        [helper.make_tensor_value_info("y", dtype, shape)],
        [weights],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@pytest.fixture
def affine_file(tmp_path: Path) -> Path:
    path = tmp_path / "affine.onnx"
    onnx.save(affine_model(), path)
    return path


class TestOpen:
    def test_reads_names_types_and_shapes(self, affine_file: Path) -> None:
        session = ort.open_session(affine_file)
        assert session.provider == "CPUExecutionProvider"
        assert dict(session.inputs) == {"x": (np.dtype(np.float32), (None, 3))}
        assert dict(session.outputs) == {"y": (np.dtype(np.float32), (None, 3))}
        assert str(session.inputs["x"]) == "float32[?, 3]"

    def test_takes_bytes_as_well(self) -> None:
        session = ort.open_session(affine_model(dtype=TensorProto.FLOAT16).SerializeToString())
        assert session.inputs["x"].dtype == np.float16

    def test_bfloat16_is_named_as_the_cause(self) -> None:
        nodes = [helper.make_node("Conv", ["x", "x"], ["y"])]
        model = affine_model((1, 1, 1, 1), TensorProto.BFLOAT16, nodes=nodes)
        with pytest.raises(ExportError, match="no bfloat16 kernels: take the fp32 or fp16 file"):
            ort.open_session(model.SerializeToString())

    def test_the_way_around_a_broken_int8_graph_is_said(self) -> None:
        reason = "Node (gemm_input_reshape_arg_q) output_dtype INT8 does not match y_zero_point type UINT8"
        assert "--opset 20, or for a range of batch sizes" in load_hint(reason)

    def test_an_open_session_cannot_be_altered(self, affine_file: Path) -> None:
        session = ort.open_session(affine_file)
        with pytest.raises(AttributeError):
            session.provider = "other"  # type: ignore[misc]
        with pytest.raises(TypeError):
            session.inputs["z"] = session.inputs["x"]  # type: ignore[index]

    def test_is_silent_on_a_good_run(self, affine_file: Path, capfd: pytest.CaptureFixture[str]) -> None:
        ort.open_session(affine_file, threads=1, share_cores=True).run({"x": np.zeros((2, 3), np.float32)})
        assert capfd.readouterr() == ("", "")

    def test_a_failure_prints_nothing_either(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "bad.onnx").write_text("no model")
        with pytest.raises(ExportError):
            ort.open_session(tmp_path / "bad.onnx")
        assert capfd.readouterr() == ("", "")

    def test_threads_reach_the_session(self, affine_file: Path) -> None:
        session = ort.open_session(affine_file, threads=1, share_cores=True)
        options = session.native.get_session_options()
        assert options.intra_op_num_threads == 1
        assert options.get_session_config_entry("session.force_spinning_stop") == "1"

    @pytest.mark.parametrize("threads", [0, -1, True])
    def test_refuses_a_senseless_number_of_threads(self, affine_file: Path, threads: int) -> None:
        with pytest.raises(OptionError, match="threads is"):
            ort.open_session(affine_file, threads=threads)

    def test_reads_what_the_file_says_about_itself(self, tmp_path: Path) -> None:
        model = affine_model()
        model.metadata_props.add(key="tofu_export.gmacs", value="1.5")
        assert dict(ort.open_session(model.SerializeToString()).metadata) == {"tofu_export.gmacs": "1.5"}

    def test_a_profile_and_the_graph_as_it_ran(self, affine_file: Path, tmp_path: Path) -> None:
        folder = tmp_path / "profile"
        folder.mkdir()
        session = ort.open_session(affine_file, profile_into=folder)
        session.run({"x": np.zeros((2, 3), np.float32)})
        trace = session.end_profiling()
        assert trace.parent == folder
        assert '"Add"' in trace.read_text(encoding="utf-8")
        assert [node.op_type for node in onnx.load(folder / ort.OPTIMIZED_NAME).graph.node] == ["Add"]

    def test_no_profile_unless_asked_for(self, affine_file: Path) -> None:
        with pytest.raises(OptionError, match="opened without a profiler"):
            ort.open_session(affine_file).end_profiling()


class TestLoadFailures:
    def test_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(OptionError, match=r"nowhere\.onnx does not exist"):
            ort.open_session(tmp_path / "nowhere.onnx")

    @pytest.mark.parametrize("what", ["metadata", "input", "operator", "domain"])
    def test_names_that_are_not_text(self, what: str, tmp_path: Path) -> None:
        """The binding fails at them, or at the message that quotes them."""
        node = helper.make_node("Relu" if what != "operator" else "NAMED", ["x"], ["y"])
        node.domain = "NAMED" if what == "domain" else ""
        ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
        if what == "input":
            node.input[0] = ends[0].name = "NAMED"
        opsets = [helper.make_opsetid("", 18)]
        model = helper.make_model(
            helper.make_graph([node], "g", ends[:1], ends[1:]), opset_imports=opsets, ir_version=9
        )
        helper.set_model_props(model, {"key": "NAMED"} if what == "metadata" else {})
        data = model.SerializeToString()
        assert b"NAMED" in data
        path = tmp_path / "damaged.onnx"
        path.write_bytes(data.replace(b"NAMED", b"N\xe1MED"))
        with pytest.raises(ExportError, match="a name that is not text") as caught:
            ort.open_session(path)
        assert one_line(caught.value)

    def test_folder_instead_of_file(self, tmp_path: Path) -> None:
        with pytest.raises(OptionError, match="is a folder"):
            ort.open_session(tmp_path)

    @pytest.mark.parametrize("content", [b"", b"just some text", b"\x08"], ids=["empty", "text", "one byte"])
    def test_not_onnx(self, content: bytes) -> None:
        with pytest.raises(ExportError, match="not an ONNX file, or it is cut short") as caught:
            ort.open_session(content)
        assert one_line(caught.value)

    def test_truncated(self, affine_file: Path) -> None:
        content = affine_file.read_bytes()
        affine_file.write_bytes(content[: len(content) * 2 // 3])
        with pytest.raises(ExportError, match="cut short") as caught:
            ort.open_session(affine_file)
        assert one_line(caught.value)

    def test_unknown_operator(self) -> None:
        model = affine_model(nodes=[helper.make_node("Fuse", ["x", "w"], ["y"], domain="tofu")])
        model.opset_import.append(helper.make_opsetid("tofu", 1))
        with pytest.raises(ExportError, match="Fuse") as caught:
            ort.open_session(model.SerializeToString())
        assert one_line(caught.value)

    def test_invalid_graph(self) -> None:
        model = affine_model(nodes=[helper.make_node("Add", ["x", "nothing"], ["y"])])
        with pytest.raises(ExportError, match="nothing") as caught:
            ort.open_session(model.SerializeToString())
        assert one_line(caught.value)

    def test_missing_external_data(self, tmp_path: Path) -> None:
        model = affine_model()
        model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.arange(3, dtype=np.float32), "w"))
        path = tmp_path / "big.onnx"
        onnx.save_model(model, path, save_as_external_data=True, location="big.data", size_threshold=0)
        assert ort.open_session(path).provider == ort.CPU_PROVIDER
        (tmp_path / "big.data").unlink()
        with pytest.raises(ExportError, match="keep it beside the \\.onnx file") as caught:
            ort.open_session(path)
        assert one_line(caught.value)

    def test_text_is_not_fed(self) -> None:
        model = affine_model(dtype=TensorProto.STRING, nodes=[helper.make_node("Identity", ["x"], ["y"])])
        with pytest.raises(ExportError, match=r"string.*neither fed nor compared.*without it"):
            ort.open_session(model.SerializeToString())

    def test_bfloat16_inputs_cannot_be_fed(self) -> None:
        model = affine_model(dtype=TensorProto.BFLOAT16, nodes=[helper.make_node("Identity", ["x"], ["y"])])
        with pytest.raises(ExportError, match=r"bfloat16.*numpy cannot hold"):
            ort.open_session(model.SerializeToString())

    def test_exits_as_a_failed_export(self) -> None:
        with pytest.raises(ExportError) as caught:
            ort.open_session(b"no")
        assert caught.value.exit_code is ExitCode.EXPORT

    def test_errors_that_are_not_onnxruntimes_pass_through(
        self, affine_file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import onnxruntime

        def out_of_memory(*_: Any, **__: Any) -> None:
            raise MemoryError

        monkeypatch.setattr(onnxruntime, "InferenceSession", out_of_memory)
        with pytest.raises(MemoryError):
            ort.open_session(affine_file)


class TestRun:
    def test_returns_outputs_by_name(self, affine_file: Path) -> None:
        outputs = ort.open_session(affine_file).run({"x": np.zeros((2, 3), np.float32)})
        assert list(outputs) == ["y"]
        np.testing.assert_array_equal(outputs["y"], [[1, 2, 3], [1, 2, 3]])

    def test_takes_any_memory_layout(self, affine_file: Path) -> None:
        every_second = np.arange(12, dtype=np.float32).reshape(2, 6)[:, ::2]
        outputs = ort.open_session(affine_file).run({"x": every_second})
        np.testing.assert_array_equal(outputs["y"], every_second + np.array([1, 2, 3]))

    def test_a_bound_call_can_be_repeated(self, affine_file: Path) -> None:
        call = ort.open_session(affine_file).bind({"x": np.ones((1, 3), np.float32)})
        np.testing.assert_array_equal(call()["y"], call()["y"])

    @pytest.mark.parametrize(
        ("feeds", "words"),
        [
            ({}, "x missing; expected x float32"),
            ({"x": np.zeros((1, 3), np.float32), "mask": np.zeros(1)}, "mask unknown"),
            ({"image": np.zeros((1, 3), np.float32)}, "x missing and image unknown"),
            ({"x": np.zeros((1, 3))}, "dtype float64, expected float32"),
            ({"x": np.zeros(3, np.float32)}, r"shape \[3\], expected float32\[\?, 3\]"),
            ({"x": np.zeros((1, 4), np.float32)}, r"shape \[1, 4\], expected float32\[\?, 3\]"),
            ({"x": [[0.0, 0.0, 0.0]]}, "is a list, expected a numpy array"),
        ],
        ids=["missing", "unknown", "renamed", "dtype", "rank", "fixed size", "no array"],
    )
    def test_refuses_wrong_feeds(self, affine_file: Path, feeds: dict[str, Any], words: str) -> None:
        with pytest.raises(OptionError, match=words):
            ort.open_session(affine_file).run(feeds)

    def test_an_unstated_shape_takes_any_rank(self) -> None:
        session = ort.open_session(affine_model(shape=None).SerializeToString())
        assert session.inputs["x"].shape == ()
        assert session.run({"x": np.zeros((2, 2, 3), np.float32)})["y"].shape == (2, 2, 3)

    def test_a_failure_while_running_is_one_line(self) -> None:
        model = affine_model(shape=("batch", "width"))  # width 3 is what the weights need, but not what the file says
        session = ort.open_session(model.SerializeToString())
        with pytest.raises(ExportError, match="fails when it runs") as caught:
            session.run({"x": np.zeros((1, 4), np.float32)})
        assert one_line(caught.value)


class TestProviders:
    def test_cpu_is_usable_and_remote_services_are_not(self, capfd: pytest.CaptureFixture[str]) -> None:
        usable = ort.providers_usable()
        assert "CPUExecutionProvider" in usable
        assert "AzureExecutionProvider" not in usable
        assert capfd.readouterr().out == ""

    def test_version_is_the_packages(self) -> None:
        import onnxruntime

        assert ort.version() == onnxruntime.__version__

    def test_a_provider_that_is_not_compiled_in(self, affine_file: Path, capfd: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(BackendMissingError, match="FooExecutionProvider is not in the installed onnxruntime"):
            ort.open_session(affine_file, provider="FooExecutionProvider")
        assert capfd.readouterr() == ("", "")

    def test_a_provider_that_is_silently_replaced(self, affine_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """onnxruntime-gpu without a GPU: the provider is listed, the session opens, and runs on the CPU."""
        import onnxruntime

        genuine = onnxruntime.InferenceSession

        def falls_back(source: Any, options: Any, **_: Any) -> Any:
            return genuine(source, options, providers=["CPUExecutionProvider"])

        listed = ["CUDAExecutionProvider", "CPUExecutionProvider"]
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: listed)
        monkeypatch.setattr(onnxruntime, "InferenceSession", falls_back)
        with pytest.raises(BackendMissingError, match=r"could not start.*tofu-export\[gpu\]") as caught:
            ort.open_session(affine_file, provider="CUDAExecutionProvider")
        assert caught.value.exit_code is ExitCode.BACKEND_MISSING
        assert ort.providers_usable() == ("CPUExecutionProvider",)

    def test_a_provider_that_fails_outright(self, affine_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        import onnxruntime
        from onnxruntime.capi.onnxruntime_pybind11_state import EPFail

        def fails(*_: Any, **__: Any) -> Any:
            raise EPFail("[ONNXRuntimeError] : 11 : EP_FAIL : no device")

        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["TensorrtExecutionProvider"])
        monkeypatch.setattr(onnxruntime, "InferenceSession", fails)
        with pytest.raises(BackendMissingError, match="TensorrtExecutionProvider could not start: no device"):
            ort.open_session(affine_file, provider="TensorrtExecutionProvider")

    def test_onnxruntime_does_not_retry_elsewhere_and_print_about_it(
        self, affine_file: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        import onnxruntime

        attempts = []

        def fails(_: Any, providers: list[str], *__: Any) -> None:
            attempts.append(providers)
            raise RuntimeError("no device")

        monkeypatch.setattr(onnxruntime.InferenceSession, "_create_inference_session", fails)
        with pytest.raises(ExportError, match="no device"):
            ort.open_session(affine_file)
        assert attempts == [["CPUExecutionProvider"]]
        assert capfd.readouterr() == ("", "")


class TestInt8:
    """Sums of products of 127 and 127 overflow 16 bits: onnxruntime's own choice on x86-64 without VNNI."""

    def test_is_exact_on_every_cpu(self, caplog: pytest.LogCaptureFixture) -> None:
        session = ort.open_session(int8_chain(shared=False).SerializeToString())
        found = session.run({"x0": np.ones((8, 64), np.float32)})["x2"]
        np.testing.assert_allclose(found, 1, rtol=1e-5)
        assert not caplog.records

    def test_what_cannot_be_made_exact_runs_with_a_warning(self, caplog: pytest.LogCaptureFixture) -> None:
        session = ort.open_session(int8_chain(shared=True).SerializeToString())
        found = session.run({"x0": np.ones((8, 64), np.float32)})["x2"]
        exact = bool(np.allclose(found, 1, rtol=1e-5))
        assert "int8 products are exact on CPUs with VNNI only" in caplog.text or exact


def test_fp8_runs_although_the_optimiser_breaks_its_graph(caplog: pytest.LogCaptureFixture) -> None:
    """A Transpose behind DequantizeLinear is moved in front of it, where it would be one of FP8 numbers."""
    kind = TensorProto.FLOAT8E4M3FN
    initializers = [
        numpy_helper.from_array(np.array(0.25, np.float16), "scale"),
        helper.make_tensor("zero", kind, [], b"\0", raw=True),
    ]
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0]),
        helper.make_node("QuantizeLinear", ["t", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"]),
        helper.make_node("Transpose", ["d"], ["y"], perm=[1, 0]),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT16, [2, 3]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "fp8", ends[:1], ends[1:], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=10)
    pixels = np.array([[0.25, 1.0, 4.4], [-7.9, 0.0, 1e4]], np.float16)
    found = ort.open_session(model.SerializeToString()).run({"x": pixels})["y"]
    # Steps of E4M3 are 1/8 of a power of two, times the scale; 448 is the largest number.
    np.testing.assert_array_equal(found, np.float16([[0.25, 1.0, 4.5], [-8.0, 0.0, 112.0]]))
    assert not caplog.records


class TestPackageMissing:
    def test_not_installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
        with pytest.raises(BackendMissingError, match="pip install onnxruntime") as caught:
            ort.version()
        assert isinstance(caught.value, ImportError)

    def test_installed_but_broken(self, monkeypatch: pytest.MonkeyPatch) -> None:
        refuse_import(monkeypatch, ImportError("libfoo.so: cannot open shared object file"))
        with pytest.raises(BackendMissingError, match=r"cannot be loaded \(libfoo\.so"):
            ort.providers_usable()

    def test_a_dependency_is_missing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        refuse_import(monkeypatch, ModuleNotFoundError("No module named 'flatbuffers'", name="flatbuffers"))
        with pytest.raises(BackendMissingError, match="lacks the package flatbuffers"):
            ort.version()

    def test_the_empty_folder_that_an_uninstall_leaves(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "onnxruntime", ModuleType("onnxruntime"))
        with pytest.raises(BackendMissingError, match="installed but empty"):
            ort.version()


def one_line(error: Exception) -> bool:
    return "\n" not in str(error) and "ONNXRuntimeError" not in str(error)


def refuse_import(monkeypatch: pytest.MonkeyPatch, error: ImportError) -> None:
    genuine = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> ModuleType:
        if name == "onnxruntime":
            raise error
        return genuine(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)
    monkeypatch.setattr(builtins, "__import__", refuse)


class TestOpenCopy:
    """A changed copy of a file runs from memory, with weights of the file and of what lies beside it."""

    def model(self, dtype: int = TensorProto.FLOAT) -> tuple[onnx.ModelProto, np.ndarray]:
        weights = np.random.default_rng(0).standard_normal((64, 64)).astype(helper.tensor_dtype_to_np_dtype(dtype))
        graph = helper.make_graph(
            [helper.make_node("MatMul", ["x", "w"], ["inner"]), helper.make_node("Relu", ["inner"], ["y"])],
            "layer",
            [helper.make_tensor_value_info("x", dtype, ["batch", 64])],
            [helper.make_tensor_value_info("y", dtype, ["batch", 64])],
            [numpy_helper.from_array(weights, "w")],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), weights

    def inner_of(self, path: Path, x: np.ndarray) -> np.ndarray:
        copy = onnx.load(path, load_external_data=False)
        kind = copy.graph.output[0].type.tensor_type.elem_type
        copy.graph.output.append(helper.make_tensor_value_info("inner", kind, None))
        return ort.open_copy(copy, path).run({"x": x})["inner"]

    @pytest.mark.parametrize("external", [False, True])
    @pytest.mark.parametrize("dtype", [TensorProto.FLOAT, TensorProto.FLOAT16])
    def test_it_computes_what_the_file_does(self, dtype: int, external: bool, tmp_path: Path) -> None:
        model, weights = self.model(dtype)
        path = tmp_path / "layer.onnx"
        onnx.save_model(model, path, save_as_external_data=external, location="layer.data", size_threshold=0)
        before = sorted(tmp_path.iterdir())
        x = np.eye(3, 64, dtype=weights.dtype)
        np.testing.assert_allclose(self.inner_of(path, x), weights[:3], rtol=1e-3)
        assert sorted(tmp_path.iterdir()) == before

    def test_missing_external_data_is_named(self, tmp_path: Path) -> None:
        path = tmp_path / "layer.onnx"
        onnx.save_model(self.model()[0], path, save_as_external_data=True, location="layer.data", size_threshold=0)
        (tmp_path / "layer.data").unlink()
        with pytest.raises(ExportError, match="a copy of "):
            self.inner_of(path, np.eye(3, 64, dtype=np.float32))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems take no such name")
def test_a_path_that_is_not_utf_8_is_refused_in_words(tmp_path: Path) -> None:
    """onnxruntime's binding answers it with a TypeError about constructors."""
    folder = tmp_path / os.fsdecode(b"\xff\xfe")
    folder.mkdir()
    (folder / "model.onnx").write_bytes(b"")
    with pytest.raises(ExportError, match="not UTF-8"):
        ort.open_session(folder / "model.onnx")


def test_int8_products_are_exact_in_every_session() -> None:
    """With the option where onnxruntime's default overflows, and without it where it does not: it is slow there."""
    weight = helper.make_tensor("w", TensorProto.INT8, [64, 16], [127] * 1024)
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["x", "w"], ["y"])], "g",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, [3, 64])],
        [helper.make_tensor_value_info("y", TensorProto.INT32, [3, 16])], [weight],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    session = ort.open_session(model.SerializeToString())
    assert (session.run({"x": np.full((3, 64), 255, np.uint8)})["y"] == 64 * 255 * 127).all()


@pytest.mark.parametrize("overflow", [True, False])
def test_the_option_for_exact_products_is_set_where_they_overflow(
    overflow: bool, affine_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tofu_export.system.ort.opening.products_overflow", lambda: overflow)
    options = ort.open_session(affine_file).native.get_session_options()
    if overflow:
        assert options.get_session_config_entry(ort.EXACT_INT8) == "1"
    else:
        with pytest.raises(RuntimeError):
            options.get_session_config_entry(ort.EXACT_INT8)


@pytest.mark.parametrize(("op_type", "reduction", "threads"), [("ScatterND", "add", 1), ("ScatterND", "none", None),
                                                               ("ScatterElements", "add", None)])  # fmt: skip
@pytest.mark.parametrize("inside", [False, True])
def test_what_several_threads_compute_wrong(op_type: str, reduction: str, threads: int | None, inside: bool) -> None:
    node = helper.make_node(op_type, ["x", "i", "u"], ["y"], reduction=reduction)
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([node], "g", [], [output])
    if inside:
        graph = helper.make_graph([helper.make_node("If", ["c"], ["y"], then_branch=graph, else_branch=graph)], "g", [],
                                  [output])  # fmt: skip
    assert ort.exact_threads(helper.make_model(graph)) == threads


def test_a_version_that_is_too_new_is_said_in_short(tmp_path: Path) -> None:
    proto = affine_model()
    proto.ir_version = 99
    path = tmp_path / "new.onnx"
    onnx.save(proto, path)
    with pytest.raises(
        ExportError, match=r"new.onnx: Unsupported model IR version: 99, .* lower ir_version"
    ) as failure:
        ort.open_session(path)
    assert "onnxruntime_src" not in str(failure.value)
