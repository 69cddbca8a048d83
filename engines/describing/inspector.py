"""Read the kernels of an engine from TensorRT's engine inspector, which needs a GPU.

The inspector gives JSON, whose words differ by version and by what compiled a layer. Three shapes are read: layers with
a data type alone (`Half`), as Myelin's layers in TensorRT 10; layers with a description of the format (`Row major
linear FP16 format`), as other layers in 8 to 10; and bare names, in engines built without detailed profiling. A key
`Datatype` apart from `Format` is read as well. Like log text, the format is not guaranteed: what cannot be read is
counted, never an error.

Source: NVIDIA's developer guide on the engine inspector, and outputs that users of TensorRT 8.4 to 10.13 have shown.
None was made on a GPU by this project, and none of TensorRT 11 was seen.
"""

from __future__ import annotations

import json
import re
from typing import Any

from tofu_export.engines.describing.kernel_log import KernelLog, KernelRecord

__all__ = ["parse_inspector"]

_DTYPES = (
    ("bf16", re.compile(r"\b(BFloat16|BF16|bfloat16)\b")),
    ("fp16", re.compile(r"\b(Half|FP16|float16)\b")),
    ("fp8", re.compile(r"\b(FP8|Float8)\w*\b")),
    ("fp32", re.compile(r"\b(Float|FP32|float32)\b")),
    ("int8", re.compile(r"\b(Int8|INT8)\b")),
    ("int64", re.compile(r"\b(Int64|INT64)\b")),
    ("int32", re.compile(r"\b(Int32|INT32)\b")),
    ("bool", re.compile(r"\b(Bool|BOOL)\b")),
)
_ONNX = re.compile(r"\[ONNX Layer: (.*?)\](?=[\s\x1e\x1f]*(?:\[|$))")


def parse_inspector(text: str) -> KernelLog:
    """Read the layers of an engine from the inspector's JSON; names alone, or other text, count as unread."""
    try:
        layers = json.loads(text)["Layers"]
    except (ValueError, KeyError, TypeError):
        return KernelLog(unparsed=1)
    if not isinstance(layers, list):
        return KernelLog(unparsed=1)
    records = [record for record in map(_record, layers) if record is not None]
    return KernelLog(tuple(records), len(layers) - len(records))


def _record(layer: Any) -> KernelRecord | None:
    if not isinstance(layer, dict) or not isinstance(layer.get("Name"), str):
        return None
    return KernelRecord(
        name=layer["Name"],
        layer_type=str(layer.get("LayerType", "")),
        tactic=str(layer.get("TacticName", "")),
        onnx_nodes=tuple(dict.fromkeys(_ONNX.findall(str(layer.get("Metadata", ""))))),
        input_dtypes=_dtypes(layer.get("Inputs")),
        output_dtypes=_dtypes(layer.get("Outputs")),
    )


def _dtypes(tensors: Any) -> tuple[str, ...]:
    if not isinstance(tensors, list):
        return ()
    texts = [
        str(tensor.get("Datatype") or tensor.get("DataType") or tensor.get("Format/Datatype") or "")
        for tensor in tensors
        if isinstance(tensor, dict)
    ]
    return tuple(next((name for name, pattern in _DTYPES if pattern.search(text)), text.lower()) for text in texts)
