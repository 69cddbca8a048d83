from __future__ import annotations

from pathlib import Path

import pytest

from tofu_export.engines.describing.inspector import parse_inspector

DATA = Path(__file__).with_name("data")


def test_types_and_nodes():
    log = parse_inspector((DATA / "inspector_types.json").read_text(encoding="utf-8"))
    first, second = log.records
    assert (first.layer_type, first.input_dtypes, first.output_dtypes) == ("kgen", ("fp16",), ("fp16",))
    assert (second.layer_type, second.input_dtypes, second.output_dtypes) == ("gemm", ("fp16", "fp16"), ("fp32",))
    assert second.onnx_nodes == ("/blocks.0/mlp/MatMul", "/blocks.1/Softmax")
    assert second.tactic.startswith("sm80_xmma_gemm")
    assert log.unparsed == 0
    assert log.summary().output_dtype_share == {"fp16": 0.5, "fp32": 0.5}


def test_formats_in_words():
    log = parse_inspector((DATA / "inspector_formats.json").read_text(encoding="utf-8"))
    reformat, convolution = log.records
    assert (reformat.input_dtypes, reformat.output_dtypes) == (("fp32",), ("fp16",))
    assert (convolution.input_dtypes, convolution.output_dtypes) == (("int8",), ("bf16",))
    assert convolution.onnx_nodes == ()


@pytest.mark.parametrize(
    ("text", "unread"),
    [
        ('{"Layers": ["conv1 + relu1", "pool"], "Bindings": []}', 2),
        ('{"Layers": [{"LayerType": "kgen"}]}', 1),
        ('{"Layers": {}}', 1),
        ("{}", 1),
        ("[]", 1),
        ("", 1),
        ("not JSON", 1),
    ],
)
def test_what_cannot_be_read_is_counted(text, unread):
    log = parse_inspector(text)
    assert (log.records, log.unparsed) == ((), unread)


def test_odd_tensors_are_no_error():
    log = parse_inspector('{"Layers": [{"Name": "a", "Inputs": [1, {}], "Outputs": null, "Metadata": null}]}')
    assert log.records[0].input_dtypes == ("",)
    assert log.records[0].output_dtypes == ()
