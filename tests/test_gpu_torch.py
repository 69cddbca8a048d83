"""The measurement in PyTorch on a GPU, tried on the CPU: which cells come first, what is timed, what the table says."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch.autograd import DeviceType

from tests import tiny
from tests.imports import ROOT, loaded_scripts
from tofu_export.options import Mode, Precision, Reduction
from tofu_export.trace.export import in_precision

TRIED = ["--device", "cpu", "--tiny", "--r", "5", "--batches", "2", "--sweeps", "r"]
ABSENT = ("onnx", "onnx_ir", "onnxscript", "onnxruntime", "matplotlib", "click", "rich", "jinja2", "tensorrt", "pandas")


@pytest.fixture(scope="module")
def scripts() -> Iterator[dict[str, ModuleType]]:
    with loaded_scripts("benchmarks", "blocks", "exports", "gpu_runner", "gpu_cells", "gpu_torch") as modules:
        yield modules


@pytest.fixture
def runner(scripts: dict[str, ModuleType]) -> ModuleType:
    return scripts["gpu_runner"]


@pytest.fixture
def cells(scripts: dict[str, ModuleType]) -> ModuleType:
    return scripts["gpu_cells"]


@pytest.fixture
def script(scripts: dict[str, ModuleType]) -> ModuleType:
    return scripts["gpu_torch"]


@pytest.mark.e2e
def test_it_needs_pytorch_and_timm_alone(tmp_path: Path) -> None:
    """A process of its own, in which nothing else can be imported, measures and writes both files."""
    page = tmp_path / "gpu.md"
    page.write_text("# GPU\n\n<!-- gpu-torch -->\nold\n<!-- end of gpu-torch -->\nrest\n", encoding="utf-8")
    code = f"""
import importlib.util, runpy, sys
from importlib.machinery import PathFinder
class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in {ABSENT!r} else PathFinder.find_spec(name, path, target)
sys.meta_path = [Without if finder is PathFinder else finder for finder in sys.meta_path]
assert not any(map(importlib.util.find_spec, {ABSENT!r}))
sys.path[:0] = [{str(ROOT / "benchmarks")!r}, {str(ROOT)!r}]
sys.argv = ["gpu_torch.py", *{[*TRIED, "--write", str(page), "--json", str(tmp_path / "more" / "torch.json")]!r}]
runpy.run_path({str(ROOT / "benchmarks" / "gpu_torch.py")!r}, run_name="__main__")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    text = page.read_text(encoding="utf-8")
    assert text.startswith("# GPU\n") and text.endswith("<!-- end of gpu-torch -->\nrest\n") and "old" not in text
    full, reduced = [line for line in text.splitlines() if line.startswith("| test_vit ")]
    assert full.startswith("| test_vit | torch | fp32 | 2 | 0 | full |  |")
    assert reduced.startswith("| test_vit | torch | fp32 | 2 | 5 | mlerp | on |")
    document = json.loads((tmp_path / "more" / "torch.json").read_text(encoding="utf-8"))
    first, second = document["rows"]
    assert second["plan"] == {"r": 5, "pattern": "PPPMMM", "prop_attn": True}
    assert second["realised"] == pytest.approx(second["over_full"] * second["gmacs"] / first["gmacs"])
    assert 0 < second["kernels"]["reduction"] < second["kernels"]["every"]
    assert first["kernels"]["reduction"] == 0 < first["kernels"]["every"] < second["kernels"]["every"]
    assert (first["over_full"], second["peak_gb"], document["left"]) == (1.0, None, {})


def test_the_most_important_cells_come_first(cells: ModuleType) -> None:
    order = cells.cells_of(("a", "b"), ("torch", "torch-compile", "onnxruntime"), ("fp16", "tf32", "fp32"), (64, 1),
                           ("r", "methods"), {"a": (4, 2), "b": (8,)})  # fmt: skip
    named = [str(cell) for cell in order]
    assert named[0] == "a, torch, fp16, batch 64, r"
    assert set(named[1:5]) == {
        "b, torch, fp16, batch 64, r", "a, torch, tf32, batch 64, r", "a, torch, fp16, batch 1, r",
        "a, torch, fp16, batch 64, methods",
    }  # fmt: skip
    assert "a, torch-compile, fp16, batch 64, r" in named[5:13]
    assert len(set(named)) == len(named) == 2 * 2 * 3 * (2 + 1) + 2 * 2 * 2  # eagerly, compiled; in onnxruntime
    assert not [cell for cell in order if cell.backend != "torch" and cell.sweep == "methods"]


def test_what_a_cell_compares(cells: ModuleType) -> None:
    several = cells.Cell("vit_base", "torch", "fp16", 64, "r", cells.PAPER_R["vit_base"]).reductions
    assert [reduction.r for reduction in several.values()] == [0, 8, 12, 16, 20]
    compiled = cells.Cell("vit_base", "torch-compile", "fp16", 64, "r", cells.PAPER_R["vit_base"]).reductions
    assert [reduction.r for reduction in compiled.values()] == [0, 16]
    methods = list(cells.Cell("vit_base", "torch", "fp16", 64, "methods", (16, 8)).reductions.values())[1:]
    assert {(one.mode, one.prop_attn) for one in methods} == {(mode, sizes) for mode in Mode for sizes in (True, False)}
    assert {one.r for one in methods} == {16}


@pytest.mark.e2e
def test_the_time_is_kept(script: ModuleType, cells: ModuleType) -> None:
    """A cell begins if what its backend took so far still fits; one that fails is said and the others go on."""
    now = 0.0
    dear = {"torch": 10.0, "torch-compile": 100.0}

    def take(cell: Any) -> list[str]:
        nonlocal now
        now += dear[cell.backend]
        if cell.batch == 3:
            raise torch.OutOfMemoryError("no memory\nand more")
        return ["row"]

    kinds = (("torch", 1), ("torch", 3), ("torch-compile", 1), ("torch-compile", 2), ("torch", 2), ("torch", 4))
    asked = [cells.Cell("m", backend, "fp32", batch, "r", (4,)) for backend, batch in kinds]
    came = [(cell.backend, cell.batch, rows, why) for cell, rows, why in script.run(asked, take, 145.0, lambda: now)]
    assert came == [
        ("torch", 1, ["row"], ""),
        ("torch", 3, [], "OutOfMemoryError: no memory"),
        ("torch-compile", 1, [], "no time was left"),  # 20 + 1.25 * 120
        ("torch-compile", 2, [], "no time was left"),
        ("torch", 2, ["row"], ""),
        ("torch", 4, ["row"], ""),
    ]
    now = 0.0
    came = [(cell.backend, why) for cell, _, why in script.run(asked[2:], take, 200.0, lambda: now)]
    assert came == [
        ("torch-compile", ""), ("torch-compile", "no time was left"), ("torch", ""), ("torch", ""),
    ]  # fmt: skip


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.FP16, Precision.BF16])
def test_models_share_weights_and_compute_as_in_an_export(runner: ModuleType, precision: Precision) -> None:
    model, reduction = tiny.build("cls"), Reduction(r=3, mode=Mode.MLERP)
    dtype = {Precision.FP32: torch.float32, Precision.FP16: torch.float16, Precision.BF16: torch.bfloat16}[precision]
    weights = runner.weights_on(model, "cpu", dtype)
    full = runner.reduced_on(model, tiny.plan_of("cls", Reduction(r=0)), weights)
    reduced = runner.reduced_on(model, tiny.plan_of("cls", reduction), weights)
    assert {parameter.data_ptr() for parameter in full.parameters()} == {
        parameter.data_ptr() for parameter in reduced.parameters()
    }
    pixels = torch.from_numpy(tiny.pixels(2)).to(dtype)
    with torch.inference_mode():
        assert torch.equal(full(pixels), in_precision(model, precision)(pixels))
        assert torch.equal(reduced(pixels), in_precision(tiny.reduced("cls", reduction), precision)(pixels))
        assert not torch.equal(reduced(pixels), full(pixels))


def test_numbers_that_are_not_finite_are_no_result(runner: ModuleType) -> None:
    model = tiny.build("cls")
    model.head.bias.fill_(float("nan"))
    with pytest.raises(runner.ExportError, match="not finite"):
        runner.TorchRunner(model, "cpu", compiled=False).bind({"input": tiny.pixels(1)})


def test_tf32_ends_where_it_began(runner: ModuleType) -> None:
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    for tf32, name in ((True, "high"), (False, "highest")):
        with pytest.raises(KeyError), runner.float32_products(tf32):
            assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == (name, tf32)
            raise KeyError
        assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == before


def event(name: str, *children: Any, kernels: tuple[float, ...] = (), device: Any = DeviceType.CPU) -> Any:
    return SimpleNamespace(
        name=name, cpu_children=list(children), kernels=[SimpleNamespace(duration=us) for us in kernels],
        device_type=device, self_cpu_time_total=2000.0,
    )  # fmt: skip


def test_kernels_are_those_of_the_operators_below_a_range(runner: ModuleType) -> None:
    """What the profiler attaches to a range itself is the range again, on the GPU; medians over three queries."""

    def query(own: float) -> Any:
        matching = event("aten::bmm", event("cudaLaunchKernel", kernels=(own,)))
        reduction = event(runner.REDUCTION, matching, event("aten::sort", kernels=(own, own)), kernels=(999.0,))
        return event(runner.QUERY, event("aten::linear", kernels=(6000.0,)), reduction, kernels=(9999.0,))

    on_gpu = event(runner.QUERY, event("aten::add", kernels=(5.0,)), device=DeviceType.CUDA)
    kernels = runner.kernels_of([query(500.0), on_gpu, query(1000.0), query(7000.0)], on_gpu=True)
    assert (kernels.reduction, kernels.every) == (3, 4)
    assert (kernels.reduction_ms, kernels.every_ms) == (3.0, 9.0)
    assert kernels.share == pytest.approx(1 / 3)
    on_cpu = runner.kernels_of([query(500.0)] * 3, on_gpu=False)
    assert (on_cpu.reduction, on_cpu.every) == (3, 4)
    assert (on_cpu.reduction_ms, on_cpu.every_ms) == (6.0, 8.0)


def test_compiled_models_are_timed(
    scripts: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(scripts["gpu_runner"], "COMPILER", "eager")
    monkeypatch.setattr(scripts["gpu_runner"], "COMPILE_MODE", None)
    assert scripts["gpu_torch"].main([*TRIED, "--minutes", "9", "--backends", "torch-compile"]) == 0
    out, err = capsys.readouterr()
    assert out.count("| test_vit | torch-compile | fp32 | 2 |") == 2
    assert "test_vit, torch-compile, fp32, batch 2, r: 2 models" in err


@pytest.mark.thorough
def test_files_are_timed_where_onnxruntime_is(script: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert script._onnxruntime_runs("cpu")
    assert script.main([*TRIED, "--minutes", "9", "--backends", "onnxruntime", "--numerics", "tf32"]) == 0
    assert capsys.readouterr().out.count("| test_vit | onnxruntime | tf32 | 2 |") == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--numerics", "fp8"], "'fp8', expected some of fp16, tf32, fp32, bf16"),
        (["--r", "4,4"], "expected whole numbers from 1 on, each once"),
        (["--batches", "0"], "expected whole numbers from 1 on"),
        pytest.param([], "finds no GPU here", marks=pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")),
    ],
)
def test_what_cannot_be_used(
    arguments: list[str], words: str, script: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        script.main(arguments)
    assert end.value.code == 2
    assert words in capsys.readouterr().err


def test_nothing_measured_writes_nothing(script: ModuleType, tmp_path: Path) -> None:
    page = tmp_path / "gpu.md"
    page.write_text("as it was", encoding="utf-8")
    assert script.main([*TRIED, "--minutes", "0", "--write", str(page)]) == 1
    assert page.read_text(encoding="utf-8") == "as it was"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU that PyTorch finds")
def test_a_gpu_takes_the_times(script: ModuleType, tmp_path: Path) -> None:
    found = tmp_path / "torch.json"
    backends = ["--backends", "torch,torch-compile", "--numerics", "fp16"]
    assert script.main(["--tiny", *TRIED[3:], *backends, "--json", str(found)]) == 0
    rows = json.loads(found.read_text(encoding="utf-8"))["rows"]
    assert [row["cell"]["backend"] for row in rows] == ["torch", "torch", "torch-compile", "torch-compile"]
    assert all(row["peak_gb"] > 0 for row in rows)
    assert 0 < rows[1]["kernels"]["reduction_ms"] < rows[1]["kernels"]["every_ms"]
