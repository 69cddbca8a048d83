"""The state of an installation: what is sound, missing or broken, and the command that helps."""

from __future__ import annotations

import json
from importlib import metadata
from types import SimpleNamespace
from typing import Any

import pytest

from tofu_export.engines import flavours
from tofu_export.engines.flavours import RTX, TENSORRT, Flavour
from tofu_export.errors import BackendMissingError
from tofu_export.job import doctor
from tofu_export.system import environment, ort
from tofu_export.system.environment import Environment
from tofu_export.system.typed_json import from_plain, to_plain

GPU = "NVIDIA Example"
INSTALLED = {"torch": "2.14.1", "onnxruntime": "1.31.1", "pillow": "12.0"}
REQUIRES = ["torch>=2.9", "onnxruntime>=1.20", "pillow>=10", 'onnxruntime-gpu>=1.20; extra == "gpu"']


class Machine:
    """A made-up installation, sound until it is changed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.gpu: str | None = None
        self.installed = dict(INSTALLED)
        self.requires: list[str] | None = list(REQUIRES)
        self.providers: tuple[str, ...] | str = ("CPUExecutionProvider",)
        self.engines: dict[str, str] = {"tensorrt-rtx": "1.7.1"}
        monkeypatch.setattr(environment, "collect", lambda: Environment({}, "a CPU", 2, self.gpu, None, "Linux"))
        monkeypatch.setattr(metadata, "version", self.version)
        monkeypatch.setattr(metadata, "requires", self.required)
        monkeypatch.setattr(ort, "providers_usable", self.usable)
        monkeypatch.setattr(flavours, "load", self.load)

    def version(self, name: str) -> str:
        if name not in self.installed:
            raise metadata.PackageNotFoundError(name)
        return self.installed[name]

    def required(self, name: str) -> list[str]:
        assert name == "tofu-export"
        if self.requires is None:
            raise metadata.PackageNotFoundError(name)
        return self.requires

    def usable(self) -> tuple[str, ...]:
        if isinstance(self.providers, str):
            raise BackendMissingError(self.providers)
        return self.providers

    def load(self, flavour: Flavour) -> Any:
        version = self.engines.get(flavour.name, "is not installed: pip install it")
        if not version[0].isdecimal():
            raise BackendMissingError(f"{flavour.name} {version}")
        capabilities = {"NONE": 0, "SM89": 1, "SM75": 2, "CURRENT": 3}
        return SimpleNamespace(__version__=version, ComputeCapability=SimpleNamespace(__members__=capabilities))


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def findings() -> list[tuple[bool, str, str]]:
    found = doctor.examine()
    assert from_plain(doctor.Diagnosis, json.loads(json.dumps(to_plain(found)))) == found
    assert found.healthy is not any(finding.required for finding in found.findings)
    return [(finding.required, finding.what, finding.fix) for finding in found.findings]


def test_a_sound_installation_without_a_gpu(machine: Machine) -> None:
    assert findings() == []  # classic TensorRT is not missed without a GPU
    found = doctor.examine()
    assert found.onnxruntime.providers == ("CPUExecutionProvider",)
    rtx, tensorrt = found.tensorrt
    assert (rtx.usable, rtx.version, rtx.compute_capabilities) == (True, "1.7.1", ("SM75", "SM89"))
    assert (tensorrt.usable, tensorrt.reason) == (False, "tensorrt is not installed")
    assert tensorrt.install == 'pip install "tofu-export[tensorrt]"'


@pytest.mark.parametrize(
    ("name", "version", "words", "fix"),
    [
        ("torch", None, "torch is not installed", 'pip install "torch>=2.9"'),
        ("torch", "2.8.1", "torch 2.8.1 is too old, expected 2.9 or newer", 'pip install "torch>=2.9"'),
        ("pillow", "9.5", "pillow 9.5 is too old", 'pip install "pillow>=10"'),
        ("onnxruntime", None, "onnxruntime is not installed", 'pip install "onnxruntime>=1.20"'),
    ],
)
def test_a_requirement_that_is_not_met(machine: Machine, name: str, version: str | None, words: str, fix: str) -> None:
    del machine.installed[name]
    if version is not None:
        machine.installed[name] = version
    ((required, what, command),) = findings()
    assert required
    assert words in what
    assert command == fix


@pytest.mark.parametrize("version", ["2.9", "2.9.0", "2.10.0+cpu", "3.0rc1"])
def test_versions_that_are_new_enough(machine: Machine, version: str) -> None:
    machine.installed["torch"] = version
    assert findings() == []


def test_a_package_that_is_gone(machine: Machine) -> None:
    machine.requires = ["no-such-package-here>=1"]
    machine.installed["no-such-package-here"] = "1.0"
    ((required, what, fix),) = findings()
    assert required
    assert "its package is gone" in what
    assert fix.endswith("--force-reinstall")


def test_onnxruntime_for_gpus_counts_as_onnxruntime(machine: Machine) -> None:
    machine.installed["onnxruntime-gpu"] = machine.installed.pop("onnxruntime")
    assert findings() == []


def test_both_variants_of_onnxruntime(machine: Machine) -> None:
    machine.installed["onnxruntime-gpu"] = "1.31.1"
    ((required, what, fix),) = findings()
    assert not required
    assert "overwrite each other" in what
    assert fix == 'pip uninstall -y onnxruntime onnxruntime-gpu && pip install "tofu-export[gpu]"'


def test_an_onnxruntime_that_does_not_load(machine: Machine) -> None:
    machine.providers = "onnxruntime is installed but cannot be loaded (libfoo.so)"
    ((required, what, fix),) = findings()
    assert required
    assert "libfoo.so" in what
    assert fix == "pip install --force-reinstall onnxruntime"
    del machine.installed["onnxruntime"]
    assert len(findings()) == 1  # not told twice


def test_a_gpu_that_is_not_used(machine: Machine) -> None:
    machine.gpu = GPU
    cuda, tensorrt = findings()
    assert cuda[2] == 'pip uninstall -y onnxruntime && pip install "tofu-export[gpu]"'
    assert tensorrt == (False, "tensorrt is not installed", 'pip install "tofu-export[tensorrt]"')
    machine.providers = ("CUDAExecutionProvider", "CPUExecutionProvider")
    machine.engines["tensorrt"] = "10.14"
    assert findings() == []
    assert doctor.examine().tensorrt[1].usable


def test_tensorrt_without_a_gpu_is_of_no_use(machine: Machine) -> None:
    machine.engines["tensorrt"] = "10.14"
    assert findings() == []
    entry = doctor.examine().tensorrt[1]
    assert (entry.usable, entry.version, entry.install) == (False, "10.14", None)
    assert "GPU of this machine" in entry.reason


@pytest.mark.parametrize("flavour", [RTX, TENSORRT])
def test_a_tensorrt_that_does_not_import(machine: Machine, flavour: Flavour) -> None:
    machine.engines[flavour.name] = "is installed but does not import (OSError: libnvinfer.so: no such file): its lib"
    ((required, what, fix),) = findings()
    assert not required
    assert "libnvinfer.so" in what
    assert fix == f'pip install "{flavour.extra}"'


def test_a_missing_rtx_is_told_without_a_gpu_too(machine: Machine) -> None:
    machine.engines.clear()
    assert findings() == [(False, "tensorrt-rtx is not installed", 'pip install "tofu-export[rtx]"')]


def test_a_source_tree_without_metadata(machine: Machine) -> None:
    machine.requires = None
    ((required, what, fix),) = findings()
    assert (required, fix) == (False, "pip install -e .")
    assert "cannot be checked" in what
