"""Exit with an error unless a tag, pyproject.toml, CITATION.cff and CHANGELOG.md name one version.

Usage: python .ci/release.py TAG. The version is written in pyproject.toml; everything that runs asks the metadata of
the installed package for it.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

__all__ = ["cited_version", "faults", "main", "written_version"]

ROOT = Path(__file__).resolve().parent.parent


def written_version(root: Path = ROOT) -> str:
    """The version in pyproject.toml."""
    return _only(r'^version = "([^"]+)"$', root / "pyproject.toml")


def cited_version(root: Path = ROOT) -> str:
    """The version in CITATION.cff."""
    return _only(r"^version: (\S+)$", root / "CITATION.cff")


def faults(tag: str, root: Path = ROOT) -> list[str]:
    """What keeps a tag from being released, one line each."""
    version = written_version(root)
    found = []
    if tag != f"v{version}":
        found.append(f"the tag is {tag}, expected v{version}: change version in pyproject.toml, or tag again")
    if cited_version(root) != version:
        found.append(f"CITATION.cff has version {cited_version(root)}, expected {version}")
    if not re.search(
        rf"^## \[{re.escape(version)}\]", (root / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE
    ):
        found.append(f"CHANGELOG.md has no section ## [{version}]: rename [Unreleased]")
    return found


def main() -> int:
    """Check the tag named on the command line."""
    found = faults(sys.argv[1])
    for fault in found:
        print(fault, file=sys.stderr)
    return int(bool(found))


def _only(pattern: str, path: Path) -> str:
    values = re.findall(pattern, path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    if len(values) != 1:
        raise ValueError(f"{path.name} has {len(values)} lines that give a version, expected one")
    return str(values[0])


if __name__ == "__main__":
    raise SystemExit(main())
