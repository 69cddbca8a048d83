"""Build one engine in a separate process: `python -m tofu_export.engines.building._build_worker REQUEST RESULT`.

One process per build, because a failed SM75 build makes TensorRT-RTX 1.7.1 build the next engine of the process with
Turing's restrictions, because Myelin writes to stderr past the logger, and because a crash must not end the parent.
REQUEST and RESULT are JSON files; the engine goes where the request says. The parent is `build.py`.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from tofu_export.engines.building._build_log import BuildLog, make_logger
from tofu_export.engines.building._facts import BuildFacts
from tofu_export.engines.building._network import (
    allow_decomposition,
    check_precision,
    dominant_precision,
    layer_table,
    mac_table,
    node_costs,
)
from tofu_export.engines.building._process import CANNOT_WRITE
from tofu_export.engines.building.builder_options import HARDWARE
from tofu_export.engines.describing.inspector import parse_inspector
from tofu_export.engines.describing.kernel_log import KernelLog, parse_kernel_log
from tofu_export.engines.flavours import FLAVOURS, Flavour, load
from tofu_export.errors import BackendMissingError, EngineBuildError, OptionError, OutputError, TofuError
from tofu_export.options import Precision
from tofu_export.system.typed_json import to_object

__all__ = ["build_plan", "main"]


def main(arguments: list[str]) -> int:
    """Build as the request file says; return 0 if a result file was written, good or bad, else `CANNOT_WRITE`."""
    request_path, result_path = map(Path, arguments)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    request = json.loads(request_path.read_text(encoding="utf-8"))
    flavour = next(flavour for flavour in FLAVOURS if flavour.name == request["flavour"])
    try:
        result = to_object(build_plan(load(flavour), flavour, request))
    except TofuError as error:
        result = {"error": type(error).__name__, "message": str(error)}
    try:
        result_path.write_text(json.dumps(result), encoding="utf-8")
    except OSError:
        return CANNOT_WRITE  # no message can be written: the disk that it would go to is full
    return 0


def build_plan(trt: ModuleType, flavour: Flavour, request: Mapping[str, Any]) -> BuildFacts:
    """Parse, check and build; write and sync the engine, and return the facts.

    Raises:
        EngineBuildError: the parser or the builder failed.
        PrecisionMismatchError: the network does not compute in the precision asked for.
        OptionError: this version lacks an option that was asked for.
        BackendMissingError: the flavour needs a GPU and there is none.
        OutputError: the engine cannot be written.
    """
    shown = request["shown_path"]
    log = BuildLog()
    logger = make_logger(trt, log)
    builder = _make_builder(trt, flavour, logger)
    network = builder.create_network(_creation_flags(trt))
    parser = trt.OnnxParser(network, logger)  # owns the weights: must live until the build is done
    if not parser.parse_from_file(request["onnx_path"]):
        raise EngineBuildError(f"{flavour.name} cannot parse {shown}: {_parser_errors(parser, log)}")
    if network.num_layers == 0 or network.num_outputs == 0:
        raise EngineBuildError(f"{flavour.name} found no layers in {shown}: it is not a complete model")
    decomposed = allow_decomposition(trt, network)
    layers = layer_table(network)
    costs = node_costs(trt, network)
    macs = mac_table(costs)
    asked = request["precision"]
    precision = dominant_precision(layers, macs) if asked is None else Precision(asked)
    judged = mac_table([cost for cost in costs if cost.node not in request.get("wide_products", ())])
    check_precision(layers, precision, judged, request["least_share"] if asked is not None else 0.0)
    config = _make_config(trt, builder, network, request)
    cache = _open_cache(config, request["options"]["timing_cache"])
    start = time.perf_counter()
    plan = builder.build_serialized_network(network, config)
    seconds = time.perf_counter() - start
    if plan is None and (sizes := log.missing_values()):
        example = " ".join(f"--values {name}=1:5:10" for name in dict.fromkeys(sizes))
        raise EngineBuildError(
            f"{flavour.name} cannot build {shown}: sizes depend on the values of its inputs "
            f"{', '.join(map(repr, dict.fromkeys(sizes)))}: say these as MIN:OPT:MAX, for example {example}"
        )
    if plan is None:
        cause = log.cause() or "the builder returned nothing and logged no error"
        raise EngineBuildError(f"{flavour.name} cannot build {shown}: {cause}")
    _write(Path(request["plan_path"]), plan)
    if cache is not None:
        _write(Path(request["cache_draft"]), cache.serialize())
    return BuildFacts(
        version=str(trt.__version__),
        precision=precision,
        layers=layers,
        costs=tuple(costs),
        decomposable_attention=tuple(decomposed),
        kernels=_kernels(trt, logger, log, plan, inspect=request["inspect"]),
        build_seconds=seconds,
    )


def _make_builder(trt: ModuleType, flavour: Flavour, logger: Any) -> Any:
    try:
        if flavour.has_plugins:
            trt.init_libnvinfer_plugins(logger, "")
        return trt.Builder(logger)
    except Exception as error:  # pybind11 raises TypeError when the factory returns nothing, as without a driver
        raise BackendMissingError(
            f"{flavour.name} cannot start a builder ({error}): it needs a working NVIDIA driver and GPU"
        ) from error


def _creation_flags(trt: ModuleType) -> int:
    """Return the flag for strong typing, optional only in TensorRT 10; newer ones and TensorRT-RTX imply it."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _make_config(trt: ModuleType, builder: Any, network: Any, request: Mapping[str, Any]) -> Any:
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # prints the kernel list; the engine stays the same
    _set_options(trt, config, request["options"])
    capabilities = request["compute_capabilities"]
    if capabilities:
        config.num_compute_capabilities = len(capabilities)
        for index, name in enumerate(capabilities):
            config.set_compute_capability(trt.ComputeCapability.__members__[name], index)
    profiles: dict[str, list[list[int]]] = request["profiles"]
    dynamic = [tensor for tensor in map(network.get_input, range(network.num_inputs)) if -1 in tuple(tensor.shape)]
    missing = [tensor.name for tensor in dynamic if tensor.name not in profiles]
    if missing:
        raise EngineBuildError(f"inputs {missing} turn out to be dynamic, but the file declares them static")
    values: dict[str, list[list[int]]] = request.get("values", {})
    if dynamic or values or _may_hold_sizes(trt, network):
        profile = builder.create_optimization_profile()
        for tensor in dynamic:
            profile.set_shape(tensor.name, *(tuple(shape) for shape in profiles[tensor.name]))
        for name, three in values.items():
            profile.set_shape_input(name, *three)
        if config.add_optimization_profile(profile) < 0:
            raise EngineBuildError(f"the builder refused the batch profile {profiles}")
    return config


def _may_hold_sizes(trt: ModuleType, network: Any) -> bool:
    """True if an input holds integers, at most 1-D: only with a profile does the builder tell which decide sizes."""
    whole = {trt.DataType.INT32, getattr(trt.DataType, "INT64", trt.DataType.INT32)}
    inputs = map(network.get_input, range(network.num_inputs))
    return any(tensor.dtype in whole and len(tuple(tensor.shape)) <= 1 for tensor in inputs)


def _kernels(trt: ModuleType, logger: Any, log: BuildLog, plan: Any, *, inspect: bool) -> KernelLog:
    """Return the kernels by the engine inspector if there is a GPU to load the engine, else by the log."""
    printed = parse_kernel_log(log.messages)
    if not inspect:
        return printed
    engine = trt.Runtime(logger).deserialize_cuda_engine(plan)
    if engine is None:  # built for another GPU than the present one
        return printed
    inspected = parse_inspector(
        engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    )
    return replace(printed, records=inspected.records, unparsed=inspected.unparsed) if inspected.records else printed


def _set_options(trt: ModuleType, config: Any, options: Mapping[str, Any]) -> None:
    """Set the requested options of the builder.

    Raises:
        OptionError: this version lacks an option.
    """
    if options["workspace_bytes"] is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options["workspace_bytes"])
    if options["level"] is not None:
        if not hasattr(config, "builder_optimization_level"):
            raise OptionError(f"--builder-opt-level needs a newer version than {trt.__version__}")
        config.builder_optimization_level = options["level"]
    if options["hardware"] is not None:
        levels = getattr(trt, "HardwareCompatibilityLevel", None)
        config.hardware_compatibility_level = _member(trt, levels, HARDWARE[options["hardware"]], "--hw-compat")
    for wanted, flag, option in (
        (options["version_compatible"], "VERSION_COMPATIBLE", "--version-compatible"),
        (options["strip_weights"], "STRIP_PLAN", "--strip-weights"),
        (options["refit"], "REFIT", "--refit"),
    ):
        if wanted:
            config.set_flag(_member(trt, trt.BuilderFlag, flag, option))


def _member(trt: ModuleType, kind: Any, name: str, option: str) -> Any:
    member = getattr(kind, "__members__", {}).get(name)
    if member is None:
        raise OptionError(f"{option} ({name}) does not exist in version {trt.__version__}: leave it out, or upgrade")
    return member


def _open_cache(config: Any, path: str | None) -> Any:
    """Open the timing cache in a file, or an empty one if the file does not exist; None if not asked for."""
    if path is None:
        return None
    known = Path(path).read_bytes() if Path(path).is_file() else b""
    cache = config.create_timing_cache(known)
    if not config.set_timing_cache(cache, ignore_mismatch=False):
        raise EngineBuildError(f"{path} is not a timing cache of this GPU and version: delete it")
    return cache


def _parser_errors(parser: Any, log: BuildLog) -> str:
    texts = []
    for error in map(parser.get_error, range(parser.num_errors)):
        place = f"node {error.node_name()!r} ({error.node_operator()})" if error.node_name() else log.failed_at()
        texts.append(f"{place}: {error.desc()}" if place else str(error.desc()))
    return "; ".join(dict.fromkeys(texts)) or log.cause() or "no reason was given"


def _write(path: Path, plan: Any) -> None:
    try:
        with path.open("wb") as file:
            file.write(memoryview(plan))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        path.unlink(missing_ok=True)  # makes room for the result, which explains the failure
        raise OutputError(f"cannot write the engine beside its destination: {error.strerror or error}") from error


def _end_with_parent() -> None:
    """Stop at once when the parent, which holds the other end of stdin, is gone."""
    while os.read(0, 1):  # not sys.stdin: its lock, held here, would abort the interpreter when it finishes
        pass
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
