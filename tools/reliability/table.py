"""The table of all classes, as the console and docs/reliability.md show it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tools.reliability.outcome import Row

__all__ = ["BEGIN", "END", "losses", "markdown", "write_into"]

BEGIN, END = "<!-- trials -->", "<!-- end of trials -->"
"""Between these lines of a page the table stands."""

_SHOWN = 12


def markdown(rows: Sequence[Row], conditions: str) -> str:
    """One line for each class, all of them together, what was not tried, and the conditions of the run.

    Args:
        rows: all classes.
        conditions: the machine and the run, a sentence.
    """
    lines = ["| what was tried | tried | lost | exit codes |", "|---|---|---|---|"]
    for row in rows:
        codes = ", ".join(f"{code}: {count}" for code, count in sorted(row.codes.items()))
        lines.append(f"| {row.name} | {row.tried:,} | {len(row.lost)} | {codes} |")
    lines.append(
        f"| **in all** | **{sum(row.tried for row in rows):,}** | **{sum(len(row.lost) for row in rows)}** | |"
    )
    lines += ["", conditions]
    left_out = [f"- not tried, {row.name}: {row.not_tried}" for row in rows if row.not_tried]
    return "\n".join([*lines, *([""] if left_out else []), *left_out]) + "\n"


def losses(rows: Sequence[Row]) -> str:
    """What was lost, a line each; empty if nothing was."""
    lines = []
    for row in rows:
        lines += [f"LOST, {row.name}: {text}" for text in row.lost[:_SHOWN]]
        if len(row.lost) > _SHOWN:
            lines.append(f"LOST, {row.name}: and {len(row.lost) - _SHOWN} more")
    return "".join(f"{line}\n" for line in lines)


def write_into(page: Path, table: str) -> None:
    """Put the table in the place of the one that the page has, all of it or nothing.

    Raises:
        ValueError: the page has not exactly one place for it.
    """
    text = page.read_text(encoding="utf-8")
    before, begin, rest = text.partition(f"{BEGIN}\n")
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in after or END in after:
        raise ValueError(f"{page} needs one line {BEGIN} and one line {END} behind it")
    draft = page.with_name(f".{page.name}.draft")
    draft.write_text(f"{before}{begin}\n{table}\n{end}{after}", encoding="utf-8")
    draft.replace(page)
