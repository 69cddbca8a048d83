"""Build a TensorRT engine from an ONNX file: checked before, isolated meanwhile, and described after."""

from __future__ import annotations

import errno
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tofu_export.artifact.external import sha256_of_model
from tofu_export.engines.building._process import run_worker
from tofu_export.engines.building.builder_options import BuilderOptions, cache_file, check_options
from tofu_export.engines.building.capabilities import able, check_able
from tofu_export.engines.building.preflight import Preflight, preflight, read_graph_file
from tofu_export.engines.building.profiles import Profile, make_profiles
from tofu_export.engines.building.turing import write_beside_links
from tofu_export.engines.describing.fusions import attention_products, find_fusions
from tofu_export.engines.describing.receipt import EngineReceipt
from tofu_export.engines.describing.structure import make_structure
from tofu_export.engines.flavours import TURING, Flavour, known_capabilities, load
from tofu_export.errors import EngineBuildError, OptionError, OutputError
from tofu_export.options import AttentionForm, BatchRange, Precision
from tofu_export.system import environment
from tofu_export.system.files import flush_to_disk, is_text, sha256_of

__all__ = ["LEAST_SHARE", "EngineRequest", "build_engine", "check_request", "engine_names", "resolve_capabilities"]

LEAST_SHARE = 0.9
"""Smallest share of the multiply-accumulates that a file of FP16 or BF16 must have in its type. The similarity of a
reduction, which stays in FP32, takes less than one percent of a vision transformer."""


@dataclass(frozen=True)
class EngineRequest:
    """One engine to build.

    Attributes:
        onnx_path: the file; its types are the engine's.
        engine_path: path of the engine to write; its folder is created if needed.
        flavour: which TensorRT.
        batch: batch sizes of the optimisation profile; None for 1:8:64, or the fixed size of the file.
        precision: precision of the file, to be checked in the built engine; None for the one in its metadata (files of
            this project), else for the type of most of its arithmetic.
        compute_capabilities: `SM80`, `SM89`, …; empty for all that share one engine (SM80 and newer). None for classic
            TensorRT, which builds for the GPU of this machine.
        shapes: all sizes of inputs that leave more than their batch open.
        values: smallest, preferred and largest values of inputs that decide sizes, such as the k of a TopK.
        least_share: smallest share of the multiply-accumulates in the precision asked for, FP16 or BF16.
        options: further options of the builder.

    Raises:
        OptionError: values contradict each other.
    """

    onnx_path: Path
    engine_path: Path
    flavour: Flavour
    batch: BatchRange | None = field(default_factory=BatchRange)
    precision: Precision | None = Precision.FP32
    compute_capabilities: tuple[str, ...] = ()
    shapes: Mapping[str, Profile] = field(default_factory=dict)
    values: Mapping[str, Profile] = field(default_factory=dict)
    least_share: float = LEAST_SHARE
    options: BuilderOptions = field(default_factory=BuilderOptions)

    def __post_init__(self) -> None:
        names = tuple(dict.fromkeys(name.strip().upper() for name in self.compute_capabilities))
        object.__setattr__(self, "compute_capabilities", names)
        check_options(self.options, self.flavour)
        if not 0 <= self.least_share <= 1:
            raise OptionError(f"least_share is {self.least_share}, expected a share from 0 to 1")
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


def check_request(request: EngineRequest) -> tuple[tuple[str, ...], Preflight, dict[str, Profile]]:
    """Check what can be checked before a build: return capabilities, the inspected file, and the shapes to serve.

    Raises:
        OptionError: the options do not fit the file or the flavour.
        BackendMissingError: the flavour is not usable here.
        EngineBuildError: the file cannot be built.
    """
    resolve_capabilities(request)
    if not is_text(request.onnx_path):
        raise EngineBuildError(
            f"{request.flavour.name} cannot open {str(request.onnx_path)!r}, a path that is not UTF-8: rename it"
        )
    checked = preflight(request.onnx_path.absolute(), request.flavour, request.compute_capabilities)
    capabilities = resolve_capabilities(request, checked.card.precision)
    if TURING in capabilities and _widens(checked):
        raise OptionError(
            f"{TURING} has no FP32 matrix products, which {request.onnx_path.name} has in its attention: for that "
            "export it with --attention unfused"
        )
    names = [entry.name for entry in checked.inputs]
    if unknown := [name for name in request.values if name not in names]:
        raise OptionError(
            f"values are given for {', '.join(unknown)}, but the inputs of the file are: {', '.join(names)}"
        )
    return capabilities, checked, make_profiles(checked.inputs, request.batch, request.shapes)


def build_engine(request: EngineRequest, *, on_tick: Callable[[float], None] | None = None) -> EngineReceipt:
    """Build an engine in a separate process and put it at `request.engine_path`, complete or not at all.

    Args:
        request: the engine to build.
        on_tick: called with the elapsed seconds about ten times a second; an exception from it ends the build and
            leaves no files.

    Raises:
        OptionError: the options do not fit the file or the flavour.
        BackendMissingError: the flavour is not usable here.
        EngineBuildError: the file cannot be built.
        PrecisionMismatchError: the file does not compute in the precision asked for.
        OutputError: the engine cannot be written.
    """
    version = str(load(request.flavour).__version__)
    capabilities, checked, profiles = check_request(request)
    onnx_path, engine_path = request.onnx_path.absolute(), request.engine_path.absolute()
    about, onnx_sha256 = environment.collect(), sha256_of_model(onnx_path)
    options = asdict(request.options)
    cache = request.options.timing_cache
    if cache is not None:
        cache = cache_file(cache.absolute(), about.gpu, version, onnx_sha256)
        if not cache.parent.is_dir():
            raise OutputError(f"{cache.parent}, the folder of the timing cache, does not exist: create it")
    precision = request.precision or checked.card.precision
    with _scratch_folder(engine_path) as folder:
        draft, cache_draft = Path(folder, "plan"), Path(folder, "timing-cache")
        source, graph = onnx_path, checked.rewritten
        if graph is not None:
            source = write_beside_links(graph, onnx_path, Path(folder))
        built = (graph or read_graph_file(onnx_path)).graph
        facts = run_worker(
            {
                "onnx_path": str(source),
                "shown_path": str(request.onnx_path),
                "plan_path": str(draft),
                "cache_draft": str(cache_draft),
                "flavour": request.flavour.name,
                "profiles": profiles,
                "values": {name: list(map(list, three)) for name, three in request.values.items()},
                "precision": None if precision is None else precision.value,
                "least_share": request.least_share,
                "wide_products": attention_products(built) if _widens(checked) else [],
                "compute_capabilities": capabilities,
                "inspect": about.gpu is not None and not request.options.strip_weights,
                "options": {**options, "timing_cache": None if cache is None else str(cache)},
            },
            Path(folder),
            on_tick,
        )
        if not draft.is_file() or draft.stat().st_size == 0:
            raise EngineBuildError(f"{request.flavour.name} reported success for {onnx_path}, but wrote no plan")
        fusions = find_fusions(built, facts.kernels)
        remarks = () if fusions is None else fusions.remarks(facts.precision)
        receipt = EngineReceipt(
            flavour=request.flavour.name,
            version=facts.version,
            compute_capabilities=capabilities,
            gpu=None if request.flavour.ahead_of_time else about.gpu,
            driver=about.driver,
            batch=request.batch,
            profiles=profiles,
            precision=facts.precision,
            options=request.options.asked,
            layers=facts.layers,
            structure=make_structure(built, facts.costs, facts.kernels),
            fusions=fusions,
            decomposable_attention=facts.decomposable_attention,
            kernels=facts.kernels,
            notes=(*map(str, checked.notes), *checked.remarks, *_advice(facts.precision), *remarks),
            engine_path=request.engine_path,
            engine_bytes=draft.stat().st_size,
            engine_sha256=sha256_of(draft),
            onnx_path=request.onnx_path,
            onnx_sha256=onnx_sha256,
            build_seconds=facts.build_seconds,
            card=checked.card,
        )
        if cache is not None:
            _publish(cache_draft, cache)
        _publish(draft, engine_path)
    return receipt


def engine_names(name: str, capabilities: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return the names of the engines that serve these capabilities, and the capabilities of each.

    SM75 never shares an engine, as in a list it degrades the engine for all: then `model.engine` is for the others, and
    `model.sm75.engine` for SM75.
    """
    names = tuple(dict.fromkeys(entry.strip().upper() for entry in capabilities if entry.strip()))
    others = tuple(entry for entry in names if entry != TURING)
    if TURING not in names or not others:
        return {name: names}
    stem, dot, suffix = name.rpartition(".")
    return {name: others, (f"{stem}.{TURING.lower()}{dot}{suffix}" if dot else f"{name}.{TURING.lower()}"): (TURING,)}


def _widens(checked: Preflight) -> bool:
    """True for a file of this project whose attention multiplies in FP32 on purpose."""
    return checked.card.find("attention", str) == AttentionForm.FP32_ACCUMULATE.value


def _advice(precision: Precision) -> tuple[str, ...]:
    """Return notes on an engine of this precision."""
    if precision.built:
        return ()
    return (
        "what is not int8 in this engine is FP32, slower on a GPU than FP16: for engines export the model with "
        "--precision int8-fp16, or fp8 from SM89 on",
    )


def resolve_capabilities(request: EngineRequest, declared: Precision | None = None) -> tuple[str, ...]:
    """Return the capabilities to build for, in ascending order, so that the requested order does not change the engine.

    Args:
        request: the engine to build.
        declared: the precision that the file states, if the request names none.

    Raises:
        OptionError: the flavour cannot build for one of them.
        BackendMissingError: the flavour is not usable here.
    """
    known = known_capabilities(request.flavour)
    precision = request.precision or declared
    if not request.compute_capabilities:
        return tuple(name for name in known if name != TURING and able(name, precision))
    unknown = [name for name in request.compute_capabilities if name not in known]
    if unknown:
        raise OptionError(
            f"{request.flavour.name} cannot build for {', '.join(unknown)}, expected some of {', '.join(known)}"
        )
    check_able(request.flavour, request.compute_capabilities, precision)
    return tuple(name for name in known if name in request.compute_capabilities)


def _scratch_folder(engine_path: Path) -> tempfile.TemporaryDirectory[str]:
    """Return a hidden folder beside the destination (one file system, so that a rename publishes), removed on exit."""
    if engine_path.is_dir():
        raise OutputError(f"{engine_path} is a folder, expected a file name for the engine")
    try:
        engine_path.parent.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryDirectory(prefix=f".{engine_path.name}.", dir=engine_path.parent)
    except OSError as error:
        raise OutputError(f"cannot write to {engine_path.parent}: {error}; choose a writable output folder") from error


def _publish(draft: Path, path: Path) -> None:
    try:
        try:
            draft.replace(path)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            shutil.copyfile(draft, path)  # a timing cache on another disk
        flush_to_disk(path.parent)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
