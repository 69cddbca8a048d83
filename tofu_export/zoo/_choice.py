"""Choose one model of a checkpoint, which can hold several (weights and their average, teacher and student).

A model is found by the name of its patch embedding, whatever wraps it: the path to that name is the path to the model.
Tensors beside it are sorted into those that belong to it, those that do not affect its output, and the rest.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from torch import Tensor

from tofu_export.errors import OptionError, WeightsError

__all__ = ["Chosen", "choose", "has_no_part"]

_ANCHORS: Final = (
    "patch_embed.proj.weight",
    "embeddings.patch_embeddings.projection.weight",
    "embeddings.patch_embeddings.weight",
    "embeddings.patch_embedding.weight",
    "visual.conv1.weight",
    "embeds.linear.weight",
    "embeds.proj.weight",
)
"""Names of the patch embedding in timm, `transformers` (three), CLIP's releases and timm's NaFlexViT (two)."""

_WRAPPERS: Final = re.compile(
    r"(^|\.)(?:_orig_mod|_checkpoint_wrapped_module|_fsdp_wrapped_module|_forward_module)(?=\.)"
)
"""Parts that torch.compile, activation checkpointing, FSDP and Lightning insert into a name."""

_NOT_IN_THE_OUTPUT: Final = re.compile(
    r"(?:text|textual|text_\w+|token_embedding|positional_embedding|transformer|ln_final|logit_\w+|decoder\w*|predictor"
    r"|mask_token|criterion|\w*loss\w*|\w*metrics?|(?:train|val|valid|test)_\w+|n_averaged|num_batches_tracked"
    r"|dino_head|ibot_head|lm_head|projectors|local_cls_norm|prototypes|momentum_\w+|queue\w*|optimizer\w*|scaler"
    r"|input_resolution|context_length|vocab_size)(?:\.|$)"
)
"""Tensors beside a vision model that do not affect its output: text towers, losses and metrics of training, heads and
decoders of pretraining."""

_PREFERRED: Final = (("ema", "averaged", "swa"), ("teacher",))
"""Words in the path of the preferred model, best first; training scripts evaluate averages."""

_LAST: Final = ("student", "predictor", "target_encoder")

_DEEPEST: Final = 4
"""Limit of depth, since a pickled dict can contain itself."""


@dataclass(frozen=True)
class Chosen:
    """One model of a checkpoint.

    Attributes:
        key: path of the model, for example `model_ema` or `teacher.backbone`; empty if it is all of the file.
        keys: keys of all models in the file.
        tensors: tensors by their names in the model. Tensors beside it that may belong to it keep their names.
        beside: names of tensors beside it that do not affect its output; others are counted by their first
            part.
    """

    key: str
    keys: tuple[str, ...]
    tensors: dict[str, Tensor]
    beside: tuple[str, ...]


@dataclass(frozen=True)
class _Candidate:
    key: str
    prefix: str
    tensors: Mapping[str, Tensor]


def choose(found: Mapping[Any, Any], *, file: str, key: str | None = None) -> Chosen:
    """Choose the model of a checkpoint.

    Args:
        found: content of the file.
        file: name of the file, for messages.
        key: path of one of several models; None: averaged weights before others, a teacher before its student, or else
            the first.

    Raises:
        OptionError: the key leads to no model, or to several.
        WeightsError: the file has no tensors.
    """
    states = list(_states(found))
    if not states:
        entries = ", ".join(sorted(str(name) for name in found)[:5]) or "nothing"
        raise WeightsError(
            f"{file} holds no tensors (its entries: {entries}), expected a state dict: "
            "save one with torch.save(model.state_dict(), PATH)"
        )
    candidates = [candidate for path, tensors in states for candidate in _models_in(path, tensors)]
    candidates = candidates or [_Candidate(*_unknown(*states[0]))]
    chosen = _named(candidates, key, file) if key is not None else min(candidates, key=_rank)
    others = [candidate for candidate in candidates if candidate.key != chosen.key]
    tensors, beside = _with_neighbours(chosen, others)
    return Chosen(chosen.key, tuple(candidate.key for candidate in candidates), tensors, beside)


def has_no_part(name: str) -> bool:
    """True for a tensor that does not affect the output of a vision model, by its name in the file."""
    return _NOT_IN_THE_OUTPUT.match(name) is not None


def _states(
    found: Mapping[Any, Any], path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], dict[str, Tensor]]]:
    """Yield every mapping that holds tensors, with its path, outer ones first."""
    tensors = {name: value for name, value in found.items() if isinstance(name, str) and isinstance(value, Tensor)}
    if tensors:
        yield path, {_WRAPPERS.sub(r"\1", name).replace("..", ".").removeprefix("."): t for name, t in tensors.items()}
    if len(path) < _DEEPEST:
        for name, value in found.items():
            if isinstance(value, Mapping) and isinstance(name, str) and value is not found:
                yield from _states(value, (*path, name))


def _models_in(path: tuple[str, ...], tensors: Mapping[str, Tensor]) -> list[_Candidate]:
    prefixes = [
        name.removesuffix(anchor)
        for name in tensors
        for anchor in _ANCHORS
        if name == anchor or name.endswith(f".{anchor}")
    ]
    return [
        _Candidate(".".join([*path, *filter(None, prefix.split("."))]), prefix, tensors)
        for prefix in dict.fromkeys(prefixes)
    ]


def _unknown(path: tuple[str, ...], tensors: Mapping[str, Tensor]) -> tuple[str, str, Mapping[str, Tensor]]:
    """Handle tensors without a known patch embedding: a common start of all names is a wrapper."""
    prefix = ""
    while True:
        parts = {name.removeprefix(prefix).partition(".") for name in tensors}
        firsts = {first for first, _, _ in parts}
        if len(firsts) != 1 or firsts & {"blocks", "visual"} or any(not rest for _, _, rest in parts):
            return ".".join([*path, *filter(None, prefix.split("."))]), prefix, tensors
        prefix += f"{firsts.pop()}."


def _named(candidates: Sequence[_Candidate], key: str, file: str) -> _Candidate:
    wanted = key.strip().strip(".")
    exact = [candidate for candidate in candidates if candidate.key == wanted]
    within = exact or [candidate for candidate in candidates if candidate.key.startswith(f"{wanted}.")]
    if len(within) != 1:
        known = ", ".join(repr(candidate.key) for candidate in candidates)
        raise OptionError(
            f"weights key {key!r} stands for {'no model' if not within else f'{len(within)} models'} in {file}, "
            f"expected one of {known}"
        )
    return within[0]


def _rank(candidate: _Candidate) -> int:
    words = re.split(r"[._]", candidate.key.lower())
    for place, preferred in enumerate(_PREFERRED):
        if any(word in words for word in preferred):
            return place
    return len(_PREFERRED) + any(word in candidate.key.lower() for word in _LAST)


def _with_neighbours(chosen: _Candidate, others: Sequence[_Candidate]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Return the tensors of a model with those beside it that may belong to it, and the unused ones."""
    prefix = chosen.prefix
    own = {name.removeprefix(prefix): t for name, t in chosen.tensors.items() if name.startswith(prefix)}
    elsewhere = tuple(other.prefix for other in others if other.tensors is chosen.tensors and other.prefix)
    beside: list[str] = []
    for name, tensor in chosen.tensors.items():
        if name.startswith(prefix):
            continue
        near = _relative(name, prefix)
        if name.startswith(elsewhere) or has_no_part(near):
            beside.append(name)
        else:
            own[near if near not in own else name] = tensor
    vision = "visual.conv1.weight" in own
    text = [name for name in own if has_no_part(name) and (vision or name.startswith(("logit_", "text")))]
    return {name: t for name, t in own.items() if name not in text}, _counted([*beside, *text])


def _relative(name: str, prefix: str) -> str:
    """Return a name without the leading parts that it shares with the prefix."""
    shared = 0
    parts, wrapping = name.split("."), prefix.split(".")
    while shared < min(len(parts) - 1, len(wrapping)) and parts[shared] == wrapping[shared]:
        shared += 1
    return ".".join(parts[shared:])


def _counted(names: Sequence[str]) -> tuple[str, ...]:
    """Group names by their first part, with counts."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(name.partition(".")[0], []).append(name)
    return tuple(
        sorted(group[0] if len(group) == 1 else f"{first}.* ({len(group)})" for first, group in groups.items())
    )
