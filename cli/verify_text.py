"""Result of a verification as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from tofu_export.cli.tables import FittedTable

if TYPE_CHECKING:
    from tofu_export.compare.outputs import OutputComparison
    from tofu_export.verification.result import VerificationResult

__all__ = ["show"]


def show(console: Console, result: VerificationResult, *, verbose: bool) -> None:
    """Print what was compared, and with `verbose` each block."""
    outputs, tolerance, decisions = result.outputs, result.tolerance, result.decisions
    lines = [
        f"{result.artifact} against {result.reference}: {'passed' if result.passed else 'FAILED'}",
        f"  inputs     {outputs.images or 'no'} image{'s' * (outputs.images != 1)} "
        f"at batch {', '.join(map(str, result.batches))}: {result.inputs}",
        f"  {result.output:<10} {_error(outputs)}; allowed {tolerance.allowed(outputs.scale):.2g} and "
        f"{tolerance.cosine_min} ({tolerance.name})",
    ]
    if outputs.top1_agreement is not None:
        lines.append(f"  top-1      {outputs.top1_agreement:.1%} of the images agree")
    if decisions.compared:
        lines.append(
            f"  decisions  {decisions.compared} compared in {len(decisions.layers)} blocks, "
            f"{decisions.near_tie_flips} near ties (largest margin {decisions.largest_margin:.2g}), "
            f"{decisions.wrong} wrong"
        )
    if result.undecided:
        lines.append(f"  undecided  {result.undecided} more images, where the copy that tells decisions gives others")
    if result.mapped is not None:
        what = " (token map, counts)" if decisions.compared else ""
        lines.append(f"  integers   {result.mapped} compared{what}, {result.mismapped} wrong")
    lines += [f"  note       {note}" for note in result.notes]
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if verbose and result.layers:
        console.print(FittedTable(_table(result), ("near ties", "decisions")))


def _table(result: VerificationResult) -> Table:
    """Return a table with one row for each block."""
    table = Table(title="block by block, under the file's decisions", title_justify="left")
    for column in ("block", "decisions", "near ties", "wrong", "largest margin", "largest error", "cosine"):
        table.add_column(column, justify="right")
    if result.first_bad_layer is not None:
        table.add_column()
    for entry in result.layers:
        found, values = entry.decisions, entry.values
        numbers = ["-", "-", "-", "-"]
        if found.compared:
            numbers = [str(n) for n in (found.compared, found.near_tie_flips, found.wrong)]
            numbers.append(f"{found.largest_margin:.1e}" if found.flips else "-")
        if values is None:
            errors = ["not available", "-"]
        elif not values.finite:
            errors = ["not finite", "-"]
        else:
            errors = [f"{values.max_abs:.1e}", f"{values.cosine_min:.7f}"]
        mark = ["<- the first that differs"] if entry.layer == result.first_bad_layer else []
        table.add_row(str(entry.layer), *numbers, *errors, *mark)
    return table


def _error(outputs: OutputComparison) -> str:
    if not outputs.finite:
        return "not finite"
    return f"largest error {outputs.max_abs:.2g}, smallest cosine {outputs.cosine_min:.7f}"
