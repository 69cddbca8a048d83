"""Use a UNet as the reference of a verification (`tofu_export.verification.reference`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tofu_export.compare.outputs import Tolerance
from tofu_export.diffusion.forms import UnetForm
from tofu_export.diffusion.inputs import OUTPUT_NAME, UnetInputs
from tofu_export.diffusion.plan import UnetPlan
from tofu_export.errors import VerificationError
from tofu_export.graph_patterns.grid.nodes import grid_stage
from tofu_export.options import BatchRange, Precision
from tofu_export.patch.observe import observe
from tofu_export.verification.eager import compare_with
from tofu_export.verification.replay import DecisionNames, Replay
from tofu_export.verification.result import VerificationResult
from tofu_export.verification.subject import OnnxFile, Subject

__all__ = ["UNET_TOLERANCES", "UnetReference", "batches_of", "verify_unet"]

Array = NDArray[Any]

_BATCHES = (1, 2, 3)
"""Batch sizes to verify: one image, one with its negative, and an odd number."""

UNET_TOLERANCES = {
    Precision.FP32: Tolerance(
        "unet fp32", 5e-5, 0.99999, 2e-5, "rounding of 2^-24 through some 60 layers: 1e-6 measured", relative=1e-5
    ),
    Precision.FP16: Tolerance(
        "unet fp16", 5e-2, 0.999, 4e-3, "rounding of 2^-11 in every activation: 1e-3 measured", relative=1e-2
    ),
    Precision.BF16: Tolerance("unet bf16", 0.25, 0.98, 3e-2, "rounding of 2^-8 in every activation", relative=0.1),
}
"""Named tolerances by precision."""

_BF16_IN_FP32 = Tolerance(
    "unet bf16 in fp32", 5e-2, 0.9999, 4e-3, "only constants are rounded, by 2^-8; no activations", relative=1e-2
)


class UnetReference:
    """UNet of diffusers as a reference.

    Args:
        unet: a float32 UNet that carries `plan`.
        plan: the reduction; None for a file of the full UNet.
    """

    names: tuple[str, ...] = (OUTPUT_NAME,)
    kind = "noise"
    tolerances: Mapping[Precision, Tolerance] = UNET_TOLERANCES
    bf16_in_fp32 = _BF16_IN_FP32
    measures_rounding = False

    def __init__(self, unet: nn.Module, plan: UnetPlan | None) -> None:
        self.module = unet
        self._plan = plan

    def decisions(self, produced: Set[str], file: str) -> tuple[DecisionNames, tuple[str, ...]]:
        """Return which sources stay in each reduced block, and where each would go (`graph_patterns.grid`)."""
        names = {}
        for block in self._plan.reduced if self._plan is not None else ():
            kinds = ("kept", "nearest") if block.kept else ("nearest",)
            names[block.block] = {kind: f"{grid_stage(block.path)}/match/{kind}" for kind in kinds}
        missing = [name for kinds in names.values() for name in kinds.values() if name not in produced]
        if missing:
            raise VerificationError(f"{file} has no value {missing[0]}: its decisions cannot be read, export it again")
        return names, ()

    def run(self, feeds: Mapping[str, Array], replay: Replay) -> tuple[Array, ...]:
        """Return the predicted noise, [B, C, H, W]."""
        with torch.no_grad(), observe(replay):
            (noise,) = UnetForm(self.module)(*(torch.from_numpy(value) for value in feeds.values()))
        return (np.asarray(noise.numpy()),)

    def blocks(
        self, feeds: Mapping[str, Array], replay: Replay, *, rounded: bool = False
    ) -> tuple[dict[int, Array], tuple[Array, ...]]:
        """Return no blocks, which are not compared one by one in a UNet, and the noise."""
        return {}, self.run(feeds, replay)


def batches_of(batch: BatchRange) -> tuple[int, ...]:
    """Return the batch sizes to compare at: 1, 2 and 3 as far as the file serves them, or else its smallest."""
    return tuple(size for size in _BATCHES if batch.minimum <= size <= batch.maximum) or (batch.minimum,)


def verify_unet(
    subject: Subject | Path,
    unet: nn.Module,
    plan: UnetPlan | None,
    inputs: UnetInputs,
    *,
    precision: Precision,
    batch: BatchRange,
    seed: int = 0,
    on_batch: Callable[[int], None] = lambda size: None,
) -> VerificationResult:
    """Compare a file with the eager UNet.

    Args:
        subject: the ONNX file, or an engine of it.
        unet: a float32 UNet that carries `plan`.
        plan: the reduction; None for a file of the full UNet.
        inputs: inputs of the UNet.
        precision: precision of the file.
        batch: batch sizes that the file serves.
        seed: seed of the inputs.
        on_batch: called with each batch size before the eager model runs it.

    Raises:
        VerificationError: the file lacks an output or a decision, or reading its decisions changes its output.
        ExportError: the file cannot be loaded or run.
    """
    return compare_with(
        OnnxFile(subject) if isinstance(subject, Path) else subject,
        UnetReference(unet, plan),
        [inputs.random(size, seed) for size in batches_of(batch)],
        precision=precision,
        source=f"seeded latents and texts, seed {seed}",
        on_batch=on_batch,
    )
