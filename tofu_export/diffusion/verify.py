"""Compare a UNet's ONNX file with the eager model: its decisions, and then its arithmetic under the same decisions.

A file runs as it is. A copy of it gives out which sources stay and where each one would go; the eager UNet judges that
by its own similarities, follows it, and must then predict the same noise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tofu_export.decisions import DecisionReport, Decisions, judge
from tofu_export.diffusion.forms import UnetForm
from tofu_export.diffusion.inputs import OUTPUT_NAME, UnetInputs
from tofu_export.diffusion.plan import UnetPlan
from tofu_export.errors import VerificationError
from tofu_export.feeds import as_asked
from tofu_export.graph_patterns.grid import grid_stage
from tofu_export.memory import give_back
from tofu_export.onnx_file import load_without_weights
from tofu_export.options import BatchRange, Precision
from tofu_export.ort import open_session
from tofu_export.patch.matching import Matching
from tofu_export.patch.observe import observe
from tofu_export.verify.watch import run_copy

__all__ = ["UNET_TOLERANCES", "UnetTolerance", "UnetVerification", "batches_of", "relative_error", "verify_unet"]

Array = NDArray[Any]

_BATCHES = (1, 2, 3)
"""One image, one with its unprompted twin, and an odd number."""


@dataclass(frozen=True)
class UnetTolerance:
    """What a UNet's file may differ by from the eager float32 model under the same decisions.

    Attributes:
        name: the precision.
        relative: largest norm of the difference, as a share of the norm of what the model predicts.
        peak: largest single difference, as a share of the largest value that the model predicts.
        near_tie: candidates whose cosine similarity differs by less are a tie.
        reason: where the numbers come from.
    """

    name: str
    relative: float
    peak: float
    near_tie: float
    reason: str


UNET_TOLERANCES = {
    Precision.FP32: UnetTolerance("fp32", 1e-5, 5e-5, 2e-5, "rounding of 2^-24 through some 60 layers: 1e-6 measured"),
    Precision.FP16: UnetTolerance("fp16", 1e-2, 5e-2, 4e-3, "rounding of 2^-11 in every activation: 1e-3 measured"),
    Precision.BF16: UnetTolerance(
        "bf16", 1e-2, 5e-2, 4e-3, "graph and weights of the file in float32: only its constants are rounded, by 2^-9"
    ),
}
"""Named tolerances by precision."""


@dataclass(frozen=True)
class UnetVerification:
    """What a comparison found.

    Attributes:
        artifact: name of the file.
        precision: the file's.
        batches: batch sizes compared.
        relative: largest relative error over the batches; NaN if something is not finite.
        peak: largest single error, as a share of the largest value.
        decisions: of all blocks and batches.
        tolerance: what was allowed.
    """

    artifact: str
    precision: Precision
    batches: tuple[int, ...]
    relative: float
    peak: float
    decisions: DecisionReport
    tolerance: UnetTolerance

    @property
    def passed(self) -> bool:
        """True if nothing exceeds the tolerance, no decision is wrong, and something was compared."""
        return (
            bool(self.batches)
            and self.relative <= self.tolerance.relative
            and self.peak <= self.tolerance.peak
            and self.decisions.wrong == 0
        )

    def __str__(self) -> str:
        found = self.decisions
        return (
            f"{self.artifact} {'equals' if self.passed else 'DIFFERS FROM'} eager PyTorch at batch "
            f"{', '.join(map(str, self.batches))}: relative error {self.relative:.1e} (allowed "
            f"{self.tolerance.relative:.0e}), largest {self.peak:.1e} of the largest value; "
            f"{found.compared} decisions, {found.near_tie_flips} near ties, {found.wrong} wrong"
        )

    def failure(self, hint: str = "") -> VerificationError:
        """The error of a comparison that did not pass."""
        return VerificationError(f"{self}. {hint}".rstrip())

    def to_dict(self) -> dict[str, Any]:
        """As in report.json; what is not finite is null."""

        def number(value: float) -> float | None:
            return value if np.isfinite(value) else None

        return {
            "artifact": self.artifact,
            "precision": self.precision.value,
            "batches": list(self.batches),
            "relative": number(self.relative),
            "peak": number(self.peak),
            "decisions": self.decisions.to_dict(),
            "tolerance": asdict(self.tolerance),
            "passed": self.passed,
        }


def batches_of(batch: BatchRange) -> tuple[int, ...]:
    """Batch sizes to compare at: 1, 2 and 3 as far as the file serves them, or else its smallest."""
    return tuple(size for size in _BATCHES if batch.minimum <= size <= batch.maximum) or (batch.minimum,)


def relative_error(got: Array, expected: Array) -> tuple[float, float]:
    """Norm of the difference over the norm, and largest difference over the largest value; NaN if not finite.

    Raises:
        VerificationError: the shapes differ.
    """
    if got.shape != expected.shape:
        raise VerificationError(f"{OUTPUT_NAME} has shape {list(got.shape)}, expected {list(expected.shape)}")
    left, right = got.astype(np.float64), expected.astype(np.float64)
    if not (np.isfinite(left).all() and np.isfinite(right).all()):
        return float("nan"), float("nan")
    floor = np.finfo(np.float64).tiny
    difference = left - right
    return (
        float(np.linalg.norm(difference) / max(float(np.linalg.norm(right)), floor)),
        float(np.abs(difference).max() / max(float(np.abs(right).max()), floor)),
    )


def verify_unet(
    path: Path,
    unet: nn.Module,
    plan: UnetPlan | None,
    inputs: UnetInputs,
    *,
    precision: Precision,
    batch: BatchRange,
    seed: int = 0,
    on_batch: Callable[[int], None] = lambda size: None,
) -> UnetVerification:
    """Compare the file at `path` with the eager `unet`.

    Args:
        path: the ONNX file.
        unet: float32, carrying `plan`.
        plan: the reduction; None for a file of the full UNet.
        inputs: what the UNet takes.
        precision: the file's.
        batch: batch sizes that the file serves.
        seed: of the inputs.
        on_batch: told each batch size before the eager model runs it.

    Raises:
        VerificationError: the file lacks an output or a decision, or reading its decisions changes its output.
        ExportError: the file cannot be loaded or run.
    """
    tolerance = UNET_TOLERANCES[precision]
    sizes = batches_of(batch)
    feeds = [inputs.random(size, seed) for size in sizes]
    outputs = _run_file(path, feeds)
    seen = _run_watched(path, feeds, outputs, plan, tolerance)
    give_back()
    relative = peak = 0.0
    decisions = DecisionReport()
    for size, values, got, inside in zip(sizes, feeds, outputs, seen, strict=True):
        on_batch(size)
        replay = _Replay(plan, inside, tolerance.near_tie)
        with torch.no_grad(), observe(replay):
            (expected,) = UnetForm(unet)(*(torch.from_numpy(value) for value in values.values()))
        errors = relative_error(got, expected.numpy())
        relative, peak = float(np.maximum(relative, errors[0])), float(np.maximum(peak, errors[1]))  # NaN stays
        decisions += replay.report
        if plan is not None and len(replay.report.layers) != len(plan.reduced):
            decided = len(replay.report.layers)
            raise VerificationError(f"{path.name}: {decided} blocks decided, the plan reduces {len(plan.reduced)}")
    return UnetVerification(path.name, precision, sizes, relative, peak, decisions, tolerance)


class _Replay:
    """Makes the eager UNet follow a file's decisions, and judges them on the way."""

    def __init__(self, plan: UnetPlan | None, inside: Mapping[str, Array], near_tie: float) -> None:
        self._blocks = {block.block: block for block in (plan.reduced if plan is not None else ())}
        self._inside = inside
        self._near_tie = near_tie
        self.report = DecisionReport()

    def decide(self, layer: int, scores: Tensor, proposed: Matching) -> Matching:
        """The file's decisions, or the model's own where the file's are impossible."""
        got = _decisions_in(self._inside, self._blocks[layer].path, *scores.shape[:2])
        own = Decisions(*(tensor.sort(dim=1).values.numpy() for tensor in proposed[:1]), *map(_numpy, proposed[1:]))
        found = judge(layer, got, scores.numpy(), own, self._near_tie)
        self.report += found
        if found.faults or got.target is None:
            return proposed
        return Matching(*(torch.from_numpy(values) for values in (got.kept, got.matched, got.target)))


def _numpy(tensor: Tensor) -> Array:
    return np.asarray(tensor.numpy())


def _decisions_in(inside: Mapping[str, Array], path: str, batch: int, sources: int) -> Decisions:
    """A block's decisions as a file states them (`graph_patterns.grid.grid_stage`), kept sources ascending."""
    stage = grid_stage(path)
    kept = np.sort(inside.get(f"{stage}/match/kept", np.empty((batch, 0), dtype=np.int64)), axis=1)
    leaves = np.ones((batch, sources), dtype=bool)
    inrange = np.clip(kept, 0, sources - 1)
    np.put_along_axis(leaves, inrange, False, axis=1)
    if len({int(row.sum()) for row in leaves}) > 1:  # a source twice: `judge` calls it a fault
        return Decisions(kept, np.empty((batch, 0), dtype=np.int64), None)
    matched = np.stack([np.flatnonzero(row) for row in leaves])
    return Decisions(kept, matched, np.take_along_axis(inside[f"{stage}/match/nearest"], matched, axis=1))


def _run_file(path: Path, feeds: Sequence[Mapping[str, Array]]) -> list[Array]:
    session = open_session(path)
    if set(session.outputs) != {OUTPUT_NAME}:
        raise VerificationError(f"{path.name} has outputs {', '.join(session.outputs)}, expected {OUTPUT_NAME}")
    return [session.run(as_asked(values, session.inputs))[OUTPUT_NAME] for values in feeds]


def _run_watched(
    path: Path,
    feeds: Sequence[Mapping[str, Array]],
    outputs: Sequence[Array],
    plan: UnetPlan | None,
    tolerance: UnetTolerance,
) -> list[dict[str, Array]]:
    """Decisions of a copy of the file, which must give the same outputs as the file."""
    if plan is None or not plan.reduced:
        return [{} for _ in feeds]
    give_back()
    graph = load_without_weights(path).graph
    made = {name for node in graph.node for name in node.output}
    types = {value.name: value.type.tensor_type.elem_type for value in graph.input}
    names = []
    for block in plan.reduced:
        kinds = ("kept", "nearest") if block.kept else ("nearest",)
        names += [f"{grid_stage(block.path)}/match/{kind}" for kind in kinds]
    if missing := [name for name in names if name not in made]:
        raise VerificationError(f"{path.name} has no value {missing[0]}: its decisions cannot be read, export it again")
    typed = [{name: value.astype(_numpy_type(types[name])) for name, value in values.items()} for values in feeds]
    seen = run_copy(path, typed, names)
    for got, values in zip(outputs, seen, strict=True):
        relative, _ = relative_error(values[OUTPUT_NAME], got)
        if not relative <= tolerance.relative and np.isfinite(got).all():
            raise VerificationError(f"{path.name}: reading out its decisions changes its output, report this")
    return seen


def _numpy_type(element: int) -> np.dtype[Any]:
    import onnx

    return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(element))
