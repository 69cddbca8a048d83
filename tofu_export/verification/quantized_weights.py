"""Check the constants of a quantised file against the eager model, and give the model the file's rounded weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, nn

from tofu_export.graph_patterns.quantized.check import (
    difference_of_factor,
    difference_of_norm,
    difference_of_product,
    is_activation,
    range_name,
    scaled_steps,
)
from tofu_export.graph_patterns.quantized.form import FORMS, Floats
from tofu_export.options import Precision
from tofu_export.trace.export import TORCH_TYPES
from tofu_export.trace.quantize import RANGES, open_graph
from tofu_export.verification.facts import FileFacts

__all__ = ["QuantizedWeights", "read_quantized_weights"]

_NORMS = frozenset({"LayerNormalization", "RMSNormalization"})


@dataclass(frozen=True)
class QuantizedWeights:
    """Weights of a model as a quantised file holds them.

    Attributes:
        problem: the first constant that is not what it should be; None if all are.
        unknown: the first product whose weight is not found in the model; None if all are.
        rounded: weights of the model and norms in front of them, with their values in the file, of the same shape.
        norms: names of the constants of these norms in the file.
    """

    problem: str | None
    unknown: str | None
    rounded: Sequence[tuple[Tensor, Tensor]]
    norms: Sequence[str] = ()


def read_quantized_weights(path: Path, model: nn.Module, precision: Precision) -> QuantizedWeights:
    """Find the model's weight for every quantised product, and check the file's constants against it.

    A product `blocks.3.attn.qkv/MatMul` has a weight of the module in its name, or of a sub-module: the nearest one of
    its shape. The factors by which a norm in front was smoothed show in the norm's own parameters.

    Args:
        path: a quantised file of this library.
        model: the model that it was made from.
        precision: precision of the file.

    Raises:
        VerificationError: the file's metadata are damaged.
    """
    ranges: Mapping[str, Any] = FileFacts.read(path).card.find(RANGES, dict) or {}
    problem: str | None = None
    rounded: list[tuple[Tensor, Tensor]] = []
    norms: list[str] = []
    held: set[str] = set()

    def known(tensor: Tensor) -> Floats:
        """Return a tensor of the model as the file was made from it."""
        values: Floats = tensor.to(TORCH_TYPES[precision.traced]).float().numpy()
        return values

    for node in open_graph(path).graph:
        if node.op_type != "MatMul" or not _is_dequantized(node.inputs[1]):
            continue
        if is_activation(node.inputs[1]):  # a product of attention
            for index in range(2):
                held.add(range_name(node, index))
                wrong = difference_of_factor(node, index, ranges.get(range_name(node, index)), FORMS[precision])
                problem = problem or (f"{node.name}: {wrong}" if wrong else None)
            continue
        stored = scaled_steps(node)
        if stored is None:
            problem = problem or f"{node.name}: its weight does not have one scale for each column"
            continue
        norm = _norm_before(node)
        before = None if norm is None else _parameters(model, norm)
        candidates = _candidates(model, _module_of(node), stored.shape)
        if not candidates or (norm is not None and before is None):
            return QuantizedWeights(problem, str(node.name), ())
        factor = np.ones(len(stored), np.float32)
        if norm is not None and before is not None:
            once = [None if each is None else known(each) for each in before]
            factor = _factor(norm, once)
            wrong = difference_of_norm(norm, once, factor)
            problem = problem or (f"{norm.name}: {wrong}" if wrong else None)
            for value, parameter in zip(norm.inputs[1:], before, strict=True):
                if value is not None and value.const_value is not None and parameter is not None:
                    now: Floats = value.const_value.numpy().astype(np.float32)
                    rounded.append((parameter, torch.from_numpy(now * factor)))
                    norms.append(str(value.name))
        held.add(str(node.name))
        own = stored / factor[:, None]
        weight = min(candidates, key=partial(_distance, own))
        reach = ranges.get(str(node.name))
        wrong = difference_of_product(node, known(weight).T, factor, reach, FORMS[precision])
        problem = problem or (f"{node.name}: {wrong}" if wrong else None)
        rounded.append((weight, torch.from_numpy(np.ascontiguousarray(own.T))))
    if lost := sorted(set(ranges) - held):
        problem = problem or f"{lost[0]}: it is not quantised, but the file's metadata have a range for it"
    return QuantizedWeights(problem, None, rounded, norms)


def _distance(own: Floats, weight: Tensor) -> float:
    return float(np.abs(weight.numpy().T - own).sum())


def _is_dequantized(value: ir.Value | None) -> bool:
    producer = None if value is None else value.producer()
    return producer is not None and producer.op_type == "DequantizeLinear"


def _norm_before(product: ir.Node) -> ir.Node | None:
    """Return the norm whose output is quantised for a product."""
    value = product.inputs[0]
    for kind in ("DequantizeLinear", "QuantizeLinear"):
        producer = None if value is None else value.producer()
        if producer is None or producer.op_type != kind:
            return None
        value = producer.inputs[0]
    norm = None if value is None else value.producer()
    return norm if norm is not None and norm.op_type in _NORMS else None


def _module_of(node: ir.Node) -> str:
    return str(node.name).rpartition("/")[0]


def _candidates(model: nn.Module, path: str, shape: Sequence[int]) -> list[Tensor]:
    """Return the weights [N, K] of a module and its sub-modules that fit a product with [K, N]."""
    inside = f"{path}."
    return [
        parameter.detach()
        for name, parameter in model.named_parameters()
        if path and name.startswith(inside) and tuple(parameter.shape) == tuple(shape)[::-1]
    ]


def _parameters(model: nn.Module, norm: ir.Node) -> list[Tensor | None] | None:
    """Return scale and bias of a norm in the model, as many as its node has; None if the model has no such norm."""
    module = dict(model.named_modules()).get(_module_of(norm))
    if module is None:
        return None
    found: list[Tensor | None] = []
    for index, name in zip(range(1, len(norm.inputs)), ("weight", "bias"), strict=False):
        value = getattr(module, name, None)
        now = norm.inputs[index]
        if now is None:
            found.append(None)
        elif isinstance(value, Tensor):
            found.append(value.detach())
        else:  # the node wants one, the norm has none
            width = now.shape[0] if now.shape is not None else 1
            found.append(torch.full((int(str(width)),), 1.0 - (name == "bias")))
    return found


def _factor(norm: ir.Node, before: Sequence[Floats | None]) -> Floats:
    """Return the factors that divide the parameters of a norm, per channel; 1 where they cannot be determined."""
    factor: Floats | None = None
    for value, once in zip(norm.inputs[1:], before, strict=True):
        if value is None or value.const_value is None or once is None:
            continue
        now = value.const_value.numpy().astype(np.float32)
        factor = np.zeros_like(once) if factor is None else factor
        tells = (factor == 0) & (now != 0)
        factor[tells] = once[tells] / now[tells]
    assert factor is not None  # a norm has a scale
    return np.where(factor > 0, factor, np.float32(1))
