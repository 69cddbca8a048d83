"""Build a TensorRT engine from an ONNX file: checked before, isolated while, and described after."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tofu_export.engines._process import run_worker
from tofu_export.engines.flavours import TURING, Flavour, known_capabilities, load
from tofu_export.engines.kernel_log import KernelLog
from tofu_export.engines.preflight import InputShape, preflight
from tofu_export.engines.receipt import EngineReceipt
from tofu_export.errors import EngineBuildError, OptionError, OutputError
from tofu_export.files import flush_to_disk, sha256_of
from tofu_export.options import BatchRange, Precision

__all__ = ["EngineRequest", "batch_profiles", "build_engine", "resolve_capabilities"]

Profile = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
"""Smallest, preferred and largest shape of an input."""


@dataclass(frozen=True)
class EngineRequest:
    """One engine to build.

    Attributes:
        onnx_path: the file; its types are the engine's.
        engine_path: where the plan goes; its folder is made if need be.
        flavour: which TensorRT.
        batch: batch sizes of the optimisation profile.
        precision: what the file is typed as, to be held against what the builder finds.
        compute_capabilities: `SM80`, `SM89`, …; empty for all that share one plan (SM80 and newer). None for classic
            TensorRT, which builds for the GPU of this machine.
        workspace_bytes: limit for scratch memory; None for the builder's default.

    Raises:
        OptionError: values that cannot go together.
    """

    onnx_path: Path
    engine_path: Path
    flavour: Flavour
    batch: BatchRange = field(default_factory=BatchRange)
    precision: Precision = Precision.FP32
    compute_capabilities: tuple[str, ...] = ()
    workspace_bytes: int | None = None

    def __post_init__(self) -> None:
        names = tuple(dict.fromkeys(name.strip().upper() for name in self.compute_capabilities))
        object.__setattr__(self, "compute_capabilities", names)
        if self.workspace_bytes is not None and self.workspace_bytes <= 0:
            raise OptionError(f"workspace is {self.workspace_bytes} bytes, expected more than 0, or none for no limit")
        if names and not self.flavour.ahead_of_time:
            raise OptionError(
                f"{self.flavour.name} builds for the GPU of this machine and takes no compute capabilities "
                f"({', '.join(names)}): leave them out, or build with tensorrt-rtx"
            )
        if TURING in names and len(names) > 1:
            raise OptionError(
                f"{TURING} (Turing) cannot share an engine with {', '.join(n for n in names if n != TURING)}: in one "
                "list it degrades the plan for all of them; build it as an engine of its own"
            )
        if TURING in names and self.precision is not Precision.FP16:
            reason = "BF16" if self.precision is Precision.BF16 else "FP32 matrix products"
            raise OptionError(
                f"{self.flavour.name} has no {reason} on {TURING} (Turing): build it in fp16, or for SM80 and newer"
            )


def build_engine(request: EngineRequest, *, on_tick: Callable[[float], None] | None = None) -> EngineReceipt:
    """Build the engine in a process of its own and put it at `request.engine_path`, complete or not at all.

    Args:
        request: what to build.
        on_tick: called with the elapsed seconds about ten times a second; what it raises ends the build, after which
            nothing is left behind.

    Raises:
        OptionError: the options do not fit the file or the flavour.
        BackendMissingError: the flavour is not usable here.
        EngineBuildError: the file cannot be built.
        PrecisionMismatchError: the file does not compute in the precision asked for.
        OutputError: the engine cannot be written.
    """
    load(request.flavour)
    capabilities = resolve_capabilities(request)
    onnx_path, engine_path = request.onnx_path.absolute(), request.engine_path.absolute()
    checked = preflight(onnx_path, request.flavour)
    profiles = batch_profiles(checked.inputs, request.batch)
    with _scratch_folder(engine_path) as folder:
        draft = Path(folder, "plan")
        facts = run_worker(
            {
                "onnx_path": str(onnx_path),
                "plan_path": str(draft),
                "flavour": request.flavour.name,
                "profiles": profiles,
                "precision": request.precision.value,
                "compute_capabilities": capabilities,
                "workspace_bytes": request.workspace_bytes,
            },
            Path(folder),
            on_tick,
        )
        if not draft.is_file() or draft.stat().st_size == 0:
            raise EngineBuildError(f"{request.flavour.name} reported success for {onnx_path}, but wrote no plan")
        receipt = EngineReceipt(
            flavour=request.flavour.name,
            version=facts["version"],
            compute_capabilities=capabilities,
            batch=request.batch,
            profiles=profiles,
            precision=request.precision,
            layers=facts["layers"],
            decomposable_attention=tuple(facts["decomposable_attention"]),
            kernels=KernelLog.from_dict(facts["kernels"]),
            notes=tuple(map(str, checked.notes)),
            engine_path=request.engine_path,
            engine_bytes=draft.stat().st_size,
            engine_sha256=sha256_of(draft),
            onnx_path=request.onnx_path,
            onnx_sha256=sha256_of(onnx_path),
            build_seconds=facts["build_seconds"],
        )
        _publish(draft, engine_path)
    return receipt


def batch_profiles(inputs: tuple[InputShape, ...], batch: BatchRange) -> dict[str, Profile]:
    """Shapes of every dynamic input at the batch sizes; static inputs need none.

    Raises:
        EngineBuildError: an axis other than the batch varies.
        OptionError: the file is static, and its batch is not the one asked for.
    """
    for entry in inputs:
        for index, axis in enumerate(entry.axes):
            if index and isinstance(axis, str):
                raise EngineBuildError(
                    f"input {entry.name!r} has the dynamic axis {index} ({axis!r}), but only axis 0, the batch, may "
                    "vary: export it with a fixed size there"
                )
    dynamic = [entry for entry in inputs if not entry.is_static]
    fixed = {axis for entry in inputs for axis in entry.axes[:1]}
    if not dynamic and inputs and not (batch.minimum == batch.maximum and batch.minimum in fixed):
        sizes = " or ".join(map(str, sorted(fixed, key=str))) or "none"
        raise OptionError(
            f"the file is exported for a fixed batch ({sizes}), but {batch} was asked for: "
            f"give --batch {sizes}, or export with a dynamic batch"
        )
    return {entry.name: _profile(entry, batch) for entry in dynamic}


def _profile(entry: InputShape, batch: BatchRange) -> Profile:
    rest = tuple(int(axis) for axis in entry.axes[1:])
    return (batch.minimum, *rest), (batch.optimum, *rest), (batch.maximum, *rest)


def resolve_capabilities(request: EngineRequest) -> tuple[str, ...]:
    """The capabilities to build for, in ascending order, so that the order asked for does not change the plan.

    Raises:
        OptionError: the flavour cannot build for one of them.
        BackendMissingError: the flavour is not usable here.
    """
    known = known_capabilities(request.flavour)
    if not request.compute_capabilities:
        return tuple(name for name in known if name != TURING)
    unknown = [name for name in request.compute_capabilities if name not in known]
    if unknown:
        raise OptionError(
            f"{request.flavour.name} cannot build for {', '.join(unknown)}, expected some of {', '.join(known)}"
        )
    return tuple(name for name in known if name in request.compute_capabilities)


def _scratch_folder(engine_path: Path) -> tempfile.TemporaryDirectory[str]:
    """A hidden folder beside the destination (one file system, so that a rename publishes), removed on leaving."""
    if engine_path.is_dir():
        raise OutputError(f"{engine_path} is a folder, expected a file name for the engine")
    try:
        engine_path.parent.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryDirectory(prefix=f".{engine_path.name}.", dir=engine_path.parent)
    except OSError as error:
        raise OutputError(f"cannot write to {engine_path.parent}: {error}; choose a writable output folder") from error


def _publish(draft: Path, engine_path: Path) -> None:
    try:
        draft.replace(engine_path)
    except OSError as error:
        raise OutputError(f"cannot put the engine at {engine_path}: {error}") from error
    flush_to_disk(engine_path.parent)
