"""The report of a UNet job: report.json with the fields of the main job's, and report.md."""

from __future__ import annotations

from typing import Any

from tofu_export.report.document import Report, markdown_table

__all__ = ["UnetReport"]


class UnetReport(Report):
    """As `Report`; `plan` is a `UnetPlan`, `verification` holds `UnetVerification`s."""

    def to_markdown(self, benchmark_text: str = "") -> str:
        """The text of report.md: what a colleague wants to read first."""
        model, gmacs = self.model, self.plan["gmacs"]
        height, width = self.plan["latent"]
        reduced = [row for row in self.plan["blocks"] if row["removed"]]
        lines = [
            f"# {model['resolved']} {'with Token Fusion' if reduced else 'as it is'}",
            "",
            f"{model['params'] / 1e6:.1f} M parameters, weights: {model['weights']['kind']}, latent {height}x{width}, "
            f"mode {self.plan['mode']}, ratio {self.plan['ratio']:g}, pattern `{self.plan['pattern']}`.",
            f"{gmacs['full']:.2f} GMACs become {gmacs['reduced']:.2f} ({gmacs['full'] / gmacs['reduced']:.2f}x fewer), "
            f"{gmacs['added']:.2f} for matching and merging among them.",
            "",
            *markdown_table(
                ("block", "module", "grid", "method", "tokens", "removed", "attended"),
                [
                    (
                        row["block"], row["path"], "x".join(map(str, row["grid"])), row["method"],
                        row["tokens"], row["removed"], row["attended"],
                    )
                    for row in reduced
                ],
            ),
            "## Files",
            "",
            *markdown_table(
                ("file", "precision", "size", "sha256"),
                [
                    (row["path"], row["precision"], f"{row['bytes'] / 1e6:.1f} MB", row["sha256"][:12])
                    for row in self.artifacts
                ],
            ),
        ]  # fmt: skip
        if self.verification:
            lines += [
                "## Verification against eager PyTorch",
                "",
                *markdown_table(
                    ("file", "result", "batches", "relative error", "decisions", "near ties", "wrong"),
                    [_verification_row(row) for row in self.verification],
                ),
            ]
        return "\n".join([*lines, *self.closing(benchmark_text)])


def _verification_row(row: dict[str, Any]) -> tuple[Any, ...]:
    found = row["decisions"]
    error = "not finite" if row["relative"] is None else f"{row['relative']:.2e}"
    batches = ", ".join(map(str, row["batches"]))
    return (
        row["artifact"], "passed" if row["passed"] else "FAILED", batches, error,
        found["compared"], found["near_tie_flips"], found["wrong"],
    )  # fmt: skip
