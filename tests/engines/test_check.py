"""Engines held against their sidecars and against machines, most of them made up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tests.engines import models, sidecars
from tofu_export.engines.describing import check
from tofu_export.engines.describing.check import Answer, check_engine
from tofu_export.errors import BackendMissingError, ExitCode, OptionError

PLAN = b"vtrt" + bytes(200)
FACTS: dict[str, Any] = {}
"""What differs from the sidecar of a good plan for SM80 and SM89."""
CLASSIC = {"flavour": "tensorrt", "version": "10.3.0", "compute_capabilities": [], "gpu": "NVIDIA L4"}


def runtime(version: str, validity: str = "VALID", bits: int = 0) -> ModuleType:
    """A TensorRT module, as far as a check looks at it."""
    kinds = SimpleNamespace(VALID=SimpleNamespace(name="VALID"), INVALID=SimpleNamespace(name="INVALID"))
    answer = (getattr(kinds, validity), bits)

    class Runtime:
        def __init__(self, logger: object) -> None: ...

        def get_engine_validity(self, header: bytes) -> tuple[object, int]:
            assert len(header) == 64
            return answer

    module = ModuleType("trt")
    module.__dict__.update(
        __version__=version,
        ILogger=type("ILogger", (), {}),
        Runtime=Runtime,
        EngineValidity=kinds,
        EngineInvalidityDiagnostics=SimpleNamespace(__members__={"VERSION_MISMATCH": 1, "MALFORMED_ENGINE": 32}),
    )
    return module


@pytest.fixture
def machine(monkeypatch):
    """Pretend to be a machine."""

    here = check.environment.collect()

    def pretend(gpu: str | None = "NVIDIA L4", capability: str = "SM89", module: ModuleType | None = None) -> None:
        module = module or runtime("1.7.1")
        monkeypatch.setattr(check, "load", lambda flavour: module)
        monkeypatch.setattr(check.environment, "collect", lambda: replace(here, gpu=gpu, driver=gpu and "580.1"))
        monkeypatch.setattr(check.environment, "gpu_capabilities", lambda: (capability,) if gpu else ())

    pretend()
    return pretend


def engine(folder: Path, facts: dict | str | None = None, plan: bytes = PLAN) -> Path:
    path = folder / "m.engine"
    path.write_bytes(plan)
    if isinstance(facts, str):
        path.with_name("m.engine.json").write_text(facts, encoding="utf-8")
    elif facts is not None:
        sidecars.write(path, **facts)
    return path


def reasons(path: Path, answer: Answer) -> list[str]:
    return [f"{entry.question}: {entry.reason}" for entry in check_engine(path).verdicts if entry.answer is answer]


def test_nothing_speaks_against_it(tmp_path, machine):
    found = check_engine(engine(tmp_path, FACTS))
    assert [(entry.question, entry.answer) for entry in found.verdicts] == [
        (question, Answer.YES) for question in ("sidecar", "plan", "runtime", "version", "gpu", "header")
    ]
    assert found.loads
    assert found.worst.exit_code is ExitCode.GOOD
    assert found.to_dict()["loads"] is True


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": "1.6.0"}, "version: it was built with tensorrt-rtx 1.6.0, and 1.7.1 is installed"),
        ({"compute_capabilities": ["SM75"]}, "gpu: it runs on SM75, and this machine has SM89: build it for that"),
        ({"flavour": "openvino"}, "flavour: m.engine is for 'openvino'"),
        ({"schema_version": 9}, "sidecar: FOLDER/m.engine.json has schema version 9, expected 1"),
        ({"engine": {"bytes": 999, "sha256": ""}}, "plan: FOLDER/m.engine has 204 bytes, but 999 were built"),
        ({"engine": {"bytes": 204, "sha256": "0"}}, "plan: FOLDER/m.engine is not what was built (its SHA-256"),
    ],
)
def test_what_speaks_against_it(change, words, tmp_path, machine):
    path = engine(tmp_path, change)
    (reason,) = reasons(path, Answer.NO)
    assert reason.startswith(words.replace("FOLDER", str(tmp_path)))
    assert check_engine(path).worst.exit_code is ExitCode.PRECISION


def test_the_onnx_file_beside_it(tmp_path, machine):
    """An engine whose ONNX file has got other weights loads, but is not what it seems."""
    source = models.save_beside(models.block(), tmp_path)
    path = tmp_path / "m.engine"
    path.write_bytes(PLAN)
    sidecars.write(path, source)
    assert [entry.answer for entry in check_engine(path).verdicts if entry.question == "onnx"] == [Answer.YES]
    models.flip_last_bit(tmp_path / "weights.bin")
    (reason,) = reasons(path, Answer.NO)
    assert reason.startswith(f"onnx: {source} with its external data weights.bin is not the file that m.engine was ")
    found = check_engine(path)
    assert found.summary == "m.engine was not built from the ONNX file beside it"
    assert found.worst.exit_code is ExitCode.PRECISION


@pytest.mark.parametrize("text", ["{", "[]", '{"schema_version": 1}', '{"engine": 1}'])
def test_a_sidecar_that_is_none(text, tmp_path, machine):
    (reason,) = reasons(engine(tmp_path, text), Answer.NO)
    assert reason.startswith(f"sidecar: {tmp_path / 'm.engine.json'} is not ")


def test_without_a_sidecar_the_runtime_decides(tmp_path, machine):
    path = engine(tmp_path)
    assert reasons(path, Answer.UNKNOWN) == [
        "sidecar: there is no m.engine.json beside it, which says what it was built with: copy both files"
    ]
    assert check_engine(path).loads
    machine(module=runtime("1.7.1", "INVALID", 1))
    assert reasons(path, Answer.NO) == ["header: the runtime refuses its header: version mismatch"]
    machine(module=runtime("1.7.1", "INVALID", 0))
    assert check_engine(path).worst is Answer.UNKNOWN
    assert check_engine(path).worst.exit_code is ExitCode.PRECISION


def test_neither_sidecar_nor_header(tmp_path, machine):
    found = check_engine(engine(tmp_path, plan=b"something else"))
    assert found.worst is Answer.UNKNOWN
    assert not found.loads


def test_damaged_header(tmp_path, machine):
    plan = b"xxxx" + PLAN[4:]
    assert reasons(engine(tmp_path, FACTS, plan), Answer.NO) == [
        "header: the file does not begin as a plan of TensorRT-RTX does: it is damaged"
    ]


def test_no_gpu_and_no_runtime(tmp_path, machine, monkeypatch):
    machine(gpu=None)
    path = engine(tmp_path, FACTS)
    assert [reason[:4] for reason in reasons(path, Answer.MISSING)] == ["gpu:"]

    def missing(flavour: object) -> None:
        raise BackendMissingError("it is not installed: pip install it")

    monkeypatch.setattr(check, "load", missing)
    found = check_engine(path)
    assert reasons(path, Answer.MISSING)[0] == "runtime: it is not installed: pip install it"
    assert found.worst.exit_code is ExitCode.BACKEND_MISSING
    assert check_engine(engine(tmp_path, {"engine": {"bytes": 1, "sha256": ""}})).worst is Answer.NO


@pytest.mark.parametrize(
    ("facts", "gpu", "version", "loads"),
    [
        (CLASSIC, "NVIDIA L4", "10.3.0", True),
        (CLASSIC, "NVIDIA L40", "10.3.0", False),
        (CLASSIC, "NVIDIA L4", "10.3.1", False),
        ({**CLASSIC, "options": {"version-compatible": True}}, "NVIDIA L4", "10.4.0", True),
        ({**CLASSIC, "options": {"version-compatible": True}}, "NVIDIA L4", "10.2.0", False),
        ({**CLASSIC, "options": {"version-compatible": True}}, "NVIDIA L4", "11.0.0", False),
        ({**CLASSIC, "options": {"hw-compat": "ampere+"}}, "NVIDIA L40", "10.3.0", True),
    ],
)
def test_classic_loads_where_it_was_built(facts, gpu, version, loads, tmp_path, machine):
    module = runtime(version)
    del module.Runtime.get_engine_validity
    machine(gpu=gpu, module=module)
    assert check_engine(engine(tmp_path, facts)).loads is loads


def test_no_such_file(tmp_path):
    with pytest.raises(OptionError, match="does not exist"):
        check_engine(tmp_path / "nope.engine")
    with pytest.raises(OptionError, match="is a folder"):
        check_engine(tmp_path)
