"""Inference engines made from ONNX files.

`flavours` is the door to TensorRT and TensorRT-RTX, `preflight` reads a file before a builder sees it, `build` turns
it into a plan in a process of its own, `kernel_log` and `receipt` say what came out. Nothing here imports torch, and
nothing heavy is imported before it is needed.
"""

if __name__ != "tofu_export.engines":
    raise ImportError(
        f"this package is tofu_export.engines, not {__name__!r}: "
        "import it by its full name (see docs/decisions/001-layout.md)"
    )
