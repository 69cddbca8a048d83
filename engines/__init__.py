"""Inference engines made from ONNX files.

`flavours` imports TensorRT and TensorRT-RTX, `preflight` checks a file before the builder, `build` makes an engine in a
separate process, `kernel_log` and `receipt` describe the result. Nothing here imports torch, and heavy packages are
imported only when needed.
"""

if __name__ != "tofu_export.engines":
    raise ImportError(
        f"this package is tofu_export.engines, not {__name__!r}: "
        "import it by its full name (see docs/decisions/001-layout.md)"
    )
