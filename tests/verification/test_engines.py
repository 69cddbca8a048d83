"""Plans on trial. Without a GPU onnxruntime stands in for the plan and its copy; all else is what runs with one.

`pytest -m gpu` runs the real thing.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from tests import exported, tiny
from tests.cli.running import run
from tests.verification.edits import Mutation, change, file_of, least_similar, one_weight
from tests.verification.machine import Machine, StandIn, install, plan_of
from tofu_export.compare.outputs import TOLERANCES
from tofu_export.engines.building.build import EngineRequest, build_engine
from tofu_export.engines.describing.engine_file import EngineFile, read_engine_file
from tofu_export.engines.flavours import RTX, TENSORRT, available
from tofu_export.errors import BackendMissingError, OptionError, VerificationError
from tofu_export.graph_patterns.canonical import is_decision
from tofu_export.options import BatchRange, Precision
from tofu_export.system.environment import collect
from tofu_export.system.ort import open_session
from tofu_export.verification import engines as engine_verification
from tofu_export.verification.engines import EngineVerification, verify_engine
from tofu_export.verification.pair import verify_pair
from tofu_export.verification.request import VerifyRequest
from tofu_export.verification.result import VerificationResult

Array = NDArray[Any]
FP32 = TOLERANCES[Precision.FP32]

needs_no_gpu = pytest.mark.skipif(collect().gpu is not None, reason="this machine has a GPU")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return install(monkeypatch)


class TestAgainstBoth:
    """Files of this project: the eager model, and onnxruntime."""

    def test_a_right_plan(self, machine: Machine, tmp_path: Path) -> None:
        steps: list[str] = []
        path = plan_of(tmp_path, exported.folder() / "model.fp32.onnx")
        results = verify_engine(VerifyRequest(path), steps.append)
        assert [result.reference for result in results] == ["the eager model", "model.fp32.onnx"]
        for result in results:
            assert result.passed
            assert (result.artifact, result.batches, result.undecided) == ("model.engine", (1, 2, 3), 0)
            assert result.decisions.compared > 100
            assert result.outputs.max_abs < 1e-4
            assert result.tolerance.name == "fp16"
            assert "TF32" in result.notes[0]
        (request,) = machine.built  # one copy for both
        assert (request.flavour, str(request.batch), request.compute_capabilities) == (RTX, "1:2:3", ("SM89",))
        assert all(stand_in.closed for stand_in in machine.opened)
        assert "building a copy of model.engine that gives out its decisions" in steps
        assert sorted(entry.name for entry in tmp_path.iterdir()) == [
            "model.engine", "model.engine.json", "model.fp32.onnx",
        ]  # fmt: skip

    def test_another_model_fails_against_both(self, machine: Machine, tmp_path: Path) -> None:
        """The builder has changed a weight: onnxruntime and the eager model say so alike."""

        def edit(proto: onnx.ModelProto) -> None:
            change(proto, "head/Gemm", 1, lambda value: 2 * value)

        wrong = exported.changed(tmp_path / "wrong.onnx", edit=edit)
        machine.mutate_copy = edit
        path = plan_of(tmp_path, exported.folder() / "model.fp32.onnx", runs=wrong)
        results = verify_engine(VerifyRequest(path, batches=(2,)))
        assert [result.passed for result in results] == [False, False]
        assert all(result.undecided == 0 and result.decisions.wrong == 0 for result in results)

    def test_half_precision_in_bf16_is_compared_with_the_eager_model_alone(
        self, machine: Machine, tmp_path: Path
    ) -> None:
        source = exported.changed(tmp_path / "model.bf16.onnx", {"precision": "bf16"})
        runs = exported.folder() / "model.fp32.onnx"
        (result,) = verify_engine(VerifyRequest(plan_of(tmp_path, source, runs=runs, precision="bf16"), batches=(1,)))
        assert result.passed
        assert (result.reference, result.tolerance.name) == ("the eager model", "bf16")
        assert "onnxruntime's CPU provider has no bf16 kernels" in result.notes[0]

    def test_a_reference_is_compared_alone(self, machine: Machine, tmp_path: Path) -> None:
        path = plan_of(tmp_path, exported.folder() / "model.fp16.onnx", precision="fp16")
        reference = exported.folder() / "model.fp32.onnx"
        (result,) = verify_engine(VerifyRequest(path, reference=reference, batches=(1,), layers=True))
        assert (result.passed, result.reference, result.layers[0].values) == (True, "model.fp32.onnx", None)
        assert "blocks are compared of ONNX files alone" in result.notes[0]

    @pytest.mark.e2e
    def test_the_command(self, machine: Machine, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = plan_of(tmp_path, exported.folder() / "model.fp32.onnx")
        assert run("verify", str(path), "--batch", "2", "--json") == 0
        out, err = capsys.readouterr()
        assert [row["reference"] for row in json.loads(out)["verification"]] == ["the eager model", "model.fp32.onnx"]
        assert "model.engine against the eager model: passed" in err
        assert "model.engine against model.fp32.onnx: passed" in err
        machine.opened.clear()
        machine.disturb = lambda found: found["logits"].__iadd__(np.float32(np.nan))
        assert run("verify", str(path), "--batch", "2", "--json", "-q") == 4
        out, err = capsys.readouterr()
        assert [row["finite"] for row in json.loads(out)["verification"]] == [False, False]
        assert "its output has NaN or infinity" in err
        assert "Verify its ONNX file too" in err


def test_a_plan_whose_onnx_file_has_other_weights(machine: Machine, tmp_path: Path) -> None:
    """The graph beside the plan is the one that it was built from, its external data is not."""
    source = tmp_path / "made" / "model.fp32.onnx"
    source.parent.mkdir()
    model = onnx.load(exported.folder() / "model.fp32.onnx")
    onnx.save_model(model, source, save_as_external_data=True, location="weights.bin", size_threshold=1024)
    weights = tmp_path / "weights.bin"
    shutil.copyfile(source.with_name("weights.bin"), weights)
    path = plan_of(tmp_path, source)
    assert read_engine_file(path).onnx_path == tmp_path / source.name
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(OptionError, match=r"model\.fp32\.onnx with its external data weights\.bin is not the file"):
        verify_engine(VerifyRequest(path, batches=(1,)))


class TestDecisions:
    """Small files of others: onnxruntime alone."""

    def compared(
        self, machine: Machine, folder: Path, mutation: Mutation | None = None, *, copied: bool = True
    ) -> VerificationResult:
        (folder / "plan").mkdir()
        right = file_of(folder)
        runs = file_of(folder / "plan", mutation=mutation)
        machine.mutate_copy = mutation if copied else None
        path = folder / "model.engine"
        path.write_text(str(runs), encoding="utf-8")
        plan = EngineFile(path, RTX, right, BatchRange(1, 2, 4), Precision.FP32, ("SM89",))
        with EngineVerification(plan) as engine:
            return verify_pair(engine, right, tiny.pixels(8), tolerance=FP32, batches=(1, 3, 4), source="noise")

    def test_right(self, machine: Machine, tmp_path: Path) -> None:
        result = self.compared(machine, tmp_path)
        assert result.passed
        assert result.decisions.compared > 0
        assert machine.opened[1].asked == [1, 3, 4]

    def test_wrong_decisions_fail(self, machine: Machine, tmp_path: Path) -> None:
        result = self.compared(machine, tmp_path, least_similar)
        assert not result.passed
        assert result.decisions.wrong > 0

    def test_wrong_arithmetic_fails(self, machine: Machine, tmp_path: Path) -> None:
        result = self.compared(machine, tmp_path, lambda proto: change(proto, "blocks.2.mlp.fc1/MatMul", 1, one_weight))
        assert not result.passed
        assert result.decisions.wrong == 0

    def test_a_plan_that_its_copy_never_agrees_with_fails(self, machine: Machine, tmp_path: Path) -> None:
        """Only the plan itself is wrong: nothing is known of its decisions."""
        machine.disturb = lambda found: found["logits"].__imul__(1.5)
        with pytest.raises(VerificationError, match=r"model\.engine: nothing was compared.*gives out its decisions"):
            self.compared(machine, tmp_path, copied=False)

    @pytest.mark.parametrize(("images", "passes"), [(2, True), (3, False)])
    def test_a_few_images_may_be_undecided(self, images: int, passes: bool, machine: Machine, tmp_path: Path) -> None:
        """Of 8 images, at batch 1, 3, 4."""

        def disturb(found: dict[str, Array]) -> None:
            if len(found["logits"]) == 4:
                found["logits"][:images] += 1

        machine.disturb = disturb
        result = self.compared(machine, tmp_path)
        assert (result.passed, result.undecided, result.outputs.images) == (passes, images, 8 - images)
        assert result.to_dict()["images_undecided"] == images
        if not passes:
            assert "for 3 of 8 images its outputs are not those of the copy" in str(result.failure())

    def test_not_finite_fails(self, machine: Machine, tmp_path: Path) -> None:
        machine.disturb = lambda found: found["logits"].__setitem__((0, 0), np.inf)
        result = self.compared(machine, tmp_path)
        assert not result.passed
        assert "NaN or infinity" in str(result.failure())

    def test_a_plan_that_gives_its_decisions_needs_no_copy(self, machine: Machine, tmp_path: Path) -> None:
        (tmp_path / "plan").mkdir()

        def telling(proto: onnx.ModelProto) -> None:
            for node in proto.graph.node:
                for name in node.output:
                    if is_decision(name):
                        proto.graph.output.append(
                            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.INT64, None)
                        )

        plan, right = file_of(tmp_path / "plan", mutation=telling), file_of(tmp_path)
        path = plan_of(tmp_path, plan, runs=plan)
        (result,) = verify_engine(VerifyRequest(path, reference=right, batches=(2,)))
        assert result.passed
        assert result.decisions.compared > 0
        assert (machine.built, result.output) == ([], "logits")


@needs_no_gpu
def test_without_a_gpu_the_exit_code_is_that_of_a_missing_backend(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = plan_of(tmp_path, file_of(tmp_path))
    with pytest.raises(BackendMissingError, match="this machine has none with a driver"):
        verify_engine(VerifyRequest(path))
    assert run("verify", str(path), "--json") == 5
    out, err = capsys.readouterr()
    assert out == ""
    assert "tensorrt-rtx runs on an NVIDIA GPU: this machine has none" in err


def test_a_plan_without_its_onnx_file(machine: Machine, tmp_path: Path) -> None:
    path = plan_of(tmp_path, file_of(tmp_path))
    moved = (tmp_path / "model.onnx").rename(tmp_path / "elsewhere.onnx")
    path.write_text(str(moved), encoding="utf-8")
    with pytest.raises(OptionError, match=r"model\.engine was built from is not beside it.*--reference"):
        verify_engine(VerifyRequest(path))
    assert machine.opened[0].closed
    machine.opened.clear()
    (result,) = verify_engine(VerifyRequest(path, reference=moved, batches=(1,)))
    assert result.passed


def test_a_bundle_is_for_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("verify", "a.engine", "--bundle", str(tmp_path / "new")) == 2
    assert "--bundle holds an ONNX file" in capsys.readouterr().err


@pytest.mark.e2e
@pytest.mark.rtx
@pytest.mark.skipif(RTX not in available(), reason="tensorrt-rtx is not installed")
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_copy_is_what_the_plan_is(precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorRT-RTX builds it, with as many kernels; but for the result that some of them also write."""
    source = tmp_path / "model.onnx"
    shutil.copyfile(exported.folder() / f"model.{precision}.onnx", source)
    request = EngineRequest(source, tmp_path / "a.engine", RTX, BatchRange(1, 2, 3), Precision(precision), ("SM89",))
    receipts = [build_engine(request)]
    monkeypatch.setattr(engine_verification, "build_engine", lambda asked: receipts.append(build_engine(asked)))
    loaded: list[bytes] = []

    def load(path: Path, _: object) -> Any:
        loaded.append(path.read_bytes())
        return StandIn(open_session(source))

    plan = EngineFile(request.engine_path, RTX, source, request.batch, request.precision, ("SM89",))
    with EngineVerification(plan, open_session=load) as engine:
        nodes = onnx.load(source).graph.node
        engine._copy([name for node in nodes for name in node.output if is_decision(name)])
    ours, copy = (receipt.kernels.launched for receipt in receipts)
    assert len(ours) == len(copy) > 50
    different = [one for one, two in zip(ours, copy, strict=True) if one.layer_type != two.layer_type]
    assert different == []
    assert len(loaded) == 2
    assert loaded[0] != loaded[1]


@pytest.mark.gpu
@pytest.mark.skipif(collect().gpu is None, reason="no NVIDIA GPU with a driver")
@pytest.mark.parametrize("flavour", [RTX, TENSORRT], ids=["rtx", "tensorrt"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_real_plan(precision: str, flavour: Any, tmp_path: Path) -> None:
    if flavour not in available():
        pytest.skip(f"{flavour.name} is not installed")
    source = tmp_path / f"model.{precision}.onnx"
    shutil.copyfile(exported.folder() / source.name, source)
    path = tmp_path / "model.engine"
    assert run("build", str(source), "--flavour", flavour.name, "--batch", "1:2:3", "-o", str(path), "-q") == 0
    results = verify_engine(VerifyRequest(path))
    assert [result.reference for result in results] == ["the eager model", source.name]
    for result in results:
        assert result.passed, str(result.failure())
        assert result.decisions.compared > 100


def test_what_is_no_plan(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="does not exist"):
        verify_engine(VerifyRequest(tmp_path / "gone.engine"))
