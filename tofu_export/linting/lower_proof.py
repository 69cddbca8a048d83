"""Check in onnxruntime that a rewritten file computes what its original does."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from tofu_export.artifact.feeds import fixed_batch
from tofu_export.artifact.onnx_file import load_without_weights
from tofu_export.artifact.widened import HALVES, holds, widened
from tofu_export.compare.outputs import TOLERANCES, Tally, only_nan, settled
from tofu_export.errors import ExportError, VerificationError
from tofu_export.linting.trial_feeds import Trials
from tofu_export.options import Precision
from tofu_export.system.ort import OrtSession, open_copy, open_session

__all__ = ["BATCHES", "Proof", "prove_equal"]

Arrays = Mapping[str, np.ndarray[Any, Any]]

BATCHES = (1, 3)
"""Batch sizes at which a file with a dynamic batch is compared."""

_RANDOM = frozenset(
    {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
)


@dataclass(frozen=True)
class Proof:
    """Result of comparing two files.

    Attributes:
        batches: batch sizes at which original and result were run.
        max_abs: largest difference of any output.
        missing: why other batch sizes were not compared, empty if all were.
    """

    batches: tuple[int, ...]
    max_abs: float
    missing: str


def prove_equal(
    source: Path, path: Path, *, shapes: Mapping[str, tuple[int, ...]] | None = None, seed: int = 0
) -> Proof:
    """Run both files on the same inputs, and compare their outputs.

    Half precision is compared in copies that compute in FP32, which shows differences below its rounding, and for
    which onnxruntime has all kernels. Equal infinities and NaN are equal.

    Args:
        source: the original.
        path: the result.
        shapes: all sizes of inputs that leave more than the batch open, by name.
        seed: seed of the random inputs.

    Raises:
        OptionError: the files cannot be fed.
        VerificationError: the result computes something else or does not load, or the original does not run.
    """
    halves = holds(load_without_weights(source), HALVES)
    with tempfile.TemporaryDirectory(prefix="tofu-export-lower-") as scratch:
        files = source, path
        if halves:
            files = tuple(_wide(file, Path(scratch, str(number))) for number, file in enumerate(files))  # type: ignore
        references, missing = _references(files[0], source, shapes, seed)
        largest = _compare(files[1], path.name, references)
    if halves:
        _check_loads(source, path)
    return Proof(tuple(dict.fromkeys(batch for batch, _, _ in references)), largest, missing)


def _wide(file: Path, folder: Path) -> Path:
    folder.mkdir()
    return widened(file, folder, HALVES)


def _references(
    file: Path, source: Path, shapes: Mapping[str, tuple[int, ...]] | None, seed: int
) -> tuple[list[tuple[int, Arrays, Arrays]], str]:
    """Return inputs and outputs of the original with their batch sizes, and why a batch size is missing.

    Raises:
        VerificationError: the original runs at no batch size.
    """
    graph = load_without_weights(file)
    try:
        session = _open(graph, file)
    except ExportError as error:
        raise VerificationError(
            f"{source} cannot be run in onnxruntime, so that nothing could be compared with it: nothing was written. "
            f"{error}"
        ) from error
    trials = Trials(graph, str(source), session.inputs, shapes, seed)
    fixed = fixed_batch(session.inputs)
    references: list[tuple[int, Arrays, Arrays]] = []
    failed: dict[int, str] = {}
    for batch in BATCHES if fixed is None else (fixed,):
        found = trials.that_run(batch, lambda feeds: _attempt(session, feeds))
        if isinstance(found, str):
            failed[batch] = found
        else:
            references += [(batch, feeds, outputs) for feeds, outputs in found]
    reasons = "; ".join(f"the original does not run at batch {batch}: {reason}" for batch, reason in failed.items())
    if not references:
        unstated = [name for name, spec in session.inputs.items() if not spec.shape and name not in (shapes or {})]
        advice = f". If {', '.join(unstated)} are no scalars, say their sizes with --shape" if unstated else ""
        raise VerificationError(f"{source}: {reasons}; nothing could be compared with it: nothing was written{advice}")
    if silent := only_nan(outputs for _, _, outputs in references):
        reasons = "; ".join(filter(None, [reasons, f"the original gives NaN alone for {', '.join(silent)}"]))
        if set(silent) == set(session.outputs):
            raise VerificationError(f"{source}: {reasons}; nothing could be compared with it: nothing was written")
    return references, reasons


def _attempt(session: OrtSession, feeds: Arrays) -> Arrays | str:
    """Run a file, and return its outputs, or why it fails."""
    try:
        return session.run(feeds)
    except ExportError as error:
        return str(error)


def _compare(file: Path, label: str, references: list[tuple[int, Arrays, Arrays]]) -> float:
    """Return the largest difference of any real-valued output.

    Raises:
        VerificationError: the result does not run, a difference exceeds its tolerance, or the outputs differ in kind.
    """
    tally = Tally(label)
    types: dict[str, np.dtype[Any]] = {}
    try:
        session = _open(load_without_weights(file), file)
        for _, feeds, expected in references:
            found = session.run(feeds)
            if list(expected) != list(found):
                raise VerificationError(f"{label} gives {', '.join(found)}, expected {', '.join(expected)}")
            types |= {name: value.dtype for name, value in expected.items()}
            tally.add(*settled(found, expected))
    except ExportError as error:
        raise VerificationError(f"{label}, unlike the original, fails: {error}. Report the file") from error
    if tally.wrong_integers:
        raise VerificationError(
            f"{label} differs from the original in {tally.wrong_integers} of {tally.integers} integers: nothing "
            "was written. Report the file"
        )
    for name, compared in tally.outputs.items():
        tolerance = TOLERANCES[Precision.FP16 if types[name] == np.float16 else Precision.FP32]
        if not compared.within(tolerance):
            raise VerificationError(
                f"{label}: output {name} differs from the original by {compared.max_abs:.3g} (allowed "
                f"{tolerance.allowed(compared.scale):.3g}), cosine {compared.cosine_min:.6f}: nothing was written. "
                "Report the file"
            )
    return max((compared.max_abs for compared in tally.outputs.values()), default=0.0)


def _check_loads(source: Path, path: Path) -> None:
    """Check that a half-precision file loads unchanged if its original does.

    Raises:
        VerificationError: only the original loads.
    """
    try:
        open_session(source)
    except ExportError:
        return
    try:
        open_session(path)
    except ExportError as error:
        raise VerificationError(f"{path.name}, unlike the original, does not load: {error}. Report the file") from error


def _open(graph: onnx.ModelProto, path: Path) -> OrtSession:
    """Open a copy of a file in which random numbers are the same in every run of every copy."""
    for node in graph.graph.node:
        if node.op_type in _RANDOM:
            kept = [attribute for attribute in node.attribute if attribute.name != "seed"]
            del node.attribute[:]
            node.attribute.extend([*kept, onnx.helper.make_attribute("seed", 1.0)])
    return open_copy(graph, path)
