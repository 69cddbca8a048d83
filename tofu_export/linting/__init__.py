"""What a runtime rejects, ignores or silently changes in an ONNX file, told before the runtime does.

`facts` is the one table of what is known, `conditions` reads nodes for it, `graph` walks them, `onnx_files` looks at
the file around the graph, `authorities` asks onnx's checker and onnxruntime, `linter` puts it together. The pre-flight
of the engine builders reads the same table. TensorRT is not started: `parser_table` keeps what its parser said.
"""

from tofu_export.linting.finding import Fact, Finding, Runtime, Severity
from tofu_export.linting.linter import LintReport, lint_file, runtimes_of

__all__ = ["Fact", "Finding", "LintReport", "Runtime", "Severity", "lint_file", "runtimes_of"]
