"""Trace a UNet, reduced or not, to its canonical ONNX graph."""

from __future__ import annotations

import onnx_ir as ir
import torch
from torch import nn

from tofu_export.diffusion.forms import UnetForm
from tofu_export.diffusion.inputs import OUTPUT_NAME, TIMESTEP, UnetInputs
from tofu_export.options import MINIMUM_OPSET, BatchRange, Precision
from tofu_export.trace.export import TORCH_TYPES, hold_copy, in_precision, trace_form

__all__ = ["trace_unet"]


def trace_unet(
    unet: nn.Module,
    inputs: UnetInputs,
    *,
    precision: Precision = Precision.FP32,
    io_dtype: torch.dtype = torch.float32,
    batch: BatchRange | None = None,
    opset: int = MINIMUM_OPSET,
) -> ir.Model:
    """Trace a UNet once to its canonical graph.

    Args:
        unet: a float32 UNet in eval mode, patched or not; it is not changed.
        inputs: its inputs; the latent size becomes that of the file.
        precision: type of weights and activations in the graph.
        io_dtype: type of images and texts; the noise level, `timestep` [1], is always float32.
        batch: a range makes the batch dynamic; one number fixes it.
        opset: ONNX opset, at least 18.

    Returns:
        A graph from `sample`, `timestep`, `encoder_hidden_states` (SDXL: also `text_embeds`, `time_ids`) to
        `out_sample`, with `tofu::` nodes (see `graph_patterns`).

    Raises:
        ExportError: the exporter failed; the message holds its first cause.
        OptionError: the exporter cannot write this opset.
    """
    batch = batch or BatchRange(1, 2, 8)
    static = batch.minimum == batch.maximum
    form = UnetForm(in_precision(unet, precision), TORCH_TYPES[precision], io_dtype, canonical=True).eval()
    dimension = torch.export.Dim("batch")
    examples, dynamic = [], []
    for name, shape in inputs.shapes.items():
        sizes = [(batch.maximum if static else 2) if size is None else size for size in shape]
        examples.append(torch.zeros(sizes, dtype=torch.float32 if name == TIMESTEP else io_dtype))
        dynamic.append({axis: dimension for axis, size in enumerate(shape) if size is None})
    canonical = trace_form(
        form,
        tuple(examples),
        input_names=list(inputs.shapes),
        output_names=[OUTPUT_NAME],
        dynamic_shapes=None if static else tuple(dynamic),
        opset=opset,
    )
    hold_copy(canonical, form, precision)
    return canonical
