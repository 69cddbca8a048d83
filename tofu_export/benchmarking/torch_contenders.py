"""Time PyTorch beside files: the eager model that a file was made from, or a timm model, also compiled.

Weights are random, as they do not affect time. Every query copies inputs from and outputs to the host's memory, as with
the other backends. Compiling happens when a contender is bound to its inputs, so before warming up and timing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tofu_export import patch
from tofu_export.artifact.card import ModelCard
from tofu_export.benchmarking.backends import Loaded, is_model_name
from tofu_export.benchmarking.benchmark import Bound
from tofu_export.benchmarking.options import TORCH_BACKENDS
from tofu_export.errors import BackendMissingError, OptionError
from tofu_export.options import OutputKind, Precision, Reduction
from tofu_export.planning.plan import make_plan
from tofu_export.system import environment
from tofu_export.system.ort import TensorSpec
from tofu_export.system.typed_json import JsonObject
from tofu_export.trace.export import INPUT_NAME, TORCH_TYPES, in_precision
from tofu_export.verification.facts import FileFacts
from tofu_export.verification.rebuild import rebuild
from tofu_export.zoo.create import create_model
from tofu_export.zoo.names import resolve
from tofu_export.zoo.specs import spec_of
from tofu_export.zoo.weights import WeightsKind, WeightsSource

__all__ = ["EagerSession", "TorchOptions", "open_torch"]

Array = NDArray[Any]

RANDOM = WeightsSource(WeightsKind.RANDOM)
COMPILER = "inductor"
MODES = ("default", "reduce-overhead", "max-autotune")


@dataclass(frozen=True)
class TorchOptions:
    """Options of PyTorch as a backend.

    Attributes:
        device: cpu or cuda.
        mode: mode of torch.compile; `reduce-overhead` and `max-autotune` use CUDA graphs on a GPU.

    Raises:
        OptionError: a value is unknown.
    """

    device: str = "cpu"
    mode: str = "default"

    def __post_init__(self) -> None:
        if self.device not in ("cpu", "cuda"):
            raise OptionError(f"--torch-device is {self.device!r}, expected cpu or cuda")
        if self.mode not in MODES:
            raise OptionError(f"--compile-mode is {self.mode!r}, expected one of {', '.join(MODES)}")

    def to_dict(self) -> JsonObject:
        """Return the options as JSON values."""
        return {"device": self.device, "compile_mode": self.mode, "weights": "random"}


class _Form(nn.Module):
    """Model in the form of its file: images in, a tuple of outputs out."""

    def __init__(self, model: nn.Module, kind: OutputKind, *, token_map: bool) -> None:
        super().__init__()
        self.model = model
        self.kind = kind
        self.token_map = token_map

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        return patch.outputs_of(self.model, self.kind, pixels, token_map=self.token_map)


@dataclass(frozen=True)
class EagerSession:
    """Eager model that takes the feeds of its file.

    Attributes:
        label: name in messages.
        form: the model in its precision, on its device.
        outputs: names of its outputs.
        dtype: type of its weights.
        compiled: compile the model.
        inputs: inputs of `run`, by name.
        metadata: its GMACs, under their name in ONNX files.
        options: options of PyTorch.
    """

    label: str
    form: nn.Module
    outputs: tuple[str, ...]
    dtype: torch.dtype
    compiled: bool
    inputs: Mapping[str, TensorSpec]
    metadata: Mapping[str, str]
    options: TorchOptions = field(default_factory=TorchOptions)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run the model, not compiled, and return all outputs by name."""
        outputs = self._call(self.form, feeds)()
        return {
            name: (value.float() if value.is_floating_point() else value).numpy()
            for name, value in zip(self.outputs, outputs, strict=True)
        }

    def bind(self, feeds: Mapping[str, Array]) -> Bound:
        """Return a function that runs the model on these feeds, compiled before returning if asked for.

        Raises:
            BackendMissingError: the model cannot be compiled here.
        """
        if not self.compiled:
            return Bound(self._call(self.form, feeds))
        start, graphs = time.perf_counter(), _graphs()
        call = self._call(torch.compile(self.form, backend=COMPILER, mode=self.options.mode, dynamic=False), feeds)
        try:
            with _as_often_as_needed():
                call()
        except Exception as error:  # dynamo, inductor, the C++ compiler and Triton raise their own kinds
            line = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise BackendMissingError(
                f"torch.compile does not compile {self.label}: {line}. It needs a C++ compiler on a CPU, and Triton on "
                "a GPU; or leave torch-compile out"
            ) from error
        seconds, graphs = time.perf_counter() - start, _graphs() - graphs
        how = f"{graphs} graph{'s' * (graphs != 1)}, mode {self.options.mode}"
        return Bound(call, notes=(f"compiled in {seconds:.1f} s before it was timed ({how})",))

    def _call(self, form: Any, feeds: Mapping[str, Array]) -> Callable[[], tuple[Tensor, ...]]:
        (pixels,) = (torch.from_numpy(np.ascontiguousarray(feed)) for feed in feeds.values())
        device, dtype = self.options.device, self.dtype

        @torch.inference_mode()
        def call() -> tuple[Tensor, ...]:
            outputs = form(pixels.to(device=device, dtype=dtype))
            return tuple(value.cpu() for value in outputs)  # waits for the device

        return call


def open_torch(path: Path, backend: str, threads: int | None, options: TorchOptions | None = None) -> Loaded:
    """Load the eager model of a file, or a timm model by name, not reduced.

    Args:
        path: an ONNX file of this project, or the name of a model.
        backend: one of `TORCH_BACKENDS`.
        threads: threads of all of PyTorch in this process; None for its default.
        options: options of PyTorch.

    Raises:
        OptionError: the file does not name its model, or no model has that name.
        BackendMissingError: there is no such device.
        TofuError: the model cannot be built.
    """
    options = options or TorchOptions()
    assert backend in TORCH_BACKENDS
    if options.device == "cuda" and not torch.cuda.is_available():
        raise BackendMissingError(
            f"{backend} was asked to run on a GPU, which PyTorch {torch.__version__} does not find here: "
            "give --torch-device cpu, or install a PyTorch with CUDA"
        )
    if threads is not None:
        torch.set_num_threads(threads)
    precision, token_map = Precision.FP32, False
    if is_model_name(path):
        name = resolve(str(path))
        spec = spec_of(name, None, None)
        gmacs = make_plan(spec, Reduction(r=0)).gmacs_full
        model = create_model(name, weights=RANDOM).model
        kind = patch.choose_output(model, None, name)
        size: tuple[int | None, ...] = (spec.in_chans, *spec.image_size)
        inputs = {INPUT_NAME: TensorSpec(np.dtype(np.float32), (None, *size))}
    else:
        facts = FileFacts.read(path)
        if not facts.card.is_ours:
            raise OptionError(
                f"{path.name} does not say what model it is, so PyTorch has nothing to run: leave {backend} out, or "
                "give the name of a model beside it, such as vit_base"
            )
        rebuilt = rebuild(facts, weights=RANDOM)
        model, kind, inputs = rebuilt.model, rebuilt.output, dict(facts.inputs)
        token_map = rebuilt.token_map
        plan = patch.applied_plan(model)
        gmacs = 0.0 if plan is None else plan.gmacs_reduced
        precision = (facts.precision or precision).traced
    form = _Form(in_precision(model, precision), kind, token_map=token_map).eval().to(options.device)
    device = environment.cpu_name() if options.device == "cpu" else torch.cuda.get_device_name()
    session = EagerSession(
        label=str(path),
        form=form,
        outputs=patch.output_names(model, kind, token_map=token_map),
        dtype=TORCH_TYPES[precision],
        compiled=backend == "torch-compile",
        inputs=MappingProxyType(inputs),
        metadata=MappingProxyType(ModelCard(str(path), {"gmacs": gmacs}).texts),
        options=options,
    )
    return Loaded(session, device)


def _graphs() -> int:
    """Return the number of graphs that dynamo has traced in this process."""
    from torch._dynamo.utils import counters

    return int(counters["stats"]["unique_graphs"])


def _as_often_as_needed() -> Any:
    """Return a context that compiles for every model and batch size; by default dynamo silently stops after 8 times.

    Reason: `torch._dynamo.config.recompile_limit`; read in torch 2.14, where its default is 8.
    """
    from torch._dynamo import config

    return config.patch(recompile_limit=256, accumulated_recompile_limit=4096, fail_on_recompile_limit_hit=True)
