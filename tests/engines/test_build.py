from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.engines import models
from tests.engines.rtx import needs_rtx, rtx
from tofu_export.engines.building import _process
from tofu_export.engines.building._build_log import first_cause
from tofu_export.engines.building.build import EngineRequest, build_engine, engine_names, resolve_capabilities
from tofu_export.engines.building.builder_options import BuilderOptions
from tofu_export.engines.describing.sidecar import read_sidecar, write_sidecar
from tofu_export.engines.flavours import RTX, TENSORRT, available, known_capabilities, load
from tofu_export.errors import (
    BackendMissingError,
    EngineBuildError,
    ExitCode,
    OptionError,
    OutputError,
    PrecisionMismatchError,
)
from tofu_export.options import BatchRange, Precision
from tofu_export.system import environment
from tofu_export.system.typed_json import to_plain

BATCH = BatchRange(1, 2, 4)


def request(proto: onnx.ModelProto, folder: Path, flavour=RTX, **options) -> EngineRequest:
    options = {"batch": BATCH, **options}
    out = folder / "out"
    out.mkdir(exist_ok=True)
    return EngineRequest(models.save(proto, folder), out / "model.engine", flavour, **options)


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "out").iterdir())


# Real builds with TensorRT-RTX, no GPU.


@rtx
@needs_rtx
@pytest.mark.parametrize("precision", [Precision.FP32, Precision.FP16, Precision.BF16])
def test_builds_a_dynamic_batch(precision, tmp_path, capfd):
    asked = request(models.block(precision.value), tmp_path, precision=precision)
    ticks: list[float] = []
    receipt = build_engine(asked, on_tick=ticks.append)
    plan = asked.engine_path.read_bytes()
    assert plan[:4] == b"vtrt"
    assert receipt.engine_bytes == len(plan)
    assert receipt.engine_sha256 == hashlib.sha256(plan).hexdigest()
    assert receipt.onnx_sha256 == hashlib.sha256(asked.onnx_path.read_bytes()).hexdigest()
    assert receipt.profiles == {"x": ((1, 16, 32), (2, 16, 32), (4, 16, 32))}
    assert receipt.layers["MATRIX_MULTIPLY"] == {precision.value: 2}
    assert receipt.structure.macs == {precision.value: 2 * 16 * 32 * 64}
    assert receipt.structure.heavy_layers == {precision.value: 2}
    parts = receipt.structure.parts
    size = 4 if precision is Precision.FP32 else 2
    assert parts["mlp"].macs == 2 * 16 * 32 * 64
    assert parts["mlp"].weight_bytes == 2 * 32 * 64 * size
    assert receipt.structure.total.kernels == len(receipt.kernels.launched)
    assert receipt.layer_dtypes[precision.value] > receipt.layer_dtypes["int64"] > 0
    assert "SM80" in receipt.compute_capabilities
    assert "SM75" not in receipt.compute_capabilities
    assert 0 < receipt.build_seconds < 60
    summary = receipt.kernels.summary()
    assert summary.kernels >= 3
    assert summary.unparsed_lines == 0
    assert set(summary.by_stage) == {"/blocks.0", "/blocks.1"}
    assert summary.output_dtype_share == {precision.value: 1.0}
    assert summary.activation_bytes > 0
    assert summary.weight_bytes > 0
    assert ticks[0] < 0.1
    assert ticks == sorted(ticks)
    assert left(tmp_path) == ["model.engine"]
    assert capfd.readouterr() == ("", "")


@rtx
@needs_rtx
def test_same_bytes_again_and_after_a_failed_turing_build(tmp_path):
    asked = request(models.block("fp16"), tmp_path, precision=Precision.FP16, compute_capabilities=("sm89", "SM80"))
    first = build_engine(asked)
    assert first.compute_capabilities == ("SM80", "SM89")
    turing = tmp_path / "turing"
    turing.mkdir()
    island = request(models.fp32_island(), turing, precision=Precision.FP16, compute_capabilities=("SM75",))
    with pytest.raises(EngineBuildError, match=r"similarity/MatMul.*SM75 does not have in FP32.*SM80 or newer"):
        build_engine(island)
    assert left(turing) == []
    swapped = EngineRequest(
        asked.onnx_path, tmp_path / "other.engine", RTX, BATCH, Precision.FP16, ("SM80", "SM89", "SM89")
    )
    assert build_engine(swapped).engine_sha256 == first.engine_sha256


@rtx
@needs_rtx
def test_builds_for_turing_alone(tmp_path):
    asked = request(models.block("fp16"), tmp_path, precision=Precision.FP16, compute_capabilities=("SM75",))
    assert build_engine(asked).compute_capabilities == ("SM75",)


@rtx
@needs_rtx
def test_static_file_needs_no_profile(tmp_path):
    receipt = build_engine(request(models.block(batch=2), tmp_path, batch=BatchRange(2, 2, 2)))
    assert receipt.profiles == {}
    with pytest.raises(OptionError, match=r"fixed batch .2."):
        build_engine(request(models.block(batch=2), tmp_path))


@rtx
@needs_rtx
def test_fp32_attention_is_decomposed(tmp_path):
    receipt = build_engine(request(models.attention("fp32"), tmp_path))
    assert len(receipt.decomposable_attention) == 1
    assert "decomposable" in receipt.notes[0]
    assert receipt.kernels.summary().kernels > 1


@rtx
@needs_rtx
@pytest.mark.parametrize(
    ("typed", "asked"), [("fp32", "fp16"), ("fp32", "bf16"), ("fp16", "bf16"), ("bf16", "fp32"), ("fp32", "int8")]
)
def test_wrong_precision_is_not_published(typed, asked, tmp_path):
    with pytest.raises(PrecisionMismatchError, match=f"{asked} was asked for.*2 {typed}") as caught:
        build_engine(request(models.block(typed), tmp_path, precision=Precision(asked)))
    assert caught.value.exit_code is ExitCode.PRECISION
    assert left(tmp_path) == []


@rtx
@needs_rtx
def test_an_fp32_island_does_not_make_it_fp32(tmp_path):
    receipt = build_engine(request(models.fp32_island(), tmp_path, precision=Precision.FP16, least_share=0.5))
    assert receipt.layers["MATRIX_MULTIPLY"] == {"fp16": 1, "fp32": 1}
    assert receipt.structure.macs == {"fp16": 16 * 32 * 32, "fp32": 16 * 32 * 32}
    with pytest.raises(PrecisionMismatchError, match=r"only 50.0% of the mult.*50.0% fp16, 50.0% fp32.*least 90%"):
        build_engine(request(models.fp32_island(), tmp_path, precision=Precision.FP16))
    with pytest.raises(PrecisionMismatchError, match="1 fp16, 1 fp32"):
        build_engine(request(models.fp32_island(), tmp_path, precision=Precision.FP32))


@rtx
@needs_rtx
def test_builder_failure_names_the_cause(tmp_path, capfd):
    with pytest.raises(EngineBuildError, match=r"no tactics.*raise the workspace limit") as caught:
        build_engine(request(models.block(), tmp_path, options=BuilderOptions(1000)))
    assert caught.value.exit_code is ExitCode.ENGINE_BUILD
    assert "cudaError" not in str(caught.value)
    assert left(tmp_path) == []
    assert capfd.readouterr() == ("", "")


@rtx
@needs_rtx
def test_parser_failure_names_the_node(tmp_path):
    proto = models.block()
    proto.graph.initializer[2].dims[:] = [64, 32]
    with pytest.raises(EngineBuildError, match=r"(?s)cannot build.*node name: /blocks.0/mlp/MatMul"):
        build_engine(request(proto, tmp_path))
    assert left(tmp_path) == []


@rtx
@needs_rtx
def test_preflight_comes_first(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "tofu_export.engines.building.build.run_worker", lambda *_: pytest.fail("the builder was started")
    )
    with pytest.raises(EngineBuildError, match=r"/blocks.0/ScatterElements"):
        build_engine(request(models.scatter("add"), tmp_path))
    with pytest.raises(OptionError, match=r"axis 1.*--opt-shapes x:1x1x32"):
        build_engine(request(models.block(tokens="tokens"), tmp_path))
    assert left(tmp_path) == []


@rtx
@needs_rtx
def test_unknown_capability_lists_the_known_ones(tmp_path):
    with pytest.raises(OptionError, match=r"SM90, expected some of SM75, SM80.*SM89"):
        build_engine(request(models.block(), tmp_path, compute_capabilities=("SM89", "SM90")))


@rtx
@needs_rtx
@pytest.mark.parametrize("raised", [KeyboardInterrupt, ValueError])
def test_cancelled_build_leaves_nothing(raised, tmp_path, monkeypatch):
    started = []

    class Recorded(subprocess.Popen):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            started.append(self.pid)

    def on_tick(elapsed: float) -> None:
        raise raised

    monkeypatch.setattr(_process.subprocess, "Popen", Recorded)
    with pytest.raises(raised):
        build_engine(request(models.block(), tmp_path), on_tick=on_tick)
    assert left(tmp_path) == []
    with pytest.raises(ProcessLookupError):
        os.kill(started[0], 0)


@rtx
@needs_rtx
def test_earlier_engine_survives_a_failed_build(tmp_path):
    asked = request(models.block(), tmp_path, options=BuilderOptions(1000))
    asked.engine_path.write_bytes(b"earlier")
    with pytest.raises(EngineBuildError):
        build_engine(asked)
    assert asked.engine_path.read_bytes() == b"earlier"


@rtx
@needs_rtx
def test_destination_that_cannot_be_written(tmp_path):
    asked = request(models.block(), tmp_path)
    (tmp_path / "file").write_text("in the way")
    for path in (tmp_path / "file" / "model.engine", tmp_path):
        with pytest.raises(OutputError) as caught:
            build_engine(EngineRequest(asked.onnx_path, path, RTX, BATCH))
        assert caught.value.exit_code is ExitCode.USAGE


@rtx
@needs_rtx
def test_relative_paths_and_a_hostile_working_directory(tmp_path, monkeypatch):
    request(models.block(), tmp_path)
    (tmp_path / "tensorrt_rtx.py").write_text("raise RuntimeError('imported from the working directory')")
    monkeypatch.chdir(tmp_path)
    build_engine(EngineRequest(Path("model.onnx"), Path("deep/er/model.engine"), RTX, BATCH))
    assert [path.name for path in (tmp_path / "deep/er").iterdir()] == ["model.engine"]


@rtx
@needs_rtx
def test_sidecar(tmp_path):
    receipt = build_engine(request(models.block("fp16"), tmp_path, precision=Precision.FP16))
    path = write_sidecar(receipt, receipt.engine_path, {"model": {"name": "tiny"}})
    assert path.name == "model.engine.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    assert document["schema_version"] == 1
    assert document["extra"] == {"model": {"name": "tiny"}}
    assert document["engine"]["sha256"] == receipt.engine_sha256
    assert document["batch"] == "1:2:4"
    assert document["profiles"]["x"]["opt"] == [2, 16, 32]
    assert document["network"]["layers"]["MATRIX_MULTIPLY"] == {"fp16": 2}
    assert document["kernels"] == to_plain(receipt.kernels.summary())
    assert left(tmp_path) == ["model.engine", "model.engine.json"]
    found = read_sidecar(receipt.engine_path)
    assert found is not None
    found.check_engine()
    assert (found.onnx_name, found.onnx_sha256) == (receipt.onnx_path.name, receipt.onnx_sha256)
    assert (found.profiles, found.precision) == (receipt.profiles, Precision.FP16)
    with pytest.raises(OutputError, match="cannot write to"):
        write_sidecar(receipt, receipt.engine_path / "model.engine", {})


# Options that are refused before anything is read.


def asked_for(**options) -> EngineRequest:
    return EngineRequest(Path("a.onnx"), Path("a.engine"), **{"flavour": RTX, **options})


def test_turing_stands_alone():
    with pytest.raises(OptionError, match=r"cannot share an engine with SM89.*degrades"):
        asked_for(compute_capabilities=("SM75", "SM89"), precision=Precision.FP16)


@needs_rtx
@pytest.mark.parametrize(
    ("precision", "reason", "least"),
    [
        (Precision.FP32, "FP32 matrix products on SM75", "SM80"),
        (Precision.BF16, "BF16 on SM75", "SM80"),
        (Precision.FP8, "FP8 on SM75", "SM89"),
        (Precision.FP8, "FP8 on SM86", "SM89"),
    ],
)
def test_older_gpus_are_refused_by_name(precision, reason, least):
    asked = asked_for(compute_capabilities=(reason.split()[-1],), precision=precision)
    with pytest.raises(OptionError, match=rf"has no {reason}.*build it in fp16.*for {least} and newer"):
        resolve_capabilities(asked)
    for able in (Precision.FP16, Precision.INT8_FP16):
        assert resolve_capabilities(asked_for(compute_capabilities=("SM75",), precision=able)) == ("SM75",)


@needs_rtx
def test_a_file_that_says_it_is_fp8_is_built_for_what_has_it():
    asked = asked_for(precision=None)
    assert "SM80" in resolve_capabilities(asked)
    for found in (resolve_capabilities(asked, Precision.FP8), resolve_capabilities(asked_for(precision=Precision.FP8))):
        assert found
        assert all(int(name.removeprefix("SM")) >= 89 for name in found)
    with pytest.raises(OptionError, match="no FP8 on SM86"):
        resolve_capabilities(asked_for(precision=None, compute_capabilities=("SM86",)), Precision.FP8)


def test_classic_takes_no_capabilities():
    with pytest.raises(OptionError, match="GPU of this machine"):
        asked_for(flavour=TENSORRT, compute_capabilities=("SM89",))


def test_workspace_has_to_be_positive():
    with pytest.raises(OptionError, match="workspace is 0"):
        BuilderOptions(0)


def test_turing_has_an_engine_of_its_own():
    assert engine_names("m.engine", ()) == {"m.engine": ()}
    assert engine_names("m.engine", (" sm89", "SM80", "sm89")) == {"m.engine": ("SM89", "SM80")}
    assert engine_names("m.engine", ("SM75",)) == {"m.engine": ("SM75",)}
    assert engine_names("m.engine", ("SM75", "SM89")) == {"m.engine": ("SM89",), "m.sm75.engine": ("SM75",)}
    assert engine_names("plan", ("SM75", "SM89")) == {"plan": ("SM89",), "plan.sm75": ("SM75",)}


@rtx
@needs_rtx
@pytest.mark.parametrize("typed", ["fp32", "fp16", "bf16"])
def test_precision_that_nobody_said_is_that_of_most_of_the_arithmetic(typed, tmp_path):
    receipt = build_engine(request(models.block(typed), tmp_path, precision=None, batch=None))
    assert receipt.precision.value == typed
    assert receipt.profiles["x"] == ((1, 16, 32), (8, 16, 32), (64, 16, 32))


@rtx
@needs_rtx
def test_precision_that_the_file_says_it_has_counts(tmp_path):
    proto = models.block("fp32")
    proto.metadata_props.add(key="tofu_export.precision", value="fp16")
    with pytest.raises(PrecisionMismatchError, match="fp16 was asked for"):
        build_engine(request(proto, tmp_path, precision=None))


@rtx
@needs_rtx
def test_any_axis_may_vary(tmp_path):
    shapes = {"x": ((1, 8, 32), (2, 16, 32), (4, 32, 32))}
    receipt = build_engine(request(models.block(tokens="tokens"), tmp_path, shapes=shapes))
    assert receipt.profiles == shapes


def test_capabilities_are_normalised():
    assert asked_for(compute_capabilities=(" sm89", "SM89", "sm80")).compute_capabilities == ("SM89", "SM80")


def test_harmless_errors_are_no_cause():
    harmless = "Cuda Runtime (cudaError 35: CUDA driver version is insufficient for CUDA runtime version)"
    assert first_cause([harmless, "the cause", "an after-effect"]) == "the cause"
    assert "NVIDIA driver" in first_cause([harmless])
    assert first_cause([]) == first_cause([" "]) == ""
    assert first_cause(["K exceeds (3840). In processCheck at /_src/a.cpp:1 In b at /_src/c.cpp:2)"]) == (
        "K exceeds (3840).)"
    )


# The same way with classic TensorRT, which cannot be installed here: a stand-in module.


@pytest.fixture
def classic(tmp_path, monkeypatch):
    folder = tmp_path / "modules"
    folder.mkdir()
    shutil.copy(Path(__file__).with_name("fake_tensorrt.py"), folder / "tensorrt.py")
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    yield tmp_path
    sys.modules.pop("tensorrt", None)


def test_classic_is_told_what_was_asked(classic, capfd):
    asked = request(models.block("fp16"), classic, TENSORRT, precision=Precision.FP16, options=BuilderOptions(1 << 20))
    receipt = build_engine(asked)
    assert json.loads(asked.engine_path.read_bytes()) == {
        "flags": 2,
        "limits": {"WORKSPACE": 1 << 20},
        "profiles": [{"x": [[1, 16, 32], [2, 16, 32], [4, 16, 32]]}],
        "plugins": True,
        "builder_flags": [],
        "level": None,
        "hardware": None,
        "cache": None,
    }
    assert (receipt.flavour, receipt.version, receipt.compute_capabilities) == ("tensorrt", "10.3.0", ())
    assert receipt.layers == {"CONSTANT": {"fp16": 1}, "MATRIX_MULTIPLY": {"fp16": 1}}
    assert receipt.kernels.summary().kernels == 0
    assert capfd.readouterr() == ("", "")


def test_classic_options_reach_the_builder(classic):
    options = BuilderOptions(level=5, version_compatible=True, hardware="ampere+", strip_weights=True, refit=True)
    asked = request(models.block("fp16"), classic, TENSORRT, precision=Precision.FP16, options=options)
    receipt = build_engine(asked)
    told = json.loads(asked.engine_path.read_bytes())
    assert told["builder_flags"] == ["VERSION_COMPATIBLE", "STRIP_PLAN", "REFIT"]
    assert (told["level"], told["hardware"]) == (5, "AMPERE_PLUS")
    assert receipt.to_dict()["options"] == {
        "builder-opt-level": 5,
        "version-compatible": True,
        "hw-compat": "ampere+",
        "strip-weights": True,
        "refit": True,
    }


def test_with_a_gpu_the_inspector_tells_the_kernels(classic, monkeypatch):
    layers = Path(__file__).with_name("data") / "inspector_types.json"
    monkeypatch.setenv("FAKE_TENSORRT_LAYERS", str(layers))
    asked = request(models.block("fp16"), classic, TENSORRT, precision=Precision.FP16)
    assert build_engine(asked).kernels.records == ()
    about = replace(environment.collect(), gpu="NVIDIA L4", driver="580.1")
    monkeypatch.setattr("tofu_export.engines.building.build.environment.collect", lambda: about)
    receipt = build_engine(asked)
    assert [record.layer_type for record in receipt.kernels.records] == ["kgen", "gemm"]
    assert (receipt.gpu, receipt.driver) == ("NVIDIA L4", "580.1")
    assert receipt.structure.parts["norm"].kernels == 1
    monkeypatch.delenv("FAKE_TENSORRT_LAYERS")  # the plan does not load here
    assert build_engine(asked).kernels.records == ()


def test_what_this_version_lacks_is_an_error(classic):
    options = BuilderOptions(hardware="same-compute-capability")
    with pytest.raises(OptionError, match=r"--hw-compat .SAME_COMPUTE_CAPABILITY. does not exist in version 10.3"):
        build_engine(request(models.block("fp16"), classic, TENSORRT, precision=Precision.FP16, options=options))
    assert left(classic) == []


@pytest.mark.e2e
def test_timing_cache_is_read_written_and_kept_apart(classic, monkeypatch):
    def build(cache: Path, proto: onnx.ModelProto) -> str | None:
        options = BuilderOptions(timing_cache=cache)
        asked = request(proto, classic, TENSORRT, precision=Precision.FP16, options=options)
        build_engine(asked)
        return json.loads(asked.engine_path.read_bytes())["cache"]

    folder = classic / "caches"
    folder.mkdir()
    assert [build(folder / "cache.bin", models.block("fp16")) for _ in range(3)] == ["", "+", "++"]
    (first,) = folder.iterdir()
    assert first.read_bytes() == b"+++"
    other = models.block("fp16")
    other.producer_name = "another file"
    assert build(folder / "cache.bin", other) == ""
    monkeypatch.setenv("FAKE_TENSORRT_VERSION", "10.4.0")
    sys.modules.pop("tensorrt")
    assert build(folder / "cache.bin", models.block("fp16")) == ""
    assert len(list(folder.iterdir())) == 3
    for path in folder.iterdir():
        path.write_bytes(b"of another GPU")
    with pytest.raises(EngineBuildError, match="not a timing cache of this GPU"):
        build(folder / "cache.bin", models.block("fp16"))
    with pytest.raises(OutputError, match="does not exist"):
        build(classic / "nowhere" / "cache.bin", other)


def test_other_weights_beside_the_file_have_a_timing_cache_and_a_hash_of_their_own(classic):
    source = models.save_beside(models.block("fp16"), classic)
    caches = classic / "caches"
    caches.mkdir()

    def build() -> str:
        options = BuilderOptions(timing_cache=caches / "cache.bin")
        asked = EngineRequest(source, classic / "m.engine", TENSORRT, BATCH, Precision.FP16, options=options)
        return build_engine(asked).onnx_sha256

    before = build()
    assert build() == before
    assert len(list(caches.iterdir())) == 1
    models.flip_last_bit(classic / "weights.bin")
    assert build() != before
    assert len(list(caches.iterdir())) == 2


@pytest.mark.parametrize(
    ("behaviour", "error", "message"),
    [
        ("no-driver", BackendMissingError, "needs a working NVIDIA driver"),
        ("none", EngineBuildError, ": the real cause$"),
        ("silent", EngineBuildError, "returned nothing and logged no error"),
        ("crash", EngineBuildError, "SIGABRT: Internal Error: something in Myelin"),
        ("raise", EngineBuildError, "status 1.*ValueError: not expected at all"),
    ],
)
def test_classic_failures(behaviour, error, message, classic, monkeypatch):
    monkeypatch.setenv("FAKE_TENSORRT", behaviour)
    with pytest.raises(error, match=message):
        build_engine(request(models.block("fp16"), classic, TENSORRT, precision=Precision.FP16))
    assert left(classic) == []


def test_classic_too_old(classic, monkeypatch):
    monkeypatch.setenv("FAKE_TENSORRT_VERSION", "8.6.1")
    with pytest.raises(BackendMissingError, match=r"8\.6\.1 is too old"):
        build_engine(request(models.block("fp16"), classic, TENSORRT, precision=Precision.FP16))


def test_cancelled_in_the_middle(classic, monkeypatch):
    monkeypatch.setenv("FAKE_TENSORRT", "sleep")
    monkeypatch.setenv("FAKE_TENSORRT_PID", str(classic / "pid"))

    def on_tick(elapsed: float) -> None:
        if (classic / "pid").is_file() and (classic / "pid").read_text():
            raise KeyboardInterrupt

    asked = request(models.block("fp16"), classic, TENSORRT, precision=Precision.FP16)
    with pytest.raises(KeyboardInterrupt):
        build_engine(asked, on_tick=on_tick)
    assert left(classic) == []
    assert not _alive(int((classic / "pid").read_text()))


def test_worker_ends_with_its_parent(classic, monkeypatch):
    """Killed for good, we cannot clean up; the build has to stop all the same."""
    asked = request(models.block("fp16"), classic, TENSORRT, precision=Precision.FP16)
    monkeypatch.setenv("FAKE_TENSORRT", "sleep")
    monkeypatch.setenv("FAKE_TENSORRT_PID", str(classic / "pid"))
    code = (
        "from pathlib import Path\n"
        "from tofu_export.engines.building.build import EngineRequest, build_engine\n"
        "from tofu_export.engines.flavours import TENSORRT\n"
        "from tofu_export.options import Precision\n"
        f"build_engine(EngineRequest(Path({str(asked.onnx_path)!r}), Path({str(asked.engine_path)!r}), TENSORRT, "
        "precision=Precision.FP16))"
    )
    paths = os.pathsep.join(entry for entry in sys.path if entry)
    with subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": paths}) as parent:
        pid = int(_wait_for(lambda: (classic / "pid").is_file() and (classic / "pid").read_text()))
        parent.send_signal(signal.SIGKILL)
    assert _wait_for(lambda: not _alive(pid))


def _wait_for(condition, seconds: float = 20.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        result = condition()
        if result:
            return result
        time.sleep(0.05)
    return pytest.fail("waited in vain")


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


# On a machine with a GPU: the plan loads and computes what onnxruntime computes.


@pytest.mark.gpu
@pytest.mark.parametrize("flavour", [RTX, TENSORRT], ids=lambda flavour: flavour.name)
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 2e-3), ("fp16", 2e-2)], ids=["fp32", "fp16"])
def test_engine_runs(precision, tolerance, flavour, tmp_path):
    """Tolerances: FP32 products may run in TF32 (10 mantissa bits), FP16 rounds every intermediate value."""
    torch = pytest.importorskip("torch")
    onnxruntime = pytest.importorskip("onnxruntime")
    if not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU")
    if flavour not in available():
        pytest.skip(f"{flavour.name} is not installed")
    name = "SM{}{}".format(*torch.cuda.get_device_capability())
    if flavour.ahead_of_time and name not in known_capabilities(flavour):
        pytest.skip(f"{flavour.name} does not build for {name}")
    asked = request(models.block(precision), tmp_path, flavour, precision=Precision(precision))
    build_engine(asked)

    trt = load(flavour)
    engine = trt.Runtime(trt.Logger(trt.Logger.ERROR)).deserialize_cuda_engine(asked.engine_path.read_bytes())
    context = engine.create_execution_context()
    session = onnxruntime.InferenceSession(asked.onnx_path, providers=["CPUExecutionProvider"])
    for batch in (1, 3, 4):
        x = np.random.default_rng(batch).standard_normal((batch, 16, 32)).astype(precision.replace("fp", "float"))
        given, got = torch.from_numpy(x).cuda(), torch.empty((batch, 16, 32), dtype=torch.from_numpy(x).dtype).cuda()
        assert context.set_input_shape("x", x.shape)
        context.set_tensor_address("x", given.data_ptr())
        context.set_tensor_address("y", got.data_ptr())
        stream = torch.cuda.Stream()
        torch.cuda.synchronize()
        assert context.execute_async_v3(stream.cuda_stream)
        stream.synchronize()
        np.testing.assert_allclose(got.cpu().numpy(), session.run(None, {"x": x})[0], atol=tolerance, rtol=0)
