"""Options of benchmarks. Importing this module loads neither onnx nor numpy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from tofu_export.engines.flavours import RTX, TENSORRT, Flavour
from tofu_export.engines.running.gpu_times import GpuOptions
from tofu_export.errors import OptionError
from tofu_export.options import shared
from tofu_export.options.declaration import Section, group, opt

__all__ = ["CPU", "ORT_BACKENDS", "PLAN_BACKENDS", "TORCH_BACKENDS", "BenchOptions", "parse_backends"]

CPU = "ort-cpu"

ORT_BACKENDS = (CPU, "ort-cuda", "ort-tensorrt")
"""Backends that run ONNX files in onnxruntime."""

PLAN_BACKENDS: Mapping[str, Flavour] = MappingProxyType({"trt": TENSORRT, "trt-rtx": RTX})
"""TensorRT flavours that run engines, by name on the command line and in reports."""

TORCH_BACKENDS = ("torch", "torch-compile")
"""Backends that run the eager model that a file was made from, or a timm model by name: in
`tofu_export.benchmarking.torch_contenders`, above this package."""


def parse_backends(text: str) -> tuple[str, ...]:
    """Read backends from a comma list.

    Raises:
        OptionError: a backend is unknown or given twice.
    """
    names = tuple(part.strip() for part in text.split(",") if part.strip())
    known = (*ORT_BACKENDS, *PLAN_BACKENDS, *TORCH_BACKENDS)
    unknown = [name for name in names if name not in known]
    if unknown or not names or len(set(names)) < len(names):
        raise OptionError(f"--backend is {text!r}, expected some of {', '.join(known)}, each once")
    return names


@dataclass(frozen=True)
class BenchOptions:
    """Options of a comparison by speed.

    Attributes:
        backends: backends to run each file on.
        batches: batch sizes; empty for the one that the files are fixed to, or else 1.
        baseline: name or path of the file that the others are compared with; None for the first one.
        threads: threads inside an operator; None for onnxruntime's default.
        warmup_ms: time that each file runs before it is timed.
        min_seconds: shortest measured time of each file and batch size.
        min_iterations: least number of samples.
        shapes: all sizes of inputs that leave more than the batch open, by input name.
        seed: seed of the random inputs.
        profile: also run every file under onnxruntime's profiler.
        products: also time the matrix products of every file by themselves.
        gpu: how engines are timed.
    """

    backends: tuple[str, ...] = opt(
        (CPU,), "Some of ort-cpu, ort-cuda, ort-tensorrt for ONNX files, trt, trt-rtx for plans, and torch, "
        "torch-compile for the eager model of a file, or of a name of timm's in its place.", Section.BACKEND,
        flags=("--backend",), metavar="LIST", parse=parse_backends, everyday=True,
    )  # fmt: skip
    batches: tuple[int, ...] = shared.listed_batches(unless="what the files are fixed to, or 1")
    baseline: str | None = opt(
        None, "File that ratios refer to.", Section.MODEL, metavar="NAME", unless="the first one", everyday=True
    )
    threads: int | None = shared.threads(Section.BACKEND)
    warmup_ms: float = opt(
        200.0, "Milliseconds that each file runs before it is timed.", Section.TIMING, flags=("--warmup",),
        metavar="MS", minimum=0,
    )  # fmt: skip
    min_seconds: float = shared.seconds()
    min_iterations: int = opt(
        10, "Least number of timed runs.", Section.TIMING, flags=("--iterations",), metavar="N", minimum=1
    )
    shapes: Mapping[str, tuple[int, ...]] = shared.shapes()
    seed: int = shared.seed("the random inputs")
    profile: bool = opt(
        False, "Also divide the time by part of the model, in runs of their own.", Section.TIMING, everyday=True
    )
    products: bool = opt(
        False, "Also time each file's matrix products alone: what is left to gain.", Section.TIMING, everyday=True
    )
    gpu: GpuOptions = group(GpuOptions)

    def __post_init__(self) -> None:
        if self.products and self.backends != (CPU,):
            raise OptionError(
                f"--products times them on the CPU, not on {', '.join(self.backends)}: use --backend {CPU}"
            )
        if self.gpu != GpuOptions() and not any(backend in PLAN_BACKENDS for backend in self.backends):
            raise OptionError(
                f"--cuda-graph, --no-transfers and --streams are for plans, not for {', '.join(self.backends)}: "
                f"use --backend {' or '.join(PLAN_BACKENDS)}"
            )
        if self.profile and self.backends != (CPU,):
            raise OptionError(
                f"--profile reads onnxruntime's CPU kernels, not {', '.join(self.backends)}: a GPU's kernels run after "
                f"onnxruntime has noted their time. Use --backend {CPU}, or NVIDIA's Nsight Systems"
            )
