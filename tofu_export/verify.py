"""Verify an exported file in onnxruntime against the eager model: decisions apart from arithmetic.

The file's matching decisions are read out of it and replayed in the eager model. Each decision is then judged under
the eager model's own similarities, and the outputs of both are compared under the same decisions, so that a flip
between near-equal tokens is not taken for wrong arithmetic, nor the reverse.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tofu_export.compare import TOLERANCES, OutputComparison, Tolerance, compare_outputs
from tofu_export.decisions import DecisionReport, Decisions, judge
from tofu_export.errors import VerificationError
from tofu_export.graph_patterns.canonical import DECISIONS, decision_name, is_decision
from tofu_export.memory import give_back
from tofu_export.onnx_file import load_without_weights
from tofu_export.options import BatchRange, OutputKind, Precision
from tofu_export.ort import OrtSession, open_copy, open_session
from tofu_export.patch import applied_plan, choose_output, observe, outputs_of
from tofu_export.patch.matching import Matching, Partition
from tofu_export.plan import Plan

__all__ = ["CPU_BATCH_CAP", "VerificationResult", "batches_to_verify", "verify"]

CPU_BATCH_CAP = 8
"""Largest batch verified on a CPU, for time."""
ODD_BATCH = 3

_logger = logging.getLogger(__name__)

Array = NDArray[Any]


@dataclass(frozen=True)
class VerificationResult:
    """What was compared, how it differs, and whether it passes.

    Attributes:
        artifact: name of the file.
        batches: batch sizes run.
        inputs: where the images came from.
        output: what the file gives.
        outputs: its real values against the eager model's under the file's decisions.
        mapped: entries of the token map compared, None without one.
        mismapped: those that differ.
        images_with_flips: images in which any decision differs.
        decisions: the file's decisions against the eager model's.
        tolerance: what was allowed.
        notes: what a reader must know, such as a capped batch.
    """

    artifact: str
    batches: tuple[int, ...]
    inputs: str
    output: OutputKind
    outputs: OutputComparison
    mapped: int | None
    mismapped: int
    images_with_flips: int
    decisions: DecisionReport
    tolerance: Tolerance
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """True if outputs are within tolerance, no decision is wrong, and the token map is the decisions'."""
        mapped = self.mapped is None or (self.mapped > 0 and self.mismapped == 0)
        return self.outputs.within(self.tolerance) and self.decisions.wrong == 0 and mapped

    def to_dict(self) -> dict[str, Any]:
        """As in report.json (`verification`)."""
        outputs = self.outputs
        return {
            "artifact": self.artifact,
            "batches": list(self.batches),
            "images": outputs.images,
            "inputs": self.inputs,
            "output": self.output.value,
            "max_abs": outputs.max_abs if outputs.finite else None,
            "cosine_min": outputs.cosine_min if outputs.finite else None,
            "top1_agreement": outputs.top1_agreement,
            "finite": outputs.finite,
            "images_with_flips": self.images_with_flips,
            "decisions": self.decisions.to_dict(),
            "token_map": None if self.mapped is None else {"compared": self.mapped, "wrong": self.mismapped},
            "tolerance": {
                "name": self.tolerance.name,
                "max_abs": self.tolerance.max_error * outputs.scale,
                "cosine_min": self.tolerance.cosine_min,
                "near_tie": self.tolerance.near_tie,
                "reason": self.tolerance.reason,
            },
            "notes": list(self.notes),
            "passed": self.passed,
        }

    def __str__(self) -> str:
        outputs, decisions = self.outputs, self.decisions
        error = f"largest error {outputs.max_abs:.1e}" if outputs.finite else "not finite"
        return (
            f"{'verified' if self.passed else 'FAILED'} at batch {', '.join(map(str, self.batches))}: {error}, "
            f"{decisions.compared} decisions, {decisions.near_tie_flips} near ties, {decisions.wrong} wrong"
        )

    def failure(self) -> VerificationError:
        """The error that says what failed and by how much."""
        parts = []
        outputs, tolerance = self.outputs, self.tolerance
        if not outputs.finite:
            parts.append("its output has NaN or infinity")
        elif not outputs.within(tolerance):
            parts.append(
                f"{self.output.value} differ by {outputs.max_abs:.3g} "
                f"(allowed {tolerance.max_error * outputs.scale:.3g}), "
                f"cosine {outputs.cosine_min:.6f} (at least {tolerance.cosine_min})"
            )
        if self.decisions.wrong:
            parts.append(
                f"{self.decisions.wrong} of {self.decisions.compared} matching decisions are wrong, not near ties "
                f"(largest margin {self.decisions.largest_margin:.3g}, a tie is below {tolerance.near_tie:.3g})"
            )
            parts.extend(self.decisions.faults[:3])
        if self.mismapped:
            parts.append(f"{self.mismapped} of {self.mapped} entries of the token map are not what the decisions make")
        return VerificationError(
            f"{self.artifact} does not compute what the eager model computes: {'; '.join(parts)}. "
            "The file was not published; --no-verify keeps it for a closer look"
        )


def batches_to_verify(batch: BatchRange) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Batch sizes to run (minimum, optimum, maximum within the CPU cap, one odd size), and notes about them."""
    if batch.minimum == batch.maximum:
        return (batch.maximum,), ()
    notes: tuple[str, ...] = ()
    largest = min(batch.maximum, max(CPU_BATCH_CAP, batch.minimum + 1))  # two sizes, where there are two
    if largest < batch.maximum:
        notes = (f"largest batch run is {largest}, not {batch.maximum}: capped for CPU time",)
    odd = min(max(ODD_BATCH, batch.minimum), largest)
    return tuple(sorted({batch.minimum, min(batch.optimum, largest), largest, odd})), notes


def verify(
    path: Path,
    model: nn.Module,
    pixels: NDArray[np.float32],
    *,
    precision: Precision,
    batch: BatchRange,
    source: str,
    output: OutputKind | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> VerificationResult:
    """Compare the file at `path` with `model`.

    Args:
        path: a lowered ONNX file that this library wrote.
        model: the eager float32 model, carrying the plan that the file was made with (or none for a plain file).
        pixels: [n, C, H, W] float32, normalised images; reused in turn where a batch needs more.
        precision: the file's.
        batch: batch sizes that the file serves.
        source: where the images came from, for the report.
        output: what the file gives; None for logits, or features where the model has no classifier.
        on_batch: called with each batch size before it runs.

    Raises:
        VerificationError: the file lacks outputs that must be compared.
    """
    output = choose_output(model, output)
    tolerance = TOLERANCES[precision]
    sizes, notes = batches_to_verify(batch)
    starts = np.cumsum((0, *sizes[:-1]))
    images = [pixels[(start + np.arange(size)) % len(pixels)] for start, size in zip(starts, sizes, strict=True)]
    given = _run(path, output, images)
    give_back()
    plan = applied_plan(model)
    names, watched = _watch(path, plan, images, mapped=output is OutputKind.TOKENS)
    give_back()
    if plan is not None and plan.layers[-1].removed and plan.layers[-1].layer not in names:
        notes += (f"the output does not depend on the reduction in block {plan.layers[-1].layer}: the file has none",)

    outputs: OutputComparison | None = None
    decisions = DecisionReport()
    mapped = mismapped = flipped = 0
    for batch_images, got, seen in zip(images, given, watched, strict=True):
        if on_batch is not None:
            on_batch(len(batch_images))
        finite = all(np.isfinite(value).all() for value in got.values())
        if seen is not None and finite and not _same(seen, got, tolerance):
            raise VerificationError(f"{path.name}: reading out its decisions changes its output, report this")
        replay = _Replay(names, seen or {}, tolerance)
        with torch.inference_mode(), observe(replay):
            expected = [value.numpy() for value in outputs_of(model, output, torch.from_numpy(batch_images))]
        if uncompared := set(names) - set(replay.report.layers):
            raise VerificationError(f"{path.name}: layers {sorted(uncompared)} were not compared")
        for value, right in zip(got.values(), expected, strict=True):
            if not np.issubdtype(right.dtype, np.floating):
                mapped, mismapped = mapped + right.size, mismapped + _differing(value, right)
                continue
            comparison = compare_outputs(value, right)
            outputs = comparison if outputs is None else outputs.joined(comparison)
        decisions += replay.report
        flipped += len(replay.flipped_images)
    assert outputs is not None  # there is at least one batch, and one real output
    if output is not OutputKind.LOGITS:
        outputs = replace(outputs, top1_agreement=None)
    compared = mapped if output is OutputKind.TOKENS else None
    return VerificationResult(
        path.name, sizes, source, output, outputs, compared, mismapped, flipped, decisions, tolerance, notes
    )


def _same(seen: Mapping[str, Array], got: Mapping[str, Array], tolerance: Tolerance) -> bool:
    """Whether two runs of a file gave the same outputs, within tolerance."""
    return all(
        compare_outputs(seen[name], value).within(tolerance)
        if np.issubdtype(value.dtype, np.floating)
        else not _differing(seen[name], value)
        for name, value in got.items()
    )


def _differing(got: Array, expected: Array) -> int:
    """Integers that differ; all of them where type or shape do."""
    if (got.dtype, got.shape) != (expected.dtype, expected.shape):
        return expected.size
    return int((got != expected).sum())


class _Replay:
    """An observer that makes the eager model follow a file's decisions, and judges them on the way."""

    def __init__(self, names: Mapping[int, Mapping[str, str]], seen: Mapping[str, Array], tolerance: Tolerance) -> None:
        self._names = names
        self._seen = seen
        self._tolerance = tolerance
        self.report = DecisionReport()
        self.flipped_images: set[int] = set()

    def decide(self, layer: int, scores: Tensor, proposed: Matching) -> Matching:
        """Judge the file's decisions in this layer and return them, or the model's own if they are impossible."""
        if layer not in self._names:
            return proposed
        found = {kind: self._seen[name] for kind, name in self._names[layer].items()}
        batch, sources, _ = scores.shape
        got = Decisions.read(found, batch, sources)
        merges = got.target is not None
        reference = Decisions(
            proposed.kept.numpy(), proposed.matched.numpy(), proposed.target.numpy() if merges else None
        )
        report = judge(layer, got, scores.numpy(), reference, self._tolerance.near_tie)
        self.report += report
        if report.faults:
            self.flipped_images.update(range(batch))
            return proposed
        same = (np.sort(got.matched, 1) == np.sort(reference.matched, 1)).all(axis=1)
        if got.target is not None:
            rows = np.arange(batch)[:, None]
            same &= (got.target == scores.argmax(dim=2).numpy()[rows, got.matched]).all(axis=1)
        self.flipped_images.update(np.flatnonzero(~same).tolist())
        target = proposed.target if got.target is None else torch.from_numpy(got.target)
        return Matching(torch.from_numpy(got.kept), torch.from_numpy(got.matched), target)


def _decision_outputs(plan: Plan | None, produced: Set[str], file: str, *, mapped: bool) -> dict[int, dict[str, str]]:
    """Names of the decisions among the values `produced` in a file, by layer and kind; no `kept` where no source stays.

    Where the token map is followed, for an output (`mapped`) or to restore the grid, pruned tokens have a target too.

    The last layer's may be missing altogether: where the head takes class tokens, lowering leaves out a reduction that
    the output does not depend on. If it does depend on it, the outputs differ.

    Raises:
        VerificationError: a layer's decisions are not in the file, or there are some that the plan does not know of.
    """
    names: dict[int, dict[str, str]] = {}
    if plan is not None:
        mapped = mapped or plan.restores_grid
        for layer in plan.layers:
            if layer.removed:
                sources = len(range(layer.tokens_in)[Partition.of(plan.prefix_tokens).sources])
                kinds = ["kept"] if sources > layer.removed else []
                if layer.method.merges or mapped:
                    by_source = decision_name(layer.layer, "assigned") in produced
                    kinds += ["assigned"] if by_source else ["matched", "target"]
                names[layer.layer] = {kind: decision_name(layer.layer, kind) for kind in kinds}
        last = len(plan.layers) - 1
        if produced.isdisjoint(decision_name(last, kind) for kind in DECISIONS):
            names.pop(last, None)
    for layer_index, kinds_of in names.items():
        for name in kinds_of.values():
            if name not in produced:
                raise VerificationError(
                    f"{file}: layer {layer_index} has no value {name}, decisions cannot be compared"
                )
    expected = {name for kinds_of in names.values() for name in kinds_of.values()}
    if unexpected := sorted(name for name in produced - expected if is_decision(name)):
        raise VerificationError(f"{file} decides {unexpected[0]}, which the plan knows nothing of")
    return names


def _run(path: Path, output: OutputKind, images: Sequence[Array]) -> list[dict[str, Array]]:
    """The file's outputs for each batch, by name.

    Raises:
        VerificationError: the file does not give what it should and nothing else.
    """
    session = open_session(path)
    if set(session.outputs) != set(output.names) or len(session.inputs) != 1:
        raise VerificationError(
            f"{path.name} has outputs {sorted(session.outputs)}, expected {', '.join(output.names)}"
        )
    runs = [session.run(_feeds(session, batch)) for batch in images]
    return [{name: run[name] for name in output.names} for run in runs]


def _watch(
    path: Path, plan: Plan | None, images: Sequence[Array], *, mapped: bool
) -> tuple[dict[int, dict[str, str]], list[dict[str, Array] | None]]:
    """Names of the decisions, and outputs and decisions of each batch from a copy of the file that gives them out.

    Raises:
        VerificationError: as in `_decision_outputs`.
    """
    proto = load_without_weights(path)
    produced = {name for node in proto.graph.node for name in node.output}
    names = _decision_outputs(plan, produced, path.name, mapped=mapped)
    if not names:
        return names, [None] * len(images)
    for kinds in names.values():
        for name in kinds.values():
            proto.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.INT64, None))
    session = open_copy(proto, path)
    return names, [session.run(_feeds(session, batch)) for batch in images]


def _feeds(session: OrtSession, images: Array) -> dict[str, Array]:
    ((name, spec),) = session.inputs.items()
    return {name: images.astype(spec.dtype)}
