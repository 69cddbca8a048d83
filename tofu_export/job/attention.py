"""Rebuild engines that are wrong with fused attention, with attention in another form."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import onnx_ir as ir

from tofu_export.artifact.onnx_file import METADATA_PREFIX, write
from tofu_export.engines.building.build import EngineRequest
from tofu_export.graph_patterns.attention.forms import write_attention
from tofu_export.graph_patterns.lowering import census
from tofu_export.job.files import describe_file
from tofu_export.job.request import ExportJob
from tofu_export.options import AttentionForm, Precision
from tofu_export.report.artifacts import OnnxFile
from tofu_export.report.document import Report
from tofu_export.system.files import Staging
from tofu_export.trace.quantize import open_graph

__all__ = ["OtherForms", "write_other_form"]


@dataclass
class OtherForms:
    """Rebuilder of a job's engines from files whose attention has another form.

    Attributes:
        job: the export request.
        stage: staging folder with the files.
        report: receives the further ONNX files, and the engines that replace wrong ones.
        build: builds an engine and adds it to the report.
    """

    job: ExportJob
    stage: Staging
    report: Report
    build: Callable[[EngineRequest, Precision], None]
    _requests: dict[str, tuple[EngineRequest, Precision]] = field(default_factory=dict)

    def add(self, request: EngineRequest, precision: Precision) -> None:
        """Remember the request that an engine was built from."""
        self._requests[request.engine_path.name] = request, precision

    def forms_of(self, engine: str) -> tuple[AttentionForm, ...]:
        """Return the forms to try for a named engine; none in FP32, and none after the last one."""
        form = self.job.attention_of(self._requests[engine][1]) if engine in self._requests else None
        return () if form is None else form.fallbacks

    def rebuild(self, engine: str, form: AttentionForm) -> bool:
        """Rebuild a named engine in place; False if its file has no attention to rewrite.

        Raises:
            TofuError: the engine cannot be built.
        """
        request, precision = self._requests[engine]
        name = f"{request.onnx_path.stem}.{form.value}.onnx"
        ops = write_other_form(request.onnx_path, self.stage.path(name), form)
        if not ops:
            return False
        left = {name, f"fusion in {engine}", engine}
        report = self.report
        report.artifacts = tuple(file for file in report.artifacts if file.path not in left)
        report.skipped = tuple(entry for entry in report.skipped if entry.step not in left)
        own = (file for file in report.artifacts if isinstance(file, OnnxFile))
        original = next(file for file in own if file.path == request.onnx_path.name)
        facts = describe_file(self.stage, precision, self.job.target.value, name)
        file = replace(original, **facts, attention=form, nodes=sum(ops.values()), ops=ops)
        report.artifacts += (file,)
        self.build(replace(request, onnx_path=self.stage.path(name)), precision)
        return True

    def drop(self, form: AttentionForm, engine: str) -> None:
        """Discard a form that did not help."""
        request, _ = self._requests[engine]
        name = f"{request.onnx_path.stem}.{form.value}.onnx"
        self.report.artifacts = tuple(file for file in self.report.artifacts if file.path != name)


def write_other_form(source: Path, path: Path, form: AttentionForm) -> Mapping[str, int]:
    """Write a file of this project with its attention in another form; return its operator counts.

    Args:
        source: the file, whose attention is written to be fused.
        path: the file to write; if there is no attention to change, nothing is written, and the result is empty.
        form: the other form.
    """
    model = open_graph(source)
    if not write_attention(model, form):
        return {}
    ir.external_data.load_to_model(model)
    model.metadata_props[f"{METADATA_PREFIX}attention"] = form.value
    write(model, path)
    return census(model)
