"""Hold constraints.txt, the locked versions, against known vulnerabilities; exit with an error if there is one.

Asks the advisory services of PyPI, then of OSV, through pip-audit. Without a network, or where a mirror of PyPI answers
for it that knows of no advisories, it says that nothing was audited, and that is no error.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
SERVICES = ("pypi", "osv")
SECONDS = 300


class Verdict(NamedTuple):
    """What an audit has found.

    Attributes:
        audited: number of packages that the service knows.
        text: for people.
        passed: False if there is a known vulnerability.
    """

    audited: int
    text: str
    passed: bool


def judge(document: dict[str, Any], service: str) -> Verdict:
    """The verdict on what `pip-audit --format json` prints."""
    packages = document["dependencies"]
    skipped = [package["name"] for package in packages if "skip_reason" in package]
    audited = len(packages) - len(skipped)
    lines = [
        f"{package['name']} {package['version']}: {found['id']}, fixed in {', '.join(found['fix_versions']) or 'none'}"
        for package in packages
        for found in package.get("vulns", ())
    ]
    passed = not lines
    lines.append(
        f"{audited} of {len(packages)} locked versions audited ({service}), {len(lines)} known vulnerabilities"
    )
    if skipped and audited:
        lines.append(f"not audited, unknown there: {', '.join(skipped)}")
    return Verdict(audited, "\n".join(lines), passed)


def ask(service: str) -> dict[str, Any] | None:
    """What pip-audit prints; None where it has no answer."""
    command = [
        sys.executable, "-m", "pip_audit", "-r", str(ROOT / "constraints.txt"), "--no-deps", "--disable-pip",
        "--vulnerability-service", service, "--format", "json", "--progress-spinner", "off",
    ]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
        document: dict[str, Any] = json.loads(done.stdout)
    except (subprocess.TimeoutExpired, ValueError):
        return None
    return document


def main() -> int:
    """1 if a locked version has a known vulnerability."""
    for service in SERVICES:
        document = ask(service)
        verdict = None if document is None else judge(document, service)
        if verdict is not None and verdict.audited:
            print(verdict.text)
            return int(not verdict.passed)
    print("not audited: neither PyPI's nor OSV's advisories are reachable from here")
    return 0


if __name__ == "__main__":
    sys.exit(main())
