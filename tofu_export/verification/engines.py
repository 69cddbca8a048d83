"""Verify a TensorRT engine: run it on the GPU, and compare it as its ONNX file is compared.

An engine exposes its outputs, not its decisions. So the decisions are read from a copy: an engine built from the same
graph for the same GPU, with decisions as outputs. If both give the same outputs for an image, they are taken to have
decided alike, and the reference follows those decisions (docs/decisions/016).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper

from tofu_export.artifact.onnx_file import load_without_weights
from tofu_export.compare.outputs import TOLERANCES, Tolerance, compare_outputs, is_real
from tofu_export.engines.building.build import EngineRequest, build_engine
from tofu_export.engines.building.turing import write_beside_links
from tofu_export.engines.describing.engine_file import EngineFile, read_engine_file
from tofu_export.engines.running.engine_session import EngineSession, open_engine
from tofu_export.errors import OptionError
from tofu_export.graph_patterns.canonical import is_decision
from tofu_export.options import Precision
from tofu_export.system import environment
from tofu_export.system.ort import TensorSpec
from tofu_export.verification.eager import batches_to_verify
from tofu_export.verification.facts import FileFacts
from tofu_export.verification.file import verify_file
from tofu_export.verification.request import VerifyRequest
from tofu_export.verification.result import VerificationResult
from tofu_export.verification.subject import Runnable

__all__ = ["EngineVerification", "tolerated", "verify_engine"]

Array = NDArray[Any]

TF32 = (
    "products of an fp32 engine may be in TF32, whose numbers are as short as those of fp16: the tolerance is that of "
    "fp16, and --tolerance fp32 is for GPUs without it"
)
"""Note on TF32: TensorRT allows it by default, and an engine does not show whether its kernels use it."""


def verify_engine(
    request: VerifyRequest, on_step: Callable[[str], None] = lambda _: None
) -> tuple[VerificationResult, ...]:
    """Compare an engine with the eager model and with its ONNX file in onnxruntime, or with `request.reference` alone.

    Args:
        request: `path` is the engine. Its sidecar names the ONNX file beside it; without a sidecar `reference` is that
            file.
        on_step: called with the name of each step.

    Returns:
        One result for each comparison. There is none with the eager model of a foreign file unless `model` names it,
        and none with onnxruntime in bf16.

    Raises:
        BackendMissingError: there is no GPU or runtime for the engine here.
        EngineBuildError: the engine cannot be loaded or run, or its copy cannot be built.
        OptionError: it is not known which ONNX file the engine was built from.
        VerificationError: the engine lacks what must be compared.
        TofuError: as in `verify_file`.
    """
    plan = read_engine_file(request.path, request.reference)
    on_step(f"loading {plan.path.name}")
    with EngineVerification(plan, on_step=on_step) as engine:
        facts = FileFacts.read(engine.graph_path)
        precision = request.precision or plan.precision or facts.precision
        notes: tuple[str, ...] = ()
        tolerance = request.tolerance
        if precision is Precision.FP32 and tolerance.name is None:
            tolerance, notes = replace(tolerance, name=TOLERANCES[tolerated(precision)].name), (TF32,)
        if request.layers:
            notes += ("blocks are compared of ONNX files alone: an engine that gives out more has other kernels",)
        batches = request.batches
        if not batches and plan.batch is not None:
            batches, capped = batches_to_verify(plan.batch)
            notes += capped
        asked = replace(
            request, path=engine.graph_path, precision=precision, tolerance=tolerance, batches=batches, layers=False
        )
        wanted: list[VerifyRequest] = []
        if request.reference is None and (facts.card.is_ours or request.model is not None):
            wanted.append(asked)
        if request.reference is not None or precision is not Precision.BF16:
            reference = request.reference or engine.graph_path
            wanted.append(
                replace(asked, reference=reference, model=None, weights=None, num_classes=None, output_kind=None)
            )
        else:
            notes += (f"not compared with {engine.graph_path.name}: onnxruntime's CPU provider has no bf16 kernels",)
        if not wanted:
            raise OptionError(
                f"{engine.graph_path.name} is bf16, which onnxruntime cannot run here, and does not say what model it "
                "is: give its timm name with --model NAME, or an fp32 file of it by --reference"
            )
        results = [verify_file(entry, on_step, engine) for entry in wanted]
    return tuple(replace(result, notes=(*notes, *result.notes)) for result in results)


def tolerated(precision: Precision) -> Precision:
    """Return the precision whose tolerance an engine is held to: FP16 for FP32, whose products may be in TF32."""
    return Precision.FP16 if precision is Precision.FP32 else precision


class EngineVerification:
    """Engine that is loaded on the GPU and, once decisions are asked for, its copy (`verify.Subject`).

    Args:
        plan: the engine to run.
        open_session: loads an engine.
        on_step: called with the name of each step.

    Raises:
        BackendMissingError: there is no GPU or runtime for the engine here.
        EngineBuildError: the engine cannot be loaded.
        OptionError: it is not known which ONNX file the engine was built from.
    """

    def __init__(
        self,
        plan: EngineFile,
        *,
        open_session: Callable[[Path, Any], EngineSession] | None = None,
        on_step: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._plan = plan
        self._open = open_session or open_engine
        self._on_step = on_step
        self._sessions = [self._open(plan.path, plan.flavour)]
        if plan.onnx_path is None:
            self.close()
            raise OptionError(
                f"the ONNX file that {plan.path.name} was built from is not beside it, and says what to compare it "
                "with: put it there, or give it with --reference"
            )
        self._graph_path = plan.onnx_path

    def __enter__(self) -> EngineVerification:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Free what is held on the GPU."""
        while self._sessions:
            self._sessions.pop().close()

    @property
    def name(self) -> str:
        """File name of the engine."""
        return self._plan.path.name

    @property
    def graph_path(self) -> Path:
        """ONNX file that the engine was built from."""
        return self._graph_path

    def open(self) -> Runnable:
        """Return the engine, without outputs that are decisions."""
        return _Plain(self._sessions[0])

    def watch(self, feeds: Sequence[Mapping[str, Array]], names: Sequence[str]) -> list[dict[str, Array]]:
        """Run the engine itself if it outputs these values, else a copy that does."""
        watched = next((entry for entry in self._sessions if set(names) <= set(entry.outputs)), None)
        watched = watched or self._copy(names)
        return [watched.run(batch) for batch in feeds]

    def same(self, seen: Mapping[str, Array], got: Mapping[str, Array], tolerance: Tolerance) -> NDArray[np.bool_]:
        """Return for each image whether the copy gives the outputs of the engine within the tolerance."""
        count = len(next(iter(got.values())))
        same = np.ones(count, dtype=np.bool_)
        for name, value in got.items():
            other = seen[name]
            for index in range(count):
                row, twin = value[index : index + 1], other[index : index + 1]
                same[index] &= (
                    compare_outputs(twin, row).within(tolerance) if is_real(value) else np.array_equal(twin, row)
                )
        return same

    def _copy(self, names: Sequence[str]) -> EngineSession:
        """Build an engine of the same graph with decisions as outputs, load it and keep it."""
        plan, source = self._plan, self._graph_path.absolute()
        self._on_step(f"building a copy of {self.name} that gives out its decisions")
        model = load_without_weights(source)
        given = {value.name for value in model.graph.output}
        model.graph.output.extend(
            helper.make_tensor_value_info(name, TensorProto.INT64, None) for name in names if name not in given
        )
        capabilities = plan.compute_capabilities
        if not capabilities and plan.flavour.ahead_of_time:
            capabilities = environment.gpu_capabilities()
        with tempfile.TemporaryDirectory(prefix="tofu-export-") as folder:
            request = EngineRequest(
                onnx_path=write_beside_links(model, source, Path(folder)),
                engine_path=Path(folder, plan.path.name),
                flavour=plan.flavour,
                batch=plan.batch,
                precision=None,
                compute_capabilities=capabilities,
            )
            build_engine(request)
            self._sessions.append(self._open(request.engine_path, plan.flavour))
        return self._sessions[-1]


@dataclass(frozen=True)
class _Plain:
    """Loaded engine with the outputs of its ONNX file only: the others are decisions."""

    session: EngineSession

    @property
    def label(self) -> str:
        return self.session.label

    @property
    def inputs(self) -> Mapping[str, TensorSpec]:
        return self.session.inputs

    @property
    def outputs(self) -> Mapping[str, TensorSpec]:
        return {name: spec for name, spec in self.session.outputs.items() if not is_decision(name)}

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        found = self.session.run(feeds)
        return {name: found[name] for name in self.outputs}
