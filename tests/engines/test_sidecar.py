"""What is read of the file beside an engine, and what is refused, for all who ask."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.engines import models, sidecars
from tofu_export.engines.describing import sidecar
from tofu_export.engines.describing.sidecar import Sidecar, missing_sidecar, read_sidecar, sidecar_path
from tofu_export.engines.flavours import RTX
from tofu_export.errors import OptionError, VerificationError
from tofu_export.options import Precision

SIZES = {"min": [1, 3, 8, 8], "opt": [2, 3, 8, 8], "max": [4, 3, 8, 8]}


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    path = tmp_path / "a.engine"
    path.write_bytes(b"vtrt plan")
    return path


def read(engine: Path, built_from: Path | None = None, /, **changes: Any) -> Sidecar:
    sidecars.write(engine, built_from, **changes)
    found = read_sidecar(engine)
    assert found is not None
    return found


def test_all_that_it_says(engine: Path) -> None:
    source = engine.with_name("a.onnx")
    source.write_bytes(b"onnx")
    found = read(engine, source, profiles={"input": SIZES}, precision="fp16", gpu="ACME 1")
    assert (found.path, found.engine_path) == (engine.with_name("a.engine.json"), engine)
    assert (found.flavour, found.version, found.precision) == (RTX, "1.7.1", Precision.FP16)
    assert (found.compute_capabilities, found.gpu) == (("SM80", "SM89"), "ACME 1")
    assert found.profiles == {"input": ((1, 3, 8, 8), (2, 3, 8, 8), (4, 3, 8, 8))}
    assert found.onnx_beside() == source
    found.check_engine()


def test_none(engine: Path) -> None:
    assert read_sidecar(engine) is None
    assert missing_sidecar(engine).startswith("there is no a.engine.json beside it")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"{", "is not JSON"),
        (b"", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b'{"schema_version": 1' + b"0" * 5000 + b"}", "is not JSON"),
        (b"\xff\xfe\x00", "cannot be read"),
        (b"[]", "it is no object"),
        (b"null", "it is no object"),
        (b"{}", "schema_version is missing"),
        (b'{"schema_version": true}', "schema_version is True, expected a whole number"),
        (b'{"schema_version": 9}', "has schema version 9, expected 1: use the tofu-export that built the engine"),
    ],
)
def test_no_sidecar_at_all(text: bytes, words: str, engine: Path) -> None:
    sidecar_path(engine).write_bytes(text)
    with pytest.raises(OptionError, match=rf"a\.engine\.json .*{words}"):
        read_sidecar(engine)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"flavour": 1}, "flavour is 1, expected text"),
        ({"version": None}, "version is None, expected text"),
        ({"compute_capabilities": None}, "compute_capabilities is None, expected a list"),
        ({"compute_capabilities": [89]}, "compute_capabilities[0] is 89, expected text"),
        ({"gpu": ["ACME"]}, "gpu is ['ACME'], expected text"),
        ({"precision": "fp12"}, "precision is 'fp12', expected one of fp32"),
        ({"precision": {}}, "precision is {}, expected one of fp32"),
        ({"options": []}, "options is [], expected an object"),
        ({"engine": "a.engine"}, "engine is 'a.engine', expected an object"),
        ({"engine": {"bytes": 1.5, "sha256": ""}}, "engine.bytes is 1.5, expected a whole number"),
        ({"engine": {"bytes": 1}}, "engine.sha256 is missing"),
        ({"onnx": {}}, "onnx.file is missing"),
        ({"onnx": {"file": [], "sha256": ""}}, "onnx.file is [], expected text"),
        ({"source": "vit"}, "source is 'vit', expected an object"),
        ({"profiles": []}, "profiles is [], expected an object"),
        ({"profiles": {"x": []}}, "profiles.x is [], expected an object"),
        ({"profiles": {"x": {**SIZES, "max": None}}}, "profiles.x.max is None, expected a list"),
        ({"profiles": {"x": {**SIZES, "min": [1, 3, 8, "8"]}}}, "profiles.x.min[3] is '8', expected a whole number"),
        ({"profiles": {"x": {**SIZES, "opt": [2]}}}, "profiles.x has sizes that are no range"),
        ({"profiles": {"x": {**SIZES, "min": [3, 3, 8, 8]}}}, "profiles.x has sizes that are no range"),
        ({"profiles": {"x": {**SIZES, "min": [0, 3, 8, 8]}}}, "profiles.x has sizes that are no range"),
    ],
)
def test_a_damaged_sidecar(changes: dict[str, Any], words: str, engine: Path) -> None:
    sidecars.write(engine, **changes)
    remedy = "copy it again, build the engine again, or take the file away"
    with pytest.raises(OptionError, match=re.escape(f"is not the sidecar of an engine ({words}")) as caught:
        read_sidecar(engine)
    assert str(caught.value).startswith(str(sidecar_path(engine)))
    assert str(caught.value).endswith(remedy)
    assert "\n" not in str(caught.value)


def test_one_that_is_too_large_is_not_read(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sidecars.write(engine)
    monkeypatch.setattr(sidecar, "MAX_BYTES", 10)
    with pytest.raises(OptionError, match="more than any has"):
        read_sidecar(engine)


def test_a_folder_in_its_place(engine: Path) -> None:
    sidecar_path(engine).mkdir()
    with pytest.raises(OptionError, match="cannot be read"):
        read_sidecar(engine)


def test_an_unknown_flavour_is_read_and_refused_when_asked_for(engine: Path) -> None:
    found = read(engine, flavour="abacus")
    with pytest.raises(OptionError, match=r"a\.engine is for 'abacus', which this version does not know"):
        _ = found.flavour


def test_another_engine(engine: Path) -> None:
    found = read(engine)
    engine.write_bytes(b"vtrt PLAN")
    with pytest.raises(OptionError, match=r"a\.engine is not what was built .* take a\.engine\.json away"):
        found.check_engine()
    engine.write_bytes(b"vtrt")
    with pytest.raises(OptionError, match="has 4 bytes, but 9 were built"):
        found.check_engine()


def test_another_onnx_file(engine: Path) -> None:
    source = engine.with_name("a.onnx")
    source.write_bytes(b"onnx")
    found = read(engine, source)
    source.write_bytes(b"another")
    with pytest.raises(OptionError, match=r"a\.onnx is not the file that a\.engine was built from"):
        found.onnx_beside()
    source.unlink()
    assert found.onnx_beside() is None


def test_other_weights_beside_the_onnx_file(engine: Path) -> None:
    """The graph is the same to the last byte, and so is its size."""
    source = models.save_beside(models.block(), engine.parent)
    weights = source.with_name("weights.bin")
    found = read(engine, source)
    assert found.onnx_beside() == source
    models.flip_last_bit(weights)
    words = r"m\.onnx with its external data weights\.bin is not the file that a\.engine was built from"
    with pytest.raises(OptionError, match=words):
        found.onnx_beside()
    weights.unlink()
    with pytest.raises(OptionError, match=r"keeps weights in 'weights\.bin', which is not beside it"):
        found.onnx_beside()


def test_an_onnx_file_that_is_said_to_be_elsewhere_is_looked_for_beside_it(engine: Path) -> None:
    assert read(engine, onnx={"file": "/etc/passwd", "sha256": "0"}).onnx_beside() is None


def test_metadata_of_the_onnx_file(engine: Path) -> None:
    found = read(engine, source={"model": "vit", "gmacs": 8.78, "plan": {"r": [1]}, "weights": None}).card
    assert found.find("model", str) == "vit"
    assert found.find("plan", dict) == {"r": [1]}
    assert found.find("weights", dict) is None
    assert found.find("num_classes", int) is None
    with pytest.raises(VerificationError, match=r"metadata tofu_export\.model of .*\.json are not what this version"):
        found.find("model", dict)
    texts = found.texts
    assert texts["tofu_export.model"] == "vit"
    assert texts["tofu_export.gmacs"] == "8.78"
    assert json.loads(texts["tofu_export.plan"]) == {"r": [1]}
