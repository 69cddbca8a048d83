"""Describe the model that a set of weights belongs to, and compare it with the model that timm builds.

Each field is None if unknown. Fields with an argument of `timm.create_model` are set before the model is built,
activation and epsilon in the built model; remaining differences are refused by name (`check`).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Final

import torch
from timm.layers.create_act import get_act_layer
from torch import Tensor, nn
from torch.nn.functional import gelu

from tofu_export.errors import WeightsError
from tofu_export.patch.predictors import ATTRIBUTE

__all__ = [
    "ACTIVATIONS",
    "BOTH_TOKENS",
    "Description",
    "apply",
    "arguments_for",
    "changes",
    "check",
    "describe_model",
    "merge",
    "undescribed",
]

Size = tuple[int, int]

BOTH_TOKENS: Final = "token+distillation"
"""Pooling of distilled models: the mean of class and distillation token, or of what their classifiers give."""


@dataclass(frozen=True)
class Description:
    """Facts about a Vision Transformer that determine its numbers; None if not known.

    Attributes:
        depth: number of blocks.
        embed_dim: width C of a token.
        heads: attention heads of a block.
        mlp_width: hidden width of a block's MLP.
        activation: activation of the MLPs, a name in `ACTIVATIONS`.
        norm_eps: epsilon of all layer norms.
        pooling: `token`, `avg`, `map` and so on, as timm's `global_pool`.
        pool_norm: position of the last norm: `before` the pooling, `after` it, or `none`.
        class_token: the model has a class token.
        reg_tokens: number of register tokens.
        qkv_bias: queries and values have a bias.
        rope_theta: base period of rotary position embeddings.
        image_size: height and width in pixels.
        patch_size: height and width in pixels.
        in_chans: input channels.
        num_classes: width of the classifier.
    """

    depth: int | None = None
    embed_dim: int | None = None
    heads: int | None = None
    mlp_width: int | None = None
    activation: str | None = None
    norm_eps: float | None = None
    pooling: str | None = None
    pool_norm: str | None = None
    class_token: bool | None = None
    reg_tokens: int | None = None
    qkv_bias: bool | None = None
    rope_theta: float | None = None
    image_size: Size | None = None
    patch_size: Size | None = None
    in_chans: int | None = None
    num_classes: int | None = None

    def said(self) -> Iterator[tuple[str, Any]]:
        """Yield name and value of each known field."""
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None:
                yield field.name, value

    def differences(self, other: Description) -> dict[str, tuple[Any, Any]]:
        """Return own and other value of each field that is known in both and differs."""
        found = {name: (value, getattr(other, name)) for name, value in self.said()}
        return {name: pair for name, pair in found.items() if pair[1] is not None and not _equal(*pair)}


ACTIVATIONS: Final[Mapping[str, Callable[[Tensor], Tensor]]] = {
    "gelu": gelu,
    "gelu_tanh": lambda x: gelu(x, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "relu": torch.relu,
    "silu": lambda x: x * torch.sigmoid(x),
}
"""Activations by timm's names."""

_SAME_VALUES: Final = 1e-5
"""Largest difference of two equal activations: GELU and its tanh approximation are 5e-4 apart."""

_ARGUMENTS: Final[Mapping[str, tuple[str, ...]]] = {
    "class_token": ("class_token",),
    "reg_tokens": ("reg_tokens", "num_reg_tokens"),
    "qkv_bias": ("qkv_bias",),
    "image_size": ("img_size",),
    "patch_size": ("patch_size",),
    "in_chans": ("in_chans",),
    "num_classes": ("num_classes",),
}
"""Names of a field in timm's classes, as an argument of `timm.create_model`."""

_WORDS: Final = {
    "norm_eps": "layer norm epsilon",
    "pool_norm": "last norm",
    "num_classes": "classifier width",
    "patch_size": "patch size of patch_embed",
    "in_chans": "input channels",
}

_FC_NORM: Final = ("fc_norm", "use_fc_norm")
"""Names of a norm after the pooling in timm's classes."""


def describe_model(model: nn.Module) -> Description:
    """Describe a timm model, also one on the meta device; None for parts that it lacks."""
    architecture: Any = model
    block: Any = next(iter(getattr(model, "blocks", ())), None)
    attention = getattr(block, "attn", None)
    embed = getattr(model, "patch_embed", None)
    projection = getattr(embed, "proj", None)
    hidden = getattr(getattr(block, "mlp", None), "fc2", None)
    rope = getattr(model, "rope", None)
    cls_token = getattr(model, "cls_token", None)
    return Description(
        depth=len(architecture.blocks) if block is not None else None,
        embed_dim=_whole(getattr(model, "embed_dim", None)),
        heads=_whole(getattr(attention, "num_heads", None)),
        mlp_width=_whole(getattr(hidden, "in_features", None)),
        activation=_activation_of(model),
        norm_eps=_eps_of(model),
        pooling=_pooling_of(model),
        pool_norm=_pool_norm_of(model),
        class_token=cls_token is not None if block is not None else None,
        reg_tokens=_registers_of(model) if block is not None else None,
        qkv_bias=None if attention is None else _has_bias(attention),
        rope_theta=getattr(rope, "temperature", None),
        image_size=_pair(getattr(embed, "img_size", None)),
        patch_size=_pair(getattr(embed, "patch_size", None)),
        in_chans=_whole(getattr(projection, "in_channels", None)),
        num_classes=_whole(getattr(model, "num_classes", None)),
    )


def merge(first: Description, second: Description, *, names: tuple[str, str]) -> Description:
    """Merge the descriptions of two sources.

    Args:
        first: description of one source.
        second: description of the other source.
        names: names of the two, for the message.

    Raises:
        WeightsError: they contradict each other.
    """
    for name, (ours, theirs) in first.differences(second).items():
        raise WeightsError(
            f"{names[0]} says {_words(name)} {_text(ours)}, {names[1]} says {_text(theirs)}: "
            "they do not belong together, or one was edited"
        )
    return replace(second, **dict(first.said()))


def arguments_for(wanted: Description, model: nn.Module, *, keep: frozenset[str] = frozenset()) -> dict[str, Any]:
    """Return arguments of `timm.create_model` that adapt `model` to a description, as far as there are such arguments.

    Args:
        wanted: description of the weights.
        model: the model as timm builds it by default.
        keep: fields that options set.
    """
    known = _parameters(type(model))
    differing = {name: value for name, (value, _) in wanted.differences(describe_model(model)).items()}
    found = {
        argument: value
        for name, value in differing.items()
        for argument in _ARGUMENTS.get(name, ())
        if argument in known and name not in keep
    }
    if {"pooling", "pool_norm"} & differing.keys() and "global_pool" in known:
        if wanted.pooling not in (None, BOTH_TOKENS):
            found["global_pool"] = wanted.pooling
        after = next((name for name in _FC_NORM if name in known), None)
        if wanted.pool_norm is not None and after is not None:
            found[after] = wanted.pool_norm == "after"
        if wanted.pool_norm == "none" and "final_norm" in known:
            found["final_norm"] = False
    return found


def apply(wanted: Description, model: nn.Module) -> None:
    """Set activation and epsilon of a model, in place, where they differ from the description."""
    has = describe_model(model)
    if wanted.activation is not None and wanted.activation != has.activation:
        layer: Any = get_act_layer(wanted.activation)
        for owner in _owners_of_activations(model):
            owner.act = layer()
    if wanted.norm_eps is not None:
        for norm in _norms(model):
            norm.eps = wanted.norm_eps


def check(wanted: Description, model: nn.Module, *, name: str, where: str, keep: frozenset[str] = frozenset()) -> None:
    """Check a model against a description.

    Args:
        wanted: description of the weights.
        model: the model that they are loaded into.
        name: name of the model, for the message.
        where: source of the description.
        keep: fields that options set.

    Raises:
        WeightsError: a field differs and cannot be set.
    """
    differing = wanted.differences(describe_model(model))
    refused = [
        f"{_words(field)} {_text(value)}, {name} has {_text(has)}"
        for field, (value, has) in differing.items()
        if field not in keep
    ]
    if refused:
        raise WeightsError(
            f"{where} says {'; '.join(refused)}, and timm has no argument that sets it here: the numbers would be "
            "wrong. Name the model that the weights were saved from"
        )


def changes(before: Description, after: Description) -> tuple[str, ...]:
    """List the changes between two descriptions, for example `pooling avg -> token`."""
    return tuple(
        f"{_words(name)} {_text(was)} -> {_text(now)}" for name, (now, was) in after.differences(before).items()
    )


def undescribed(arguments: Mapping[str, Any]) -> tuple[str, ...]:
    """List arguments of `timm.create_model` that no field describes, for example `pool include prefix yes`."""
    known = {name for names in _ARGUMENTS.values() for name in names} | {*_FC_NORM, "act_layer", "global_pool"}
    return tuple(f"{_words(name)} {_text(value)}" for name, value in arguments.items() if name not in known)


def activation_name(function: Callable[[Tensor], Tensor]) -> str:
    """Return timm's name of an activation; its type if it is not in `ACTIVATIONS`."""
    points = torch.linspace(-4, 4, 161)
    with torch.no_grad():
        values = function(points)
        for name, known in ACTIVATIONS.items():
            if float((values - known(points)).abs().max()) < _SAME_VALUES:
                return name
    return type(function).__name__


def _activation_of(model: nn.Module) -> str | None:
    names = {activation_name(owner.act) for owner in _owners_of_activations(model)}
    return "/".join(sorted(names)) or None


def _owners_of_activations(model: nn.Module) -> list[Any]:
    """Return MLPs of the blocks and of a pooling attention."""
    parts = [*getattr(model, "blocks", ()), *filter(None, [getattr(model, "attn_pool", None)])]
    return [
        module
        for part in parts
        for name, module in part.named_modules()
        if name.split(".")[-1].startswith("mlp") and isinstance(getattr(module, "act", None), nn.Module)
    ]


def _norms(model: nn.Module) -> list[Any]:
    """Return the norms of a model, but not of trained predictors, which no description means."""
    return [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.LayerNorm | nn.RMSNorm) and not name.startswith(f"{ATTRIBUTE}.")
    ]


def _eps_of(model: nn.Module) -> float | None:
    """Return the epsilon of the norms; NaN, which equals nothing, if they differ."""
    found = {norm.eps for norm in _norms(model)}
    if len(found) == 1:
        eps: float | None = found.pop()
        return eps
    return math.nan if found else None


def _pooling_of(model: nn.Module) -> str | None:
    if getattr(model, "dist_token", None) is not None:
        return BOTH_TOKENS
    return getattr(model, "global_pool", None) or None


def _pool_norm_of(model: nn.Module) -> str | None:
    norm, after = getattr(model, "norm", None), getattr(model, "fc_norm", None)
    if norm is None and after is None:
        return None
    if after is not None and not isinstance(after, nn.Identity):
        return "after" if norm is None or isinstance(norm, nn.Identity) else "before and after"
    return "none" if norm is None or isinstance(norm, nn.Identity) else "before"


def _registers_of(model: nn.Module) -> int:
    registers = getattr(model, "reg_token", None)
    return 0 if registers is None else int(registers.shape[1])


def _has_bias(attention: Any) -> bool:
    if getattr(attention, "q_bias", None) is not None:
        return True
    projection = getattr(attention, "qkv", None) or getattr(attention, "q_proj", None) or getattr(attention, "q", None)
    return getattr(projection, "bias", None) is not None


def _parameters(kind: type) -> set[str]:
    """Return the argument names of a class and its parents, which often take the rest as keywords."""
    return {name for parent in kind.__mro__ for name in inspect.signature(parent.__init__).parameters}  # type: ignore[misc]


def _equal(first: Any, second: Any) -> bool:
    if isinstance(first, float) or isinstance(second, float):
        return math.isclose(first, second, rel_tol=1e-6)
    return bool(first == second)


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _pair(value: Any) -> Size | None:
    if isinstance(value, int):
        return value, value
    return (int(value[0]), int(value[1])) if value is not None else None


def _words(name: str) -> str:
    return _WORDS.get(name, name.replace("_", " "))


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return "x".join(map(str, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)
