"""Subjects of verification: something that runs, and the ONNX graph that describes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tofu_export.artifact.onnx_file import load_without_weights
from tofu_export.compare.outputs import Tolerance
from tofu_export.system.ort import TensorSpec, exact_threads, open_session
from tofu_export.verification.watch import check_same, run_copy

__all__ = ["OnnxFile", "Runnable", "Subject"]

Array = NDArray[Any]


class Runnable(Protocol):
    """File that is loaded where it runs (`ort.OrtSession`, `engines.engine_session.EngineSession`)."""

    @property
    def label(self) -> str:
        """Name in messages."""

    @property
    def inputs(self) -> Mapping[str, TensorSpec]:
        """Inputs that `run` expects, by name."""

    @property
    def outputs(self) -> Mapping[str, TensorSpec]:
        """Outputs that `run` returns, by name."""

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run a batch and return all outputs by name."""


class Subject(Protocol):
    """File or engine to verify."""

    @property
    def name(self) -> str:
        """Name in results and messages."""

    @property
    def graph_path(self) -> Path:
        """ONNX file that holds the graph."""

    def open(self) -> Runnable:
        """Load the subject where it runs."""

    def watch(self, feeds: Sequence[Mapping[str, Array]], names: Sequence[str]) -> list[dict[str, Array]]:
        """Return its outputs, and the inner values called `names`, for each batch."""

    def same(self, seen: Mapping[str, Array], got: Mapping[str, Array], tolerance: Tolerance) -> NDArray[np.bool_]:
        """Return for each image of a batch whether the watched run gave the same outputs.

        Args:
            seen: values from `watch`.
            got: outputs of the subject itself.
            tolerance: the differences to allow.

        Raises:
            VerificationError: watching changed the outputs.
        """


class OnnxFile:
    """ONNX file in onnxruntime; its inner values are read from a copy, which must give the same outputs."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def name(self) -> str:
        """File name."""
        return self._path.name

    @property
    def graph_path(self) -> Path:
        """Path of the file itself."""
        return self._path

    def open(self) -> Runnable:
        """Load the file in onnxruntime."""
        return open_session(self._path, threads=exact_threads(load_without_weights(self._path)))

    def watch(self, feeds: Sequence[Mapping[str, Array]], names: Sequence[str]) -> list[dict[str, Array]]:
        """Run a copy that outputs these values."""
        return run_copy(self._path, feeds, names)

    def same(self, seen: Mapping[str, Array], got: Mapping[str, Array], tolerance: Tolerance) -> NDArray[np.bool_]:
        """Return True for all images, or raise if outputs differ."""
        check_same(seen, got, tolerance, self.name)
        return np.ones(len(next(iter(got.values()))), dtype=np.bool_)
