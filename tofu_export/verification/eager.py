"""Verify a file in onnxruntime against the eager model: decisions separately from arithmetic.

The file's matching decisions are read out of it and replayed in the eager model. Each decision is then judged under
the eager model's own similarities, and the outputs of both are compared under the same decisions, so that a flip
between near-equal tokens is not taken for wrong arithmetic, nor the reverse.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from tofu_export.artifact.onnx_file import load_without_weights
from tofu_export.compare.outputs import Tolerance, is_real
from tofu_export.errors import VerificationError
from tofu_export.options import BatchRange, OutputKind, Precision
from tofu_export.system.memory import trim
from tofu_export.system.ort import NO_BFLOAT16
from tofu_export.verification.block_ends import Candidates, block_ends
from tofu_export.verification.follow import Follower, Inside
from tofu_export.verification.gather import Gathered
from tofu_export.verification.in_fp32 import compare_bf16, with_fp32
from tofu_export.verification.least_precise import half_precision_tolerance
from tofu_export.verification.noise import excess
from tofu_export.verification.reference import Reference, VitReference
from tofu_export.verification.replay import DecisionNames, Judge, Replay
from tofu_export.verification.result import VerificationResult
from tofu_export.verification.subject import OnnxFile, Subject
from tofu_export.verification.watch import batched, fed

__all__ = ["CPU_BATCH_CAP", "Checks", "batches_to_verify", "compare_with", "verify"]

CPU_BATCH_CAP = 8
"""Largest batch verified on a CPU, for time."""
ODD_BATCH = 3

Array = NDArray[Any]


@dataclass(frozen=True)
class Checks:
    """What to compare of a file, and how closely.

    Attributes:
        tolerance: the differences to allow; None for the tolerance of the precision.
        by_position: match the file's outputs by order, not by name.
        layers: also compare the output of each block, if it can be found in the file.
    """

    tolerance: Tolerance | None = None
    by_position: bool = False
    layers: bool = False


USUAL = Checks()
"""Outputs by name, within the tolerance of the precision."""


def batches_to_verify(batch: BatchRange | tuple[int, ...]) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Return the batch sizes to run (minimum, optimum, maximum within the CPU cap, one odd size), and notes about them.

    Sizes that are given one by one are run as they are.
    """
    if isinstance(batch, tuple):
        return batch, ()
    if batch.minimum == batch.maximum:
        return (batch.maximum,), ()
    notes: tuple[str, ...] = ()
    largest = min(batch.maximum, max(CPU_BATCH_CAP, batch.minimum + 1))  # two sizes, where there are two
    if largest < batch.maximum:
        notes = (f"largest batch run is {largest}, not {batch.maximum}: capped for CPU time",)
    odd = min(max(ODD_BATCH, batch.minimum), largest)
    return tuple(sorted({batch.minimum, min(batch.optimum, largest), largest, odd})), notes


def verify(
    subject: Subject | Path,
    model: nn.Module,
    pixels: NDArray[np.float32],
    *,
    precision: Precision,
    batch: BatchRange | tuple[int, ...],
    source: str,
    output: OutputKind | None = None,
    token_map: bool = False,
    checks: Checks = USUAL,
    on_batch: Callable[[int], None] | None = None,
) -> VerificationResult:
    """Compare a file with a Vision Transformer.

    Args:
        subject: a lowered ONNX file that this library wrote, a foreign one of a plain model, or an engine of either.
        model: the eager float32 model, carrying the plan that the file was made with (or none for a plain file).
        pixels: [n, C, H, W] float32, normalised images; reused in turn where a batch needs more.
        precision: precision of the file.
        batch: batch sizes that the file serves, or those to run.
        source: where the images came from, for the report.
        output: what the file outputs; None for logits, or features if the model has no classifier.
        token_map: the file also outputs the final row of each patch.
        checks: what to compare, and how closely.
        on_batch: called with each batch size before it runs.

    Raises:
        VerificationError: the file lacks outputs that must be compared, or has others.
    """
    subject = OnnxFile(subject) if isinstance(subject, Path) else subject
    reference = VitReference(model, output, token_map=token_map, file=subject.name)
    sizes, notes = batches_to_verify(batch)
    result = compare_with(
        subject,
        reference,
        [{"images": images} for images in batched(pixels, sizes)],
        precision=precision,
        source=source,
        checks=checks,
        on_batch=on_batch,
        notes=notes,
    )
    if reference.kind != OutputKind.LOGITS.value:
        result = replace(result, outputs=replace(result.outputs, top1_agreement=None))
    return result


def compare_with(
    subject: Subject,
    reference: Reference,
    batches: Sequence[Mapping[str, Array]],
    *,
    precision: Precision,
    source: str,
    checks: Checks = USUAL,
    on_batch: Callable[[int], None] | None = None,
    notes: tuple[str, ...] = (),
) -> VerificationResult:
    """Compare a file with an eager model.

    A file of this library is compared once more without its rounding (`in_fp32`), if the reference can measure what
    rounding does. One in BF16, for which onnxruntime has no kernels, is compared as a copy in FP32 alone.

    Args:
        subject: the file.
        reference: the model.
        batches: float32 inputs by name for each batch, the batch as the first axis of the first one.
        precision: precision of the file.
        source: where the inputs came from, for the report.
        checks: what to compare, and how closely.
        on_batch: called with each batch size before it runs.
        notes: what a reader must know.

    Raises:
        VerificationError: the file lacks outputs that must be compared, or has others.
    """
    named = checks.tolerance is None or checks.tolerance == reference.tolerances[precision]
    allowed = checks.tolerance or reference.tolerances[precision]
    compare = partial(_compare, reference=reference, source=source)
    if precision is Precision.BF16 and isinstance(subject, OnnxFile):
        within = replace(checks, tolerance=reference.bf16_in_fp32 if named else allowed)

        def bf16(path: Path) -> VerificationResult:
            return compare(OnnxFile(path), batches=batches, checks=within, on_batch=on_batch, notes=notes)

        return compare_bf16(subject.graph_path, reference.module, bf16).noted(f"computed in FP32: {NO_BFLOAT16}")
    checks = replace(checks, tolerance=allowed)
    ours = isinstance(subject, OnnxFile) and not checks.by_position  # rounding in foreign files is unknown
    measures = ours and named and reference.measures_rounding
    halves = measures and precision is Precision.FP16
    result = compare(subject, batches=batches, checks=checks, on_batch=on_batch, notes=notes, halves=halves)
    if measures:
        once = [max(batches, key=_size)]

        def in_fp32(path: Path, allowed: Tolerance, shaken: Path | None) -> VerificationResult:
            closer = Checks(allowed, layers=True)
            return compare(OnnxFile(path), batches=once, checks=closer, measured=True, shaken=shaken)

        result = with_fp32(result, subject.graph_path, reference.module, precision, in_fp32)
    return result.with_strays_noted()


def _compare(
    subject: Subject,
    *,
    reference: Reference,
    batches: Sequence[Mapping[str, Array]],
    source: str,
    checks: Checks,
    on_batch: Callable[[int], None] | None = None,
    notes: tuple[str, ...] = (),
    measured: bool = False,
    shaken: Path | None = None,
    halves: bool = False,
) -> VerificationResult:
    """Compare a file as it is (`compare_with`); `measured`: block by block, with what rounding explains.

    `shaken` is the file with its derived constants changed by their rounding, if it has any. `halves`: outputs that
    point elsewhere may, where rounding to FP16 explains it (`least_precise`).
    """
    tolerance = checks.tolerance
    assert tolerance is not None  # compare_with
    feeds, given = _run(subject, reference.names, batches, by_position=checks.by_position)
    trim()
    graph = load_without_weights(subject.graph_path).graph
    produced = {name for node in graph.node for name in node.output}
    names, more = reference.decisions(produced, subject.name)
    notes += more
    wanted = [name for kinds in names.values() for name in kinds.values()]
    watched = subject.watch(feeds, wanted) if wanted else [{} for _ in feeds]
    trim()

    gathered = Gathered(subject.name, tolerance)
    for values, batch_feeds, got, seen in zip(batches, feeds, given, watched, strict=True):
        if on_batch is not None:
            on_batch(_size(values))
        rows = None
        if seen and all(np.isfinite(value).all() for value in got.values()):
            rows = subject.same(seen, got, tolerance)
        replay = Replay(names, seen, tolerance)
        expected = dict(zip(got, reference.run(values, replay), strict=True))
        if uncompared := set(names) - set(replay.by_layer):
            raise VerificationError(f"{subject.name}: layers {sorted(uncompared)} were not compared")
        gathered.add(batch_feeds, got, expected, replay, rows)
    if checks.layers:
        ends = block_ends(graph)
        if not ends:
            notes += ("the file does not tell its blocks apart: what each of them gives is not compared",)
        _compare_blocks(gathered, subject, reference, batches, feeds, names, ends, measured=measured, shaken=shaken)
    result = gathered.result(tuple(map(_size, batches)), source, reference.kind, notes)
    if not halves or not result.outputs.only_turned(tolerance):
        return result
    for values, seen in zip(batches, watched, strict=True):
        run = partial(_real_outputs, reference, values, names, seen, tolerance)
        tolerance = half_precision_tolerance(reference.module, run, run(), tolerance)
    return replace(result, tolerance=tolerance).noted(
        f"the cosine may be as low as {tolerance.cosine_min:.4f}: this model has values too small for FP16, whose "
        "rounding alone turns its outputs"
    )


def _real_outputs(
    reference: Reference,
    values: Mapping[str, Array],
    names: DecisionNames,
    seen: Mapping[str, Array],
    allowed: Tolerance,
) -> list[Array]:
    """Return the outputs of the model for a batch that are real numbers, under the decisions `seen`."""
    return [value for value in reference.run(values, Replay(names, seen, allowed)) if is_real(value)]


def _compare_blocks(
    gathered: Gathered,
    subject: Subject,
    reference: Reference,
    batches: Sequence[Mapping[str, Array]],
    feeds: Sequence[Mapping[str, Array]],
    names: DecisionNames,
    ends: Candidates,
    *,
    measured: bool,
    shaken: Path | None,
) -> None:
    """Compare block by block, in a separate copy; `measured`: also outputs, and all with what rounding explains.

    A copy with more outputs is fused less, and in half precision may decide near ties otherwise. So the reference
    follows the copy's own decisions, and the copy decides nothing about the file.
    """
    wanted = [name for kinds in names.values() for name in kinds.values()]
    wanted += [name for candidates in ends.values() for name in candidates]
    follower = None if shaken is None else Follower(Inside(shaken, names, ends).followable())
    for batch, seen in enumerate(subject.watch(feeds, wanted)):
        blocks, right = reference.blocks(batches[batch], Replay(names, seen, gathered.tolerance))
        rounded: dict[int, Array] = {}
        moved: Mapping[str, Array] = {}
        if follower is not None:
            moved = follower.follow(names, seen, feeds[batch], Judge(gathered.tolerance))
        if measured:
            replay = Replay(names, seen, gathered.tolerance)
            rounded, other = reference.blocks(batches[batch], replay, rounded=True)
            for name, value, changed in zip(reference.names, right, other, strict=False):  # a token map comes last
                if is_real(value):
                    gathered.excess = max(gathered.excess or 0.0, excess(seen[name], value, changed, moved.get(name)))
        gathered.add_blocks(batch, ends, seen, blocks, rounded, moved)


def _size(feeds: Mapping[str, Array]) -> int:
    return len(next(iter(feeds.values())))


def _run(
    subject: Subject, names: Sequence[str], batches: Sequence[Mapping[str, Array]], *, by_position: bool
) -> tuple[list[dict[str, Array]], list[dict[str, Array]]]:
    """Return the inputs and outputs of the file for each batch, by name.

    Raises:
        VerificationError: the file does not have exactly the expected outputs.
    """
    session = subject.open()
    right = len(session.outputs) == len(names) if by_position else set(session.outputs) == set(names)
    if not right:
        number = f"{len(names)} of them" if by_position else ", ".join(names)
        raise VerificationError(f"{subject.name} has outputs {sorted(session.outputs)}, expected {number}")
    feeds = [fed(session, batch) for batch in batches]
    runs = [session.run(batch) for batch in feeds]
    given = tuple(session.outputs) if by_position else names
    return feeds, [{name: run[name] for name in given} for run in runs]
