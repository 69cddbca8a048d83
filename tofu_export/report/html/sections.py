"""The sections that a report always has, from `report.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tofu_export.report.document import loading_words, sizes_words, token_map_words
from tofu_export.report.html.accuracy_section import accuracy_headline, accuracy_section
from tofu_export.report.html.charts import latency_chart, speedup_chart, tokens_chart
from tofu_export.report.html.evidence import Evidence
from tofu_export.report.html.evidence_sections import linearity_section, tokens_section, tradeoff_section
from tofu_export.report.html.parts import NOTHING, Cell, Chart, Headline, Section, table
from tofu_export.report.html.tuning_section import tuning_section

__all__ = ["Sections", "sections_of"]

FULL = "full"
_BARS = "Height of a bar: tokens that enter a block. Number: tokens that leave it."


@dataclass(frozen=True)
class Sections:
    """All of a page.

    Attributes:
        model: its name.
        subtitle: what was done to it, in a sentence.
        headlines: big numbers.
        sections: the rest, in order.
        version: of this library, that wrote the report.
    """

    model: str
    subtitle: str
    headlines: tuple[Headline, ...]
    sections: tuple[Section, ...]
    version: str


def sections_of(report: Mapping[str, Any], evidence: Evidence) -> Sections:
    """Everything that the page shows.

    Raises:
        KeyError, TypeError, ValueError: the report or the evidence lacks something, or has it in another form.
        OptionError: an image of the token maps cannot be read.
    """
    model, plan = report["model"], report["plan"]
    start = f"{model['params'] / 1e6:.1f} M parameters, {model['weights']['kind']} weights, "
    ends = (_files(report), _left_out(report), _reproduce(report, evidence))
    sections: tuple[Section, ...]
    if "blocks" in plan:  # a UNet
        height, width = model["latent"]
        subtitle = (
            f"{start}latent {height}\u00d7{width}. Mode {plan['mode']}, ratio {plan['ratio']:g}, pattern "
            f"{plan['pattern']}."
        )
        sections = (_unet_plan(report), _verification(report), _speed(report), *ends)
    else:
        height, width = model["image_size"]
        subtitle = (
            f"{start}{height}\u00d7{width} pixels in {model['tokens']} tokens. Pattern {plan['pattern']}, "
            f"r = {_amount(plan['r'])}. Token sizes: {sizes_words(plan)}."
        )
        sections = (
            _plan(report),
            tokens_section(report, evidence),
            _verification(report),
            _speed(report),
            accuracy_section(report, evidence),
            tradeoff_section(report, evidence),
            tuning_section(report, evidence),
            linearity_section(report, evidence),
            *ends,
        )
    version = str(report["environment"]["versions"].get("tofu_export") or "unknown")
    return Sections(str(model["resolved"]), subtitle, tuple(_headlines(report, evidence)), sections, version)


def _amount(r: Any) -> str:
    return ", ".join(map(str, r)) if isinstance(r, list) else str(r)


def _headlines(report: Mapping[str, Any], evidence: Evidence) -> list[Headline]:
    gmacs = report["plan"]["gmacs"]
    found = [_speed_headline(report)]
    fewer = gmacs["full"] / gmacs["reduced"]
    places = 2 if gmacs["reduced"] >= 1 else 3
    found.append(
        Headline(
            f"{fewer:.2f}\u00d7", "fewer multiply-accumulates",
            f"{gmacs['full']:.{places}f} GMACs per image become {gmacs['reduced']:.{places}f}",
        )
    )  # fmt: skip
    found.append(_agreement_headline(report, evidence))
    rows = report["verification"]
    if not rows:
        found.append(Headline("none", "files verified", _reason(report, "verification") or "nothing was compared"))
        return found
    names = list(dict.fromkeys(row["artifact"] for row in rows))  # an engine is compared with more than one
    passed = sum(all(row["passed"] for row in rows if row["artifact"] == name) for name in names)
    decisions = sum(row["decisions"]["compared"] for row in rows)
    wrong = sum(row["decisions"]["wrong"] for row in rows)
    found.append(
        Headline(
            f"{passed} of {len(names)}", "files verified",
            f"{decisions:,} matching decisions compared, {wrong} wrong",
            "good" if passed == len(names) else "bad",
        )
    )  # fmt: skip
    return found


def _speed_headline(report: Mapping[str, Any]) -> Headline:
    rows = [row for row in report["benchmark"] if row["artifact"] != FULL and row["speedup_vs_full"] is not None]
    if not rows:
        return Headline("none", "speed measured", _reason(report, "benchmark") or "nothing was timed")
    best = max(rows, key=lambda row: row["speedup_vs_full"])
    ratio = best["speedup_vs_full"]
    spread = best.get("speedup_iqr")
    between = f", quartiles {spread[0]:.2f}\u2013{spread[1]:.2f}" if spread else ""
    label = "as fast as the full model"
    detail = f"{best['artifact']}, batch {best['batch']}, {best['backend']} on {best['device']}{between}"
    return Headline(f"{ratio:.2f}\u00d7", label, detail, "good" if spread and spread[0] > 1 else "plain")


def _agreement_headline(report: Mapping[str, Any], evidence: Evidence) -> Headline:
    if (found := accuracy_headline(report, evidence)) is not None:
        return found
    cosines = [row["cosine_min"] for row in report["verification"] if row["cosine_min"] is not None]
    if cosines:
        return Headline(
            f"{min(cosines):.5f}"[:7], "smallest cosine to eager PyTorch",
            "of a file's output and that of the reduced model; accuracy was not measured",
        )  # fmt: skip
    return Headline("none", "accuracy measured", "there were no labelled images")


def _plan(report: Mapping[str, Any]) -> Section:
    plan, layers = report["plan"], report["plan"]["layers"]
    pruned = sum(row["removed"] for row in layers if row["method"] == "prune")
    merged = sum(row["removed"] for row in layers) - pruned
    legend = [("c-keep", "tokens that leave the block")]
    legend += [("c-prune", "pruned in it")] if pruned else []
    legend += [("c-merge", "merged in it")] if merged else []
    notes = [f"All {layers[0]['tokens_in']} tokens are restored after the last block."] if plan["restore_grid"] else []
    asked = [f"{way} {_amount(value)}" for way, value in plan.get("asked", {}).items() if way != "r"]
    notes += [f"Asked for: {', '.join(asked)}."] if asked else []
    return Section(
        "plan",
        "Plan",
        f"{layers[0]['tokens_in']} tokens enter, {layers[-1]['tokens_out']} leave: {pruned} are pruned and {merged} "
        "merged on the way.",
        charts=(Chart(tokens_chart("chart-plan", layers), _BARS, tuple(legend)),),
        tables=(
            table(
                "Tokens by block",
                ("block", "method", "tokens in", "removed", "tokens out"),
                [
                    [row["layer"], Cell(row["method"], _colour(row)), row["tokens_in"], row["removed"],
                     row["tokens_out"]]
                    for row in layers
                ],
                text=(0, 1),
            ),
        ),
        notes=tuple(notes),
    )  # fmt: skip


def _unet_plan(report: Mapping[str, Any]) -> Section:
    blocks = report["plan"]["blocks"]
    reduced = [row for row in blocks if row["removed"]]
    return Section(
        "plan",
        "Plan",
        f"{len(reduced)} of {len(blocks)} transformer blocks do without a part of their tokens; each brings "
        "all of them back at its end.",
        tables=(
            table(
                "Tokens by block",
                ("block", "module", "grid", "method", "tokens", "removed", "attended"),
                [
                    [row["block"], Cell(row["path"], code=True), "\u00d7".join(map(str, row["grid"])),
                     Cell(row["method"], _colour(row)), row["tokens"], row["removed"], row["attended"]]
                    for row in reduced
                ],
                text=(0, 1, 2, 3),
            ),
        ),
    )  # fmt: skip


def _colour(row: Mapping[str, Any]) -> str:
    return "" if not row["removed"] else "prune" if row["method"] == "prune" else "merge"


def _verification(report: Mapping[str, Any]) -> Section:
    rows = report["verification"]
    if not rows:
        reason = _reason(report, "verification") or "nothing was compared"
        return Section("verification", "Verification", missing=f"No file was verified: {reason}.")
    images = ", ".join(dict.fromkeys(str(row["inputs"]) for row in rows))
    notes: dict[str, dict[str, None]] = {}
    for row in rows:
        for note in row.get("notes", ()):
            notes.setdefault(str(note), {})[str(row["artifact"])] = None
    faults = [f"{row['artifact']}: {fault}." for row in rows for fault in row["decisions"].get("faults", ())]
    maps = [f"{row['artifact']}: {token_map_words(row['token_map'])}" for row in rows if row.get("token_map")]
    tolerances = {row["artifact"]: row["tolerance"] for row in rows}
    return Section(
        "verification",
        "Verification",
        f"Every file ran beside the model that it was made from ({images}). First what each layer decides, token by "
        "token, then the outputs under the same decisions.",
        tables=(
            table(
                "Files and what they were compared with",
                (
                    "file",
                    "compared with",
                    "result",
                    "largest error",
                    "allowed",
                    "cosine",
                    "decisions",
                    "near ties",
                    "wrong",
                ),
                [_verified(row) for row in rows],
                text=(0, 1, 2),
            ),
        ),
        notes=(
            *(f"{name}: tolerance {given['name']}, {given['reason']}." for name, given in tolerances.items()),
            *maps,
            *(f"{', '.join(names)}: {note}." for note, names in notes.items()),
            *faults,
        ),
    )


def _verified(row: Mapping[str, Any]) -> list[Any]:
    decisions = row["decisions"]
    return [
        Cell(row["artifact"], code=True),
        row.get("reference", "the eager model"),
        Cell("passed", "good") if row["passed"] else Cell("FAILED", "bad"),
        "not finite" if row["max_abs"] is None else f"{row['max_abs']:.1e}",
        f"{row['tolerance']['max_abs']:.1e}",
        NOTHING if row["cosine_min"] is None else f"{row['cosine_min']:.7f}",
        f"{decisions['compared']:,}",
        decisions["near_tie_flips"],
        Cell(str(decisions["wrong"]), "bad" if decisions["wrong"] else ""),
    ]


def _speed(report: Mapping[str, Any]) -> Section:
    rows = report["benchmark"]
    if not rows:
        reason = _reason(report, "benchmark") or "it is not in this report"
        return Section("speed", "Speed", missing=f"Nothing was timed: {reason}.")
    names = [_timed_name(row, rows) for row in rows]
    reduced = [(row, name) for row, name in zip(rows, names, strict=True) if row["artifact"] != FULL]
    ratios = [(row, name) for row, name in reduced if row["speedup_vs_full"] is not None]
    gmacs = report["plan"]["gmacs"]
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
                speedup_chart(
                    [row for row, _ in ratios], [name for _, name in ratios], gmacs["full"] / gmacs["reduced"]
                ),
                "Dot: median over interleaved rounds. Line: first to third quartile.",
                (("c-merge", "measured"), ("c-prune", "what the saved multiply-accumulates would give")),
            )
        )
    devices = ", ".join(dict.fromkeys(f"{row['backend']} on {row['device']}" for row in rows))
    notes = dict.fromkeys(
        f"{name}: {note}." for name, row in zip(names, rows, strict=True) for note in row.get("notes", ())
    )
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


def _timed_name(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    name = "full model" if row["artifact"] == FULL else str(row["artifact"])
    return f"{name}, batch {row['batch']}" if len({one["batch"] for one in rows}) > 1 else name


def _timed(row: Mapping[str, Any]) -> list[Any]:
    latency, spread = row["latency_ms"], row.get("speedup_iqr")
    ratio = row["speedup_vs_full"]
    return [
        Cell("full model") if row["artifact"] == FULL else Cell(row["artifact"], code=True),
        row["batch"],
        *(f"{latency[key]:.1f}" for key in ("min", "median", "p95", "p99")),
        f"{row['images_per_sec']:.1f}",
        NOTHING if ratio is None else f"{ratio:.2f}\u00d7",
        f"{spread[0]:.2f}\u2013{spread[1]:.2f}" if spread else NOTHING,
        row.get("iterations", NOTHING),
    ]


def _files(report: Mapping[str, Any]) -> Section:
    rows = report["artifacts"]
    if not rows:
        return Section("files", "Files", missing="No file was published, because one of them failed its verification.")
    shapes = [f"{name} [{', '.join(map(str, shape))}]" for name, shape in report["output"].get("shapes", {}).items()]
    return Section(
        "files",
        "Files",
        f"Output: {', '.join(shapes)}." if shapes else "",
        tables=(
            table(
                "Files written",
                ("file", "kind", "precision", "for", "MB", "nodes or kernels", "SHA-256"),
                [
                    [Cell(row["path"], code=True), row["kind"], row["precision"], row["target"],
                     f"{row['bytes'] / 1e6:.1f}", _parts(row), Cell(str(row["sha256"])[:16], code=True)]
                    for row in rows
                ],
                text=(0, 1, 2, 3, 6),
            ),
        ),
    )  # fmt: skip


def _parts(row: Mapping[str, Any]) -> str:
    """Nodes of a graph, or kernels of an engine."""
    if row.get("nodes") is not None:
        return f"{row['nodes']:,} nodes"
    kernels = row.get("kernels")
    total = kernels.get("kernels") if isinstance(kernels, Mapping) else None
    return NOTHING if total is None else f"{total:,} kernels"


def _left_out(report: Mapping[str, Any]) -> Section:
    rows = report["skipped"]
    items = tuple((str(row["step"]), str(row["reason"])) for row in rows)
    return Section("left-out", "Left out", "" if items else "Nothing was left out.", items=items)


def _reproduce(report: Mapping[str, Any], evidence: Evidence) -> Section:
    found = report["environment"]
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items() if version)
    rows = [
        ("processor", found.get("cpu")), ("logical cores", found.get("logical_cores")), ("GPU", found.get("gpu")),
        ("driver", found.get("driver")), ("platform", found.get("platform")), ("versions", versions),
        ("weights", report["model"]["weights"].get("sha256") or report["model"]["weights"]["kind"]),
        ("loaded", loading_words(report["model"]) if "preprocessing_from" in report["model"] else None),
        ("time", f"{report['timings_s']['total']:.0f} s" if report.get("timings_s", {}).get("total") else None),
        ("evidence", ", ".join(name for _, name in evidence.names) or None),
    ]  # fmt: skip
    return Section(
        "reproduce",
        "Reproduce",
        code=str(report["command"]),
        tables=(
            table(
                "Environment",
                ("what", "value"),
                [[what, "none" if value is None else value] for what, value in rows],
                text=(0, 1),
            ),
        ),
    )  # fmt: skip


def _reason(report: Mapping[str, Any], step: str) -> str:
    """Why a step was left out, empty if nothing says so."""
    return next((str(row["reason"]) for row in report["skipped"] if str(row["step"]).startswith(step)), "")


def _skipped(report: Mapping[str, Any], step: str) -> list[str]:
    return [f"No {row['step']}: {row['reason']}." for row in report["skipped"] if str(row["step"]).startswith(step)]
