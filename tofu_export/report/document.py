"""The report of a run: `report.json` (schema version 1) and `report.md`. Pure data, no torch."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tofu_export.errors import OptionError
from tofu_export.planning.entry import PlanEntry
from tofu_export.report.artifacts import FILE_GMACS, EngineFile, OnnxFile
from tofu_export.report.measurement import Measurement
from tofu_export.report.model import ModelEntry, OutputEntry
from tofu_export.report.unet import UnetModelEntry, UnetPlanEntry
from tofu_export.report.verification import Verification
from tofu_export.system.environment import Environment
from tofu_export.system.typed_json import JsonObject, from_plain, to_object

__all__ = [
    "FULL",
    "SCHEMA_VERSION",
    "TOKEN_MAPS",
    "Accuracy",
    "Report",
    "Skipped",
    "UnetReport",
    "VitReport",
    "markdown_table",
]

SCHEMA_VERSION = 1

FULL = "full"
"""Name of the unreduced model."""

TOKEN_MAPS = "token maps"
"""Step that draws what became of the patches of real images."""


@dataclass(frozen=True)
class Accuracy:
    """Share of the labelled images whose top class is right, for a file or the unreduced model."""

    artifact: str
    images: int
    top1: float
    backend: str


@dataclass(frozen=True)
class Skipped:
    """A step that was left out, and why."""

    step: str
    reason: str


@dataclass(kw_only=True)
class Report(ABC):
    """Report of a run, filled step by step.

    Attributes:
        model: name, weights, sizes.
        plan: the reduction.
        output: what the files output.
        command: the command line that reproduces the run, or the Python program.
        environment: versions and hardware.
        artifacts: files written.
        verification: one entry per comparison of a file.
        accuracy: top-1 on labelled images, if there are any.
        benchmark: one entry per file and batch size.
        skipped: steps that were left out.
        timings_s: wall time of each step, in seconds.
    """

    model: ModelEntry | UnetModelEntry
    plan: PlanEntry | UnetPlanEntry
    output: OutputEntry
    command: str
    environment: Environment
    artifacts: tuple[OnnxFile | EngineFile, ...] = ()
    verification: tuple[Verification, ...] = ()
    accuracy: tuple[Accuracy, ...] = ()
    benchmark: tuple[Measurement, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    timings_s: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, document: Mapping[str, object], place: str = "") -> Report:
        """Read a report that `to_dict` wrote, in this version or an earlier one.

        Args:
            document: content of report.json.
            place: name of the file, for messages.

        Raises:
            OptionError: a field is missing or holds something else.
        """
        plan = document.get("plan")
        if isinstance(plan, Mapping) and "blocks" in plan:
            return from_plain(UnetReport, document, place)
        report = from_plain(VitReport, document, place)
        if not report.plan.layers:
            raise OptionError(f"{place}plan.layers is empty, expected one entry for each block")
        if min(report.plan.gmacs.full, report.plan.gmacs.reduced) <= 0:
            raise OptionError(f"{place}plan.gmacs has a number that is not above 0")
        return report

    def skip(self, step: str, reason: str) -> None:
        """Record that a step was left out."""
        self.skipped += (Skipped(step, reason),)

    def to_dict(self) -> JsonObject:
        """Return the document of report.json."""
        return {"schema_version": SCHEMA_VERSION, **to_object(self)}

    def to_json(self) -> str:
        """Return the text of report.json; numbers that JSON cannot represent are refused.

        Raises:
            ValueError: a value is NaN or infinite.
        """
        return json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n"

    @abstractmethod
    def to_markdown(self, benchmark_text: str = "") -> str:
        """Return the text of report.md: a summary for human readers."""

    def _files(self) -> list[str]:
        """Return the lines of report.md about the files."""
        rows = [
            (
                row.path,
                row.precision.value,
                f"{row.bytes / 1e6:.1f} MB",
                row.gmacs_words if isinstance(row, OnnxFile) else "",
                row.sha256[:12],
            )
            for row in self.artifacts
        ]
        return ["## Files", "", *markdown_table(("file", "precision", "size", "GMACs", "sha256"), rows)]

    def _closing(self, benchmark_text: str) -> list[str]:
        """Return the last lines of report.md: timings, steps left out, how to reproduce the run."""
        lines = []
        if benchmark_text:
            lines += ["## Benchmark", "", "```", benchmark_text.rstrip(), "```", ""]
        if self.skipped:
            lines += ["## Left out", "", *(f"- {row.step}: {row.reason}" for row in self.skipped), ""]
        about = self.environment
        lines += ["## Reproduce", "", "```", self.command, "```", "", f"{about.cpu}; {about.version_words}", ""]
        return lines


@dataclass(kw_only=True)
class VitReport(Report):
    """Report of a Vision Transformer."""

    model: ModelEntry
    plan: PlanEntry

    def to_markdown(self, benchmark_text: str = "") -> str:
        """Return the text of report.md: a summary for human readers."""
        model, plan = self.model, self.plan
        asked = f" (from {plan.asked_words})" if plan.asked_words else ""
        several = len(self.output.shapes) > 1
        lines = [
            f"# {model.resolved} with Token Fusion",
            "",
            f"{model.params / 1e6:.1f} M parameters, weights: {model.weights.kind}, "
            f"{model.tokens} tokens, pattern `{plan.pattern}`{plan.select_words}, r = {plan.r_words}{asked}.",
            f"{plan.gmacs.full:.2f} GMACs become {plan.gmacs.reduced:.2f} ({plan.gmacs.ratio:.2f}x fewer). "
            f"Token sizes: {plan.sizes_words}.",
            f"Weights: {model.loading_words}.",
            f"Output{'s' * several}: {self.output.words}"
            f"{'; all tokens are restored after the last layer' * plan.restore_grid}.",
            "",
            *markdown_table(
                ("layer", "method", "tokens in", "removed", "tokens out"),
                [(row.layer, row.method, row.tokens_in, row.removed, row.tokens_out) for row in plan.layers],
            ),
            *self._files(),
            *([FILE_GMACS, ""] if self.artifacts else []),
        ]
        for file in self.artifacts:
            if isinstance(file, OnnxFile) and file.calibration is not None:
                lines += [f"`{file.path}`: {file.calibration}", ""]
        for file in self.artifacts:
            if isinstance(file, EngineFile) and file.fusions is not None and file.kernels is not None:
                made = f", {file.fusions}" if str(file.fusions) else ""
                lines += [f"`{file.path}`: {file.kernels.kernels} kernels{made}.", ""]
        if self.verification:
            head = ("file", "against", "result", "largest error", "cosine", "decisions", "near ties", "wrong")
            lines += ["## Verification", "", *markdown_table(head, [_verified(row) for row in self.verification])]
            for row in self.verification:
                lines += [] if row.token_map is None else [f"`{row.artifact}`: {row.token_map}", ""]
        if self.accuracy:
            rows = [(row.artifact, row.images, f"{row.top1:.1%}") for row in self.accuracy]
            lines += ["## Accuracy", "", *markdown_table(("model", "images", "top-1"), rows)]
        return "\n".join([*lines, *self._closing(benchmark_text)])


@dataclass(kw_only=True)
class UnetReport(Report):
    """Report of a UNet."""

    model: UnetModelEntry
    plan: UnetPlanEntry

    def to_markdown(self, benchmark_text: str = "") -> str:
        """Return the text of report.md: a summary for human readers."""
        model, plan = self.model, self.plan
        height, width = plan.latent
        lines = [
            f"# {model.resolved} {'with Token Fusion' if plan.reduced else 'as it is'}",
            "",
            f"{model.params / 1e6:.1f} M parameters, weights: {model.weights.kind}, latent {height}x{width}, "
            f"mode {plan.mode}, ratio {plan.ratio:g}, pattern `{plan.pattern}`.",
            f"{plan.gmacs.full:.2f} GMACs become {plan.gmacs.reduced:.2f} ({plan.gmacs.ratio:.2f}x fewer), "
            f"{plan.gmacs.added:.2f} for matching and merging among them.",
            "",
            *markdown_table(
                ("block", "module", "grid", "method", "tokens", "removed", "attended"),
                [
                    (
                        row.block,
                        row.path,
                        "x".join(map(str, row.grid)),
                        row.method,
                        row.tokens,
                        row.removed,
                        row.attended,
                    )
                    for row in plan.reduced
                ],
            ),
            *self._files(),
        ]
        if self.verification:
            head = ("file", "result", "batches", "relative error", "decisions", "near ties", "wrong")
            rows = [_verified_unet(row) for row in self.verification]
            lines += ["## Verification against eager PyTorch", "", *markdown_table(head, rows)]
        return "\n".join([*lines, *self._closing(benchmark_text)])


def _verified(row: Verification) -> tuple[object, ...]:
    error = "not finite" if row.max_abs is None else f"{row.max_abs:.2e}"
    cosine = "-" if row.cosine_min is None else f"{row.cosine_min:.6f}"
    return (row.artifact, row.reference, row.result_word, error, cosine, *_decided(row))


def _verified_unet(row: Verification) -> tuple[object, ...]:
    error = "not finite" if row.relative is None else f"{row.relative:.2e}"
    return (row.artifact, row.result_word, ", ".join(map(str, row.batches)), error, *_decided(row))


def _decided(row: Verification) -> tuple[int, int, int]:
    return row.decisions.compared, row.decisions.near_tie_flips, row.decisions.wrong


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """Return the lines of a Markdown table, followed by an empty line."""
    body = [f"| {' | '.join(str(cell) for cell in row)} |" for row in rows]
    return [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *body, ""]
