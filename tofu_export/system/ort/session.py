"""A model that is loaded in onnxruntime: its inputs and outputs, and runs of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tofu_export.errors import ExportError, OptionError
from tofu_export.system.ort.failures import is_native, reason_of

__all__ = ["OrtSession", "TensorSpec", "session_of"]

Array = npt.NDArray[Any]

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
                if not is_native(error):
                    raise
                raise ExportError(
                    f"{self.label} loads in onnxruntime but fails when it runs: {reason_of(error)}. "
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


def session_of(label: str, provider: str, native: Any) -> OrtSession:
    """Describe an `onnxruntime.InferenceSession`.

    Args:
        label: name of the model in messages.
        provider: execution provider in use.
        native: the session.

    Raises:
        ExportError: an input or output has a type that numpy does not, or a name is not text.
    """
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
        raise ExportError(f"{label} is damaged: {reason_of(error)}. Copy or export it again") from error


def _spec(label: str, value: Any) -> TensorSpec:
    if value.type not in _NUMPY_TYPES:
        number = value.type.startswith("tensor(") and "string" not in value.type
        trouble = "which numpy cannot hold" if number else "which is neither fed nor compared here"
        advice = "Export in fp32 or fp16 to run it in onnxruntime" if number else "Export the model without it"
        raise ExportError(
            f"{label}: {value.name} is a {value.type}, {trouble}; expected one of {', '.join(sorted(_NUMPY_TYPES))}. "
            f"{advice}"
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
