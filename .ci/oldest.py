"""Print the oldest versions that pyproject.toml allows beside what is installed; exit with an error if these differ.

Usage: python .ci/oldest.py [EXTRA,...]
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
NAME = "tofu-export"


def bounds(project: dict[str, Any], extras: Iterable[str]) -> dict[str, str]:
    """The least version of each direct dependency by name, with those of extras and of the extras that these name.

    Args:
        project: the table `project` of a pyproject.toml.
        extras: names of extras.

    Raises:
        ValueError: a dependency has no lower bound, or two that differ; then its oldest version is anyone's guess.
    """
    found: dict[str, str] = {}
    optional = project.get("optional-dependencies", {})
    waiting = [*project["dependencies"], *(line for extra in extras for line in optional[extra])]
    while waiting:
        line = waiting.pop(0)
        match = re.fullmatch(r"([\w.-]+)(?:\[([\w,-]+)\])?(?:>=([\d.]+)(?:,<[\d.]+)?)?", line.replace(" ", ""))
        if match is not None and match[1] == NAME and match[2]:
            waiting += [inner for extra in match[2].split(",") for inner in optional[extra]]
        elif match is None or match[3] is None:
            raise ValueError(f"pyproject.toml: {line!r} has no lower bound, expected NAME>=VERSION[,<VERSION]")
        elif found.setdefault(match[1], match[3]) != match[3]:
            raise ValueError(f"pyproject.toml: two lower bounds of {match[1]}, {found[match[1]]} and {match[3]}")
    return found


def release(version: str) -> tuple[int, ...]:
    """The numbers of a version without trailing zeros and what is behind them, so that 2.9 equals 2.9.0+cpu."""
    numbers = [int(number) for number in re.split(r"[^\d.]", version)[0].strip(".").split(".")]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def main() -> int:
    """1 if what is installed is not the oldest that is allowed."""
    extras = [extra for argument in sys.argv[1:] for extra in argument.split(",")]
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    print(f"python {sys.version.split()[0]}")
    wrong = []
    for name, bound in sorted(bounds(project, extras).items()):
        version = metadata.version(name)
        print(f"{name} {version}")
        if release(version) != release(bound):
            wrong.append(f"{name}: {version} is installed where {bound} is the oldest allowed")
    for line in wrong:
        print(line, file=sys.stderr)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
