"""Sections filled by other commands: token maps, trade-off, linearity. Without evidence they say how to get it."""

from __future__ import annotations

import shlex
from functools import partial
from operator import attrgetter
from typing import Any

from tofu_export.report.document import FULL, TOKEN_MAPS, VitReport
from tofu_export.report.html.evidence import Evidence
from tofu_export.report.html.evidence_charts import Line, Point, by_layer, colours_of, line_chart, pareto_chart
from tofu_export.report.html.parts import NOTHING, Cell, Chart, Section, table
from tofu_export.report.html.token_maps import image_maps, shared_definitions
from tofu_export.report.linearity import LayerLinearity, Summary, TokenNorms
from tofu_export.report.sweep import PATTERN, SweepRow

__all__ = ["linearity_section", "tokens_section", "tradeoff_section"]

_METHODS = ("prune", "average", "mlerp", "tome")
_MOST_ROWS = 60


def tokens_section(report: VitReport, evidence: Evidence) -> Section:
    """Return the section on the tokens that each layer kept of some images."""
    document, title = evidence.tokens, "Token maps"
    if document is None:
        reason = next((row.reason for row in report.skipped if row.step == TOKEN_MAPS), "")
        files = [row.path for row in report.artifacts if row.kind == "onnx"]
        file = shlex.quote(files[0] if files else "model.onnx")
        return Section(
            "tokens", title,
            missing=f"There are no token maps: {reason or 'none were given'}.",
            hint=f"tofu-export tokens {file} photo.jpg --json > tokens.json",
        )  # fmt: skip
    maps = tuple(image_maps(document))
    notes = [f"{note[0].upper()}{note[1:]}." for note in document.notes if note]
    if any(one.left_out for one in maps):
        notes.append(f"{maps[0].left_out} of {maps[0].left_out + len(maps[0].panels) - 1} states are not drawn.")
    if document.model != report.model.resolved:
        notes.append(f"These are of another model: {document.model}.")
    several = any(len(one.panels) > 2 for one in maps)  # the image itself is one
    return Section(
        "tokens",
        title,
        f"What {document.file} decided in {document.backend}{', block by block' * several}. A plain patch is a "
        "token of its own. Patches inside one colour of border became one token, drawn in their mean colour. Hatched "
        "patches were pruned: nothing stands for them any more.",
        maps=maps,
        definitions=shared_definitions(maps),
        notes=tuple(notes),
    )


def tradeoff_section(report: VitReport, evidence: Evidence) -> Section:
    """Return the section on quality against cost of many reductions."""
    document, title = evidence.sweep, "Quality against cost"
    name = report.model.resolved
    if document is None:
        return Section(
            "tradeoff", title,
            missing="One reduction has no curve: no sweep was added.",
            hint=f"tofu-export sweep {shlex.quote(name)} --r 8,12,16,20 --images photos -o sweep",
        )  # fmt: skip
    rows = [(row, row.quality) for row in document.rows if row.quality is not None]
    if not rows:
        return Section("tradeoff", title, missing="The sweep has no row with an accuracy or an agreement.")
    measured = all(row.top1 is not None for row, _ in rows)
    word = "top-1 accuracy" if measured else "agreement with the full model"
    several = len({row.model for row, _ in rows}) > 1
    work = {
        (row.model, row.r, row.mode, row.pattern, row.precision): _point(row, row.gmacs, quality, several=several)
        for row, quality in rows
    }
    charts = [_pareto("chart-pareto-gmacs", list(work.values()), "GMACs per image", word, cheap_is_low=True)]
    speeds = [(row, quality, row.comparable_images_per_sec or row.images_per_sec) for row, quality in rows]
    timed = [_point(row, speed, quality, several=several) for row, quality, speed in speeds if speed is not None]
    if timed:
        charts.append(_pareto("chart-pareto-speed", timed, "images per second", word, cheap_is_low=False))
    failures = [f"Not measured: {one.model}, {one.what}: {one.reason}." for one in document.failures]
    sources = [
        f"{images.model}: {images.source}{', which are generated and not real' if images.generated else ''}."
        for images in document.images
    ]
    more = [f"{len(rows) - _MOST_ROWS} more rows are in the sweep's own table."] if len(rows) > _MOST_ROWS else []
    shown = sorted((row for row, _ in rows), key=lambda row: (row.model, not row.pareto, row.gmacs))[:_MOST_ROWS]
    return Section(
        "tradeoff",
        title,
        f"{len(rows)} measured ways to reduce; the line goes through those that no other beats.",
        charts=tuple(charts),
        tables=(
            table(
                "Rows of the sweep",
                ("reduction", "precision", "batch", "GMACs", "images/s", "speed-up", word, "verified", "not beaten"),
                [_swept(row, several=several) for row in shown],
                text=(0, 1, 7, 8),
            ),
        ),
        notes=(*sources, *more, *failures),
    )


def linearity_section(report: VitReport, evidence: Evidence) -> Section:
    """Return the section on the linearity of layers between matched tokens, and on token lengths after merging."""
    document, title = evidence.analysis, "Linearity"
    name = report.model.resolved
    if document is None:
        return Section(
            "linearity", title,
            missing="Whether a layer may merge or should prune was not looked at: no analysis was added.",
            hint=f"tofu-export analyze {shlex.quote(name)} --images photos -o linearity.json",
        )  # fmt: skip
    layers = document.layers
    lines = [Line(word, values) for word, key in (("MLP", "mlp"), ("attention", "attention"))
             if (values := by_layer(layers, attrgetter(key)))]  # fmt: skip
    charts = []
    if lines:
        svg = line_chart("chart-linearity", lines, title="Linearity by block", axis="linearity")
        charts.append(
            Chart(svg, "Dot: mean over matched pairs. Line: one standard deviation. 1 is linear.", _legend(lines))
        )
    norms = [Line(way, values) for way in _METHODS if (values := by_layer(layers, partial(_merged, way)))]
    if norms:
        svg = line_chart("chart-norms", norms, title="Length of a merged token by block", axis="share of the longest")
        charts.append(
            Chart(svg, "Length of a merged token over the longest of its group. Below 1: it shrank.", _legend(norms))
        )
    drift = _drift(document.token_norms)
    if drift:
        svg = line_chart("chart-drift", drift, title="Length of all tokens by block", axis="reduced over full")
        charts.append(Chart(svg, "Mean length of tokens behind a block, reduced over full model.", _legend(drift)))
    notes = [] if document.model == name else [f"These are of another model: {document.model}."]
    rows = [[row.layer, *(_mean(of) for of in (row.similarity, row.mlp, row.attention))] for row in layers]
    return Section(
        "linearity",
        title,
        f"How straight the full model's blocks map the way between two tokens that they would match (equation 8 of the "
        f"paper): {document.images} images, {document.source}.",
        charts=tuple(charts),
        tables=(table("Means by block", ("block", "similarity of pairs", "MLP", "attention"), rows),),
        notes=tuple(notes),
    )  # fmt: skip


def _merged(method: str, row: LayerLinearity) -> Summary | None:
    return row.merged_norm.get(method)


def _drift(norms: TokenNorms) -> list[Line]:
    """Return the length of tokens by method, if every block has one."""
    ways = {"prune": norms.prune, "average": norms.average, "mlerp": norms.mlerp}
    known = {way: [ratio for ratio in of if ratio is not None] for way, of in ways.items()}
    return [
        Line(way, [(layer, ratio, None) for layer, ratio in enumerate(ratios)])
        for way, ratios in known.items()
        if len(ratios) == len(norms.full)
    ]


def _mean(summary: Summary | None) -> str:
    return NOTHING if summary is None or summary.mean is None else f"{summary.mean:.4f}"


def _legend(lines: list[Line]) -> tuple[tuple[str, str], ...]:
    names = [line.name for line in lines]
    return tuple((f"c-{colour}", name) for colour, name in zip(colours_of(names), names, strict=True))


def _pareto(name: str, points: list[Point], axis: str, word: str, *, cheap_is_low: bool) -> Chart:
    series = list(dict.fromkeys(point.series for point in points))
    side = "left" if cheap_is_low else "right"
    return Chart(
        pareto_chart(name, points, axis=axis, quality=word, cheap_is_low=cheap_is_low),
        f"Better is up and to the {side}.",
        tuple((f"c-{colour}", one) for colour, one in zip(colours_of(series), series, strict=True)),
    )


def _point(row: SweepRow, cost: float, quality: float, *, several: bool) -> Point:
    series = f"{row.model}, {row.mode}" if several else row.mode
    return Point(cost, quality, series, _name(row, several=False))


def _name(row: SweepRow, *, several: bool) -> str:
    text = FULL if row.mode == FULL else f"r {row.r}, {row.pattern if row.mode == PATTERN else row.mode}"
    return f"{row.model}, {text}" if several else text


def _swept(row: SweepRow, *, several: bool) -> list[Any]:
    speed, ratio, quality = row.images_per_sec, row.speedup_vs_full, row.quality
    return [
        _name(row, several=several),
        row.precision,
        NOTHING if row.batch is None else row.batch,
        f"{row.gmacs:.3g}",
        NOTHING if speed is None else f"{speed:.1f}",
        NOTHING if ratio is None else f"{ratio:.2f}\u00d7",
        NOTHING if quality is None else f"{quality:.1%}",
        {True: Cell("yes", "good"), False: Cell("no", "bad"), None: Cell(NOTHING)}[row.verified],
        Cell("yes", "good") if row.pareto else Cell(""),
    ]
