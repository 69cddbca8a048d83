"""Regenerate the numbers and figures in docs from the demo model, or check that those in docs have the right shape.

`make evidence` runs every step of `STEPS` and writes what it finds between `<!-- generated: NAME -->` and
`<!-- end: NAME -->` on its page. What is finished is kept in `evidence_out`: an interrupted run goes on where it was.

To add a number: a step in `evidence_steps.py` or `evidence_demo.py`, and its two markers on a page.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from blocks import replaced, write
from evidence_runs import Runs, Step
from evidence_steps import STEPS

__all__ = ["check", "main", "placed", "problems_of", "times"]

ROOT = Path(__file__).resolve().parent.parent
_MARKER = re.compile(r"<!-- generated: ([\w-]+) -->")
_NOT_A_NUMBER = re.compile(r"\b(nan|inf|None)\b", re.IGNORECASE)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run or check all steps; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--check", action="store_true", help="measure nothing: look whether all blocks are as they should be"
    )
    parser.add_argument("--only", default="", metavar="LIST", help="comma list of blocks to make again")
    parser.add_argument("--jobs", type=int, default=2, help="processes that evaluate beside each other")
    parser.add_argument("--fresh", action="store_true", help="measure again what is finished")
    parser.add_argument("--output", type=Path, default=ROOT / "evidence_out", help="where finished cells are kept")
    options = parser.parse_args(arguments)
    if options.check:
        problems = check(ROOT / "docs")
        print("\n".join(problems) or f"{len(STEPS)} blocks are as they should be", file=sys.stderr)
        return min(len(problems), 1)
    wanted = {name for name in options.only.split(",") if name}
    unknown = wanted - {step.block for step in STEPS}
    if unknown:
        parser.error(
            f"no block {', '.join(sorted(unknown))}, expected some of {', '.join(step.block for step in STEPS)}"
        )
    runs = Runs(options.output, jobs=options.jobs, fresh=options.fresh)
    seconds: dict[str, float] = {}
    for step in (step for step in STEPS if not wanted or step.block in wanted):
        print(f"== {step.block} ({step.page})", file=sys.stderr, flush=True)
        start = time.perf_counter()
        text, figures = step.make(runs)
        seconds[step.block] = time.perf_counter() - start
        page = ROOT / "docs" / step.page
        for name, data in figures.items():
            (page.parent / name).parent.mkdir(exist_ok=True)
            (page.parent / name).write_bytes(data)
        write(page, placed(page.read_text(encoding="utf-8"), step, text))
    print(times(seconds), file=sys.stderr)
    problems = check(ROOT / "docs")
    print("\n".join(problems), file=sys.stderr)
    return min(len(problems), 1)


def times(seconds: Mapping[str, float]) -> str:
    """A line for each step and one for all; what two steps need counts for the first of them."""
    total = sum(seconds.values())
    lines = [f"{name:<16} {value:>7.1f} s" for name, value in seconds.items()]
    return "\n".join([*lines, f"{'all':<16} {total:>7.1f} s, {total / 60:.1f} minutes"])


def placed(page: str, step: Step, text: str) -> str:
    """The page with the block of a step replaced: the command that makes it, then its text.

    Raises:
        ValueError: the page has not exactly one place for it.
    """
    commands = "".join(f"    {command}\n" for command in step.commands)
    begin, end = f"<!-- generated: {step.block} -->", f"<!-- end: {step.block} -->"
    try:
        return replaced(page, begin, end, f"{commands}\n{text.strip()}")
    except ValueError as error:
        raise ValueError(f"{step.page}: {error}") from None


def check(docs: Path) -> list[str]:
    """What is wrong with the generated blocks of all pages; nothing if all is well."""
    found = [problem for step in STEPS for problem in problems_of(step, docs)]
    known = {(step.page, step.block) for step in STEPS}
    for page in sorted(docs.rglob("*.md")):
        name = page.relative_to(docs).as_posix()
        blocks = _MARKER.findall(page.read_text(encoding="utf-8"))
        found += [f"{name}: no step makes the block {block}" for block in blocks if (name, block) not in known]
        found += [f"{name}: the block {block} is there twice" for block in set(blocks) if blocks.count(block) > 1]
    return found


def problems_of(step: Step, docs: Path) -> list[str]:
    """What is wrong with the block of one step: its place, commands, the columns and rows of its table, figures."""
    where = f"{step.page}, {step.block}"
    try:
        page = (docs / step.page).read_text(encoding="utf-8")
    except OSError:
        return [f"{where}: no such page"]
    block = page.partition(f"<!-- generated: {step.block} -->\n")[2].partition(f"<!-- end: {step.block} -->")
    if not block[1]:
        return [f"{where}: the block or its end is missing"]
    text = block[0]
    found = [f"{where}: the command is not there: {line}" for line in step.commands if f"    {line}\n" not in text]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    if not rows or tuple(rows[0]) != step.columns:
        return [*found, f"{where}: the table's columns are {rows[0] if rows else 'missing'}, expected {step.columns}"]
    body = rows[2:]
    if len(body) != step.rows:
        found.append(f"{where}: {len(body)} rows, expected {step.rows}")
    found += [
        f"{where}: a row has not {len(step.columns)} cells: {row}" for row in body if len(row) != len(step.columns)
    ]
    found += [f"{where}: an empty cell in {row}" for row in body if not all(row)]
    if wrong := _NOT_A_NUMBER.search(text):
        found.append(f"{where}: {wrong[0]} is no number")
    for figure in step.figures:
        path = (docs / step.page).parent / figure
        if f"]({figure})" not in text:
            found.append(f"{where}: the figure {figure} is not shown")
        if not path.is_file() or b"</svg>" not in path.read_bytes():
            found.append(f"{where}: {figure} is no SVG file")
    return found


if __name__ == "__main__":
    sys.exit(main())
