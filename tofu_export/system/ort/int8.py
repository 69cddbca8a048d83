"""Whether this CPU computes int8 products exactly in onnxruntime."""

from __future__ import annotations

from functools import cache

import numpy as np

from tofu_export.system.ort.package import CPU_PROVIDER, LOG_FATAL, onnxruntime

__all__ = ["EXACT_INT8", "products_overflow"]

EXACT_INT8 = "session.x64quantprecision"
"""Session option that keeps int8 products exact on x86-64 without VNNI, where onnxruntime's default adds pairs of them
in 16 bits, which overflow. It must stay off elsewhere: int8 files of ViT-B take 2.8 times as long with it on a CPU that
has VNNI (onnxruntime 1.31). Source: `onnxruntime_session_options_config_keys.h`."""

_LENGTH = 64
_LARGEST = (255, 127)


@cache
def products_overflow() -> bool:
    """Multiply the largest uint8 by the largest int8 numbers with onnxruntime's default; True if the sum is wrong."""
    from onnx import TensorProto, helper, numpy_helper

    weight = numpy_helper.from_array(np.full((_LENGTH, 16), _LARGEST[1], np.int8), "w")
    inputs = [helper.make_tensor_value_info("x", TensorProto.UINT8, [8, _LENGTH])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.INT32, [8, 16])]
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["x", "w"], ["y"])], "probe", inputs, outputs, [weight]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    ort = onnxruntime()
    options = ort.SessionOptions()
    options.log_severity_level = LOG_FATAL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=[CPU_PROVIDER])
    (found,) = session.run(None, {"x": np.full((8, _LENGTH), _LARGEST[0], np.uint8)})
    return bool((found != _LENGTH * _LARGEST[0] * _LARGEST[1]).any())
