"""Small UNets with random weights, and their graphs, traced once a session: tracing takes seconds."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import nn

from tofu_export.diffusion.apply import apply_to_unet
from tofu_export.diffusion.describe import describe_unet
from tofu_export.diffusion.forms import UnetForm
from tofu_export.diffusion.inputs import UnetInputs
from tofu_export.diffusion.models import UnetSource, create_unet, inputs_of
from tofu_export.diffusion.options import LatentSize, UnetReduction
from tofu_export.diffusion.plan import UnetPlan, UnetSpec, make_unet_plan
from tofu_export.diffusion.trace import trace_unet
from tofu_export.graph_patterns.lowering import lower
from tofu_export.options import BatchRange, Precision, Target
from tofu_export.trace.export import save

TEXT = 5
BATCH = BatchRange(1, 2, 4)
SMALL: dict[str, Any] = {
    "sample_size": 8,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "cross_attention_dim": 16,
    "attention_head_dim": 2,
}
"""Four transformer blocks: one down, one in the middle at half the size, two up."""
SOURCE = UnetSource("small", SMALL, None)


def size(text: str) -> LatentSize:
    return LatentSize.parse(text)


def inputs(latent: str = "8") -> UnetInputs:
    return inputs_of(SOURCE, size(latent), TEXT)


@cache
def spec(latent: str = "8") -> UnetSpec:
    return describe_unet(create_unet(SOURCE, meta=True), inputs(latent), "small")


def plan(latent: str = "8", reduction: UnetReduction | None = None) -> UnetPlan:
    return make_unet_plan(spec(latent), reduction or UnetReduction())


def build(latent: str = "8", reduction: UnetReduction | None = None) -> nn.Module:
    """A reduced UNet; the same weights each time."""
    return apply_to_unet(create_unet(SOURCE), plan(latent, reduction))


def run(unet: nn.Module, feeds: dict[str, NDArray[Any]]) -> torch.Tensor:
    with torch.no_grad():
        (out,) = UnetForm(unet)(*map(torch.from_numpy, feeds.values()))
    return out


def lowered(latent: str, reduction: UnetReduction | None, precision: Precision = Precision.FP32) -> ir.Model:
    graph = trace_unet(build(latent, reduction), inputs(latent), precision=precision, batch=BATCH)
    return lower(graph, Target.PORTABLE, precision)


def file(folder: Path, latent: str, reduction: UnetReduction | None, precision: Precision = Precision.FP32) -> Path:
    path = folder / "model.onnx"
    save(lowered(latent, reduction, precision), path, {"precision": precision.value})
    return path
