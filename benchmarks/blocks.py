"""Parts of a page that a program writes, between two lines that mark them."""

from __future__ import annotations

from pathlib import Path

__all__ = ["replaced", "write"]


def replaced(page: str, begin: str, end: str, text: str) -> str:
    """The page with what stands between the two marks replaced.

    Raises:
        ValueError: the page has not exactly one place for it.
    """
    before, mark, rest = page.partition(f"{begin}\n")
    _, final, after = rest.partition(end)
    if not mark or not final or begin in rest or end in after:
        raise ValueError(f"the page needs {begin} and {end} behind it, each once")
    text = text.strip("\n")
    return f"{before}{mark}\n{text}\n\n{final}{after}"


def write(path: Path, text: str) -> None:
    """Write a text file, all of it or nothing."""
    draft = path.with_name(f".{path.name}.draft")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)
