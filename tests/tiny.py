"""Small timm Vision Transformers, one for each thing that a family adds, shared by the tests that run whole models.

All take images of 32x32 pixels and have 3 blocks; every weight is random and matters. Tracing one takes seconds, so
traced graphs are kept for the session.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from tofu_export import patch
from tofu_export.graph_patterns.canonical import with_methods
from tofu_export.graph_patterns.lowering import lower
from tofu_export.options import BatchRange, Method, Precision, Reduction, Target
from tofu_export.patch.describe import describe
from tofu_export.planning.plan import ModelSpec, Plan, make_plan
from tofu_export.trace.export import InputShape, trace

SIDE = 32
DEPTH = 3
CLASSES = 5
PATCH = 8
HEADS = 3
SHAPE = InputShape(3, SIDE, SIDE)

_COMMON = {
    "img_size": SIDE,
    "patch_size": PATCH,
    "embed_dim": 24,
    "depth": DEPTH,
    "num_heads": HEADS,
    "mlp_ratio": 2,
    "num_classes": CLASSES,
}


class Tiny(NamedTuple):
    """One model: how it is made, and facts about it."""

    prefix: int
    kwargs: Mapping[str, Any]
    kind: type[nn.Module] = VisionTransformer
    oracle: Mapping[str, Any] = MappingProxyType({})


MODELS: dict[str, Tiny] = {
    "cls": Tiny(1, {}),
    "distilled": Tiny(2, {}, VisionTransformerDistilled),
    "registers": Tiny(5, {"reg_tokens": 4, "init_values": 0.5}),
    "avg": Tiny(0, {"class_token": False, "global_pool": "avg"}),
    "map": Tiny(0, {"class_token": False, "global_pool": "map"}),
    "cls-avg": Tiny(1, {"global_pool": "avg", "fc_norm": False}, oracle={"pool": "avg"}),
    "fc-norm": Tiny(1, {"global_pool": "avg", "fc_norm": True}),
    "pool-prefix": Tiny(
        1, {"global_pool": "avg", "pool_include_prefix": True}, oracle={"pool": "avg", "pool_prefix": True}
    ),
    "qk-norm": Tiny(1, {"qk_norm": True}),
    "layer-scale": Tiny(1, {"init_values": 1e-5}),
    "norm-pre": Tiny(1, {"pre_norm": True, "qkv_bias": False}),
    "no-embed-class": Tiny(5, {"no_embed_class": True, "reg_tokens": 4}),
}


def make_all_weights_matter(model: nn.Module) -> None:
    """Draw weights such that none of them, nor any norm's, scale's or bias', could be left out unnoticed."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("gamma") or (name.endswith("weight") and weight.ndim == 1):
                weight.copy_(1.0 + 0.3 * torch.randn_like(weight))
            elif weight.ndim == 1:
                weight.copy_(0.3 * torch.randn_like(weight))
            elif "token" in name or "pos_embed" in name or "latent" in name:
                weight.copy_(torch.randn_like(weight))
            else:
                weight.copy_(torch.randn_like(weight) * (1.5 / math.sqrt(weight[0].numel())))


def arguments(name: str, **changes: Any) -> dict[str, Any]:
    """What a model is built with."""
    return {**_COMMON, **MODELS[name].kwargs, **changes}


def build(name: str, **changes: Any) -> nn.Module:
    """A model in float32, evaluation mode, in which every weight matters."""
    tiny = MODELS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = tiny.kind(**arguments(name, **changes)).eval().requires_grad_(False)
        make_all_weights_matter(model)
    return model


@cache
def spec(name: str) -> ModelSpec:
    """What a plan needs to know about a model."""
    tiny = MODELS[name]
    with torch.device("meta"):
        return describe(tiny.kind(**arguments(name)).eval(), name)


def plan_of(name: str, reduction: Reduction) -> Plan:
    """The plan of a model."""
    return make_plan(spec(name), reduction)


def reduced(name: str, reduction: Reduction, **changes: Any) -> nn.Module:
    """A model that carries a plan."""
    return patch.apply(build(name, **changes), plan_of(name, reduction))


def pixels(count: int, seed: int = 0) -> NDArray[np.float32]:
    """Images [count, 3, 32, 32], unit normal."""
    return np.random.default_rng(seed).normal(size=(count, 3, SIDE, SIDE)).astype(np.float32)


def weights(model: nn.Module) -> dict[str, NDArray[np.float64]]:
    """A state dict for the oracle."""
    return {name: value.double().numpy() for name, value in model.state_dict().items()}


@cache
def _traced(
    name: str,
    reduction: Reduction,
    precision: Precision,
    io_dtype: torch.dtype,
    batch: BatchRange | None,
    opset: int,
    token_map: bool,
) -> bytes:
    graph = trace(
        reduced(name, reduction), SHAPE, precision=precision, io_dtype=io_dtype, batch=batch, opset=opset,
        token_map=token_map,
    )  # fmt: skip
    return to_bytes(graph)


def canonical(
    name: str,
    reduction: Reduction,
    *,
    precision: Precision = Precision.FP32,
    io_dtype: torch.dtype = torch.float32,
    batch: BatchRange | None = None,
    opset: int = 18,
    token_map: bool = False,
) -> ir.Model:
    """A fresh copy of a canonical graph, traced once a session.

    Graphs of different methods differ in one attribute alone (`test_export` checks it), so all of them are derived
    from a few traces: with sizes in the attention, tracked alone, and without. Tokens that halt have no method.
    """
    plan = plan_of(name, reduction)
    traced = reduction if reduction.select.halts else Reduction(r=0)
    if plan.removes and not reduction.select.halts:
        method = Method.TOME if plan.tracks_sizes else Method.MLERP
        traced = Reduction(
            r=tuple(layer.removed for layer in plan.layers),
            pattern=method.value * DEPTH,
            prop_attn=plan.prop_attn,
            pruned_sizes=plan.reduction.pruned_sizes,
            select=plan.reduction.select,
        )
    graph = from_bytes(_traced(name, traced, precision, io_dtype, batch, opset, token_map))
    return with_methods(graph, [layer.method.word for layer in plan.layers])


def lowered(
    name: str,
    reduction: Reduction,
    target: Target = Target.PORTABLE,
    precision: Precision = Precision.FP32,
    **kwargs: Any,
) -> ir.Model:
    """A lowered graph."""
    return lower(canonical(name, reduction, precision=precision, **kwargs), target, precision)


def from_bytes(data: bytes) -> ir.Model:
    """A graph from a serialised ModelProto."""
    import onnx

    return ir.from_proto(onnx.ModelProto.FromString(data))


def to_bytes(model: ir.Model) -> bytes:
    """A serialised ModelProto."""
    return bytes(ir.to_proto(model).SerializeToString())
