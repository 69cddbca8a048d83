"""The cells of `gpu_torch.py`: a model in one precision at one batch size, full and reduced by turns.

Weights are random, as they change no time, and the models of a cell share them in the memory of the device.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gpu_runner import Kernels, TorchRunner, float32_products, reduced_on, weights_on
from torch import nn

from tofu_export.benchmarking.benchmark import Contender, Rules, run_benchmark
from tofu_export.options import Mode, Precision, Reduction
from tofu_export.planning.plan import ModelSpec, Plan, make_plan
from tofu_export.zoo.create import create_model
from tofu_export.zoo.specs import spec_of
from tofu_export.zoo.weights import WeightsKind, WeightsSource

__all__ = ["COMPILE", "EAGER", "NUMERICS", "ORT", "PAPER_R", "Cell", "Row", "cells_of", "measure"]

EAGER, COMPILE, ORT = "torch", "torch-compile", "onnxruntime"
FULL = "full"

NUMERICS: Mapping[str, tuple[Precision, torch.dtype, bool]] = {
    "fp16": (Precision.FP16, torch.float16, False),
    "tf32": (Precision.FP32, torch.float32, True),
    "fp32": (Precision.FP32, torch.float32, False),
    "bf16": (Precision.BF16, torch.bfloat16, False),
}
"""Name -> precision, type of the weights, and whether products of float32 may be taken in TF32."""

PAPER_R: Mapping[str, tuple[int, ...]] = {"vit_base": (16, 8, 12, 20), "vit_large": (8, 12, 16, 20), "vit_small": (13,)}
"""Tokens removed per layer in the paper, the first where only one is taken. Source: arXiv 2312.01026, tables 1 to 4."""


@dataclass(frozen=True)
class Cell:
    """What is timed together: the full model and its reductions, by turns.

    Attributes:
        model: name.
        backend: `EAGER`, `COMPILE` or `ORT`.
        numerics: one of `NUMERICS`.
        batch: images per query.
        sweep: "r" for several amounts with the paper's method, or "methods" for every method with and without sizes.
        amounts: tokens to remove per layer; only the first where a model is compiled or exported, and for methods.
    """

    model: str
    backend: str
    numerics: str
    batch: int
    sweep: str
    amounts: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.model}, {self.backend}, {self.numerics}, batch {self.batch}, {self.sweep}"

    @property
    def reductions(self) -> dict[str, Reduction]:
        """By a name that is unique in the cell, the full model first."""
        first, *more = self.amounts
        if self.sweep == "methods":
            each = [Reduction(r=first, mode=mode, prop_attn=sizes) for mode in Mode for sizes in (True, False)]
        else:
            each = [Reduction(r=r, mode=Mode.MLERP) for r in sorted([first, *(more if self.backend == EAGER else ())])]
        return {FULL: Reduction(r=0), **{f"reduction {number}": reduction for number, reduction in enumerate(each)}}


@dataclass(frozen=True)
class Row:
    """One model of a cell.

    Attributes:
        cell: where it was timed.
        plan: how it is reduced.
        images_per_sec: at the median latency.
        latency_ms: median: on a GPU by its own clock, pauses included.
        over_full: latency of the full model divided by this one's, median over the rounds.
        quartiles: of that ratio.
        peak_gb: weights, input and the most that a query allocates; None where it was not taken.
        kernels: of one query; None where it was not profiled.
        notes: what a reader of the numbers must know.
    """

    cell: Cell
    plan: Plan
    images_per_sec: float
    latency_ms: float
    over_full: float
    quartiles: tuple[float, float]
    peak_gb: float | None
    kernels: Kernels | None
    notes: tuple[str, ...]

    @property
    def realised(self) -> float:
        """The gain in time divided by the ratio of multiply-accumulates."""
        return self.over_full / self.plan.flop_ratio

    def cells(self) -> tuple[str, ...]:
        """What a table shows of it."""
        cell, plan, kernels = self.cell, self.plan, self.kernels
        reduced = plan.removes
        return (
            cell.model, cell.backend, cell.numerics, str(cell.batch), str(plan.r),
            plan.reduction.mode.value if reduced else FULL,
            ("on" if plan.prop_attn else "off") if reduced else "",
            f"{plan.gmacs_reduced:.2f}", f"{self.images_per_sec:.0f}",
            f"{self.over_full:.2f}x ({self.quartiles[0]:.2f}-{self.quartiles[1]:.2f})" if reduced else "",
            f"{self.realised:.0%}" if reduced else "",
            "" if self.peak_gb is None else f"{self.peak_gb:.2f}",
            "" if kernels is None else f"{kernels.every}, {kernels.reduction}",
            f"{kernels.reduction_ms:.3f}" if kernels and reduced else "",
            f"{kernels.share:.0%}" if kernels and reduced else "",
        )  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        plan = {"r": self.plan.r, "pattern": self.plan.pattern, "prop_attn": self.plan.prop_attn}
        own = {**vars(self), "plan": plan, "cell": {**vars(self.cell)}}
        return {**own, "gmacs": self.plan.gmacs_reduced, "realised": self.realised,
                "kernels": self.kernels and vars(self.kernels)}  # fmt: skip


def cells_of(
    models: Sequence[str], backends: Sequence[str], numerics: Sequence[str], batches: Sequence[int],
    sweeps: Sequence[str], amounts: Mapping[str, tuple[int, ...]],
) -> list[Cell]:  # fmt: skip
    """All cells, the most important first: by how far each value is from the front of its list.

    A step in backends counts twice, because to compile takes as long as many eager cells. Methods are compared eagerly
    only, and onnxruntime has no switch for TF32 here: it takes it.
    """
    weights = (1, 2, 1, 1, 1)
    lists = (models, backends, numerics, batches, sweeps)
    places = sorted(
        product(*(range(len(values)) for values in lists)),
        key=lambda at: sum(weight * place for weight, place in zip(weights, at, strict=True)),
    )
    found = [
        Cell(models[a], backends[b], numerics[c], batches[d], sweeps[e], amounts[models[a]]) for a, b, c, d, e in places
    ]
    return [
        cell
        for cell in found
        if (cell.backend == EAGER or cell.sweep == "r") and (cell.backend != ORT or cell.numerics in ("fp16", "tf32"))
    ]


def measure(cell: Cell, device: str, seconds: float) -> list[Row]:
    """Time every model of a cell, each for so many seconds.

    Raises:
        Exception: whatever PyTorch, its compiler or onnxruntime raise, as for want of memory.
    """
    spec, model = _model(cell.model)
    plans = {name: make_plan(spec, reduction) for name, reduction in cell.reductions.items()}
    _, dtype, tf32 = NUMERICS[cell.numerics]
    pixels = np.random.default_rng(0).standard_normal((cell.batch, spec.in_chans, *spec.image_size), dtype=np.float32)
    contenders, runners = [Contender(name, Path(name)) for name in plans], dict[str, TorchRunner]()
    opener: Callable[[Contender, int | None], Any] = lambda contender, _: runners[contender.name]  # noqa: E731
    with float32_products(tf32), tempfile.TemporaryDirectory(prefix="tofu-gpu-") as folder:
        if cell.backend == ORT:
            contenders, opener = _files(cell, device, Path(folder))
        else:
            weights = weights_on(model, device, dtype)
            for name, plan in plans.items():
                runners[name] = TorchRunner(reduced_on(model, plan, weights), device, cell.backend == COMPILE)
        try:
            measured = run_benchmark(
                contenders, batches=(cell.batch,), make_feeds=lambda _: {"input": pixels}, open_runner=opener,
                rules=Rules(min_seconds=seconds), baseline=FULL,
            )  # fmt: skip
            profiled = {name: runner.profile() for name, runner in runners.items() if cell.backend == EAGER}
        finally:
            torch._dynamo.reset()  # what it has compiled holds weights and memory
    rows = []
    for row in measured:
        assert row.speedup_vs_full is not None and row.speedup_iqr is not None  # the full model is the baseline
        name, latency, runner = row.artifact, row.latency_ms.median, runners.get(row.artifact)
        rows.append(
            Row(
                cell, plans[name], 1e3 * cell.batch / latency, latency, row.speedup_vs_full, row.speedup_iqr,
                None if runner is None else runner.peak_gb, profiled.get(name), row.notes,
            )
        )  # fmt: skip
    return rows


@cache
def _model(name: str) -> tuple[ModelSpec, nn.Module]:
    return spec_of(name), create_model(name, weights=WeightsSource(WeightsKind.RANDOM)).model


def _files(cell: Cell, device: str, folder: Path) -> tuple[list[Contender], Any]:
    """The cell's models as ONNX files, and what opens them."""
    from exports import export_ours  # needs the packages of ONNX, which PyTorch alone does without

    from tofu_export.benchmarking.backends import open_contender
    from tofu_export.options import Target

    spec, model = _model(cell.model)
    contenders = []
    for name, reduction in cell.reductions.items():
        path = folder / f"{name}.onnx"
        export_ours(model, spec, cell.model, reduction, Target.ONNXRUNTIME, path, NUMERICS[cell.numerics][0])
        contenders.append(Contender(name, path, f"ort-{device}"))
    return contenders, open_contender
