"""Verify a file in onnxruntime against the eager model: decisions apart from arithmetic.

The file's matching decisions are read out of it and replayed in the eager model. Each decision is then judged under
the eager model's own similarities, and the outputs of both are compared under the same decisions, so that a flip
between near-equal tokens is not taken for wrong arithmetic, nor the reverse.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tofu_export.compare import TOLERANCES, Tolerance, is_real
from tofu_export.errors import VerificationError
from tofu_export.memory import give_back
from tofu_export.onnx_file import load_without_weights
from tofu_export.options import PATCH_GROUPS, BatchRange, OutputKind, Precision
from tofu_export.patch import applied_plan, choose_output, observe, outputs_of
from tofu_export.patch.outputs import joined_later
from tofu_export.verify.block_ends import Candidates, block_ends, collect_blocks
from tofu_export.verify.follow import Follower, Inside
from tofu_export.verify.gather import Gathered
from tofu_export.verify.in_fp32 import with_fp32
from tofu_export.verify.noise import excess, rounded_activations
from tofu_export.verify.replay import DecisionNames, Judge, Replay, planned_decisions
from tofu_export.verify.result import VerificationResult
from tofu_export.verify.subject import OnnxFile, Subject
from tofu_export.verify.watch import batched, feed

__all__ = ["CPU_BATCH_CAP", "batches_to_verify", "verify"]

CPU_BATCH_CAP = 8
"""Largest batch verified on a CPU, for time."""
ODD_BATCH = 3

Array = NDArray[Any]


def batches_to_verify(batch: BatchRange | tuple[int, ...]) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Batch sizes to run (minimum, optimum, maximum within the CPU cap, one odd size), and notes about them.

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
    tolerance: Tolerance | None = None,
    by_position: bool = False,
    layers: bool = False,
    on_batch: Callable[[int], None] | None = None,
) -> VerificationResult:
    """Compare a file with `model`.

    Args:
        subject: a lowered ONNX file that this library wrote, a foreign one of a plain model, or an engine of either.
        model: the eager float32 model, carrying the plan that the file was made with (or none for a plain file).
        pixels: [n, C, H, W] float32, normalised images; reused in turn where a batch needs more.
        precision: the file's.
        batch: batch sizes that the file serves, or those to run.
        source: where the images came from, for the report.
        output: what the file gives; None for logits, or features where the model has no classifier.
        token_map: it also gives what became of each patch.
        tolerance: what to allow; None for that of the precision.
        by_position: take the file's outputs in their order, whatever they are called.
        layers: also compare what each block gives, where the file tells.
        on_batch: called with each batch size before it runs.

    Raises:
        VerificationError: the file lacks outputs that must be compared, or has others.
    """
    subject = OnnxFile(subject) if isinstance(subject, Path) else subject
    output = choose_output(model, output)
    tolerance = tolerance or TOLERANCES[precision]
    sizes, notes = batches_to_verify(batch)

    def compare(
        subject: Subject, sizes: Sequence[int], allowed: Tolerance, *, measured: bool, shaken: Path | None = None
    ) -> VerificationResult:
        return _compare(
            subject, model, batched(pixels, sizes), tolerance=allowed, source=source, output=output,
            token_map=token_map, by_position=by_position, layers=layers or measured, measured=measured, shaken=shaken,
            on_batch=None if measured else on_batch, notes=() if measured else notes,
        )  # fmt: skip

    result = compare(subject, sizes, tolerance, measured=False)
    ours = isinstance(subject, OnnxFile) and not by_position  # what others round is not known
    if ours and tolerance == TOLERANCES[precision]:
        once = (max(sizes),)

        def in_fp32(path: Path, allowed: Tolerance, shaken: Path | None) -> VerificationResult:
            return compare(OnnxFile(path), once, allowed, measured=True, shaken=shaken)

        result = with_fp32(result, subject.graph_path, model, precision, in_fp32)
    return result


def _compare(
    subject: Subject,
    model: nn.Module,
    images: Sequence[Array],
    *,
    tolerance: Tolerance,
    source: str,
    output: OutputKind,
    token_map: bool,
    by_position: bool,
    layers: bool,
    measured: bool,
    shaken: Path | None,
    on_batch: Callable[[int], None] | None,
    notes: tuple[str, ...],
) -> VerificationResult:
    """Compare a file with `model` on batches of images; `measured`: also with what rounding explains.

    `shaken` is the file with its derived constants off by their rounding, where it has any.
    """
    feeds, given = _run(subject, output.names_with(token_map), images, by_position=by_position)
    give_back()
    plan = applied_plan(model)
    if token_map and plan is None:
        raise VerificationError(f"{subject.name} gives {PATCH_GROUPS}, but the model to compare it with has no plan")
    graph = load_without_weights(subject.graph_path).graph
    produced = {name for node in graph.node for name in node.output}
    names = planned_decisions(plan, produced, subject.name, mapped=output is OutputKind.TOKENS)
    wanted = [name for kinds in names.values() for name in kinds.values()]
    watched = subject.watch(feeds, wanted) if wanted else [{} for _ in feeds]
    give_back()
    if plan is not None and plan.layers[-1].removed and plan.layers[-1].layer not in names:
        notes += (f"the output does not depend on the reduction in block {plan.layers[-1].layer}: the file has none",)

    gathered = Gathered(subject.name, tolerance)
    for batch_images, batch_feeds, got, seen in zip(images, feeds, given, watched, strict=True):
        if on_batch is not None:
            on_batch(len(batch_images))
        rows = None
        if seen and all(np.isfinite(value).all() for value in got.values()):
            rows = subject.same(seen, got, tolerance)
        replay = Replay(names, seen, tolerance)
        with torch.inference_mode(), observe(replay):
            values = outputs_of(model, output, torch.from_numpy(batch_images))
        right: list[Array] = [value.numpy() for value in values]
        if token_map and plan is not None:
            right.append(replay.patch_groups(plan, joined_later(model), len(batch_images)))
        expected = dict(zip(got, right, strict=True))
        if uncompared := set(names) - set(replay.by_layer):
            raise VerificationError(f"{subject.name}: layers {sorted(uncompared)} were not compared")
        gathered.add(batch_feeds, got, expected, replay, rows)
    if layers:
        ends = block_ends(graph)
        if not ends:
            notes += ("the file does not tell its blocks apart: what each of them gives is not compared",)
        _compare_blocks(gathered, subject, model, output, images, feeds, names, ends, measured, shaken)
    result = gathered.result(tuple(map(len, images)), source, output.value, notes)
    if output is not OutputKind.LOGITS:
        result = replace(result, outputs=replace(result.outputs, top1_agreement=None))
    return result


def _compare_blocks(
    gathered: Gathered,
    subject: Subject,
    model: nn.Module,
    output: OutputKind,
    images: Sequence[Array],
    feeds: Sequence[Mapping[str, Array]],
    names: DecisionNames,
    ends: Candidates,
    measured: bool,
    shaken: Path | None,
) -> None:
    """Compare block by block, in a copy of its own; `measured`: also outputs, and all with what rounding explains.

    A copy that gives out more values is fused less, and in half precision may decide otherwise between near equals.
    So it is followed in its own decisions, and decides nothing about the file.
    """
    wanted = [name for kinds in names.values() for name in kinds.values()]
    wanted += [name for candidates in ends.values() for name in candidates]
    follower = None if shaken is None else Follower(Inside(shaken, names, ends).followable())
    for batch, seen in enumerate(subject.watch(feeds, wanted)):

        def run(batch: int = batch, seen: Mapping[str, Array] = seen) -> tuple[dict[int, Array], list[Array]]:
            replay = Replay(names, seen, gathered.tolerance)
            with torch.inference_mode(), observe(replay), collect_blocks(model) as blocks:
                values = outputs_of(model, output, torch.from_numpy(images[batch]))
            return dict(blocks), [value.numpy() for value in values]

        blocks, right = run()
        rounded: dict[int, Array] = {}
        moved: Mapping[str, Array] = {}
        if follower is not None:
            moved = follower.follow(names, seen, feeds[batch], Judge(gathered.tolerance))
        if measured:
            with rounded_activations(model):
                rounded, other = run()
            for name, value, changed in zip(output.names, right, other, strict=True):
                if is_real(value):
                    gathered.excess = max(gathered.excess or 0.0, excess(seen[name], value, changed, moved.get(name)))
        gathered.add_blocks(batch, ends, seen, blocks, rounded, moved)


def _run(
    subject: Subject, names: Sequence[str], images: Sequence[Array], *, by_position: bool
) -> tuple[list[dict[str, Array]], list[dict[str, Array]]]:
    """What the file is given and what it gives for each batch, by name.

    Raises:
        VerificationError: the file does not give what it should and nothing else.
    """
    session = subject.open()
    right = len(session.outputs) == len(names) if by_position else set(session.outputs) == set(names)
    if not right:
        number = f"{len(names)} of them" if by_position else ", ".join(names)
        raise VerificationError(f"{subject.name} has outputs {sorted(session.outputs)}, expected {number}")
    feeds = [feed(session, batch) for batch in images]
    runs = [session.run(batch) for batch in feeds]
    given = tuple(session.outputs) if by_position else names
    return feeds, [{name: run[name] for name in given} for run in runs]
