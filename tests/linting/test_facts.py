"""Each row of the table against the runtime that it speaks of, where that runs here."""

from __future__ import annotations

import importlib.util
from dataclasses import asdict

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from tests.engines import models
from tests.graph_patterns import styles
from tests.linting.cases import (
    ACCEPTED,
    ORT_REJECTS,
    RTX_CANNOT_BUILD,
    RTX_REJECTS,
    as_measured_ort,
    as_measured_rtx,
    attend,
    of_domain,
    quantized,
    scatter,
    unary,
)
from tofu_export.engines.building import _build_worker
from tofu_export.engines.building._build_log import BuildLog, make_logger
from tofu_export.engines.building.builder_options import BuilderOptions
from tofu_export.engines.flavours import RTX, load
from tofu_export.errors import EngineBuildError
from tofu_export.linting import Finding, Runtime, Severity, lint_file
from tofu_export.linting.conditions import BF16_CPU_KERNELS
from tofu_export.linting.facts import FACTS

ORT_LOGS_NOTHING = 4

rtx = [
    pytest.mark.rtx,
    pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed"),
]


def flat(cases: dict[str, dict[str, onnx.ModelProto]]) -> list[object]:
    return [
        pytest.param(rule, proto, id=f"{rule}: {name}")
        for rule, named in cases.items()
        for name, proto in named.items()
    ]


def findings(proto, folder, runtime: Runtime, capabilities=()) -> tuple[Finding, ...]:
    return lint_file(models.save(proto, folder), [runtime], capabilities).findings


def errors(proto, folder, runtime: Runtime, capabilities=()) -> set[str]:
    found = findings(proto, folder, runtime, capabilities)
    return {finding.rule for finding in found if finding.severity is Severity.ERROR}


def run_in_onnxruntime(proto: onnx.ModelProto) -> None:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = ORT_LOGS_NOTHING
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feeds = {}
    for entry in session.get_inputs():
        dtype = {"float": np.float32, "float16": np.float16, "int64": np.int64}[entry.type[7:-1]]
        feeds[entry.name] = np.zeros([size if isinstance(size, int) else 2 for size in entry.shape], dtype)
    session.run(None, feeds)


@pytest.fixture(scope="module")
def parse():
    """Whether TensorRT-RTX parses a model."""
    trt = load(RTX)
    logger = make_logger(trt, BuildLog())
    builder = trt.Builder(logger)

    def parses(proto: onnx.ModelProto) -> bool:
        network = builder.create_network(0)
        parser = trt.OnnxParser(network, logger)
        return bool(parser.parse(proto.SerializeToString()))

    return parses


def test_rules_have_names_of_their_own():
    assert len({fact.rule for fact in FACTS}) == len(FACTS)


def test_every_error_that_can_be_tried_is_tried():
    def rules(runtime: Runtime) -> set[str]:
        return {fact.rule for fact in FACTS if runtime in fact.runtimes and fact.severity is Severity.ERROR}

    assert rules(Runtime.TENSORRT_RTX) == RTX_REJECTS.keys() | RTX_CANNOT_BUILD.keys()
    assert rules(Runtime.ONNXRUNTIME) == ORT_REJECTS.keys()
    (no_bf16,) = (fact for fact in FACTS if fact.rule == "not-in-bf16")
    assert set(no_bf16.op_types) == RTX_REJECTS["not-in-bf16"].keys()


@pytest.mark.parametrize(("rule", "proto"), flat(ORT_REJECTS))
def test_onnxruntime_rejects_it(rule, proto, tmp_path):
    assert rule in errors(proto, tmp_path, Runtime.ONNXRUNTIME)
    with pytest.raises(Exception, match="ONNXRuntimeError"):
        run_in_onnxruntime(proto)


class TestRtx:
    pytestmark = rtx

    @as_measured_rtx
    @pytest.mark.parametrize(("rule", "proto"), flat(RTX_REJECTS))
    def test_does_not_parse_it(self, rule, proto, tmp_path, parse):
        """When this fails, the parser has learnt something and the row goes."""
        assert rule in errors(proto, tmp_path, Runtime.TENSORRT_RTX)
        assert not parse(proto)

    @as_measured_rtx
    @pytest.mark.parametrize("rule", RTX_CANNOT_BUILD)
    def test_does_not_build_it(self, rule, tmp_path, monkeypatch):
        proto, capability = RTX_CANNOT_BUILD[rule]
        assert rule in errors(proto, tmp_path, Runtime.TENSORRT_RTX, [capability])
        (fact,) = (fact for fact in FACTS if fact.rule == rule)
        if fact.capability is not None:
            assert rule not in errors(proto, tmp_path, Runtime.TENSORRT_RTX, ["SM89"])
        monkeypatch.setattr(_build_worker, "allow_decomposition", lambda trt, network: ())
        monkeypatch.setattr(_build_worker, "check_precision", lambda *_: None)
        inputs = {
            entry.name: [dim.dim_value or 2 for dim in entry.type.tensor_type.shape.dim] for entry in proto.graph.input
        }
        request = {
            "onnx_path": str(tmp_path / "model.onnx"),
            "shown_path": "model.onnx",
            "plan_path": str(tmp_path / "plan"),
            "flavour": RTX.name,
            "profiles": {name: [shape] * 3 for name, shape in inputs.items()},
            "precision": "fp32",
            "compute_capabilities": [capability],
            "least_share": 0.0,
            "inspect": False,
            "options": asdict(BuilderOptions()),
        }
        with pytest.raises(EngineBuildError):
            _build_worker.build_plan(load(RTX), RTX, request)

    @pytest.mark.parametrize("name", ACCEPTED)
    def test_parses_what_nothing_is_said_about(self, name, parse):
        assert parse(ACCEPTED[name])

    def test_fp64_becomes_fp32(self, tmp_path):
        proto = unary("Relu", onnx.TensorProto.DOUBLE)
        (finding,) = findings(proto, tmp_path, Runtime.TENSORRT_RTX)
        assert (finding.rule, finding.severity) == ("fp64-becomes-fp32", Severity.WARNING)
        trt = load(RTX)
        logger = make_logger(trt, BuildLog())
        network = trt.Builder(logger).create_network(0)
        parser = trt.OnnxParser(network, logger)
        assert parser.parse(proto.SerializeToString())
        assert network.get_layer(0).get_output(0).dtype == trt.DataType.FLOAT

    def test_a_contrib_name_that_onnx_has_too_is_parsed(self, tmp_path, parse):
        proto = of_domain("com.microsoft", "Gelu")
        assert errors(proto, tmp_path, Runtime.TENSORRT_RTX) == set()
        assert parse(proto)


@pytest.mark.parametrize("name", ACCEPTED)
def test_nothing_is_said_about_what_runs(name, tmp_path):
    report = lint_file(models.save(ACCEPTED[name], tmp_path), list(Runtime))
    assert [finding.rule for finding in report.findings] == (["int8-overflow"] if name == "int8" else [])
    assert report.passed
    run_in_onnxruntime(ACCEPTED[name])


@as_measured_ort
def test_bf16_kernels_are_those_that_onnxruntime_registers():
    """All kernels of the CPU provider, less what the optimiser alone puts in and what the loader takes out."""
    from onnxruntime.capi.onnxruntime_pybind11_state import get_all_opkernel_def

    registered = {
        kernel.op_name
        for kernel in get_all_opkernel_def()
        if kernel.provider == "CPUExecutionProvider"
        and kernel.domain == ""
        and any("bfloat16" in name for types in kernel.type_constraints.values() for name in types)
    }
    internal = {"DynamicSlice", "MemcpyFromHost", "MemcpyToHost", "SimplifiedLayerNormalization"}
    assert registered - internal == BF16_CPU_KERNELS - {"CastLike", "Constant", "Size"}


@pytest.mark.parametrize("op_type", ["RandomNormalLike", "RandomUniformLike", "Bernoulli"])
def test_random_numbers_are_a_warning_and_differ(op_type, tmp_path):
    proto = unary(op_type)
    (finding,) = findings(proto, tmp_path, Runtime.ONNXRUNTIME)
    assert (finding.rule, finding.severity) == ("random", Severity.WARNING)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    x = np.full((4, 8), 0.5, np.float32)
    assert not np.array_equal(session.run(None, {"x": x})[0], session.run(None, {"x": x})[0])


def test_a_mean_that_the_exporter_overwrites_is_a_warning(tmp_path):
    """torch's own note is all that tells. The file runs and differs from the model; a sum and a maximum do not."""
    torch.manual_seed(0)
    for reduce, rule in (("mean", ["mean-overwritten"]), ("sum", ["scatter-reduction"])):
        module = styles.Bipartite(styles.by_scatter(reduce)).eval()
        proto = styles.export(module)
        assert [finding.rule for finding in findings(proto, tmp_path, Runtime.TENSORRT_RTX)] == rule
        tokens = torch.randn(3, styles.tokens_of(module), styles.WIDTH)
        session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
        with torch.no_grad():
            difference = np.abs(session.run(None, {"x": tokens.numpy()})[0] - module(tokens).numpy()).max()
        assert difference > 0.1 if reduce == "mean" else difference < 1e-5


def test_a_reducing_scatter_nd_is_a_warning_for_several_threads(tmp_path):
    (finding,) = findings(scatter("ScatterND", "add", onnx.TensorProto.FLOAT), tmp_path, Runtime.ONNXRUNTIME)
    assert (finding.rule, finding.severity) == ("scatternd-race", Severity.WARNING)
    assert findings(scatter("ScatterND", "none", onnx.TensorProto.FLOAT), tmp_path, Runtime.ONNXRUNTIME) == ()


@pytest.mark.parametrize(
    ("proto", "rule"),
    [
        (attend({}, left_window_size=2), "attention-window"),
        (attend({}, right_window_size=0), "attention-window"),
        (quantized(np.uint8, 0), "uint8-becomes-int8"),
    ],
    ids=["left", "right", "uint8"],
)
def test_what_the_parser_passes_over_is_a_warning(proto, rule, tmp_path):
    proto.opset_import[0].version = 25
    found = findings(proto, tmp_path, Runtime.TENSORRT_RTX)
    assert [(finding.rule, finding.severity) for finding in found] == [(rule, Severity.WARNING)]


def test_a_window_without_bounds_is_none(tmp_path):
    proto = attend({}, left_window_size=-1)
    proto.opset_import[0].version = 25
    assert findings(proto, tmp_path, Runtime.TENSORRT_RTX) == ()
