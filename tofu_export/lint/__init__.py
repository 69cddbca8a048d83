"""What a runtime rejects, ignores or silently changes in an ONNX file, told before the runtime does.

`facts` is the one table of what is known, `conditions` reads nodes for it, `graph` walks them, `onnx_files` looks at
the file around the graph, `linter` puts it together. The pre-flight of the engine builders reads the same table.
Nothing here imports a runtime.
"""

from tofu_export.lint.finding import Fact, Finding, Runtime, Severity
from tofu_export.lint.linter import LintReport, lint_file, runtimes_of

__all__ = ["Fact", "Finding", "LintReport", "Runtime", "Severity", "lint_file", "runtimes_of"]
