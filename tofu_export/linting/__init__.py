"""Find what a runtime rejects, ignores or silently changes in an ONNX file, before the runtime does.

`facts` is the table of known facts, `conditions` checks nodes for them, `graph` walks the nodes, `onnx_files` checks
the file around the graph, `authorities` asks onnx's checker and onnxruntime, `linter` combines them. The pre-flight
of the engine builders reads the same table. TensorRT is not started: `parser_table` keeps what its parser said.
"""

from tofu_export.linting.finding import Fact, Finding, Runtime, Severity
from tofu_export.linting.linter import LintReport, lint_file, runtimes_of

__all__ = ["Fact", "Finding", "LintReport", "Runtime", "Severity", "lint_file", "runtimes_of"]
