from __future__ import annotations

import json

import pytest

from tofu_export.engines.describing.kernel_log import NO_STAGE, KernelLog, parse_kernel_log, stage_of
from tofu_export.system.typed_json import from_plain, to_plain

TENSOR = "{{ Name: {}, Dimensions: [-1,16], Strides: [16,1], StrideOrder: [1,0], Datatype: {}, Format: (Linear) }}"


def line(name: str, kind: str, inputs: list[str], outputs: list[str], nodes: list[str], tactic: str = "t") -> str:
    def side(dtypes: list[str]) -> str:
        listed = ", ".join(TENSOR.format(f"a{index}", dtype) for index, dtype in enumerate(dtypes))
        return f"[ {listed}]" if dtypes else "[]"

    metadata = "".join(f"[ONNX Layer: {node}]" for node in nodes)
    return (
        f"Name: {name}, LayerType: {kind}, Inputs: {side(inputs)}, Constants: {side(['Float'])}, "
        f"Outputs: {side(outputs)}, TacticName: {tactic}, StreamId: 0, Metadata: {metadata}"
    )


KERNELS = [
    line("shapes", "shape_call", [], [], [], tactic=""),
    line("norm", "kgen", ["Half"], ["Half"], ["/blocks.0/norm/LayerNormalization"]),
    line("gemm, with comma", "gemm", ["Half", "Half"], ["Half"], ["/blocks.0/mlp/MatMul", "/blocks.0/mlp/Add"]),
    line("metric", "gemm", ["Float"], ["Float"], ["/blocks.1/tofu/MatMul"]),
    line("move", "kgen", ["Int64"], ["Int64"], ["node_[7]"]),
]
MESSAGES = [
    "Parsing node: /blocks.0/mlp/MatMul [MatMul]",
    "Total Activation Memory: 8208384 bytes",
    "Layers:\n" + "\n".join(KERNELS) + "\n\nI/O Tensors:\n Name: x, IOMode: Input, DataType: Half",
    "Total Weights Memory: 8640 bytes",
]


def test_records():
    log = parse_kernel_log(MESSAGES)
    assert log.unparsed == 0
    assert [record.name for record in log.records] == ["shapes", "norm", "gemm, with comma", "metric", "move"]
    gemm = log.records[2]
    assert (gemm.layer_type, gemm.tactic) == ("gemm", "t")
    assert gemm.onnx_nodes == ("/blocks.0/mlp/MatMul", "/blocks.0/mlp/Add")
    assert gemm.input_dtypes == ("fp16", "fp16")
    assert gemm.output_dtypes == ("fp16",)
    assert log.records[4].onnx_nodes == ("node_[7]",)
    assert log.records[0].output_dtypes == log.records[0].onnx_nodes == ()


def test_summary():
    assert to_plain(parse_kernel_log(MESSAGES).summary()) == {
        "kernels": 4,
        "host_calls": 1,
        "by_type": {"kgen": 2, "gemm": 2},
        "by_stage": {"/blocks.0": 2, "/blocks.1": 1, NO_STAGE: 1},
        "output_dtype_share": {"fp16": 0.5, "fp32": 0.25, "int64": 0.25},
        "unparsed_lines": 0,
        "activation_bytes": 8208384,
        "weight_bytes": 8640,
    }


def test_unreadable_lines_are_counted_not_fatal():
    log = parse_kernel_log(["Layers:\n" + KERNELS[1] + "\nsomething new\nName: x, LayerType: kgen"])
    assert len(log.records) == 1
    assert log.unparsed == 2
    assert log.summary().unparsed_lines == 2


@pytest.mark.parametrize("messages", [[], ["nothing of use"], ["Layers:"], ["Layers:\n"]])
def test_no_kernel_list(messages):
    log = parse_kernel_log(messages)
    assert log == KernelLog()
    assert log.summary().kernels == 0
    assert log.summary().output_dtype_share == {}


def test_survives_json():
    log = parse_kernel_log(MESSAGES)
    assert from_plain(KernelLog, json.loads(json.dumps(to_plain(log)))) == log


@pytest.mark.parametrize(
    ("node", "stage"),
    [
        ("/blocks.3/mlp/fc1/MatMul", "/blocks.3"),
        ("/head/MatMul", "/head"),
        ("blocks.3/mlp/MatMul", "blocks.3/mlp"),
        ("head/MatMul", "head"),
        ("/Add", NO_STAGE),
        ("node_MatMul_7", NO_STAGE),
        ("", NO_STAGE),
    ],
)
def test_stage(node, stage):
    assert stage_of(node) == stage


def test_fused_kernel_goes_to_the_stage_of_most_of_its_nodes():
    text = line("f", "kgen", ["Half"], ["Half"], ["/a/x/1", "/b/x/1", "/b/x/2"])
    assert parse_kernel_log([f"Layers:\n{text}"]).records[0].stage == "/b"
