"""Run a TensorRT plan on the GPU of this machine, through Polygraphy.

A query is synchronous: inputs are copied to the device, kernels run on one stream, outputs are copied back. Polygraphy
does not tell how long each of that takes, so plans are timed by `plan_timing`. No plan has been run with it so far, for
lack of a GPU: the tests here use stand-ins, and those marked `gpu` compare with onnxruntime.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from tofu_export.artifact.feeds import as_asked
from tofu_export.engines.describing.sidecar import read_sidecar
from tofu_export.engines.flavours import RTX, Flavour, load
from tofu_export.errors import BackendMissingError, EngineBuildError, OptionError
from tofu_export.system import environment
from tofu_export.system.files import require_file
from tofu_export.system.ort import TensorSpec

__all__ = ["EngineSession", "open_engine"]

_SWITCH = "POLYGRAPHY_USE_TENSORRT_RTX"
"""Polygraphy reads it once, when it is imported: one process runs plans of one flavour."""

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class EngineSession:
    """A plan that is loaded on the GPU. Made by `open_engine`.

    Attributes:
        label: how messages call it.
        device: name of the GPU.
        inputs: what `run` expects, by name; a dynamic size is None.
        outputs: what `run` returns, by name.
        metadata: of the ONNX file that it was built from, as its sidecar has them; empty without one.
        runner: Polygraphy's, activated.
        engine: TensorRT's `ICudaEngine`.
        trt: the module of its flavour.
    """

    label: str
    device: str
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    metadata: Mapping[str, str]
    runner: Any
    engine: Any
    trt: Any

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """All outputs by name.

        Raises:
            EngineBuildError: TensorRT fails, for example because a shape is outside of the plan's profile.
        """
        return {name: value.copy() for name, value in self.bind(feeds)().items()}

    def bind(self, feeds: Mapping[str, Array]) -> Callable[[], dict[str, Array]]:
        """A call that runs the plan on these feeds, which are given the types that it asks for.

        What it returns lies in memory that the next run of the plan writes to.
        """
        ready = {name: np.ascontiguousarray(feed) for name, feed in as_asked(feeds, self.inputs).items()}

        def call() -> dict[str, Array]:
            try:
                found = self.runner.infer(ready, check_inputs=False)
            except Exception as error:  # PolygraphyException and whatever TensorRT raises through it
                raise EngineBuildError(f"{self.label} fails when it runs: {_one_line(error)}") from error
            return {name: np.asarray(found[name]) for name in self.outputs}

        return call

    def close(self) -> None:
        """Give back what it holds on the GPU."""
        self.runner.deactivate()


def open_engine(path: Path, flavour: Flavour) -> EngineSession:
    """Load a plan on the GPU.

    Raises:
        BackendMissingError: there is no GPU, or the flavour or Polygraphy is not usable here.
        EngineBuildError: the plan cannot be loaded: built for another GPU or version, or damaged.
        OptionError: there is no such plan, its sidecar is damaged, or speaks of another plan or flavour.
    """
    require_file(path, "a TensorRT plan")
    gpu = environment.collect().gpu
    if gpu is None:
        raise BackendMissingError(
            f"{path.name} is a plan, which {flavour.name} runs on an NVIDIA GPU: this machine has none with a driver"
        )
    metadata = _metadata(path, flavour)
    trt = load(flavour)
    backend = _polygraphy(flavour)
    try:
        engine = backend.engine_from_bytes(path.read_bytes())
        runner = backend.TrtRunner(engine)
        runner.activate()
    except Exception as error:  # PolygraphyException, which hides the cause in the log
        raise EngineBuildError(
            f"{path} cannot be loaded by {flavour.name} {trt.__version__}: {_one_line(error)}. "
            f"It may be for another GPU or version: `tofu-export check {path}` says what it was built for"
        ) from error
    return EngineSession(
        str(path),
        str(gpu),
        MappingProxyType(_specs(trt, engine, trt.TensorIOMode.INPUT)),
        MappingProxyType(_specs(trt, engine, trt.TensorIOMode.OUTPUT)),
        MappingProxyType(metadata),
        runner,
        engine,
        trt,
    )


def _polygraphy(flavour: Flavour) -> Any:
    wanted = "1" if flavour is RTX else "0"
    if "polygraphy" in sys.modules and os.environ.get(_SWITCH, "0") != wanted:
        raise BackendMissingError(f"this process already runs plans of another TensorRT: run {flavour.name} in its own")
    os.environ[_SWITCH] = wanted
    try:
        return importlib.import_module("polygraphy.backend.trt")
    except ImportError as error:
        raise BackendMissingError(f"polygraphy is not installed: pip install '{flavour.extra}'") from error


def _specs(trt: Any, engine: Any, mode: Any) -> dict[str, TensorSpec]:
    names = map(engine.get_tensor_name, range(engine.num_io_tensors))
    return {
        name: TensorSpec(
            np.dtype(trt.nptype(engine.get_tensor_dtype(name))),
            tuple(None if size < 0 else int(size) for size in engine.get_tensor_shape(name)),
        )
        for name in names
        if engine.get_tensor_mode(name) == mode
    }


def _metadata(path: Path, flavour: Flavour) -> dict[str, str]:
    """The metadata of the ONNX file that a plan was built from, as far as it has a sidecar, which has to be its own."""
    sidecar = read_sidecar(path)
    if sidecar is None:
        return {}
    if sidecar.flavour is not flavour:
        raise OptionError(f"{path} is a plan of {sidecar.flavour_name}, which {flavour.name} does not run")
    sidecar.check_engine()
    return sidecar.card.texts


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
