"""Load a model in onnxruntime on the requested provider, or say why that fails."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tofu_export.errors import BackendMissingError, ExportError, OptionError
from tofu_export.system.files import is_text, require_file
from tofu_export.system.ort.failures import is_native, load_hint, reason_of
from tofu_export.system.ort.int8 import EXACT_INT8, products_overflow
from tofu_export.system.ort.package import CPU_PROVIDER, LOG_ERROR, LOG_FATAL, onnxruntime, provider_hint
from tofu_export.system.ort.races import exact_threads
from tofu_export.system.ort.session import OrtSession, session_of

if TYPE_CHECKING:
    import onnx

__all__ = ["OPTIMIZED_NAME", "check_path", "open_copy", "open_session", "rejection"]

_logger = logging.getLogger(__name__)

OPTIMIZED_NAME = "optimized.onnx"
"""Name of the graph that a profiled session runs, in the folder of its profile."""

_SHARED_ZEROS = ("Attempt to replace the existing tensor", "Initializer with same name exists")
"""Errors of onnxruntime (1.31, 1.23) when it makes weights with common zero points exact."""

_FLOAT8 = "tensor(float8"
"""Part of onnxruntime's error on an FP8 graph that it has broken itself: beyond the basic level its optimiser moves
operators without FP8 kernels, such as Transpose, between QuantizeLinear and DequantizeLinear (1.31)."""


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
    ort = onnxruntime()
    if provider not in ort.get_available_providers():
        raise BackendMissingError(
            f"{provider} is not in the installed onnxruntime {ort.__version__}, which has "
            f"{', '.join(ort.get_available_providers())}. {provider_hint(provider)}"
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
    ort = onnxruntime()
    check_path(path)
    options = _options(ort, CPU_PROVIDER, exact_threads(model), share_cores=False)
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
    ort = onnxruntime()
    options = _options(ort, CPU_PROVIDER, 1, share_cores=False)
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path.parent.resolve()))
    try:
        ort.InferenceSession(model.SerializeToString(), options, providers=[CPU_PROVIDER], enable_fallback=0)
    except Exception as error:
        if not is_native(error):
            raise
        return reason_of(error)
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
    options.log_severity_level = LOG_FATAL if provider == CPU_PROVIDER else LOG_ERROR
    if threads is not None:
        options.intra_op_num_threads = threads
    if share_cores:
        options.add_session_config_entry("session.force_spinning_stop", "1")
    if products_overflow():
        options.add_session_config_entry(EXACT_INT8, "1")
    return options


def _open(ort: Any, label: str, model: Path | bytes, provider: str, options: Any) -> OrtSession:
    native = _load(ort, label, model, provider, options)
    if native.get_providers()[0] != provider:
        raise BackendMissingError(
            f"{provider} is in the installed onnxruntime but could not start: onnxruntime fell back to "
            f"{native.get_providers()[0]}. {provider_hint(provider)}"
        )
    return session_of(label, provider, native)


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
        if not is_native(error):
            raise
        if type(error).__name__ == "EPFail":
            raise BackendMissingError(
                f"{provider} could not start: {reason_of(error)}. {provider_hint(provider)}"
            ) from error
        raise ExportError(
            f"onnxruntime cannot load {label}: {reason_of(error)}. {load_hint(reason_of(error))}"
        ) from error


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
