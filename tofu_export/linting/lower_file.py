"""Rewrite an ONNX file of any origin for a target, and check that it computes the same."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir

from tofu_export.artifact.external import external_files
from tofu_export.artifact.onnx_file import write
from tofu_export.errors import ExportError, TofuError
from tofu_export.graph_patterns.foreign.rewrite import Change, rewrite
from tofu_export.graph_patterns.foreign.sparse import write_out_sparse
from tofu_export.linting import Finding, Severity, lint_file, runtimes_of
from tofu_export.linting.lower_proof import prove_equal
from tofu_export.linting.onnx_files import file_findings, open_graph
from tofu_export.options import Target
from tofu_export.system.ort import check_path
from tofu_export.system.typed_json import JsonObject

__all__ = ["LoweredFile", "lower_file"]

_NOT_TO_READ = ("external-data-outside", "external-data-missing", "external-data-cut")


@dataclass(frozen=True)
class LoweredFile:
    """Result of lowering a file.

    Attributes:
        changes: the nodes that were found, rewritten or left.
        rejected: what the target is known to still reject.
        warned: what the target is known to ignore or change, or what is wrong with the original already.
        batches: batch sizes at which original and result were compared.
        max_abs: largest difference of any output.
        unchecked: why other batch sizes were not compared, empty if all were.
    """

    changes: tuple[Change, ...]
    rejected: tuple[Finding, ...]
    warned: tuple[Finding, ...]
    batches: tuple[int, ...]
    max_abs: float
    unchecked: str

    def to_dict(self) -> JsonObject:
        """Return the result as JSON values."""
        return {
            "rewritten": [
                {"node": change.node, "op_type": change.op_type} for change in self.changes if not change.left
            ],
            "left": [vars(change) for change in self.changes if change.left],
            "rejected": [finding.to_dict() for finding in self.rejected],
            "warned": [finding.to_dict() for finding in self.warned],
            "batches": list(self.batches),
            "max_abs": self.max_abs,
            "unchecked": self.unchecked,
        }


def lower_file(
    source: Path,
    path: Path,
    target: Target,
    *,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    seed: int = 0,
) -> LoweredFile:
    """Rewrite the file at `source` for a target, write it to `path`, and compare both in onnxruntime.

    Args:
        source: any ONNX file.
        path: the file to write, in a staging folder.
        target: the runtime to write for.
        shapes: all sizes of inputs that leave more than the batch open, by name.
        seed: seed of the random inputs that both are run on.

    Raises:
        ExportError: the source is not an ONNX graph, its weights cannot be read, or a path is not UTF-8.
        LoweringError: the source has canonical nodes of this project.
        OptionError: the source cannot be fed.
        VerificationError: the result computes something else, or the original does not run.
    """
    for place in (source, path):  # else nothing could be compared
        check_path(place)
    original = open_graph(source)
    for finding in file_findings(original, source):  # a pipe in the place of weights would never end
        if finding.severity is Severity.ERROR and finding.rule in _NOT_TO_READ:
            raise ExportError(f"{source}: {finding.message}; {finding.fix}")
    try:
        sparse = write_out_sparse(original)
        model = ir.from_proto(original)
        ir.external_data.set_base_dir(model.graph, source.parent)
        ir.external_data.load_to_model(model)
    except Exception as error:  # onnx_ir raises various errors on a damaged file
        raise ExportError(f"{source} cannot be read: {error}. Copy it again, external data included") from error
    try:
        changes = rewrite(model, target)
        if target is not Target.ONNXRUNTIME:
            changes += tuple(Change(name, "SparseTensor") for name in sparse)
        if all(change.left for change in changes):
            _copy(model, original, source, path)
        else:
            write(model, path)
    except (TofuError, OSError, MemoryError):
        raise
    except Exception as error:  # of onnx_ir again, which reads some parts only when they are asked for
        raise ExportError(f"{source} cannot be rewritten ({error}): it is damaged, or report it") from error
    del model
    report = lint_file(path, runtimes_of(target))
    proof = prove_equal(source, path, shapes=shapes, seed=seed)
    return LoweredFile(
        changes,
        report.of(Severity.ERROR),
        report.of(Severity.WARNING),
        proof.batches,
        proof.max_abs,
        proof.missing,
    )


def _copy(model: ir.Model, original: onnx.ModelProto, source: Path, path: Path) -> None:
    """Copy a file unchanged, with its external weights."""
    if external_files(original) - {source.name}:
        write(model, path)
    else:
        shutil.copyfile(source, path)
