"""The table of what TensorRT-RTX's parser imports, against the parser."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import Any

import pytest
from onnx import TensorProto, defs, helper

from tests.linting.cases import as_measured_rtx
from tofu_export.engines.building._build_log import BuildLog, make_logger
from tofu_export.engines.flavours import RTX, load
from tofu_export.linting.parser_table import IMPORTED, NEEDS_PLUGIN, TYPES

pytestmark = [
    pytest.mark.rtx,
    pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed"),
]


@pytest.fixture
def parser() -> Iterator[Any]:
    trt = load(RTX)
    logger = make_logger(trt, BuildLog())
    network = trt.Builder(logger).create_network(0)  # a parser does not keep it alive
    yield trt.OnnxParser(network, logger)
    del network


@as_measured_rtx
def test_operators(parser: Any) -> None:
    names = {schema.name for schema in defs.get_all_schemas_with_history() if schema.domain == ""}
    assert {name for name in names if parser.supports_operator(name)} == IMPORTED & names
    assert NEEDS_PLUGIN <= IMPORTED


@as_measured_rtx
def test_types() -> None:
    trt = load(RTX)
    logger = make_logger(trt, BuildLog())
    builder = trt.Builder(logger)
    taken = set()
    for dtype in set(TensorProto.DataType.values()) - {TensorProto.UNDEFINED}:
        values = [helper.make_tensor_value_info(name, dtype, [2, 2]) for name in "xy"]
        graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "type", values[:1], values[1:])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 25)], ir_version=12)
        network = builder.create_network(0)
        if trt.OnnxParser(network, logger).parse(model.SerializeToString()):
            taken.add(dtype)
    assert taken == TYPES
