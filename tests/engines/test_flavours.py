from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from tofu_export.engines import flavours
from tofu_export.engines.flavours import FLAVOURS, RTX, TENSORRT, available, known_capabilities, load, pick
from tofu_export.errors import BackendMissingError, ExitCode, OptionError


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, source: str) -> None:
    (folder / f"{name}.py").write_text(source, encoding="utf-8")
    monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    importlib.invalidate_caches()


@pytest.fixture(autouse=True)
def forget(monkeypatch: pytest.MonkeyPatch):
    kept = {name: sys.modules[name] for name in ("tensorrt", "tensorrt_rtx") if name in sys.modules}
    yield
    for name in ("tensorrt", "tensorrt_rtx"):
        sys.modules.pop(name, None)
    sys.modules.update(kept)


def hide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flavours.importlib.util, "find_spec", lambda name: None)


def test_names_and_extras_are_distinct():
    assert [flavour.name for flavour in FLAVOURS] == ["tensorrt-rtx", "tensorrt"]
    assert len({flavour.module for flavour in FLAVOURS}) == len({flavour.extra for flavour in FLAVOURS}) == 2
    assert RTX.ahead_of_time
    assert not TENSORRT.ahead_of_time


@pytest.mark.parametrize("flavour", FLAVOURS, ids=lambda flavour: flavour.name)
def test_missing_names_the_extra(flavour, monkeypatch):
    hide(monkeypatch)
    with pytest.raises(BackendMissingError, match=rf"pip install '{flavour.extra}'".replace("[", r"\[")) as caught:
        load(flavour)
    assert caught.value.exit_code is ExitCode.BACKEND_MISSING
    with pytest.raises(BackendMissingError):
        pick(flavour.name)


def test_none_available(monkeypatch):
    hide(monkeypatch)
    assert available() == ()
    with pytest.raises(BackendMissingError, match=r"tofu-export\[rtx\].* or .*tofu-export\[tensorrt\]"):
        pick(None)


def test_bindings_without_libraries_do_not_count(tmp_path, monkeypatch):
    install(tmp_path, monkeypatch, "tensorrt", "raise OSError('libnvinfer.so.10: cannot open shared object file')")
    assert TENSORRT not in available()
    with pytest.raises(BackendMissingError, match=r"does not import.*libnvinfer"):
        load(TENSORRT)


@pytest.mark.parametrize(("version", "good"), [("8.6.1", False), ("10.0.1", True), ("11.4.0.106", True), ("", False)])
def test_version_floor(version, good, tmp_path, monkeypatch):
    install(tmp_path, monkeypatch, "tensorrt", f"__version__ = {version!r}")
    assert (TENSORRT in available()) is good
    if not good:
        with pytest.raises(BackendMissingError, match=r"too old, expected 10\.0"):
            load(TENSORRT)


def test_classic_has_no_capabilities_to_name(monkeypatch):
    hide(monkeypatch)
    assert known_capabilities(TENSORRT) == ()


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(OptionError, match=r"'tensorflow'.*tensorrt-rtx, tensorrt"):
        pick("tensorflow")


@pytest.mark.rtx
@pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed")
def test_rtx_here():
    assert available()[0] is RTX
    assert pick(None) is pick("tensorrt-rtx") is RTX
    known = known_capabilities(RTX)
    assert known[:4] == ("SM75", "SM80", "SM86", "SM89")
    assert not {"CURRENT", "NONE"} & set(known)


def test_importing_the_engines_imports_no_backend():
    code = (
        "import sys, tofu_export.engines.building.build, tofu_export.engines.building._build_worker\n"
        "heavy = {'torch', 'timm', 'tensorrt', 'tensorrt_rtx', 'onnxruntime', 'polygraphy'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
