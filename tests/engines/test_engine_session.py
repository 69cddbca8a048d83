"""Plans on a GPU: what is said where there is none, and what stands between TensorRT and the benchmark.

Without a GPU the plan itself is a stand-in. `pytest -m gpu` compares real ones with onnxruntime.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.cli.running import run
from tests.engines import models, sidecars
from tests.engines.fake_cuda import FakeCuda
from tofu_export.benchmarking import backends
from tofu_export.benchmarking.backends import open_backend, suits
from tofu_export.benchmarking.options import PLAN_BACKENDS
from tofu_export.engines.building.build import EngineRequest, build_engine
from tofu_export.engines.flavours import RTX, TENSORRT, available
from tofu_export.engines.running import engine_session
from tofu_export.engines.running.cudart import Cudart
from tofu_export.engines.running.engine_session import open_engine
from tofu_export.errors import BackendMissingError, EngineBuildError, OptionError
from tofu_export.options import BatchRange
from tofu_export.system.environment import collect
from tofu_export.system.ort import open_session

needs_no_gpu = pytest.mark.skipif(collect().gpu is not None, reason="this machine has a GPU")


class Engine:
    """x [?, 4] half -> y [?, 2] float."""

    num_io_tensors = 2
    names = ("x", "y")

    def get_tensor_name(self, index: int) -> str:
        return self.names[index]

    def get_tensor_mode(self, name: str) -> str:
        return "in" if name == "x" else "out"

    def get_tensor_dtype(self, name: str) -> str:
        return "half" if name == "x" else "float"

    def get_tensor_shape(self, name: str) -> tuple[int, int]:
        return (-1, 4) if name == "x" else (-1, 2)

    def create_execution_context(self) -> Any:
        return SimpleNamespace(
            set_input_shape=lambda name, shape: (name, shape) == ("x", (2, 4)),
            get_tensor_shape=lambda name: (2, 2),
            set_tensor_address=lambda name, address: name in self.names and address > 0,
            execute_async_v3=lambda stream: stream > 0,
        )


class Runner:
    """Doubles the first two columns; refuses more than 8 rows, as a profile does."""

    active = False

    def __init__(self, engine: Engine) -> None:
        assert isinstance(engine, Engine)
        self.buffer = np.zeros((8, 2), dtype=np.float32)

    def activate(self) -> None:
        self.active = True

    def infer(self, feeds: dict[str, np.ndarray], check_inputs: bool) -> dict[str, np.ndarray]:
        assert self.active
        assert not check_inputs
        assert feeds["x"].dtype == np.float16
        if len(feeds["x"]) > 8:
            raise RuntimeError("shape is outside\nof the profile")
        found = self.buffer[: len(feeds["x"])]  # one for all runs, as Polygraphy has it
        found[:] = feeds["x"][:, :2].astype(np.float32) * 2
        return {"y": found}

    def deactivate(self) -> None:
        self.active = False


@pytest.fixture
def standing_in(monkeypatch: pytest.MonkeyPatch) -> None:
    trt = SimpleNamespace(
        __version__="10.9",
        TensorIOMode=SimpleNamespace(INPUT="in", OUTPUT="out"),
        nptype=lambda name: np.float16 if name == "half" else np.float32,
    )

    def engine_from_bytes(data: bytes) -> Engine:
        if data != b"plan":
            raise ValueError("Could not deserialize engine. See log for details.")
        return Engine()

    polygraphy = SimpleNamespace(engine_from_bytes=engine_from_bytes, TrtRunner=Runner)
    here = replace(collect(), gpu="ACME 1")
    monkeypatch.setattr(engine_session.environment, "collect", lambda: here)
    monkeypatch.setattr(engine_session, "load", lambda flavour: trt)
    monkeypatch.setattr(engine_session, "_polygraphy", lambda flavour: polygraphy)


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    path = tmp_path / "a.engine"
    path.write_bytes(b"plan")
    sidecars.write(path, flavour="tensorrt", source={"gmacs": 8.78})
    return path


def test_a_plan_runs_with_the_types_that_it_asks_for(standing_in: None, plan: Path) -> None:
    session = open_engine(plan, TENSORRT)
    assert dict(session.inputs) == {"x": (np.dtype(np.float16), (None, 4))}
    assert dict(session.outputs) == {"y": (np.dtype(np.float32), (None, 2))}
    assert session.device == "ACME 1"
    assert dict(session.metadata) == {"tofu_export.gmacs": "8.78"}
    found = session.run({"x": np.arange(8, dtype=np.float32).reshape(2, 4)})
    np.testing.assert_array_equal(found["y"], [[0, 2], [8, 10]])


def test_outputs_of_a_run_stay_what_they_are(standing_in: None, plan: Path) -> None:
    session = open_engine(plan, TENSORRT)
    first = session.run({"x": np.ones((1, 4), dtype=np.float32)})
    session.run({"x": np.zeros((1, 4), dtype=np.float32)})
    np.testing.assert_array_equal(first["y"], [[2, 2]])
    session.close()
    assert not session.runner.active


def test_a_failing_run_is_one_line(standing_in: None, plan: Path) -> None:
    with pytest.raises(EngineBuildError, match="fails when it runs: shape is outside of the profile"):
        open_engine(plan, TENSORRT).run({"x": np.zeros((9, 4), dtype=np.float32)})


def test_a_damaged_plan_says_where_to_look(standing_in: None, plan: Path) -> None:
    plan.write_bytes(b"no plan")
    sidecars.write(plan, flavour="tensorrt")
    with pytest.raises(EngineBuildError, match=r"cannot be loaded by tensorrt 10\.9.*tofu-export check"):
        open_engine(plan, TENSORRT)


def test_a_missing_plan(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="does not exist"):
        open_engine(tmp_path / "gone.engine", RTX)


def test_a_plan_without_a_sidecar_has_no_gmacs(standing_in: None, plan: Path) -> None:
    plan.with_name("a.engine.json").unlink()
    assert dict(open_engine(plan, TENSORRT).metadata) == {}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"source": []}, "is not the sidecar of an engine"),
        ({"engine": {"bytes": 4, "sha256": "0"}}, "is not what was built"),
        ({"flavour": "tensorrt-rtx"}, "is a plan of tensorrt-rtx, which tensorrt does not run"),
    ],
)
def test_a_sidecar_that_speaks_of_something_else(
    changes: dict[str, Any], words: str, standing_in: None, plan: Path
) -> None:
    sidecars.write(plan, **{"flavour": "tensorrt", **changes})
    with pytest.raises(OptionError, match=words):
        open_engine(plan, TENSORRT)


def test_the_benchmark_times_plans(
    standing_in: None, plan: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "open_cudart", lambda: Cudart(FakeCuda()))
    quick = ("--seconds", "0", "--warmup", "0", "--iterations", "3", "--batch", "2")
    assert run("bench", str(plan), "--backend", "trt", *quick, "--json") == 0
    out, err = capsys.readouterr()
    document = json.loads(out)
    (row,) = document["benchmark"]
    assert (row["artifact"], row["backend"], row["device"], row["batch"]) == ("a.engine", "trt", "ACME 1", 2)
    assert (row["h2d_ms"], row["d2h_ms"]) == (1, 1)
    assert document["settings"]["gpu"] == {"cuda_graph": False, "transfers": True, "streams": 1}
    assert "trt on ACME 1" in err
    assert "timed with no CUDA graph, transfers included, 1 stream" in err


def test_plans_and_onnx_files_have_backends_of_their_own(plan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert suits(plan, "trt-rtx") and suits(Path("a.onnx"), "ort-cpu")
    assert not suits(plan, "ort-cpu") and not suits(Path("a.onnx"), "trt")
    assert run("bench", str(plan)) == 2
    assert "a.engine does not run on ort-cpu: give --backend trt or trt-rtx" in capsys.readouterr().err


@needs_no_gpu
@pytest.mark.parametrize("backend", PLAN_BACKENDS)
def test_without_a_gpu_the_exit_code_is_that_of_a_missing_backend(
    backend: str, plan: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("bench", str(plan), "--backend", backend) == 5
    assert "this machine has none with a driver" in capsys.readouterr().err


def test_one_process_runs_plans_of_one_flavour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "polygraphy", SimpleNamespace())
    monkeypatch.setenv("POLYGRAPHY_USE_TENSORRT_RTX", "0")
    with pytest.raises(BackendMissingError, match="another TensorRT"):
        engine_session._polygraphy(RTX)


@pytest.mark.gpu
@pytest.mark.skipif(collect().gpu is None, reason="no NVIDIA GPU with a driver")
@pytest.mark.parametrize("backend", PLAN_BACKENDS)
def test_a_plan_computes_what_onnxruntime_does(backend: str, tmp_path: Path) -> None:
    flavour = PLAN_BACKENDS[backend]
    if flavour not in available():
        pytest.skip(f"{flavour.name} is not installed")
    source = models.save(models.block(), tmp_path)
    request: dict[str, Any] = {"onnx_path": source, "engine_path": tmp_path / "a.engine", "flavour": flavour}
    build_engine(EngineRequest(**request, batch=BatchRange(1, 2, 4)))
    loaded = open_backend(tmp_path / "a.engine", backend, None)
    for batch in (1, 3, 4):
        feeds = {"x": np.random.default_rng(batch).standard_normal((batch, 16, 32), dtype=np.float32)}
        expected = open_session(source).run(feeds)["y"]
        np.testing.assert_allclose(loaded.session.run(feeds)["y"], expected, rtol=1e-2, atol=1e-2)  # TF32


@pytest.mark.gpu
@pytest.mark.skipif(collect().gpu is None, reason="no NVIDIA GPU with a driver")
@pytest.mark.parametrize("options", [(), ("--cuda-graph",), ("--no-transfers",), ("--streams", "2", "--cuda-graph")])
@pytest.mark.parametrize("backend", PLAN_BACKENDS)
def test_a_real_plan_is_timed(
    backend: str, options: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flavour = PLAN_BACKENDS[backend]
    if flavour not in available():
        pytest.skip(f"{flavour.name} is not installed")
    source, path = models.save(models.block(), tmp_path), tmp_path / "a.engine"
    build_engine(EngineRequest(source, path, flavour, BatchRange(1, 2, 4)))
    assert run("bench", str(path), "--backend", backend, "--batch", "1,4", "--seconds", "1", "--json", *options) == 0
    for row in json.loads(capsys.readouterr().out)["benchmark"]:
        assert row["gpu_compute_ms"] > 0
        assert (row["h2d_ms"] > 0) is (row["d2h_ms"] > 0) is ("--no-transfers" not in options)
        assert row["throughput_qps"] * row["walltime_s"] == pytest.approx(row["iterations"], rel=1e-3)
