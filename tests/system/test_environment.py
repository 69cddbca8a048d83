"""What the report says about the machine, and what it must not say."""

from __future__ import annotations

import getpass
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from tofu_export.system import environment
from tofu_export.system.typed_json import from_plain, to_object

VERSIONS = {
    "python",
    "tofu_export",
    "torch",
    "timm",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "numpy",
    "tensorrt",
    "tensorrt_rtx",
}


def with_nvidia_smi(monkeypatch: pytest.MonkeyPatch, stdout: str = "", error: Exception | None = None) -> None:
    def answer(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        assert options["timeout"] > 0
        assert "--query-gpu=name,driver_version" in command
        if error is not None:
            raise error
        return subprocess.CompletedProcess(command, 0, stdout=stdout, stderr="")

    monkeypatch.setattr(shutil, "which", lambda _: "/opt/bin/nvidia-smi")
    monkeypatch.setattr(subprocess, "run", answer)


def without_nvidia_smi(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)


class TestCollect:
    def test_has_the_contracts_fields(self) -> None:
        found = environment.collect()
        assert set(to_object(found)) == {"versions", "cpu", "logical_cores", "gpu", "driver", "platform"}
        assert set(found.versions) == VERSIONS
        assert from_plain(environment.Environment, json.loads(json.dumps(to_object(found)))) == found

    def test_versions_are_those_installed(self) -> None:
        versions = environment.collect().versions
        assert versions["numpy"] == metadata.version("numpy")
        assert versions["python"] == ".".join(map(str, sys.version_info[:3]))

    def test_an_extra_counts_where_it_is_used(self) -> None:
        versions = environment.collect("diffusers", "torchmetrics").versions
        assert set(versions) == VERSIONS | {"diffusers", "torchmetrics"}
        assert versions["diffusers"] == metadata.version("diffusers")

    def test_an_absent_package_is_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def nothing(name: str) -> str:
            raise metadata.PackageNotFoundError(name)

        monkeypatch.setattr(metadata, "version", nothing)
        versions = environment.collect().versions
        assert versions["python"]
        assert {version for name, version in versions.items() if name != "python"} == {None}

    def test_a_variant_counts_as_the_package(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def only_the_gpu_variant(name: str) -> str:
            if name != "onnxruntime-gpu":
                raise metadata.PackageNotFoundError(name)
            return "9.9"

        monkeypatch.setattr(metadata, "version", only_the_gpu_variant)
        assert environment.collect().versions["onnxruntime"] == "9.9"

    def test_names_no_user_host_or_folder(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LOGNAME", "some-user-name")
        text = json.dumps(to_object(environment.collect()))
        assert getpass.getuser() == "some-user-name"
        for secret in ("some-user-name", socket.gethostname(), str(Path.home()), str(Path.cwd())):
            assert len(secret) < 4 or secret not in text  # a host called "a" proves nothing

    def test_imports_nothing_heavy(self) -> None:
        program = (
            "import sys; from tofu_export.system.environment import collect; collect('diffusers'); "
            "heavy = {'torch', 'timm', 'onnx', 'onnxruntime', 'numpy', 'tensorrt', 'diffusers'}; "
            "print(sorted(heavy & set(sys.modules)))"
        )
        environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
        result = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, env=environ, check=True
        )
        assert result.stdout.strip() == "[]"


class TestCpu:
    def test_reads_the_model_name(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        cpuinfo = tmp_path / "cpuinfo"
        cpuinfo.write_text(
            "processor\t: 0\nmodel\t\t: 2\nmodel name\t: ACME  9000 @ 3.0GHz: turbo\nmodel name\t: other\n"
        )
        monkeypatch.setattr(environment, "_CPUINFO", cpuinfo)
        assert environment.cpu_name() == "ACME 9000 @ 3.0GHz: turbo"

    @pytest.mark.parametrize("text", [None, "", "processor\t: 0\nmodel name\t:\n"])
    def test_falls_back_to_the_platform(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None
    ) -> None:
        cpuinfo = tmp_path / "cpuinfo"
        if text is not None:
            cpuinfo.write_text(text)
        monkeypatch.setattr(environment, "_CPUINFO", cpuinfo)
        monkeypatch.setattr(platform, "processor", lambda: "")
        monkeypatch.setattr(platform, "machine", lambda: "aarch64")
        assert environment.cpu_name() == "aarch64"

    def test_cores_without_affinity(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delattr(os, "sched_getaffinity", raising=False)
        monkeypatch.setattr(os, "cpu_count", lambda: None)
        assert environment.logical_cores() == 1

    def test_at_least_one_core(self) -> None:
        assert environment.logical_cores() >= 1


class TestGpu:
    def test_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with_nvidia_smi(monkeypatch, "ACME RTX 1, Super, 570.10.01\n")
        found = environment.collect()
        assert (found.gpu, found.driver) == ("ACME RTX 1, Super", "570.10.01")

    def test_two(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with_nvidia_smi(monkeypatch, "ACME 1, 570.1\nACME 2, 570.1\n")
        found = environment.collect()
        assert (found.gpu, found.driver) == ("ACME 1, ACME 2", "570.1")

    @pytest.mark.parametrize(
        "error",
        [
            subprocess.TimeoutExpired("nvidia-smi", 10),
            subprocess.CalledProcessError(9, "nvidia-smi"),
            PermissionError("not executable"),
        ],
        ids=["hangs", "no driver", "not executable"],
    )
    def test_a_failing_driver_is_none(self, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
        with_nvidia_smi(monkeypatch, error=error)
        found = environment.collect()
        assert (found.gpu, found.driver) == (None, None)

    def test_no_device_is_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with_nvidia_smi(monkeypatch, "No devices were found\n")
        assert environment.collect().gpu is None

    def test_no_tool_is_none(self, monkeypatch: pytest.MonkeyPatch) -> None:
        without_nvidia_smi(monkeypatch)
        found = environment.collect()
        assert (found.gpu, found.driver) == (None, None)


class TestGpuCapabilities:
    @pytest.mark.parametrize(
        ("stdout", "expected"),
        [("8.9\n", ("SM89",)), ("12.0\n7.5\n", ("SM120", "SM75")), ("No devices were found\n", ()), ("", ())],
    )
    def test_as_the_driver_says(self, stdout: str, expected: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
        def answer(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
            assert "--query-gpu=compute_cap" in command
            return subprocess.CompletedProcess(command, 0, stdout=stdout, stderr="")

        monkeypatch.setattr(shutil, "which", lambda _: "/opt/bin/nvidia-smi")
        monkeypatch.setattr(subprocess, "run", answer)
        assert environment.gpu_capabilities() == expected

    def test_none_without_a_driver(self, monkeypatch: pytest.MonkeyPatch) -> None:
        without_nvidia_smi(monkeypatch)
        assert environment.gpu_capabilities() == ()
