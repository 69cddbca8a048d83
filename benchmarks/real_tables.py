"""The tables of `real.py`, in Markdown: the paper's tables 1 to 4 and its figure 3 on a real model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from evidence_demo import linearity_table
from evidence_order import difference, order_block
from evidence_runs import table
from numpy.typing import NDArray

from tofu_export.evaluate.paired import compare, share_interval
from tofu_export.options import Mode
from tofu_export.options.quantization import CALIBRATION_IMAGES
from tofu_export.report.sweep import compact
from tofu_export.sweep.grid import Cell
from tofu_export.sweep.tables import gmacs_text

if TYPE_CHECKING:
    from real import Real

__all__ = ["comparisons_of", "page"]

MISSING = "failed"
"""In a table, where a cell could not be measured; why is listed at the end."""


def comparisons_of(depth: int) -> tuple[tuple[str, str], ...]:
    """`evidence_order.COMPARISONS` for a model of `depth` layers."""
    half = depth // 2
    rest, average = depth - half, f"A{depth}"
    hybrid, mlerp_hybrid = f"P{half}A{rest}", f"P{half}M{rest}"
    return (hybrid, average), (average, f"A{half}P{rest}"), (mlerp_hybrid, hybrid), (f"M{depth}", average)


def page(real: Real, figure: str) -> str:
    """All tables, with what they were measured on."""
    tome = {cell.r: cell for cell in real.defaults if cell.mode == Mode.TOME.value}
    parts = [
        f"# {real.full.model} on {len(real.labels):,} photographs",
        _command(real),
        _measured_on(real),
        "## Token Fusion beside ToMe",
        "`P3W9` is the default of this project, `P6M6` the paper's proposal (`--mode mlerp`), `T12` ToMe. Falling: "
        "`--schedule linear` with an r that needs no more GMACs.",
        _beside_tome(real, tome),
        "## Methods and r",
        "As in the paper's tables 1 and 2. P prunes, A averages, M is MLERP, W is MLERP of the size-weighted mean, T "
        "is ToMe; `P6M6` prunes in 6 layers and merges in 6. With token sizes a token counts in the attention as often "
        "as there are patches in it.",
        _by_pattern(real, lambda cell: _top1(real, cell), gmacs=True),
        "## Less the full model",
        _by_pattern(real, lambda cell: _paired(real, cell, real.full)),
        "## Less ToMe",
        _by_pattern(real, lambda cell: _paired(real, cell, tome[cell.r])),
        "## What token sizes do",
        "With sizes less without, the same pattern and r.",
        _sizes(real),
        *_orders(real),
        "## Precision",
        f"The default, and the full model. INT8 takes the ranges of its activations from {CALIBRATION_IMAGES} of these "
        "photographs, without their labels.",
        _precisions(real),
        "## Linearity and lengths",
        f"As in the paper's figure 3, on {real.analysis['images']} photographs, {real.analysis['r']} pairs in each "
        "layer (mean ± standard deviation).",
        linearity_table(real.analysis, range(len(real.analysis["layers"]))),
        f"![linearity, merged tokens and lengths by layer]({figure})",
    ]  # fmt: skip
    if real.failures:
        rows = [(one.what, one.reason.replace("|", "/")) for one in real.failures]
        parts += ["## Failed", table(("what", "reason"), rows)]
    return "\n\n".join(parts) + "\n"


def _command(real: Real) -> str:
    amounts = ",".join(map(str, _amounts(real)))
    return f"    python benchmarks/real.py --model {real.full.model} --weights FILE --images DIR --r {amounts}"


def _measured_on(real: Real) -> str:
    classes, version = len(set(real.labels.tolist())), real.analysis["environment"]["versions"]["onnxruntime"]
    return (
        f"{len(real.labels):,} labelled photographs of {classes} classes; weights: {real.weights}. Every accuracy is "
        f"of an exported ONNX file that ran in onnxruntime {version}, after it was compared with the eager model. Full "
        f"model: {_top1(real, real.full)} (95 %: {_interval(real, real.full)}), {gmacs_text(real.full.gmacs)} GMACs. "
        "Differences are in points of top-1 on the same photographs, with their 95 % interval and McNemar's p."
    )


def _decisions(real: Real, cell: Cell) -> NDArray[Any] | None:
    record = real.found.get(cell)
    return None if record is None else record.outputs


def _hits(real: Real, cell: Cell) -> int | None:
    decisions = _decisions(real, cell)
    return None if decisions is None else int((decisions == real.labels).sum())


def _top1(real: Real, cell: Cell) -> str:
    hits = _hits(real, cell)
    return MISSING if hits is None else f"{hits / len(real.labels):.1%}"


def _interval(real: Real, cell: Cell) -> str:
    hits = _hits(real, cell)
    if hits is None:
        return MISSING
    low, high = share_interval(hits, len(real.labels))
    return f"{100 * low:.1f} to {100 * high:.1f}"


def _paired(real: Real, cell: Cell, other: Cell) -> str:
    """How much better `cell` is than `other`."""
    if cell.reduction == other.reduction and cell.precision is other.precision:
        return "the same"
    first, second = _decisions(real, cell), _decisions(real, other)
    return MISSING if first is None or second is None else difference(compare(first, second, real.labels))


def _beside_tome(real: Real, tome: dict[int, Cell]) -> str:
    rows = [("full", "", gmacs_text(real.full.gmacs), "1.00x", _top1(real, real.full), "", "")]
    falling = {(cell.mode, cell.r): cell for cell in real.falling}
    for r in _amounts(real):
        cells = [(cell, "") for cell in real.defaults if cell.r == r and not cell.full]
        cells += [(cell, ", falling") for (_, amount), cell in falling.items() if amount == real.falling_r[r] and r]
        for cell, how in cells:
            name = "ToMe" if cell.mode == Mode.TOME.value else "Token Fusion"
            rows.append(
                (
                    f"{name} `{compact(cell.pattern)}`{how}",
                    str(cell.r),
                    gmacs_text(cell.gmacs),
                    f"{cell.gmacs_full / cell.gmacs:.2f}x",
                    _top1(real, cell),
                    _paired(real, cell, real.full),
                    _paired(real, cell, tome[r]),
                )
            )
    return table(("method", "r", "GMACs", "less work", "top-1", "less full", "less ToMe"), rows)


def _by_pattern(real: Real, value: Callable[[Cell], str], *, gmacs: bool = False) -> str:
    """A line for each pattern with sizes on or off, a column for each r."""
    amounts, cells = _amounts(real), _cells(real)
    rows: list[tuple[str, ...]] = []
    if gmacs:
        work = {cell.r: cell.gmacs for cell in cells.values()}
        rows = [("GMACs", "", *(gmacs_text(work[r]) for r in amounts))]
    for pattern, sized in dict.fromkeys((pattern, sized) for pattern, sized, _ in cells):
        own = [cells.get((pattern, sized, r)) for r in amounts]
        shown = [MISSING if cell is None else value(cell) for cell in own]
        rows.append((f"`{pattern}`", "on" if sized else "off", *shown))
    return table(("pattern", "token sizes", *(f"r = {r}" for r in amounts)), rows)


def _sizes(real: Real) -> str:
    amounts, cells = _amounts(real), _cells(real)
    rows = []
    for pattern in dict.fromkeys(pattern for pattern, _, _ in cells):
        both = [(cells.get((pattern, True, r)), cells.get((pattern, False, r))) for r in amounts]
        if any(on is not None and off is not None for on, off in both):
            shown = [MISSING if on is None or off is None else _paired(real, on, off) for on, off in both]
            rows.append((f"`{pattern}`", *shown))
    return table(("pattern", *(f"r = {r}" for r in amounts)), rows)


def _orders(real: Real) -> list[str]:
    """The paper's order of methods, with sizes and without, where all of its patterns were measured."""
    cells, parts = _cells(real), []
    pairs = comparisons_of(len(real.full.pattern))
    for sized in (True, False):
        found = {}
        for r in _amounts(real):
            decided = [[_of(real, cells.get((name, sized, r))) for name in pair] for pair in pairs]
            if all(one is not None for pair in decided for one in pair):
                found[r] = [compare(first, second, real.labels) for first, second in decided]  # type: ignore[arg-type]
        if found:
            title = f"## Does the order hold? Token sizes {'on' if sized else 'off'}"
            parts += [title, "As in the paper's table 3.", order_block(found, pairs)]
    return parts


def _of(real: Real, cell: Cell | None) -> NDArray[Any] | None:
    return None if cell is None else _decisions(real, cell)


def _precisions(real: Real) -> str:
    cells = [cell for cell in real.precisions if cell in real.found]
    own = {cell.pattern: cell for cell in reversed(cells) if cell.precision is real.full.precision}
    rows = []
    for cell in real.precisions:
        what = "full" if cell.full else f"r = {cell.r}, `{compact(cell.pattern)}`, sizes {_on(cell)}"
        record, same = real.found.get(cell), own.get(cell.pattern)
        size = MISSING if record is None else f"{record.result.file_bytes / 1e6:.1f} MB"
        beside = MISSING if same is None else _paired(real, cell, same)
        rows.append((what, cell.precision.upper(), size, _top1(real, cell), beside))
    return table(("model", "precision", "file", "top-1", "less FP32"), rows)


def _on(cell: Cell) -> str:
    return "on" if cell.prop_attn else "off"


def _amounts(real: Real) -> Sequence[int]:
    return sorted({cell.r for cell in real.methods if not cell.full})


def _cells(real: Real) -> dict[tuple[str, bool, int], Cell]:
    """The reduced cells by pattern, sizes and r."""
    return {(compact(cell.pattern), cell.prop_attn, cell.r): cell for cell in real.methods if not cell.full}
