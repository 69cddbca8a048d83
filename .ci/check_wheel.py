"""Exit with an error unless a wheel holds exactly what the import package `tofu_export` holds here, and the licences.

Usage: python .ci/check_wheel.py WHEEL
"""

from __future__ import annotations

import os
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NEEDED = {
    "tofu_export/py.typed",
    "tofu_export/demo/demo_vit.safetensors",
    "tofu_export/demo/demo_images.npz",
    "tofu_export/report/html/templates/report.css",
    "tofu_export/report/html/templates/report.html.j2",
    *(f"tofu_export/{folder}/__init__.py" for folder in ("cli", "engines", "graph_patterns")),
}
LICENCES = ("LICENSE", "NOTICE")


def package_files(root: Path) -> set[str]:
    """Files of `root/tofu_export`, links followed: they show the layout that gets installed."""
    return {
        (Path(folder) / name).relative_to(root).as_posix()
        for folder, _, names in os.walk(root / "tofu_export", followlinks=True)
        for name in names
        if "__pycache__" not in folder and not name.startswith(".")
    }


def faults(wheel: Path) -> list[str]:
    """What is wrong with a wheel, one line each."""
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
    info = {name for name in names if name.split("/")[0].endswith(".dist-info")}
    package = set(names) - info
    expected = package_files(ROOT)
    found = [f"held twice: {name}" for name in sorted(set(names)) if names.count(name) > 1]
    found += [f"not in the package: {name}" for name in sorted(package - expected)]
    found += [f"missing: {name}" for name in sorted((expected | NEEDED) - package)]
    for licence in LICENCES:
        if not any(name.endswith(f".dist-info/licenses/{licence}") for name in info):
            found.append(f"missing: {licence}")
    return found


def main() -> int:
    """Check the wheel named on the command line."""
    wheel = Path(sys.argv[1])
    found = faults(wheel)
    for fault in found:
        print(f"{wheel.name}: {fault}", file=sys.stderr)
    if not found:
        print(f"{wheel.name}: {wheel.stat().st_size / 1e6:.1f} MB, one package and its licences")
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
