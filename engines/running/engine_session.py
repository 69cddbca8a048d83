"""Run a TensorRT engine on the GPU of this machine, through Polygraphy.

A query is synchronous: inputs are copied to the device, kernels run on one stream, outputs are copied back. Polygraphy
does not tell how long each part takes, so engines are timed by `plan_timing`. No engine has been run with it so far,
for lack of a GPU: the tests here use stand-ins, and those marked `gpu` compare with onnxruntime.
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
"""Variable that Polygraphy reads once, when imported: one process runs engines of one flavour."""

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class EngineSession:
    """Engine that is loaded on the GPU. Made by `open_engine`.

    Attributes:
        label: name in messages.
        device: name of the GPU.
        inputs: inputs of `run`, by name; a dynamic size is None.
        outputs: outputs of `run`, by name.
        metadata: metadata of the ONNX file that it was built from, from its sidecar; empty without one.
        runner: runner of Polygraphy, activated.
        engine: TensorRT's `ICudaEngine`.
        trt: module of its flavour.
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
        """Run the engine and return all outputs by name.

        Raises:
            EngineBuildError: TensorRT fails, for example because a shape is outside of the engine's profile.
        """
        return {name: value.copy() for name, value in self.bind(feeds)().items()}

    def bind(self, feeds: Mapping[str, Array]) -> Callable[[], dict[str, Array]]:
        """Return a function that runs the engine on these feeds, converted to its input types.

        The returned outputs are in memory that the next run of the engine overwrites.
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
        """Free what the session holds on the GPU."""
        self.runner.deactivate()


def open_engine(path: Path, flavour: Flavour) -> EngineSession:
    """Load an engine on the GPU.

    Raises:
        BackendMissingError: there is no GPU, or the flavour or Polygraphy is not usable here.
        EngineBuildError: the engine cannot be loaded: built for another GPU or version, or damaged.
        OptionError: there is no such engine, or its sidecar is damaged or describes another engine or flavour.
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
    """Return the metadata of the ONNX file that an engine was built from; if it has a sidecar, it must be its own."""
    sidecar = read_sidecar(path)
    if sidecar is None:
        return {}
    if sidecar.flavour is not flavour:
        raise OptionError(f"{path} is a plan of {sidecar.flavour_name}, which {flavour.name} does not run")
    sidecar.check_engine()
    return sidecar.card.texts


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
