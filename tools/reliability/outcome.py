"""What a trial can end in, how it is judged, and how trials of one class are counted."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["TYPED", "Ended", "Row", "complaints"]

TYPED = (0, 2, 3, 4, 5, 6, 7)
"""Exit codes that say what happened. Source: `errors.ExitCode`; 1 is for what nobody foresaw."""

_SPEAK_IN_FINDINGS = frozenset({"lint", "check", "lower", "build"})
"""Commands whose answer may be a bad exit code without an error line (5 and 7): they list what they found."""

_HIDDEN = (".tofu-export-", ".x.engine.")


@dataclass(frozen=True)
class Ended:
    """How one call of the command line ended.

    Attributes:
        arguments: what it was called with.
        code: exit code.
        stdout: what it printed there.
        stderr: what it printed there.
        foreign: what it did that nothing here may do: connect, start a program, write elsewhere.
    """

    arguments: tuple[str, ...]
    code: int
    stdout: str
    stderr: str
    foreign: tuple[str, ...] = ()


@dataclass
class Row:
    """One class of trials.

    Attributes:
        name: what was tried.
        expected: what counts as survived, in words.
        tried: number of trials.
        lost: what went wrong, one text for each trial that was lost.
        codes: how often each exit code came.
        seconds: wall time.
        not_tried: why nothing or not all was tried, empty otherwise.
    """

    name: str
    expected: str
    tried: int = 0
    lost: list[str] = field(default_factory=list)
    codes: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    not_tried: str = ""

    def add(self, code: object, wrong: Iterable[str], where: str) -> None:
        """Count a trial; `wrong` is what speaks against it."""
        self.tried += 1
        self.codes[str(code)] += 1
        found = "; ".join(wrong)
        if found:
            self.lost.append(f"{where}: {found}")

    @property
    def survived(self) -> int:
        """Trials that ended as they should."""
        return self.tried - len(self.lost)

    def to_dict(self) -> dict[str, object]:
        """As JSON values."""
        return {
            "class": self.name,
            "expected": self.expected,
            "tried": self.tried,
            "survived": self.survived,
            "lost": len(self.lost),
            "exit_codes": dict(sorted(self.codes.items())),
            "seconds": round(self.seconds, 1),
            "not_tried": self.not_tried,
            "losses": self.lost,
        }


def complaints(ended: Ended, folder: Path, before: frozenset[str], *, must_fail: bool = False) -> Iterator[str]:
    """What is wrong with the end of a call on damaged input; nothing if it survived.

    Args:
        ended: how it ended.
        folder: where it ran.
        before: names in the folder before it ran.
        must_fail: exit code 0 is wrong.
    """
    if ended.code not in TYPED:
        yield f"exit code {ended.code}"
    if must_fail and ended.code == 0:
        yield "it went through"
    printed = ended.stderr + ended.stdout
    if "Traceback (most recent call last)" in printed:
        rest = printed.partition("Traceback (most recent call last)")[2].splitlines()
        yield f"traceback: {' '.join(line.strip() for line in rest if line[:1].strip())[:300]}"
    yield from ended.foreign
    lines = [line for line in ended.stderr.splitlines() if line.strip()]
    command = ended.arguments[0] if ended.arguments else ""
    spoken = bool(lines) and lines[-1].startswith("tofu-export: error: ")
    listed = command in _SPEAK_IN_FINDINGS and ended.code in (5, 7) and lines
    if ended.code != 0 and not spoken and not listed and not any("tofu-export: error: " in line for line in lines):
        yield f"exit code {ended.code} without an error line"
    if "--json" in ended.arguments:
        yield from _not_one_document(ended)
    elif ended.stdout.strip() and command not in ("plan", "export", "models", "doctor"):
        yield f"stdout without --json: {ended.stdout.strip()[:80]!r}"
    after = {path.name for path in folder.iterdir()}
    hidden = sorted(name for name in after - before if name.startswith(_HIDDEN))
    if hidden:
        yield f"left behind: {', '.join(hidden)}"
    new = sorted(after - before - set(hidden))
    if ended.code not in (0, 7) and new:
        yield f"written in spite of the error: {', '.join(new)}"


def _not_one_document(ended: Ended) -> Iterator[str]:
    if not ended.stdout.strip():
        if ended.code == 0:
            yield "--json printed nothing"
        return
    try:
        json.loads(ended.stdout)
    except ValueError as error:
        yield f"--json printed no document ({error})"
