"""Lowering: from canonical graphs with `tofu::` nodes to graphs that a target accepts and runs fast.

This side sees ONNX only, no torch. One formulation per file; `table` says which target and precision gets which.
"""

if __name__ != "tofu_export.graph_patterns":
    raise ImportError(
        f"this package is tofu_export.graph_patterns, not {__name__!r}: import it by its full name "
        "(see docs/decisions/001-layout.md)"
    )
