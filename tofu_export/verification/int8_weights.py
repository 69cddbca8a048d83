"""Hold the constants of an int8 file against the eager model, and give the model the file's rounded weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tofu_export.graph_patterns.int8.check import difference_of_norm, difference_of_product, scaled_steps
from tofu_export.trace.quantize import RANGES, open_graph
from tofu_export.verification.facts import FileFacts

__all__ = ["Int8Weights", "read_int8_weights"]

Floats = NDArray[np.float32]

_NORMS = frozenset({"LayerNormalization", "RMSNormalization"})


@dataclass(frozen=True)
class Int8Weights:
    """What an int8 file makes of a model's weights.

    Attributes:
        problem: the first constant that is not what it should be; None if all are.
        unknown: the first product whose weight cannot be told in the model; None if all can.
        rounded: weights of the model and what they are in the file, of the same shape.
    """

    problem: str | None
    unknown: str | None
    rounded: Sequence[tuple[Tensor, Tensor]]


def read_int8_weights(path: Path, model: nn.Module) -> Int8Weights:
    """Find the model's weight for every product in int8, and hold the file's constants against it.

    A product `blocks.3.attn.qkv/MatMul` has a weight of the module in its name, or of one inside of that: the one of
    its shape that is nearest. The factors by which a norm in front was smoothed show in the norm's own parameters.

    Args:
        path: an int8 file of this library.
        model: the model that it was made from.

    Raises:
        VerificationError: the file's metadata are damaged.
    """
    ranges: Mapping[str, Any] = FileFacts.read(path).find(RANGES, dict) or {}
    problem: str | None = None
    rounded: list[tuple[Tensor, Tensor]] = []
    for node in open_graph(path).graph:
        if node.op_type != "MatMul" or not _is_dequantized(node.inputs[1]):
            continue
        stored = scaled_steps(node)
        if stored is None:
            problem = problem or f"{node.name}: its weight does not have one scale for each column"
            continue
        norm = _norm_before(node)
        before = None if norm is None else _parameters(model, norm)
        candidates = _candidates(model, _module_of(node), stored.shape)
        if not candidates or (norm is not None and before is None):
            return Int8Weights(problem, str(node.name), ())
        factor = np.ones(len(stored), np.float32)
        if norm is not None and before is not None:
            factor = _factor(norm, before)
            wrong = difference_of_norm(norm, before, factor)
            problem = problem or (f"{norm.name}: {wrong}" if wrong else None)
        own = stored / factor[:, None]
        weight = min(candidates, key=lambda each: float(np.abs(each.numpy().T - own).sum()))
        reach = ranges.get(str(node.name))
        wrong = difference_of_product(node, weight.numpy().T, factor, reach)
        problem = problem or (f"{node.name}: {wrong}" if wrong else None)
        rounded.append((weight, torch.from_numpy(np.ascontiguousarray(own.T))))
    return Int8Weights(problem, None, rounded)


def _is_dequantized(value: ir.Value | None) -> bool:
    producer = None if value is None else value.producer()
    return producer is not None and producer.op_type == "DequantizeLinear"


def _norm_before(product: ir.Node) -> ir.Node | None:
    """The norm whose output is quantised for a product."""
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
    """Weights [N, K] of a module and those inside of it that fit a product with [K, N]."""
    inside = f"{path}."
    return [
        parameter.detach()
        for name, parameter in model.named_parameters()
        if path and name.startswith(inside) and tuple(parameter.shape) == tuple(shape)[::-1]
    ]


def _parameters(model: nn.Module, norm: ir.Node) -> list[Floats | None] | None:
    """Scale and bias of a norm in the model, as many as its node has; None where the model has no such norm."""
    module = dict(model.named_modules()).get(_module_of(norm))
    if module is None:
        return None
    found: list[Floats | None] = []
    for index, name in zip(range(1, len(norm.inputs)), ("weight", "bias"), strict=False):
        value = getattr(module, name, None)
        now = norm.inputs[index]
        if now is None:
            found.append(None)
        elif isinstance(value, Tensor):
            found.append(value.detach().numpy())
        else:  # the node wants one, the norm has none
            width = now.shape[0] if now.shape is not None else 1
            found.append(np.full(int(str(width)), 1 - (name == "bias"), np.float32))
    return found


def _factor(norm: ir.Node, before: Sequence[Floats | None]) -> Floats:
    """By what the parameters of a norm were divided, channel by channel; 1 where they do not tell."""
    factor: Floats | None = None
    for value, once in zip(norm.inputs[1:], before, strict=True):
        if value is None or value.const_value is None or once is None:
            continue
        now = value.const_value.numpy()
        factor = np.zeros_like(once) if factor is None else factor
        tells = (factor == 0) & (now != 0)
        factor[tells] = once[tells] / now[tells]
    assert factor is not None  # a norm has a scale
    return np.where(factor > 0, factor, np.float32(1))
