"""Rewrite an ONNX file of any origin for a target, and show that it computes what it did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from tofu_export.compare import TOLERANCES, Tally, Tolerance
from tofu_export.engines.feeds import fixed_batch, make_feeds
from tofu_export.errors import ExportError, TofuError, VerificationError
from tofu_export.graph_patterns.foreign import Change, rewrite
from tofu_export.lint import Finding, Severity, lint_file, runtimes_of
from tofu_export.lint.onnx_files import file_findings, open_graph
from tofu_export.onnx_file import load_without_weights, write
from tofu_export.options import Precision, Target
from tofu_export.ort import OrtSession, check_path, open_copy

__all__ = ["BATCHES", "LoweredFile", "lower_file"]

Arrays = Mapping[str, np.ndarray[Any, Any]]

BATCHES = (1, 3)
"""Batch sizes that a file with a dynamic batch is compared at."""

_NOT_TO_READ = ("external-data-outside", "external-data-missing", "external-data-cut")
_RANDOM = frozenset(
    {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
)


@dataclass(frozen=True)
class LoweredFile:
    """What became of a file.

    Attributes:
        changes: the nodes that were found, rewritten or left.
        rejected: what the target still does not accept, as far as is known.
        warned: what it ignores or changes, or what is wrong with the file already, likewise.
        batches: batch sizes at which original and result were compared; empty where they were not.
        max_abs: largest difference of any output, None where nothing was compared.
        unchecked: why nothing was compared, empty where it was.
    """

    changes: tuple[Change, ...]
    rejected: tuple[Finding, ...]
    warned: tuple[Finding, ...]
    batches: tuple[int, ...]
    max_abs: float | None
    unchecked: str

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
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
    """Write what `target` accepts of the file at `source` to `path`, and compare both in onnxruntime.

    Args:
        source: any ONNX file.
        path: the file to write, in a staging folder.
        target: the runtime to write for.
        shapes: all sizes of inputs that leave more than the batch open, by name.
        seed: of the random inputs that both are run on.

    Raises:
        ExportError: the source is not an ONNX graph, its weights cannot be read, or a path is not UTF-8.
        LoweringError: it has canonical nodes of this project.
        OptionError: it cannot be fed.
        VerificationError: the result computes something else.
    """
    for place in (source, path):  # else nothing could be compared
        check_path(place)
    original = open_graph(source)
    for finding in file_findings(original, source):  # a pipe in the place of weights would never end
        if finding.severity is Severity.ERROR and finding.rule in _NOT_TO_READ:
            raise ExportError(f"{source}: {finding.message}; {finding.fix}")
    try:
        model = ir.from_proto(original)
        ir.external_data.set_base_dir(model.graph, source.parent)
        ir.external_data.load_to_model(model)
    except Exception as error:  # whatever onnx_ir raises on a damaged file
        raise ExportError(f"{source} cannot be read: {error}. Copy it again, external data included") from error
    try:
        changes = rewrite(model, target)
        write(model, path)
    except (TofuError, OSError, MemoryError):
        raise
    except Exception as error:  # of onnx_ir again, which reads some parts only when they are asked for
        raise ExportError(f"{source} cannot be rewritten ({error}): it is damaged, or report it") from error
    del model
    report = lint_file(path, runtimes_of(target))
    found = report.of(Severity.ERROR), report.of(Severity.WARNING)
    try:
        session = _open(original, source)
        references = _run(session, shapes, seed)
    except ExportError as error:
        return LoweredFile(changes, *found, (), None, f"the original does not run in onnxruntime: {error}")
    del session
    return LoweredFile(changes, *found, tuple(references), _compare(path, references), "")


def _open(graph: onnx.ModelProto, path: Path) -> OrtSession:
    """A session of a copy of the file at `path` in which random numbers are the same in every run of every copy."""
    for node in graph.graph.node:
        if node.op_type in _RANDOM:
            kept = [attribute for attribute in node.attribute if attribute.name != "seed"]
            del node.attribute[:]
            node.attribute.extend([*kept, onnx.helper.make_attribute("seed", 1.0)])
    return open_copy(graph, path)


def _run(
    session: OrtSession, shapes: Mapping[str, tuple[int, ...]] | None, seed: int
) -> dict[int, tuple[Arrays, Arrays]]:
    """Inputs and outputs of a file by batch size."""
    fixed = fixed_batch(session.inputs)
    feeds = {
        batch: make_feeds(session.label, session.inputs, batch, shapes=shapes, seed=seed)
        for batch in (BATCHES if fixed is None else (fixed,))
    }
    return {batch: (given, session.run(given)) for batch, given in feeds.items()}


def _compare(path: Path, references: Mapping[int, tuple[Arrays, Arrays]]) -> float:
    """The largest difference of any real output.

    Raises:
        VerificationError: a difference is larger than its tolerance, or outputs are others.
    """
    session = _open(load_without_weights(path), path)
    tally = Tally(path.name)
    for feeds, expected in references.values():
        found = session.run(feeds)
        if list(expected) != list(found):
            raise VerificationError(f"{path.name} gives {', '.join(found)}, expected {', '.join(expected)}")
        tally.add(found, expected)
    if tally.wrong_integers:
        raise VerificationError(
            f"{path.name} differs from the original in {tally.wrong_integers} of {tally.integers} integers: nothing "
            "was written. Report the file"
        )
    for name, compared in tally.outputs.items():
        tolerance = _tolerance(expected[name].dtype)
        if not compared.within(tolerance):
            raise VerificationError(
                f"{path.name}: output {name} differs from the original by {compared.max_abs:.3g} (allowed "
                f"{tolerance.allowed(compared.scale):.3g}), cosine {compared.cosine_min:.6f}: nothing was written. "
                "Report the file"
            )
    return max((compared.max_abs for compared in tally.outputs.values()), default=0.0)


def _tolerance(dtype: np.dtype[Any]) -> Tolerance:
    return TOLERANCES[Precision.FP16 if dtype == np.float16 else Precision.FP32]
