"""Fit a state dict to a model: timm's conversions first, then a strict comparison that reports differences."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from torch import Tensor, nn

from tofu_export.errors import WeightsError
from tofu_export.patch.predictors import ATTRIBUTE
from tofu_export.zoo._checkpoint import first_not_finite
from tofu_export.zoo._choice import has_no_part
from tofu_export.zoo._convert import convert

__all__ = ["Fit", "Mismatch", "Rules", "classifiers_of", "fit"]

_LISTED: Final = 5
"""Number of keys of each kind that a message names; the rest is counted."""

_COMPUTED: Final = re.compile(r"(.*\.)?(rope\w*|periods|bias_mask|relative_position_index|position_ids)(\.|$)")
"""Buffers of other implementations that timm computes, and DINOv3's mask of an unused bias."""

_HOW_STORED: Final[tuple[tuple[re.Pattern[str], str], ...]] = (
    (re.compile(r"(.+)\.weight_orig"), "is pruned by torch.nn.utils.prune: call prune.remove(module, 'weight')"),
    (
        re.compile(r"(.+)\.(?:parametrizations\.weight\..+|weight_[gv])"),
        "has weights in parts (parametrizations, weight_norm): call remove_parametrizations or remove_weight_norm",
    ),
)
"""Names of layers that torch computes a weight for, which lack it, and what undoes that."""

_QKV_BIAS: Final = re.compile(r"(?:qkv|[qkv]_proj)\.bias$|\b[qkv]_bias$")
"""Biases of queries, keys and values, which may be missing if they are zero."""


@dataclass(frozen=True)
class Rules:
    """Rules on tensors that may be dropped.

    Attributes:
        features: the classifier may be dropped, as the model was asked for without one.
        trained: any tensor may be dropped, also if it affects the output (`--allow-dropped`, and files of timm's hub).
    """

    features: bool = True
    trained: bool = False


@dataclass(frozen=True)
class Fit:
    """Changes made by fitting.

    Attributes:
        adapted: tensors that timm reshaped or resampled, as `name [old shape] -> [new shape]`.
        dropped: allowed tensors of the file that the model has no place for.
    """

    adapted: tuple[str, ...]
    dropped: tuple[str, ...]


@dataclass(frozen=True)
class Mismatch:
    """Differences between the tensors of a file and those of a model, name to shape."""

    missing: Mapping[str, tuple[int, ...]]
    unexpected: Mapping[str, tuple[int, ...]]
    reshaped: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]

    @classmethod
    def between(cls, found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> Mismatch:
        """Compare the tensors in a file with those of a model."""
        return cls(
            missing={name: tuple(wanted[name].shape) for name in wanted if name not in found},
            unexpected={name: tuple(found[name].shape) for name in found if name not in wanted},
            reshaped={
                name: (tuple(found[name].shape), tuple(wanted[name].shape))
                for name in wanted
                if name in found and found[name].shape != wanted[name].shape
            },
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all tensors that differ."""
        return (*self.missing, *self.unexpected, *self.reshaped)

    def __str__(self) -> str:
        kinds = {
            "missing in the file": [f"{name} {list(shape)}" for name, shape in self.missing.items()],
            "unknown to the model": [f"{name} {list(shape)}" for name, shape in self.unexpected.items()],
            "of another shape": [
                f"{name} {list(got)} in the file, {list(wanted)} in the model"
                for name, (got, wanted) in self.reshaped.items()
            ],
        }
        return "; ".join(_summary(kind, items) for kind, items in kinds.items() if items)


def fit(model: nn.Module, found: Mapping[str, Tensor], *, name: str, file: str, rules: Rules = Rules()) -> Fit:
    """Load tensors into a model, after timm's own conversions (position embedding, patch embedding, foreign keys).

    Args:
        model: receives the weights, in place.
        found: tensors by name, floating ones in float32.
        name: name of the model, for messages.
        file: name of the file, for messages.
        rules: tensors that may be dropped.

    Raises:
        WeightsError: a tensor is missing, unknown, of another shape, or has a NaN or an infinity.
    """
    converted = convert(model, found)
    wanted = model.state_dict()
    heads = classifiers_of(model)
    has_classifier = any(_belongs(key, heads) for key in wanted)
    surplus = {key: tensor for key, tensor in converted.tensors.items() if key not in wanted}
    surplus |= {key: found[key] for key in converted.lost}
    dropped = [
        key
        for key, tensor in surplus.items()
        if rules.trained
        or has_no_part(key)
        or _COMPUTED.match(key)
        or (_QKV_BIAS.search(key) and not tensor.any())
        or (rules.features and not has_classifier and _belongs(key, heads))
    ]
    tensors = {key: tensor for key, tensor in converted.tensors.items() if key not in dropped}
    mismatch = Mismatch.between({**tensors, **{key: surplus[key] for key in surplus if key not in dropped}}, wanted)
    if mismatch.names:
        raise WeightsError(_explain(mismatch, heads, has_classifier, name=name, file=file))
    broken = first_not_finite(tensors)
    if broken is not None:
        raise WeightsError(f"{broken} in {file} holds NaN or infinity, expected finite weights: use another checkpoint")
    model.load_state_dict(tensors)
    return Fit(converted.adapted, tuple(sorted(dropped)))


def classifiers_of(model: nn.Module) -> tuple[str, ...]:
    """Return the names of the sub-modules that classify, for example `head`."""
    names = getattr(model, "pretrained_cfg", {}).get("classifier") or "head"
    return (names,) if isinstance(names, str) else tuple(names)


def _explain(mismatch: Mismatch, heads: tuple[str, ...], has_classifier: bool, *, name: str, file: str) -> str:
    for pattern, words in _HOW_STORED:
        for key in mismatch.unexpected:
            if (layer := pattern.fullmatch(key)) and f"{layer[1]}.weight" in mismatch.missing:
                return f"{file} {words} before the state dict is saved ({key})"
    if flat := next((key for key in mismatch.unexpected if key.endswith("flat_param")), None):
        return (
            f"{file} holds weights as FSDP flattens them ({flat}): save a full state dict "
            "(StateDictType.FULL_STATE_DICT) of the model"
        )
    if empty := next((key for key, (got, _) in mismatch.reshaped.items() if got == (0,)), None):
        return (
            f"{file} has tensors without values ({empty}), as DeepSpeed's ZeRO-3 leaves them on each process: write "
            "the checkpoint to one file with the zero_to_fp32.py that DeepSpeed put beside it, and give that"
        )
    if all(_belongs(key, (ATTRIBUTE,)) for key in mismatch.names):
        return (
            f"{file} fits {name} but for its trained predictors, which are incomplete or of another form than those of "
            f"DynamicViT and SPViT ({mismatch}): use another checkpoint, or pass --allow-dropped to leave them all out"
        )
    if all(_belongs(key, heads) for key in mismatch.names):
        classes = next((got[0] for key, (got, _) in mismatch.reshaped.items() if key.endswith(".bias")), None)
        if classes is None:
            classes = next((got[0] for got, _ in mismatch.reshaped.values()), None)
        weights = [pair for key, pair in mismatch.reshaped.items() if key.endswith(".weight")]
        if any(got[1:] != wanted[1:] for got, wanted in weights) or not has_classifier:
            return (
                f"{file} has a classifier that {name} cannot have, of another kind or width ({mismatch}): "
                "pass --num-classes 0 to export the features before it"
            )
        if classes is not None:
            return f"{file} fits {name} but for its classifier ({mismatch}): pass --num-classes {classes}"
        if not mismatch.unexpected and all(key.endswith(".bias") for key in mismatch.missing):
            return f"{file} fits {name} but for its classifier, which has no bias ({mismatch}): add one of zeros"
        absent = [head for head in heads if any(_belongs(key, (head,)) for key in mismatch.missing)]
        if len(absent) < len(heads):
            return (
                f"{file} fits {name} but has no {absent[0]}, one of the classifiers whose mean {name} gives "
                f"({mismatch}): name the model that the weights were saved from"
            )
        if not mismatch.unexpected:
            return (
                f"{file} fits {name} but has no classifier ({mismatch}): "
                "pass --num-classes 0 to export the features, or a file with one"
            )
    others = [key for key in mismatch.unexpected if not _belongs(key, heads)]
    if mismatch.missing and not mismatch.reshaped and all(_belongs(key, heads) for key in mismatch.missing):
        last = others[0] if others else "its last layer"
        return (
            f"{file} fits {name} but for its classifier ({mismatch}). If {last} reads the pooled features directly, "
            f"rename its tensors to {heads[0]}.weight and {heads[0]}.bias; or pass --num-classes 0, with "
            "--allow-dropped if need be, to export the features before it"
        )
    if not mismatch.missing and not mismatch.reshaped:
        return (
            f"{file} does not fit {name}: {mismatch}. Without them the output is another than that of the model that "
            "was saved: name that model, or pass --allow-dropped to leave them out"
        )
    return f"{file} does not fit {name}: {mismatch}. Pass the name and --image-size that the weights were saved from"


def _summary(kind: str, items: list[str]) -> str:
    more = f", and {len(items) - _LISTED} more" if len(items) > _LISTED else ""
    return f"{len(items)} {kind}: {', '.join(items[:_LISTED])}{more}"


def _belongs(key: str, heads: tuple[str, ...]) -> bool:
    return any(key.startswith(f"{head}.") for head in heads)
