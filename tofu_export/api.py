"""The Python API: what `import tofu_export` gives.

Every function does what the command of the same name does, and raises the errors of `tofu_export.errors`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_origin, get_type_hints

from tofu_export.errors import OptionError
from tofu_export.options import PLAN_SUFFIXES, BatchRange, HaltingOptions, Precision, Reduction, Schedule, Target
from tofu_export.options.declaration import Option, choice_of, option_of, plain_type, read_value

if TYPE_CHECKING:
    from torch import nn

    from tofu_export.benchmarking.comparison import BenchResult
    from tofu_export.diffusion.options import UnetReduction
    from tofu_export.engines.describing.receipt import EngineReceipt
    from tofu_export.job.progress import Listener
    from tofu_export.linting import LintReport
    from tofu_export.linting.lower_file import LoweredFile
    from tofu_export.planning.plan import ModelSpec, Plan
    from tofu_export.report.document import UnetReport, VitReport
    from tofu_export.verification.result import VerificationResult

__all__ = [
    "apply",
    "bench",
    "build_engine",
    "export",
    "export_unet",
    "lint",
    "lower",
    "plan",
    "remove",
    "verify",
]

PathLike = str | Path
Job = TypeVar("Job")


def plan(
    model: nn.Module | str,
    reduction: Reduction | None = None,
    *,
    image_size: tuple[int, int] | None = None,
    num_classes: int | None = None,
) -> Plan:
    """Plan how many tokens each layer of a model removes, and what that saves, without touching the model.

    Args:
        model: a live timm model, or the name of one.
        reduction: how many tokens leave, where and how; None for r = 16.
        image_size: height and width in pixels; None for the model's own.
        num_classes: width of the classifier of a model given by name; None for its own.

    Returns:
        The plan: its `layers` with tokens in and out, `gmacs_full` and `gmacs_reduced` per image.

    Raises:
        UnknownModelError: no model has that name.
        UnsupportedModelError: the model is not a plain Vision Transformer.
        OptionError: the reduction does not fit the model.

    Source: arXiv 2312.01026, section 3.3.
    """
    from tofu_export.planning.plan import make_plan
    from tofu_export.zoo.specs import plan_model

    reduction = reduction or Reduction()
    if isinstance(model, str):
        return plan_model(model, reduction, image_size, num_classes)[1]
    return make_plan(_spec_of(model, image_size), reduction)


def apply(model: nn.Module, reduction: Reduction | Plan | None = None) -> nn.Module:
    """Reduce the tokens of a live timm model, in place.

    The model stays trainable, its parameters and their names stay as they are, and `remove` takes the reduction off
    again. A plan that the model already carries is replaced.

    Args:
        model: a plain Vision Transformer of timm, in any dtype, on any device.
        reduction: how many tokens leave, where and how, or a plan for the model; None for r = 16.

    Returns:
        The same model.

    Raises:
        UnsupportedModelError: the model is not a plain Vision Transformer.
        OptionError: the reduction does not fit the model.
        ValueError: the plan is for another depth or prefix.

    Source: arXiv 2312.01026, section 3.
    """
    from tofu_export import patch
    from tofu_export.planning.plan import Plan
    from tofu_export.zoo.live import name_of

    if not isinstance(reduction, Plan):
        reduction = plan(model, reduction)
    return patch.apply(model, reduction, name=name_of(model))


def remove(model: nn.Module) -> nn.Module:
    """Take the reduction off a live model, in place; a model without a reduction is left as it is.

    Returns:
        The same model.
    """
    from tofu_export import patch

    return patch.remove(model)


def export(
    model: nn.Module | str,
    output: PathLike,
    reduction: Reduction | Plan | None = None,
    *,
    listener: Listener | None = None,
    **options: Any,
) -> VitReport:
    """Export a Vision Transformer with Token Fusion: ONNX files, verification, benchmark, engines, report.

    Args:
        model: name of a timm model, or a live one, which is copied and not changed.
        output: folder for the files; nothing appears in it before all of them are complete.
        reduction: how many tokens leave, where and how; None for the plan that a live model carries, or r = 16.
        listener: receives the progress; None to discard it.
        **options: further fields of `tofu_export.job.request.Job`, such as `weights="random"`, `precisions=("fp16",)`,
            `batch="1:8:64"`, `images="photos"`, `engine=False`, `bench=False`. Texts are read as on the command line.

    Returns:
        What `report.json` holds: files, verification, times.

    Raises:
        VerificationError: a file does not compute what the model computes. No model is written then.
        TofuError: any other step failed.
    """
    from tofu_export import patch
    from tofu_export.job.pipeline import run_export
    from tofu_export.job.request import Job
    from tofu_export.job.vit import VitAdapter
    from tofu_export.system.python_call import Name, python_call
    from tofu_export.zoo.live import architecture_of

    if isinstance(model, str):
        live, name = None, model
    else:
        if given := sorted({"weights", "num_classes"} & set(options)):
            raise OptionError(f"a live model brings its own {' and '.join(given)}: leave that out")
        live, name = model, architecture_of(model)
        reduction = patch.applied_plan(model) if reduction is None else reduction
    wanted = None if reduction is None else _reduction(reduction)
    call = python_call("export", name if live is None else Name("model"), str(output), wanted, **options)
    if live is not None:
        call = f"# model: the live {name} of the program that called\n{call}"
    job = _job(Job, name, output, {"command": call, "reduction": wanted or Reduction(), **options})
    return run_export(job, VitAdapter(job, live), listener or _Silent())


def export_unet(
    model: str,
    output: PathLike,
    reduction: UnetReduction | None = None,
    *,
    listener: Listener | None = None,
    **options: Any,
) -> UnetReport:
    """Export Stable Diffusion's UNet with Token Fusion before its self-attention.

    Args:
        model: `sd15`, `sd21`, `sdxl`, `tiny`, or a diffusers folder of a UNet or a pipeline.
        output: folder for the files.
        reduction: which tokens leave, and where; None for half of them, as in the paper.
        listener: receives the progress; None to discard it.
        **options: further fields of `tofu_export.diffusion.job.UnetJob`, such as `weights="random"`.

    Raises:
        TofuError: a step failed, as in `export`.

    Source: arXiv 2312.01026, section 4.3.
    """
    from tofu_export.diffusion.adapter import run_unet_job
    from tofu_export.diffusion.job import UnetJob
    from tofu_export.system.python_call import python_call

    call = python_call("export_unet", model, str(output), reduction, **options)
    asked = {} if reduction is None else {"reduction": reduction}
    return run_unet_job(_job(UnetJob, model, output, {"command": call, **asked, **options}), listener or _Silent())


def verify(path: PathLike, **options: Any) -> tuple[VerificationResult, ...]:
    """Compare an ONNX file or a TensorRT engine with the model that it was made from, or with another file.

    Args:
        path: the file.
        **options: further fields of `tofu_export.verification.VerifyRequest`, such as `reference="full.onnx"`,
            `weights="model.safetensors"`, `images="photos"`, `batches=(1, 8)`.

    Returns:
        One result for an ONNX file; for an engine one against the eager model and one against its ONNX file. Look at
        `passed`: a wrong file does not raise.

    Raises:
        VerificationError: the file lacks what must be compared.
        TofuError: a file or model cannot be read, built or run.
    """
    from tofu_export.verification.engines import verify_engine
    from tofu_export.verification.file import verify_file
    from tofu_export.verification.request import VerifyRequest

    request = VerifyRequest(Path(path), **_read(VerifyRequest, options))
    return verify_engine(request) if Path(path).suffix in PLAN_SUFFIXES else (verify_file(request),)


def lower(
    source: PathLike,
    path: PathLike,
    target: Target | str = Target.PORTABLE,
    *,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    seed: int = 0,
) -> LoweredFile:
    """Rewrite what a runtime rejects in an ONNX file of any exporter, and compare the result in onnxruntime.

    Args:
        source: the file to read; it is not changed.
        path: the file to write.
        target: the runtime to write for.
        shapes: all sizes of inputs that leave more than the batch open, by name.
        seed: of the random inputs that both are run on.

    Returns:
        What was rewritten, what was left and why, and how much the outputs differ.

    Raises:
        VerificationError: the result computes something else.
        TofuError: the file cannot be read, fed or written.
    """
    from tofu_export.linting.lower_file import lower_file
    from tofu_export.system.files import staging

    path = Path(path)
    if path.resolve() == Path(source).resolve():
        raise OptionError(f"{path} is the original itself: choose another name")
    with staging(path.parent) as stage:
        result = lower_file(Path(source), stage.path(path.name), choice_of(Target, target), shapes=shapes, seed=seed)
        data = f"{path.name}.data"
        stage.publish(*([data] if stage.path(data).exists() else []), path.name)
    return result


def lint(
    path: PathLike, target: Target | str = Target.PORTABLE, *, compute_capabilities: Sequence[str] = ()
) -> LintReport:
    """Look for what a runtime would reject, ignore or silently change in an ONNX file, without running it.

    Args:
        path: the file.
        target: the runtime that it is checked for.
        compute_capabilities: GPUs that it is meant for, such as SM89.

    Raises:
        OptionError: there is no such file.
        ExportError: it is not an ONNX file.
    """
    from tofu_export.linting import lint_file, runtimes_of

    return lint_file(Path(path), runtimes_of(choice_of(Target, target)), tuple(compute_capabilities))


def build_engine(
    path: PathLike,
    engine: PathLike | None = None,
    *,
    flavour: str | None = None,
    batch: BatchRange | str | int | None = None,
    precision: Precision | str | None = None,
    compute_capabilities: Sequence[str] = (),
) -> EngineReceipt:
    """Build a TensorRT engine from any ONNX file, and write a .json sidecar that describes it.

    Args:
        path: the ONNX file.
        engine: path of the engine; None to write it beside the file.
        flavour: `tensorrt` or `tensorrt-rtx`; None for the one that is installed.
        batch: batch sizes to serve; None for 1:8:64, or what the file is fixed to.
        precision: precision that the file must have; None for the one it states.
        compute_capabilities: GPUs that a TensorRT-RTX engine runs on; empty for SM80 and newer.

    Returns:
        Size, kernels and precision of every layer.

    Raises:
        BackendMissingError: no TensorRT is installed.
        EngineBuildError: the builder refuses the graph or fails on it.
        PrecisionMismatchError: too little of the engine computes in the precision of the file.
    """
    from tofu_export.engines.building.build import EngineRequest
    from tofu_export.engines.building.build import build_engine as build
    from tofu_export.engines.describing.sidecar import write_sidecar
    from tofu_export.engines.flavours import pick

    chosen, path = pick(flavour), Path(path)
    request = EngineRequest(
        onnx_path=path,
        engine_path=path.with_name(f"{path.stem}.{chosen.name}.engine") if engine is None else Path(engine),
        flavour=chosen,
        batch=BatchRange.parse(str(batch)) if isinstance(batch, int | str) else batch,
        precision=None if precision is None else choice_of(Precision, precision),
        compute_capabilities=tuple(compute_capabilities),
    )
    receipt = build(request)
    write_sidecar(receipt, request.engine_path, {})
    return receipt


def bench(*paths: PathLike, batches: Sequence[int] = (), **options: Any) -> BenchResult:
    """Time files against each other in one process, their runs interleaved.

    Args:
        *paths: ONNX files of any exporter, engines, or names of models for PyTorch; the first one is the baseline.
        batches: batch sizes; empty for the one that the files are fixed to, or else 1.
        **options: further fields of `tofu_export.benchmarking.comparison.BenchOptions`, such as `min_seconds=3.0` or
            `backends=("ort-cpu",)`.

    Returns:
        Latency in milliseconds and images per second of each file and batch size, and ratios to the first file.

    Raises:
        TofuError: a file cannot be read or run.
    """
    from tofu_export.benchmarking.comparison import compare_files
    from tofu_export.benchmarking.options import BenchOptions

    return compare_files(
        tuple(map(Path, paths)), BenchOptions(**_read(BenchOptions, {"batches": tuple(batches), **options}))
    )


class _Silent:
    """Listener that discards all progress."""

    def step(self, text: str) -> None: ...

    def tick(self, text: str) -> None: ...

    def done(self, text: str) -> None: ...


def _spec_of(model: nn.Module, image_size: tuple[int, int] | None) -> ModelSpec:
    from tofu_export.patch.describe import describe
    from tofu_export.zoo.live import name_of, on_meta

    return describe(on_meta(model), name_of(model), image_size)


def _reduction(given: Reduction | Plan) -> Reduction:
    """Return a reduction that reproduces a given plan exactly; a reduction is returned as it is."""
    from tofu_export.planning.plan import Plan

    if not isinstance(given, Plan):
        return given
    return replace(
        given.reduction,
        r=tuple(layer.removed for layer in given.layers),
        keep_rate=None,
        gmacs=None,
        speedup=None,
        pattern=given.pattern,
        prune_layers=None,
        schedule=Schedule.CONSTANT,
        prop_attn=given.prop_attn,
        halting=given.reduction.halting if given.halting is None else HaltingOptions.of(given.halting),
        from_plan=True,
    )


def _job(kind: type[Job], model: str, output: PathLike, options: Mapping[str, Any]) -> Job:
    return kind(model=model, output=Path(output), **_read(kind, options))  # type: ignore[call-arg]  # all jobs have both


def _read(kind: type[Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Convert options to fields of a dataclass, parsing texts as the command line does.

    Raises:
        OptionError: there is no such field, or a text cannot be read.
    """
    known = {field.name: option_of(field) for field in fields(kind) if field.name not in ("model", "output", "path")}
    if unknown := sorted(set(options) - set(known)):
        raise OptionError(f"{', '.join(unknown)}: no such option, expected some of {', '.join(sorted(known))}")
    hints = get_type_hints(kind)
    return {name: _value(value, plain_type(hints[name]), known[name]) for name, value in options.items()}


def _value(value: Any, hint: Any, option: object) -> Any:
    """Return the value of a field, read from text, a path, a number for a range, or several names of choices."""
    if value is None or hint is Path:
        return value and Path(value)
    parts = get_args(hint) if get_origin(hint) is tuple else ()
    if isinstance(value, Path) or (isinstance(value, int) and hint is BatchRange):
        value = str(value)
    elif not isinstance(value, str) and parts and isinstance(parts[0], type) and issubclass(parts[0], Enum):
        value = ",".join(choice_of(parts[0], one).value for one in value)
    if not isinstance(value, str):
        return value
    if isinstance(option, Option):
        return read_value(Path(value) if option.typed is Path else value, hint, option)
    return hint.parse(value) if hasattr(hint, "parse") else value  # a group of options, such as the weights
