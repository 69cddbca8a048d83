"""Trace a model, reduced or not, to its canonical ONNX graph, and release its weights."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor, nn

from tofu_export.artifact.onnx_file import save
from tofu_export.errors import ExportError, OptionError, TofuError
from tofu_export.graph_patterns.lean.reshapes import settle_reshapes
from tofu_export.options import MINIMUM_OPSET, BatchRange, OutputKind, Precision
from tofu_export.patch import choose_output, output_names, outputs_of
from tofu_export.patch.canonical import CanonicalOperators
from tofu_export.patch.outputs import check_planned
from tofu_export.system.memory import uncollected
from tofu_export.trace.fixed_sizes import image_size_fixed

__all__ = [
    "INPUT_NAME",
    "OUTPUT_NAME",
    "TORCH_TYPES",
    "hold_copy",
    "in_precision",
    "release",
    "save",
    "trace",
    "trace_form",
]

INPUT_NAME = "input"
(OUTPUT_NAME,) = OutputKind.LOGITS.names

TORCH_TYPES = {Precision.FP32: torch.float32, Precision.FP16: torch.float16, Precision.BF16: torch.bfloat16}

_COPY = "tofu_export.copy"
"""Key of a half-precision graph's `meta` for the converted model that owns its weights."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class InputShape:
    """Shape of the image input without its batch axis."""

    channels: int
    height: int
    width: int


class _FileForm(nn.Module):
    """Model as in a file: images and real-valued outputs in `io_dtype`, attention and GELU left canonical."""

    def __init__(
        self, model: nn.Module, kind: OutputKind, dtype: torch.dtype, io_dtype: torch.dtype, *, token_map: bool
    ) -> None:
        super().__init__()
        self.model = model
        self.kind = kind
        self.token_map = token_map
        self.dtype = dtype
        self.io_dtype = io_dtype

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        with CanonicalOperators():
            outputs = outputs_of(self.model, self.kind, pixels.to(self.dtype), token_map=self.token_map)
        return tuple(value.to(self.io_dtype) if value.is_floating_point() else value for value in outputs)


def in_precision(model: nn.Module, precision: Precision) -> nn.Module:
    """Return the model itself in FP32, a converted copy otherwise. Matching and norms stay in float32 (see `patch`).

    Each tensor is converted as it is copied: a whole float32 copy would double the peak for a large model.
    """
    if precision is Precision.FP32:
        return model
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        converted = _narrowed(parameter.data, precision)
        memo[id(parameter)] = nn.Parameter(converted, requires_grad=parameter.requires_grad)
    memo.update((id(buffer), _narrowed(buffer, precision)) for buffer in model.buffers())
    return copy.deepcopy(model, memo)


def _narrowed(tensor: Tensor, precision: Precision) -> Tensor:
    return tensor.to(TORCH_TYPES[precision], copy=True) if tensor.is_floating_point() else tensor.clone()


def trace(
    model: nn.Module,
    shape: InputShape,
    *,
    output: OutputKind | None = None,
    token_map: bool = False,
    precision: Precision = Precision.FP32,
    io_dtype: torch.dtype = torch.float32,
    batch: BatchRange | None = None,
    opset: int = MINIMUM_OPSET,
) -> ir.Model:
    """Trace a model once to its canonical graph.

    Args:
        model: a float32 model in eval mode, patched or not; it is not changed.
        shape: shape of one image.
        output: what the graph outputs; None for logits, or features if the model has no classifier.
        token_map: the graph also outputs the final row of each patch (`PATCH_GROUPS`).
        precision: type of weights and activations in the graph.
        io_dtype: type of the graph's input and of its real outputs.
        batch: a range makes the batch dynamic; one number (minimum equal to maximum) fixes it.
        opset: ONNX opset, at least 18.

    Returns:
        A graph from `input` [B, C, H, W] to the outputs of `OutputKind`, with `tofu::` nodes (see `graph_patterns`).

    Raises:
        ExportError: the exporter failed; the message holds its first cause.
        OptionError: the exporter cannot write this opset, the model has no classifier for the logits that are asked
            for, its plan does not restore the grid, or it has no plan for the token map.
        UnsupportedModelError: the model has no pooling, or no grid, for this output.
    """
    batch = batch or BatchRange()
    static = batch.minimum == batch.maximum
    output = choose_output(model, output)
    if token_map:
        check_planned(model)
    form = _FileForm(
        in_precision(model, precision), output, TORCH_TYPES[precision], io_dtype, token_map=token_map
    ).eval()
    example = torch.zeros(batch.maximum if static else 2, shape.channels, shape.height, shape.width, dtype=io_dtype)
    canonical = trace_form(
        form,
        (example,),
        input_names=[INPUT_NAME],
        output_names=output_names(model, output, token_map=token_map),
        dynamic_shapes=None if static else ({0: torch.export.Dim("batch")},),
        opset=opset,
    )
    hold_copy(canonical, form, precision)
    return canonical


def hold_copy(canonical: ir.Model, form: nn.Module, precision: Precision) -> None:
    """Record in a half-precision graph which module owns its weights, for `release`."""
    if precision is not Precision.FP32:
        canonical.meta[_COPY] = form


def trace_form(
    form: nn.Module,
    examples: tuple[Tensor, ...],
    *,
    input_names: Sequence[str],
    output_names: Sequence[str],
    dynamic_shapes: Any,
    opset: int,
) -> ir.Model:
    """Trace a module whose submodule `model` is the model: initializers get the names of its parameters.

    Args:
        form: the module in eval mode.
        examples: example arguments.
        input_names: names of the graph's inputs, in order.
        output_names: names of its outputs.
        dynamic_shapes: dynamic shapes as for `torch.export.export`.
        opset: ONNX opset.

    Raises:
        ExportError: the opset is too old, or the exporter failed; the message holds its first cause.
        OptionError: the exporter cannot write this opset.
    """
    if opset < MINIMUM_OPSET:
        raise ExportError(f"opset {opset} is too old, expected {MINIMUM_OPSET} or newer")
    try:
        with _quiet(), image_size_fixed(), uncollected(), torch.no_grad():
            program = torch.onnx.export(
                form,
                examples,
                dynamo=True,
                opset_version=opset,
                input_names=list(input_names),
                output_names=list(output_names),
                dynamic_shapes=dynamic_shapes,
                verbose=False,
            )
    except TofuError:
        raise
    except Exception as error:
        raise ExportError(f"torch.onnx.export failed: {_first_cause(error)}") from error
    assert program is not None  # dynamo=True returns a program
    canonical = program.model
    if canonical.opset_imports[""] != opset:  # torch falls back to an older one with a line in its log (2.14)
        raise OptionError(
            f"this torch wrote opset {canonical.opset_imports['']} where {opset} was asked for: "
            f"choose an --opset that it and your runtime know, for example {MINIMUM_OPSET} or 23"
        )
    _strip_wrapper_prefix(canonical)
    settle_reshapes(canonical)
    return canonical


def release(model: ir.Model) -> None:
    """Release the weights of a saved graph, which cannot be used any more.

    onnxscript's shared rewrite rules remember the last graph that they saw (`SimplePatternMatcher._graph`, 0.7.2), and
    with it a copy of all weights.
    """
    for value in model.graph.initializers.values():
        value.const_value = None
    copied: nn.Module | None = model.meta.pop(_COPY, None)
    if copied is not None:
        for parameter in copied.parameters():
            parameter.data = parameter.data.new_empty(0)


def _strip_wrapper_prefix(model: ir.Model) -> None:
    """Give initializers the names that the model's parameters have in timm."""
    for value in list(model.graph.initializers.values()):
        name = value.name or ""
        if name.startswith("model."):
            model.graph.initializers.pop(name)
            value.name = name.removeprefix("model.")
            model.graph.initializers[value.name] = value


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's progress and advice off the terminal, and off stdout, which is for documents."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        # stdout: onnxscript up to 0.6.2 prints how many rules it applied.
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _first_cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"
