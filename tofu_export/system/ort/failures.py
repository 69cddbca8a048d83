"""Exceptions of onnxruntime: which they are, and their reason in one line."""

from __future__ import annotations

import re

__all__ = ["is_native", "load_hint", "reason_of"]


def is_native(error: Exception) -> bool:
    """True for an error of onnxruntime itself; its exceptions share no base class, and pybind11 adds RuntimeError.

    If a message has a name that is not UTF-8, pybind11 raises UnicodeDecodeError instead.
    """
    return type(error).__module__.startswith("onnxruntime") or type(error) in (RuntimeError, UnicodeDecodeError)


def reason_of(error: Exception) -> str:
    """Return the message on one line, without onnxruntime's prefixes."""
    if isinstance(error, UnicodeDecodeError):
        return "it holds a name that is not text"
    if not str(error).strip():  # form of such a message in 1.23
        return "it gives no reason, as for a name that is not text"
    line = " ".join(str(error).split())
    line = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", line)
    line = re.sub(r"^Load model from .*? failed:\s*", "", line)
    line = re.sub(r"^(Exception during \w+: )?/\S+\.(?:cc|h):\d+ .*?\) (?=[A-Z])", r"\1", line).rstrip(". ")
    return line if len(line) <= 400 else f"{line[:397]}..."


def load_hint(reason: str) -> str:
    """Return what to do about a model that does not load, by the reason that onnxruntime gives."""
    lowered = reason.lower()
    if "external data" in lowered or "filesystem error" in lowered:  # message of 1.21 to 1.23
        return "Weights over 2 GB lie in a second file: keep it beside the .onnx file under the name it had"
    if "model ir version" in lowered:
        return "Save it with an older onnx, or with a lower ir_version"
    if "released onnx opset" in lowered:
        return "Export it for a lower opset, or convert it with onnx.version_converter"
    if "protobuf" in lowered:
        return "It is not an ONNX file, or it is cut short: copy or export it again"
    if "output_dtype" in lowered and "y_zero_point" in lowered:  # found in 1.31
        return (
            "onnxruntime's own optimiser breaks int8 files of a fixed batch from opset 21 on: export it with "
            "--opset 20, or for a range of batch sizes"
        )
    if "bfloat16" in lowered:
        return (
            "onnxruntime's CPU provider has no bfloat16 kernels: take the fp32 or fp16 file of the model here; verify "
            "computes a bf16 file in FP32, and TensorRT builds engines from it"
        )
    return "`check-model FILE`, which comes with onnx, may tell more; or export it again"
