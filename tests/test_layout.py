"""Folders, links, package list and what each module makes public hold together (docs/decisions/001-layout.md)."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import tofu_export

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it

ROOT = Path(__file__).resolve().parents[1]
MAPPED = ("cli", "engines", "graph_patterns")
"""Folders at the top that are packages inside `tofu_export`."""
FOLDERS = ("tofu_export", *MAPPED)
OPTIONAL = {"tensorrt", "tensorrt_rtx", "polygraphy"}
"""Packages that an installation may lack."""
MAX_LINES = 500
HEAVY = ("torch", "torchvision", "timm", "onnx", "onnx_ir", "onnxscript", "onnxruntime", "tensorrt", "tensorrt_rtx")


def setuptools_table() -> dict[str, Any]:
    table: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return table["tool"]["setuptools"]


def run_python(code: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, timeout=120)


def module_names(kind: str = "all") -> list[str]:
    """Dotted names of the modules of `tofu_export`, links followed; `public` ones have no part with an underscore."""
    found = pkgutil.walk_packages(tofu_export.__path__, "tofu_export.", onerror=lambda name: pytest.fail(name))
    names = ["tofu_export", *(module.name for module in found)]
    return [name for name in names if kind == "all" or not any(part.startswith("_") for part in name.split("."))]


def import_or_skip(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        if (error.name or "").split(".")[0] in OPTIONAL:
            pytest.skip(f"needs {error.name}")
        raise


@pytest.mark.parametrize("folder", MAPPED)
class TestMappedFolder:
    def test_the_link_shows_the_folder_at_the_top(self, folder: str) -> None:
        link = ROOT / "tofu_export" / folder
        assert link.is_symlink()
        assert link.readlink() == Path("..") / folder
        assert link.resolve() == ROOT / folder
        assert not (ROOT / folder).is_symlink()

    def test_setuptools_maps_it_to_its_dotted_name(self, folder: str) -> None:
        assert setuptools_table()["package-dir"][f"tofu_export.{folder}"] == folder

    def test_its_short_name_is_refused(self, folder: str) -> None:
        result = run_python(f"import {folder}", cwd=ROOT)
        assert result.returncode == 1
        last_line = result.stderr.strip().splitlines()[-1]
        assert last_line.startswith(f"ImportError: this package is tofu_export.{folder}, not '{folder}'")

    def test_its_dotted_name_is_accepted(self, folder: str) -> None:
        assert run_python(f"import tofu_export.{folder}", cwd=ROOT).returncode == 0


def test_no_other_link_or_mapping() -> None:
    links = {path.name for path in (ROOT / "tofu_export").iterdir() if path.is_symlink()}
    assert links == set(MAPPED)
    assert set(setuptools_table()["package-dir"]) == {"tofu_export", *(f"tofu_export.{folder}" for folder in MAPPED)}


def test_every_package_is_listed_for_the_wheel() -> None:
    on_disk = {
        ".".join((*(() if folder == "tofu_export" else ("tofu_export",)), *init.parent.relative_to(ROOT).parts))
        for folder in FOLDERS
        for init in (ROOT / folder).rglob("__init__.py")
        if not any(parent.is_symlink() for parent in init.parents)  # Python before 3.13 follows links here
    }
    listed = setuptools_table()["packages"]
    assert sorted(on_disk) == listed


def test_every_folder_with_code_is_a_package() -> None:
    for top in (*FOLDERS, "tests"):
        folders = {path.parent for path in (ROOT / top).rglob("*.py")}
        assert [folder for folder in folders if not (folder / "__init__.py").is_file()] == []


def test_modules_are_seen_through_the_links() -> None:
    assert {f"tofu_export.{name}" for name in ("cli.main", "engines.building.build", "graph_patterns.lowering")} <= set(
        module_names()
    )


@pytest.mark.parametrize("name", module_names("public"))
def test_public_names_are_listed_and_exist(name: str) -> None:
    module = import_or_skip(name)
    listed = getattr(module, "__all__", None)
    if listed is None:
        assert hasattr(module, "__path__"), f"{name} has no __all__"
        public = [key for key, value in vars(module).items() if not key.startswith("_") and not is_submodule(value)]
        assert public == [], f"{name} has public names but no __all__"
        return
    assert [key for key in listed if not hasattr(module, key)] == []
    assert len(set(listed)) == len(listed)
    assert [key for key in listed if key.startswith("_") and key != "__version__"] == []


def is_submodule(value: object) -> bool:
    return isinstance(value, ModuleType) and value.__name__.startswith("tofu_export.")


def test_no_module_is_too_long() -> None:
    folders = (*FOLDERS, "benchmarks", "examples")
    lengths = {
        path.relative_to(ROOT).as_posix(): len(path.read_text(encoding="utf-8").splitlines())
        for folder in folders
        for path in (ROOT / folder).rglob("*.py")
    }
    assert {path: lines for path, lines in lengths.items() if lines > MAX_LINES} == {}


def test_help_loads_nothing_heavy(tmp_path: Path) -> None:
    code = f"""
import sys
from tofu_export.cli.main import main
sys.argv = ["tofu-export", "--help"]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
print("loaded:", *sorted(set(sys.modules) & set({HEAVY!r})))
"""
    result = run_python(code, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "Exit codes" in result.stdout
    assert result.stdout.splitlines()[-1].strip() == "loaded:"


def test_what_handles_files_loads_no_torch(tmp_path: Path) -> None:
    """The import contracts see this package's own statements; this sees what its dependencies load as well."""
    names = [name for name in module_names() if name.startswith(("tofu_export.engines", "tofu_export.graph_patterns"))]
    modules = ", ".join(name for name in names if not name.endswith("__main__"))
    code = f"import sys, {modules}; print('loaded:', *sorted(set(sys.modules) & {{'torch', 'timm'}}))"
    result = run_python(code, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "loaded:"
