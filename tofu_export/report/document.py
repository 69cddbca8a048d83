"""The report of a run: `report.json` (schema version 1) and `report.md`. Pure data, no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tofu_export.options import Method, PrunedSizes, Selection
from tofu_export.planning.plan import ModelSpec, Plan

__all__ = [
    "SCHEMA_VERSION",
    "Report",
    "loading_words",
    "markdown_table",
    "plan_table",
    "sizes_words",
    "token_map_words",
]

SCHEMA_VERSION = 1


@dataclass
class Report:
    """Everything a run found out, gathered step by step.

    Attributes:
        model: name, weights, sizes, preprocessing.
        plan: the reduction, layer by layer.
        output: what the files give: kind, names, shapes.
        command: the command line that reproduces the run.
        environment: versions and hardware.
        artifacts: files written.
        verification: one entry per verified file.
        accuracy: top-1 on labelled images, where there are any.
        benchmark: one entry per file and batch size.
        skipped: steps that were left out, with the reason.
        timings_s: wall time of each step, in seconds.
    """

    model: dict[str, Any]
    plan: dict[str, Any]
    output: dict[str, Any]
    command: str
    environment: dict[str, Any]
    artifacts: list[dict[str, Any]] = field(default_factory=list)
    verification: list[dict[str, Any]] = field(default_factory=list)
    accuracy: list[dict[str, Any]] = field(default_factory=list)
    benchmark: list[dict[str, Any]] = field(default_factory=list)
    skipped: list[dict[str, str]] = field(default_factory=list)
    timings_s: dict[str, float] = field(default_factory=dict)

    def skip(self, step: str, reason: str) -> None:
        """Note that a step was left out."""
        self.skipped.append({"step": step, "reason": reason})

    def to_dict(self) -> dict[str, Any]:
        """The document of report.json."""
        return {"schema_version": SCHEMA_VERSION, **vars(self)}

    def to_json(self) -> str:
        """The text of report.json; numbers that JSON cannot hold are refused.

        Raises:
            ValueError: a value is NaN or infinite.
        """
        return json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n"

    def to_markdown(self, benchmark_text: str = "") -> str:
        """The text of report.md: what a colleague wants to read first."""
        model, gmacs = self.model, self.plan["gmacs"]
        lines = [
            f"# {model['resolved']} with Token Fusion",
            "",
            f"{model['params'] / 1e6:.1f} M parameters, weights: {model['weights']['kind']}, "
            f"{model['tokens']} tokens, pattern `{self.plan['pattern']}`, r = {self.plan['r']}{_asked(self.plan)}.",
            f"{gmacs['full']:.2f} GMACs become {gmacs['reduced']:.2f} ({gmacs['full'] / gmacs['reduced']:.2f}x fewer). "
            f"Token sizes: {sizes_words(self.plan)}.",
            f"Weights: {loading_words(model)}.",
            f"{_outputs(self.output)}{'; all tokens are restored after the last layer' * self.plan['restore_grid']}.",
            "",
            *markdown_table(
                ("layer", "method", "tokens in", "removed", "tokens out"),
                [
                    (row["layer"], row["method"], row["tokens_in"], row["removed"], row["tokens_out"])
                    for row in self.plan["layers"]
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
            *_calibrations(self.artifacts),
            *_fusions(self.artifacts),
        ]
        if self.verification:
            lines += [
                "## Verification",
                "",
                *markdown_table(
                    ("file", "against", "result", "largest error", "cosine", "decisions", "near ties", "wrong"),
                    [_verification_row(row) for row in self.verification],
                ),
                *_token_maps(self.verification),
            ]
        if self.accuracy:
            lines += [
                "## Accuracy",
                "",
                *markdown_table(
                    ("model", "images", "top-1"),
                    [(row["artifact"], row["images"], f"{row['top1']:.1%}") for row in self.accuracy],
                ),
            ]
        return "\n".join([*lines, *self.closing(benchmark_text)])

    def closing(self, benchmark_text: str) -> list[str]:
        """The last lines of report.md: timings, what was left out, how to do it again."""
        lines = []
        if benchmark_text:
            lines += ["## Benchmark", "", "```", benchmark_text.rstrip(), "```", ""]
        if self.skipped:
            lines += ["## Left out", "", *(f"- {row['step']}: {row['reason']}" for row in self.skipped), ""]
        versions = ", ".join(f"{name} {version}" for name, version in self.environment["versions"].items() if version)
        lines += ["## Reproduce", "", "```", self.command, "```", "", f"{self.environment['cpu']}; {versions}", ""]
        return lines


def loading_words(model: Mapping[str, Any]) -> str:
    """What was loaded, in one line: format, which of several models, what was set, adapted or dropped, and the images.

    Args:
        model: the entry of a report, or other facts of these names: `weights`, `preprocessing`, `preprocessing_from`.
    """
    weights, images = model["weights"], model["preprocessing"]
    name = weights["path"] or weights["kind"]
    parts = [f"{name} ({weights['format']})" if weights["format"] else name]
    if weights["keys"]:
        parts.append(f"{weights['key']} of {', '.join(weights['keys'])} (--weights-key chooses)")
    kinds = [kind for kind in ("set", "adapted", "dropped") if weights[kind]]
    parts += [*(f"{kind}: {_some(weights[kind])}" for kind in kinds), *weights["notes"]]
    said_by: dict[str, list[str]] = {}
    for field_name, where in model["preprocessing_from"].items():
        said_by.setdefault(where, []).append(f"{field_name} {_value(images[field_name])}")
    parts += [f"{', '.join(values)} from {where}" for where, values in said_by.items()]
    return "; ".join(parts)


def _some(items: Sequence[str], most: int = 6) -> str:
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return f"{', '.join(items[:most])}{more}"


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "/".join(f"{number:.4g}" for number in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def plan_table(spec: ModelSpec, plan: Plan) -> str:
    """The plan as text for a terminal."""
    lines = [
        f"{spec.name}  {spec.image_size[0]}x{spec.image_size[1]}  {spec.params / 1e6:.1f} M parameters  "
        f"{spec.tokens} tokens ({spec.prefix_tokens} protected)  pattern {plan.pattern}",
        "",
        "layer  method   tokens in  removed  tokens out",
    ]
    lines += [
        f"{row.layer:>5}  {row.method.name.lower():<8} {row.tokens_in:>8} {row.removed:>8} {row.tokens_out:>11}"
        for row in plan.layers
    ]
    lines += [
        "",
        *_asked_lines(plan),
        *([] if plan.reduction.select is Selection.BIPARTITE else [f"select {plan.reduction.select.value}"]),
        f"sizes  {sizes_words(plan.to_dict())}",
        *(["grid   restored after the last layer"] if plan.restores_grid else []),
        f"GMACs  {plan.gmacs_full:.2f} full, {plan.gmacs_reduced:.2f} reduced: {plan.flop_ratio:.2f}x fewer",
    ]
    return "\n".join(lines)


def _outputs(output: dict[str, Any]) -> str:
    """What a file gives, for example `Output: logits [batch, 1000]`."""
    shapes = [f"{name} [{', '.join(map(str, shape))}]" for name, shape in output["shapes"].items()]
    return f"Output{'s' * (len(shapes) > 1)}: {', '.join(shapes)}"


def _asked(plan: dict[str, Any]) -> str:
    """What was asked for where r is only what came of it, for example ` (asked for: speedup 1.8)`."""
    ways = [f"{name} {value}" for name, value in plan["asked"].items() if name != "r"]
    return f" (asked for: {', '.join(ways)})" if ways else ""


def sizes_words(plan: Mapping[str, Any]) -> str:
    """Whether token sizes enter the attention, and why, for example `on (default)`; of a `plan` in a report."""
    words = "on" if plan["prop_attn"] else "off"
    if plan["prop_attn"] and _loses_sizes(plan):
        words = "on, those of pruned tokens lost"
    return f"{words} ({plan['prop_attn_reason']})" if "prop_attn_reason" in plan else words


def _loses_sizes(plan: Mapping[str, Any]) -> bool:
    """True where tokens are pruned and their sizes lost, as always before `pruned_sizes` was written."""
    lost = plan.get("pruned_sizes", PrunedSizes.LOST.value) == PrunedSizes.LOST.value
    return lost and any(row["method"] == Method.PRUNE.name.lower() and row["removed"] for row in plan["layers"])


def _asked_lines(plan: Plan) -> list[str]:
    asked = _asked(plan.to_dict())
    return [f"r      {','.join(str(layer.removed) for layer in plan.layers)}{asked}"] if asked else []


def _calibrations(artifacts: Sequence[dict[str, Any]]) -> list[str]:
    """A paragraph for each quantised file: what is, and where its ranges come from."""
    lines: list[str] = []
    for row in artifacts:
        if found := row.get("calibration"):
            lines += [
                f"`{row['path']}`: {found['products']} products in {found.get('numbers', 'int8')} and "
                f"{found['left']} in {found.get('rest', 'fp32')}; ranges "
                f"({found['method']}) from {found['images']} images, {found['source']}"
                f"{'' if found['real'] else ', **which are generated, not real ones**'}.",
                "",
            ]
    return lines


_FUSIONS = {"quantized_products": "products quantised", "fused_attention": "attentions fused"}


def _fusions(artifacts: Sequence[dict[str, Any]]) -> list[str]:
    """A paragraph for each engine whose kernels tell what they compute."""
    lines: list[str] = []
    for row in artifacts:
        if found := row.get("fusions"):
            made = "".join(
                f", {found[part]['in_engine']} of {found[part]['in_file']} {what}"
                for part, what in _FUSIONS.items()
                if found[part]["in_file"]
            )
            lines += [f"`{row['path']}`: {row['kernels']['kernels']} kernels{made}.", ""]
    return lines


def _verification_row(row: dict[str, Any]) -> tuple[Any, ...]:
    decisions = row["decisions"]
    error = "not finite" if row["max_abs"] is None else f"{row['max_abs']:.2e}"
    cosine = "-" if row["cosine_min"] is None else f"{row['cosine_min']:.6f}"
    result = "passed" if row["passed"] else "FAILED"
    return (
        row["artifact"], row["reference"], result, error, cosine,
        decisions["compared"], decisions["near_tie_flips"], decisions["wrong"],
    )  # fmt: skip


def _token_maps(verification: Sequence[dict[str, Any]]) -> list[str]:
    """A paragraph for each file that gives token maps."""
    lines = []
    for row in verification:
        if found := row.get("token_map"):
            lines += [f"`{row['artifact']}`: {token_map_words(found)}", ""]
    return lines


def token_map_words(found: Mapping[str, int]) -> str:
    """What a `token_map` of `verification` says, for reports."""
    return f"{found['compared']:,} entries of its token maps compared, {found['wrong']:,} wrong."


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    """Lines of a table in Markdown, an empty one after it."""
    body = [f"| {' | '.join(str(cell) for cell in row)} |" for row in rows]
    return [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *body, ""]
