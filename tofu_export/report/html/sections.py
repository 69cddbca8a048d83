"""Sections that every report has, from `report.json`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tofu_export.planning.entry import PlanEntry, amount_words
from tofu_export.report.artifacts import FILE_GMACS, EngineFile, OnnxFile
from tofu_export.report.document import FULL, Report, UnetReport, VitReport
from tofu_export.report.html.accuracy_section import accuracy_headline, accuracy_section
from tofu_export.report.html.charts import Speedup, latency_chart, speedup_chart, tokens_chart
from tofu_export.report.html.evidence import Evidence
from tofu_export.report.html.evidence_sections import linearity_section, tokens_section, tradeoff_section
from tofu_export.report.html.parts import NOTHING, Cell, Chart, Headline, Section, colour_of, table
from tofu_export.report.html.tuning_section import tuning_section
from tofu_export.report.measurement import Measurement
from tofu_export.report.unet import UnetPlanEntry
from tofu_export.report.verification import Verification

__all__ = ["Sections", "sections_of"]

_BARS = "Height of a bar: tokens that enter a block. Number: tokens that leave it."


@dataclass(frozen=True)
class Sections:
    """Content of a page.

    Attributes:
        model: name of the model.
        subtitle: how the model was reduced, in a sentence.
        headlines: headline numbers.
        sections: sections, in order.
        version: version of the library that wrote the report.
    """

    model: str
    subtitle: str
    headlines: tuple[Headline, ...]
    sections: tuple[Section, ...]
    version: str


def sections_of(report: Report, evidence: Evidence) -> Sections:
    """Return everything that the page shows.

    Raises:
        OptionError: token maps cannot be drawn.
    """
    model = report.model
    start = f"{model.params / 1e6:.1f} M parameters, {model.weights.kind} weights, "
    ends = (_files(report), _left_out(report), _reproduce(report, evidence))
    sections: tuple[Section, ...]
    if isinstance(report, UnetReport):
        height, width = report.model.latent
        unet = report.plan
        subtitle = (
            f"{start}latent {height}\u00d7{width}. Mode {unet.mode}, ratio {unet.ratio:g}, pattern {unet.pattern}."
        )
        sections = (_unet_plan(unet), _verification(report), _speed(report), *ends)
    else:
        assert isinstance(report, VitReport)
        height, width = report.model.image_size
        plan = report.plan
        subtitle = (
            f"{start}{height}\u00d7{width} pixels in {report.model.tokens} tokens. Pattern {plan.pattern}"
            f"{plan.select_words}, r = {amount_words(plan.r)}. Token sizes: {plan.sizes_words}."
        )
        sections = (
            _plan(plan),
            tokens_section(report, evidence),
            _verification(report),
            _speed(report),
            accuracy_section(report, evidence),
            tradeoff_section(report, evidence),
            tuning_section(report, evidence),
            linearity_section(report, evidence),
            *ends,
        )
    version = report.environment.versions.get("tofu_export") or "unknown"
    return Sections(model.resolved, subtitle, tuple(_headlines(report, evidence)), sections, version)


def _headlines(report: Report, evidence: Evidence) -> list[Headline]:
    gmacs = report.plan.gmacs
    found = [_speed_headline(report)]
    places = 2 if gmacs.reduced >= 1 else 3
    found.append(
        Headline(
            f"{gmacs.ratio:.2f}\u00d7", "fewer multiply-accumulates",
            f"{gmacs.full:.{places}f} GMACs per image become {gmacs.reduced:.{places}f}",
        )
    )  # fmt: skip
    found.append(_agreement_headline(report, evidence))
    rows = report.verification
    if not rows:
        found.append(Headline("none", "files verified", _reason(report, "verification") or "nothing was compared"))
        return found
    names = list(dict.fromkeys(row.artifact for row in rows))  # an engine is compared with more than one
    passed = sum(all(row.passed for row in rows if row.artifact == name) for name in names)
    decisions = sum(row.decisions.compared for row in rows)
    wrong = sum(row.decisions.wrong for row in rows)
    found.append(
        Headline(
            f"{passed} of {len(names)}", "files verified",
            f"{decisions:,} matching decisions compared, {wrong} wrong",
            "good" if passed == len(names) else "bad",
        )
    )  # fmt: skip
    return found


def _speed_headline(report: Report) -> Headline:
    found = [
        (row.speedup_vs_full, row)
        for row in report.benchmark
        if row.artifact != FULL and row.speedup_vs_full is not None
    ]
    if not found:
        return Headline("none", "speed measured", _reason(report, "benchmark") or "nothing was timed")
    ratio, best = max(found, key=lambda entry: entry[0])
    spread = best.speedup_iqr
    between = f", quartiles {spread[0]:.2f}\u2013{spread[1]:.2f}" if spread else ""
    label = "as fast as the full model"
    detail = f"{best.artifact}, batch {best.batch}, {best.backend} on {best.device}{between}"
    return Headline(f"{ratio:.2f}\u00d7", label, detail, "good" if spread and spread[0] > 1 else "plain")


def _agreement_headline(report: Report, evidence: Evidence) -> Headline:
    if isinstance(report, VitReport) and (found := accuracy_headline(report, evidence)) is not None:
        return found
    cosines = [row.cosine_min for row in report.verification if row.cosine_min is not None]
    if cosines:
        return Headline(
            f"{min(cosines):.5f}"[:7], "smallest cosine to eager PyTorch",
            "of a file's output and that of the reduced model; accuracy was not measured",
        )  # fmt: skip
    return Headline("none", "accuracy measured", "there were no labelled images")


def _plan(plan: PlanEntry) -> Section:
    layers = plan.layers
    pruned = sum(row.removed for row in layers if row.prunes)
    merged = sum(row.removed for row in layers) - pruned
    legend = [("c-keep", "tokens that leave the block")]
    legend += [("c-prune", "pruned in it")] if pruned else []
    legend += [("c-merge", "merged in it")] if merged else []
    notes = [f"All {layers[0].tokens_in} tokens are restored after the last block."] if plan.restore_grid else []
    notes += [f"Asked for: {plan.asked_words}."] if plan.asked_words else []
    return Section(
        "plan",
        "Plan",
        f"{layers[0].tokens_in} tokens enter, {layers[-1].tokens_out} leave: {pruned} are pruned and {merged} "
        "merged on the way.",
        charts=(Chart(tokens_chart("chart-plan", layers), _BARS, tuple(legend)),),
        tables=(
            table(
                "Tokens by block",
                ("block", "method", "tokens in", "removed", "tokens out"),
                [
                    [row.layer, Cell(row.method, colour_of(row)), row.tokens_in, row.removed, row.tokens_out]
                    for row in layers
                ],
                text=(0, 1),
            ),
        ),
        notes=tuple(notes),
    )


def _unet_plan(plan: UnetPlanEntry) -> Section:
    return Section(
        "plan",
        "Plan",
        f"{len(plan.reduced)} of {len(plan.blocks)} transformer blocks do without a part of their tokens; each brings "
        "all of them back at its end.",
        tables=(
            table(
                "Tokens by block",
                ("block", "module", "grid", "method", "tokens", "removed", "attended"),
                [
                    [row.block, Cell(row.path, code=True), "\u00d7".join(map(str, row.grid)),
                     Cell(row.method, colour_of(row)), row.tokens, row.removed, row.attended]
                    for row in plan.reduced
                ],
                text=(0, 1, 2, 3),
            ),
        ),
    )  # fmt: skip


def _verification(report: Report) -> Section:
    rows = report.verification
    if not rows:
        reason = _reason(report, "verification") or "nothing was compared"
        return Section("verification", "Verification", missing=f"No file was verified: {reason}.")
    images = ", ".join(dict.fromkeys(row.inputs for row in rows))
    notes: dict[str, dict[str, None]] = {}
    for row in rows:
        for note in row.notes:
            notes.setdefault(note, {})[row.artifact] = None
    faults = [f"{row.artifact}: {fault}." for row in rows for fault in row.decisions.faults]
    maps = [f"{row.artifact}: {row.token_map}" for row in rows if row.token_map is not None]
    tolerances = {row.artifact: row.tolerance for row in rows}
    head = (
        "file", "compared with", "result", "largest error", "allowed", "cosine", "decisions", "near ties", "wrong",
    )  # fmt: skip
    return Section(
        "verification",
        "Verification",
        f"Every file ran beside the model that it was made from ({images}). First what each layer decides, token by "
        "token, then the outputs under the same decisions.",
        tables=(
            table("Files and what they were compared with", head, [_verified(row) for row in rows], text=(0, 1, 2)),
        ),
        notes=(
            *(f"{name}: tolerance {given.name}, {given.reason}." for name, given in tolerances.items()),
            *maps,
            *(f"{', '.join(names)}: {note}." for note, names in notes.items()),
            *faults,
        ),
    )


def _verified(row: Verification) -> list[Any]:
    decisions = row.decisions
    return [
        Cell(row.artifact, code=True),
        row.reference,
        Cell(row.result_word, "good" if row.passed else "bad"),
        "not finite" if row.max_abs is None else f"{row.max_abs:.1e}",
        f"{row.tolerance.max_abs:.1e}",
        NOTHING if row.cosine_min is None else f"{row.cosine_min:.7f}",
        f"{decisions.compared:,}",
        decisions.near_tie_flips,
        Cell(str(decisions.wrong), "bad" if decisions.wrong else ""),
    ]


def _speed(report: Report) -> Section:
    rows = report.benchmark
    if not rows:
        reason = _reason(report, "benchmark") or "it is not in this report"
        return Section("speed", "Speed", missing=f"Nothing was timed: {reason}.")
    names = [_timed_name(row, rows) for row in rows]
    ratios = [
        Speedup(name, row.speedup_vs_full, row.speedup_iqr or (row.speedup_vs_full, row.speedup_vs_full))
        for row, name in zip(rows, names, strict=True)
        if row.artifact != FULL and row.speedup_vs_full is not None
    ]
    charts = [
        Chart(
            latency_chart(rows, names),
            "Line: from the fastest query to the 95th percentile. Dot: median. Less is better.",
            (("c-full", "full model"), ("c-merge", "with Token Fusion")),
        )
    ]
    if ratios:
        charts.append(
            Chart(
                speedup_chart(ratios, report.plan.gmacs.ratio),
                "Dot: median over interleaved rounds. Line: first to third quartile.",
                (("c-merge", "measured"), ("c-prune", "what the saved multiply-accumulates would give")),
            )
        )
    devices = ", ".join(dict.fromkeys(f"{row.backend} on {row.device}" for row in rows))
    notes = dict.fromkeys(f"{name}: {note}." for name, row in zip(names, rows, strict=True) for note in row.notes)
    return Section(
        "speed",
        "Speed",
        f"Measured with {devices}; full and reduced files take turns, so that a busy moment meets both.",
        charts=tuple(charts),
        tables=(
            table(
                "Latency in milliseconds, throughput and speed-up",
                ("file", "batch", "min", "median", "p95", "p99", "images/s", "speed-up", "quartiles", "queries"),
                [_timed(row) for row in rows],
            ),
        ),
        notes=(*notes, *_skipped(report, "benchmark of ")),
    )


def _timed_name(row: Measurement, rows: Sequence[Measurement]) -> str:
    name = "full model" if row.artifact == FULL else row.artifact
    return f"{name}, batch {row.batch}" if len({one.batch for one in rows}) > 1 else name


def _timed(row: Measurement) -> list[Any]:
    latency, spread, ratio = row.latency_ms, row.speedup_iqr, row.speedup_vs_full
    return [
        Cell("full model") if row.artifact == FULL else Cell(row.artifact, code=True),
        row.batch,
        *(f"{value:.1f}" for value in (latency.min, latency.median, latency.p95, latency.p99)),
        f"{row.images_per_sec:.1f}",
        NOTHING if ratio is None else f"{ratio:.2f}\u00d7",
        f"{spread[0]:.2f}\u2013{spread[1]:.2f}" if spread else NOTHING,
        row.iterations,
    ]


def _files(report: Report) -> Section:
    rows = report.artifacts
    if not rows:
        return Section("files", "Files", missing="No file was published, because one of them failed its verification.")
    return Section(
        "files",
        "Files",
        f"Output: {report.output.words}." if report.output.shapes else "",
        tables=(
            table(
                "Files written",
                ("file", "kind", "precision", "for", "MB", "GMACs", "nodes or kernels", "SHA-256"),
                [
                    [Cell(row.path, code=True), row.kind, row.precision.value, row.target,
                     f"{row.bytes / 1e6:.1f}", _gmacs(row), _parts(row), Cell(row.sha256[:16], code=True)]
                    for row in rows
                ],
                text=(0, 1, 2, 3, 7),
            ),
        ),
        notes=(FILE_GMACS,) if isinstance(report, VitReport) else (),
    )  # fmt: skip


def _gmacs(file: OnnxFile | EngineFile) -> str:
    return (file.gmacs_words if isinstance(file, OnnxFile) else "") or NOTHING


def _parts(file: OnnxFile | EngineFile) -> str:
    """Describe nodes of a graph, or kernels of an engine."""
    if isinstance(file, OnnxFile):
        return NOTHING if file.nodes is None else f"{file.nodes:,} nodes"
    return NOTHING if file.kernels is None else f"{file.kernels.kernels:,} kernels"


def _left_out(report: Report) -> Section:
    items = tuple((row.step, row.reason) for row in report.skipped)
    return Section("left-out", "Left out", "" if items else "Nothing was left out.", items=items)


def _reproduce(report: Report, evidence: Evidence) -> Section:
    about, weights = report.environment, report.model.weights
    loaded = report.model.loading_words if isinstance(report, VitReport) and report.model.preprocessing_from else None
    total = report.timings_s.get("total")
    rows = [
        ("processor", about.cpu), ("logical cores", about.logical_cores), ("GPU", about.gpu),
        ("driver", about.driver), ("platform", about.platform), ("versions", about.version_words),
        ("weights", weights.sha256 or weights.kind), ("loaded", loaded), ("time", f"{total:.0f} s" if total else None),
        ("evidence", ", ".join(name for _, name in evidence.names) or None),
    ]  # fmt: skip
    return Section(
        "reproduce",
        "Reproduce",
        code=report.command,
        tables=(
            table(
                "Environment",
                ("what", "value"),
                [[what, "none" if value is None else value] for what, value in rows],
                text=(0, 1),
            ),
        ),
    )


def _reason(report: Report, step: str) -> str:
    """Return why a step was left out, empty if unknown."""
    return next((row.reason for row in report.skipped if row.step.startswith(step)), "")


def _skipped(report: Report, step: str) -> list[str]:
    return [f"No {row.step}: {row.reason}." for row in report.skipped if row.step.startswith(step)]
