"""What is verified: something that runs, and the ONNX graph that tells what happens inside of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tofu_export.compare.outputs import Tolerance
from tofu_export.system.ort import TensorSpec, open_session
from tofu_export.verification.watch import check_same, run_copy

__all__ = ["OnnxFile", "Runnable", "Subject"]

Array = NDArray[Any]


class Runnable(Protocol):
    """A file that is loaded where it runs (`ort.OrtSession`, `engines.engine_session.EngineSession`)."""

    @property
    def label(self) -> str:
        """How messages call it."""

    @property
    def inputs(self) -> Mapping[str, TensorSpec]:
        """What `run` expects, by name."""

    @property
    def outputs(self) -> Mapping[str, TensorSpec]:
        """What `run` returns, by name."""

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """All outputs by name."""


class Subject(Protocol):
    """A file or an engine on trial."""

    @property
    def name(self) -> str:
        """How results and messages call it."""

    @property
    def graph_path(self) -> Path:
        """The ONNX file with its graph."""

    def open(self) -> Runnable:
        """Load it where it runs."""

    def watch(self, feeds: Sequence[Mapping[str, Array]], names: Sequence[str]) -> list[dict[str, Array]]:
        """Its outputs, and values called `names` from inside of it, for each batch."""

    def same(self, seen: Mapping[str, Array], got: Mapping[str, Array], tolerance: Tolerance) -> NDArray[np.bool_]:
        """For each image of a batch, whether what was watched gave the same outputs.

        Args:
            seen: of `watch`.
            got: outputs of the file itself.
            tolerance: what may differ.

        Raises:
            VerificationError: watching must not change anything, and did.
        """


class OnnxFile:
    """An ONNX file in onnxruntime; watched in a copy of it, which must give the same outputs."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def name(self) -> str:
        """Its file name."""
        return self._path.name

    @property
    def graph_path(self) -> Path:
        """The file itself."""
        return self._path

    def open(self) -> Runnable:
        """Load it in onnxruntime."""
        return open_session(self._path)

    def watch(self, feeds: Sequence[Mapping[str, Array]], names: Sequence[str]) -> list[dict[str, Array]]:
        """Run a copy that gives out these values."""
        return run_copy(self._path, feeds, names)

    def same(self, seen: Mapping[str, Array], got: Mapping[str, Array], tolerance: Tolerance) -> NDArray[np.bool_]:
        """True for all images, or an error."""
        check_same(seen, got, tolerance, self.name)
        return np.ones(len(next(iter(got.values()))), dtype=np.bool_)
