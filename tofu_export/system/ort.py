"""The only import of onnxruntime: sessions that run on the requested provider, or fail with the reason.

onnxruntime answers a provider that cannot start with a session on the CPU and no exception, and wraps every other
failure in its own exceptions. Here both become a `TofuError` of one line, and a good run prints nothing.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tofu_export.errors import BackendMissingError, ExportError, OptionError, TofuError
from tofu_export.system.files import is_text, require_file

if TYPE_CHECKING:
    import onnx

__all__ = [
    "CPU_PROVIDER",
    "EXACT_INT8",
    "HALF_THROUGH_CASTS",
    "NO_BFLOAT16",
    "OPTIMIZED_NAME",
    "OrtSession",
    "TensorSpec",
    "check_path",
    "open_copy",
    "open_session",
    "providers_usable",
    "rejection",
    "version",
]

_logger = logging.getLogger(__name__)

NO_BFLOAT16 = "onnxruntime's CPU provider has no bfloat16 kernels"
HALF_THROUGH_CASTS = "onnxruntime's CPU provider computes half precision through casts"
"""Reason why a file is not run on a CPU, for reports."""

CPU_PROVIDER = "CPUExecutionProvider"

EXACT_INT8 = "session.x64quantprecision"
"""Session option that keeps int8 products exact on x86-64 without VNNI, where onnxruntime's default adds pairs of them
in 16 bits, which overflow. Elsewhere it has no effect. Source: `onnxruntime_session_options_config_keys.h`."""

OPTIMIZED_NAME = "optimized.onnx"
"""Name of the graph that a profiled session runs, in the folder of its profile."""

Array = npt.NDArray[Any]

_REMOTE_PROVIDERS = frozenset({"AzureExecutionProvider"})
"""Providers that send tensors to a service; they accept any model and run none of it here."""

_SHARED_ZEROS = ("Attempt to replace the existing tensor", "Initializer with same name exists")
"""Errors of onnxruntime (1.31, 1.23) when it makes weights with common zero points exact."""

_FLOAT8 = "tensor(float8"
"""Part of onnxruntime's error on an FP8 graph that it has broken itself: beyond the basic level its optimiser moves
operators without FP8 kernels, such as Transpose, between QuantizeLinear and DequantizeLinear (1.31)."""

_LOG_ERROR, _LOG_FATAL = 3, 4

_NUMPY_TYPES: Mapping[str, type[np.generic]] = {
    "tensor(bool)": np.bool_,
    "tensor(double)": np.float64,
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int8)": np.int8,
    "tensor(int16)": np.int16,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(uint8)": np.uint8,
    "tensor(uint16)": np.uint16,
    "tensor(uint32)": np.uint32,
    "tensor(uint64)": np.uint64,
}


class TensorSpec(NamedTuple):
    """Type and shape of one input or output.

    Attributes:
        dtype: numpy type.
        shape: one size per axis, None if dynamic. `()` stands for a scalar and for a shape that the file does not
            state, because onnxruntime reports both alike.
    """

    dtype: np.dtype[Any]
    shape: tuple[int | None, ...]

    def __str__(self) -> str:
        return f"{self.dtype.name}[{', '.join('?' if size is None else str(size) for size in self.shape)}]"


@dataclass(frozen=True)
class OrtSession:
    """Model loaded in onnxruntime, on the requested provider. Made by `open_session`.

    Attributes:
        label: name of the model in messages.
        provider: execution provider in use.
        inputs: inputs of `run`, by name.
        outputs: outputs of `run`, by name.
        metadata: metadata of the file (`metadata_props`).
        native: the `onnxruntime.InferenceSession`.
    """

    label: str
    provider: str
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    metadata: Mapping[str, str]
    native: Any

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run the model and return all outputs by name.

        Raises:
            OptionError: a feed is missing, unknown, or has another dtype, rank or fixed size than the model states.
            ExportError: onnxruntime fails while it runs the graph.
        """
        return self.bind(feeds)()

    def bind(self, feeds: Mapping[str, Array]) -> Callable[[], dict[str, Array]]:
        """Return a function that runs the model on these feeds; they are checked here, so a timed call holds no checks.

        Raises:
            OptionError: as in `run`.
        """
        _check_feeds(self.label, self.inputs, feeds)
        ready = {name: np.ascontiguousarray(feed) for name, feed in feeds.items()}
        names = list(self.outputs)

        def call() -> dict[str, Array]:
            try:
                return dict(zip(names, self.native.run(names, ready), strict=True))
            except Exception as error:
                if not _is_native(error):
                    raise
                raise ExportError(
                    f"{self.label} loads in onnxruntime but fails when it runs: {_reason(error)}. "
                    "Export it for another target or precision; `check-model FILE` (from onnx) may tell more"
                ) from error

        return call

    def end_profiling(self) -> Path:
        """Stop the profiler that `open_session(profile_into=...)` started, and return the trace that it wrote.

        Raises:
            OptionError: the session was opened without a profiler.
        """
        if not self.native.get_session_options().enable_profiling:
            raise OptionError(f"{self.label} was opened without a profiler: open it with profile_into=FOLDER")
        return Path(self.native.end_profiling())


def open_session(
    model: Path | bytes,
    *,
    provider: str = CPU_PROVIDER,
    threads: int | None = None,
    share_cores: bool = False,
    profile_into: Path | None = None,
) -> OrtSession:
    """Load an ONNX file, or its bytes.

    Args:
        model: file, or serialised ModelProto without external data.
        provider: execution provider that must be used; nodes that it does not know still run on the CPU.
        threads: threads inside one operator; None lets onnxruntime take one per physical core.
        share_cores: stop the worker threads from spinning once a run ends. They otherwise wait actively for the next
            one and take the cores from every other session of the process.
        profile_into: an existing folder: every kernel is timed, for `end_profiling`, and the graph as it runs is saved
            there as `OPTIMIZED_NAME`. Both slow the session down; never take its speed from such runs.

    Raises:
        OptionError: threads is not a number >= 1.
        BackendMissingError: onnxruntime is not installed or broken, or the provider cannot be used here.
        ExportError: the file is missing, cut short, not ONNX, invalid, or lacks its external data.
    """
    if threads is not None and (isinstance(threads, bool) or threads < 1):
        raise OptionError(f"threads is {threads!r}, expected a whole number >= 1, or none for the default")
    ort = _onnxruntime()
    if provider not in ort.get_available_providers():
        raise BackendMissingError(
            f"{provider} is not in the installed onnxruntime {ort.__version__}, which has "
            f"{', '.join(ort.get_available_providers())}. {_provider_hint(provider)}"
        )
    label = f"the model ({len(model)} bytes)" if isinstance(model, bytes) else str(model)
    if isinstance(model, Path):
        check_path(model)
        require_file(model, "an ONNX file")
    options = _options(ort, provider, threads, share_cores)
    if profile_into is not None:
        _profile(options, profile_into)
    return _open(ort, label, model, provider, options)


def open_copy(model: onnx.ModelProto, path: Path) -> OrtSession:
    """Load a changed copy of the file at `path`, on the CPU, without writing it anywhere.

    Args:
        model: the copy. Its weights may be external: in files beside `path`, or in that file itself
            (`tofu_export.artifact.onnx_file`).
        path: the file that the copy was made from.

    Raises:
        BackendMissingError: onnxruntime is not installed or broken.
        ExportError: the copy is invalid, external data is missing, or the path is not UTF-8.
    """
    ort = _onnxruntime()
    check_path(path)
    options = _options(ort, CPU_PROVIDER, None, share_cores=False)
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path.parent.resolve()))
    return _open(ort, f"a copy of {path}", model.SerializeToString(), CPU_PROVIDER, options)


def rejection(model: onnx.ModelProto, path: Path) -> str:
    """Return why onnxruntime does not load a copy of a file, empty if it does. The copy is not optimised for that.

    Args:
        model: the copy, as for `open_copy`.
        path: the file that the copy was made from.

    Raises:
        BackendMissingError: onnxruntime is not installed or broken.
    """
    ort = _onnxruntime()
    options = _options(ort, CPU_PROVIDER, 1, share_cores=False)
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path.parent.resolve()))
    try:
        ort.InferenceSession(model.SerializeToString(), options, providers=[CPU_PROVIDER], enable_fallback=0)
    except Exception as error:
        if not _is_native(error):
            raise
        return _reason(error)
    return ""


def check_path(path: Path) -> None:
    """Refuse a path that onnxruntime cannot open.

    Raises:
        ExportError: the path is not UTF-8.
    """
    if not is_text(path):
        raise ExportError(f"onnxruntime cannot open {str(path)!r}, a path that is not UTF-8: rename the file or folder")


def _options(ort: Any, provider: str, threads: int | None, share_cores: bool) -> Any:
    options = ort.SessionOptions()
    # Failures on the CPU come as exceptions, so their log lines would only repeat them. A GPU provider that cannot
    # start raises nothing: the cause (a missing library, say) is in the log alone.
    options.log_severity_level = _LOG_FATAL if provider == CPU_PROVIDER else _LOG_ERROR
    if threads is not None:
        options.intra_op_num_threads = threads
    if share_cores:
        options.add_session_config_entry("session.force_spinning_stop", "1")
    options.add_session_config_entry(EXACT_INT8, "1")
    return options


def _open(ort: Any, label: str, model: Path | bytes, provider: str, options: Any) -> OrtSession:
    native = _load(ort, label, model, provider, options)
    if native.get_providers()[0] != provider:
        raise BackendMissingError(
            f"{provider} is in the installed onnxruntime but could not start: onnxruntime fell back to "
            f"{native.get_providers()[0]}. {_provider_hint(provider)}"
        )
    try:
        return OrtSession(
            label=label,
            provider=provider,
            inputs=MappingProxyType({value.name: _spec(label, value) for value in native.get_inputs()}),
            outputs=MappingProxyType({value.name: _spec(label, value) for value in native.get_outputs()}),
            metadata=MappingProxyType(dict(native.get_modelmeta().custom_metadata_map)),
            native=native,
        )
    except UnicodeDecodeError as error:
        raise ExportError(f"{label} is damaged: {_reason(error)}. Copy or export it again") from error


def providers_usable() -> tuple[str, ...]:
    """Return the providers that start here, best first.

    Each one is tried on a one-node model: onnxruntime's own list names what was compiled in (onnxruntime-gpu lists
    CUDA without any GPU).

    Raises:
        BackendMissingError: onnxruntime is not installed or broken.
    """
    ort = _onnxruntime()
    probe = _probe_model()
    ort.set_default_logger_severity(_LOG_FATAL)
    try:
        return tuple(name for name in ort.get_available_providers() if _starts(probe, name))
    finally:
        ort.set_default_logger_severity(_LOG_ERROR)


def version() -> str:
    """Return the version of the installed onnxruntime.

    Raises:
        BackendMissingError: onnxruntime is not installed or broken.
    """
    return str(_onnxruntime().__version__)


def _onnxruntime() -> Any:
    # From 1.29 on the published Linux and macOS packages report to Microsoft, from the import on, unless this is set
    # before. Source: https://github.com/microsoft/onnxruntime/pull/27379. Who wants that may set it to 0.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    install = "install it with `pip install onnxruntime`, or `pip install onnxruntime-gpu` for NVIDIA GPUs (only one)"
    try:
        import onnxruntime as ort
    except ModuleNotFoundError as error:
        if error.name != "onnxruntime":
            raise BackendMissingError(f"onnxruntime lacks the package {error.name}: {install}") from error
        raise BackendMissingError(f"onnxruntime is not installed: {install}") from error
    except ImportError as error:
        raise BackendMissingError(f"onnxruntime is installed but cannot be loaded ({error}): {install}") from error
    if not hasattr(ort, "InferenceSession"):
        # What is left when one of onnxruntime and onnxruntime-gpu is removed: an empty folder that still imports.
        raise BackendMissingError(f"onnxruntime is installed but empty: uninstall both variants, then {install}")
    ort.set_default_logger_severity(_LOG_ERROR)
    return ort


def _profile(options: Any, folder: Path) -> None:
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "trace")
    options.optimized_model_filepath = str(folder / OPTIMIZED_NAME)
    # Weights go to a file of their own: the graph can then be read without them, and has no limit of 2 GiB.
    options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "optimized.data")
    options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "1024")


def _load(ort: Any, label: str, model: Path | bytes, provider: str, options: Any) -> Any:
    source = model if isinstance(model, bytes) else str(model)

    def load() -> Any:
        # Without enable_fallback=0 onnxruntime prints on stdout and retries on another provider.
        return ort.InferenceSession(source, options, providers=[provider], enable_fallback=0)

    try:
        try:
            return load()
        except Exception as error:
            if not _settle(ort, label, options, str(error)):
                raise
            return load()
    except Exception as error:
        if not _is_native(error):
            raise
        if type(error).__name__ == "EPFail":
            raise BackendMissingError(
                f"{provider} could not start: {_reason(error)}. {_provider_hint(provider)}"
            ) from error
        raise ExportError(f"onnxruntime cannot load {label}: {_reason(error)}. {_load_hint(_reason(error))}") from error


def _settle(ort: Any, label: str, options: Any, reason: str) -> bool:
    """Change the options so that a valid file loads despite onnxruntime's optimiser; False if that is not the cause."""
    if _FLOAT8 in reason:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        return True
    if any(words in reason for words in _SHARED_ZEROS):
        options.add_session_config_entry(EXACT_INT8, "0")
        _logger.warning(
            "%s: int8 products are exact on CPUs with VNNI only: weights share one tensor of zero points, for "
            "which onnxruntime has no other exact form",
            label,
        )
        return True
    return False


def _is_native(error: Exception) -> bool:
    """True for an error of onnxruntime itself; its exceptions share no base class, and pybind11 adds RuntimeError.

    If a message has a name that is not UTF-8, pybind11 raises UnicodeDecodeError instead.
    """
    return type(error).__module__.startswith("onnxruntime") or type(error) in (RuntimeError, UnicodeDecodeError)


def _reason(error: Exception) -> str:
    """Return the message on one line, without onnxruntime's prefixes."""
    if isinstance(error, UnicodeDecodeError):
        return "it holds a name that is not text"
    if not str(error).strip():  # form of such a message in 1.23
        return "it gives no reason, as for a name that is not text"
    line = " ".join(str(error).split())
    line = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", line)
    line = re.sub(r"^Load model from .*? failed:\s*", "", line).rstrip(". ")
    return line if len(line) <= 400 else f"{line[:397]}..."


def _load_hint(reason: str) -> str:
    lowered = reason.lower()
    if "external data" in lowered or "filesystem error" in lowered:  # message of 1.21 to 1.23
        return "Weights over 2 GB lie in a second file: keep it beside the .onnx file under the name it had"
    if "protobuf" in lowered:
        return "It is not an ONNX file, or it is cut short: copy or export it again"
    return "`check-model FILE`, which comes with onnx, may tell more; or export it again"


def _provider_hint(provider: str) -> str:
    if provider in ("CUDAExecutionProvider", "TensorrtExecutionProvider"):
        return (
            'It needs an NVIDIA GPU with its driver, and `pip install "tofu-export[gpu]"` after '
            "`pip uninstall onnxruntime`; or ask for the CPU"
        )
    return f"Ask for {CPU_PROVIDER}, or install an onnxruntime that has it"


def _spec(label: str, value: Any) -> TensorSpec:
    if value.type not in _NUMPY_TYPES:
        raise ExportError(
            f"{label}: {value.name} is a {value.type}, which numpy cannot hold; expected one of "
            f"{', '.join(sorted(_NUMPY_TYPES))}. Export in fp32 or fp16 to run it in onnxruntime"
        )
    shape = tuple(size if isinstance(size, int) else None for size in value.shape)
    return TensorSpec(np.dtype(_NUMPY_TYPES[value.type]), shape)


def _check_feeds(label: str, inputs: Mapping[str, TensorSpec], feeds: Mapping[str, Array]) -> None:
    expected = ", ".join(f"{name} {spec}" for name, spec in inputs.items())
    missing = [name for name in inputs if name not in feeds]
    unknown = [name for name in feeds if name not in inputs]
    if missing or unknown:
        wrong = [f"{', '.join(missing)} missing"] * bool(missing) + [f"{', '.join(unknown)} unknown"] * bool(unknown)
        raise OptionError(f"feeds of {label}: {' and '.join(wrong)}; expected {expected}")
    for name, spec in inputs.items():
        feed = feeds[name]
        if not isinstance(feed, np.ndarray):
            raise OptionError(f"feed {name} of {label} is a {type(feed).__name__}, expected a numpy array {spec}")
        if feed.dtype != spec.dtype:
            raise OptionError(
                f"feed {name} of {label} has dtype {feed.dtype}, expected {spec}: convert it with .astype()"
            )
        if not _fits(feed.shape, spec.shape):
            raise OptionError(f"feed {name} of {label} has shape {list(feed.shape)}, expected {spec}")


def _fits(shape: tuple[int, ...], spec: tuple[int | None, ...]) -> bool:
    if not spec:  # a scalar or unstated: only onnxruntime knows which
        return True
    return len(shape) == len(spec) and all(want in (None, got) for got, want in zip(shape, spec, strict=True))


def _probe_model() -> bytes:
    from onnx import TensorProto, helper

    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "probe", value[:1], value[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return bytes(model.SerializeToString())


def _starts(probe: bytes, provider: str) -> bool:
    if provider in _REMOTE_PROVIDERS:
        return False
    try:
        open_session(probe, provider=provider).run({"x": np.ones(1, np.float32)})
    except TofuError:
        return False
    return True
