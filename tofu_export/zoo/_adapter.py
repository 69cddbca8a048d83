"""Merge LoRA adapters of peft with the weights that they change: W + alpha / r * B A.

An adapter is read by its names and its configuration. A setting that changes the result in another way is refused by
name.

Source: peft 0.21, `LoraConfig`, `tuners.lora.layer.Linear.get_delta_weight`, `utils.other.get_pattern_key`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from tofu_export.errors import WeightsError
from tofu_export.zoo._choice import has_no_part
from tofu_export.zoo._folder import ADAPTER_CONFIG, read_adapter_config
from tofu_export.zoo._transformers import places_in

__all__ = ["Adapter", "merge_inside", "read_adapter"]

_PAIR: Final = re.compile(r"(?P<layer>.+)\.lora_(?P<side>[AB])(?:\.(?P<name>\w+))?\.weight")
_ANY: Final = re.compile(r"lora_|\.hada_|lokr_|ia3_l|oft_|boft_|vera_|randlora_|\.trainable_tokens_")
"""Names of tensors of any kind of adapter."""

_WRAPPED: Final = "base_model.model."

_WITHOUT_EFFECT: Final = frozenset(
    {"alpha_pattern", "auto_mapping", "base_model_name_or_path", "bias", "corda_config", "ensure_weight_tying",
     "eva_config", "exclude_modules", "inference_mode", "init_lora_weights", "layers_pattern", "layers_to_transform",
     "loftq_config", "lora_alpha", "lora_dropout", "lora_ga_config", "megatron_core", "modules_to_save", "peft_type",
     "peft_version", "qalora_group_size", "r", "rank_pattern", "revision", "runtime_config", "target_modules",
     "task_type", "use_rslora"}
)  # fmt: skip
"""Settings that are read here, or show in the tensors, or matter only in training."""

_PLAIN_STARTS: Final = (True, False, None, "gaussian", "eva", "orthogonal")
"""Initialisations that leave the base unchanged; others take the initial adapter from it."""

_ADVICE: Final = (
    "Merge it with its base in peft, model.merge_and_unload(), save the state dict of what that returns, and give that "
    "file"
)

_DEEPEST: Final = 4
"""Depth of nested dictionaries that `choose` searches."""


@dataclass(frozen=True)
class Adapter:
    """LoRA adapter, ready to be merged.

    Attributes:
        path: path of its file.
        changes: summand of each changed weight, by the name of the weight.
        others: tensors that replace those of the base (`modules_to_save`, biases), by name.
        saved: names of the modules that were saved completely; the base may lack them.
    """

    path: Path
    changes: Mapping[str, Tensor]
    others: Mapping[str, Tensor]
    saved: tuple[str, ...]

    def merge(self, base: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
        """Merge the adapter with the weights of the model that it was trained on.

        Args:
            base: the weights, in float32; names of other versions of transformers are recognised.

        Returns:
            The merged weights, and the names of adapter tensors that do not affect the output.

        Raises:
            WeightsError: the adapter changes or replaces a tensor that the base lacks, or has in another shape.
        """
        find, merged, unused = _finder(base), dict(base), []
        wrappings = set()
        for name, tensor in {**self.changes, **self.others}.items():
            wrapping, target = find(name)
            if target is not None and name in self.changes:
                wrappings.add(wrapping)
                merged[target] = _added(base[target], tensor, name, self.path.name)
            elif target is not None and base[target].shape == tensor.shape:
                merged[target] = tensor
            elif self._is_saved(name):
                merged[target or name.removeprefix(_WRAPPED)] = tensor
            elif target is None and wrapping is not None:
                unused.append(name)
            else:
                raise WeightsError(f"{self.path.name} does not fit its base, which has no {name} {list(tensor.shape)}")
        if not wrappings or len(wrappings - {""}) > 1:
            what = "parts of several models in" if wrappings else "nothing of the vision model in"
            raise WeightsError(f"{self.path.name} changes {what} its base. {_ADVICE}")
        return merged, tuple(unused)

    def summary(self, base: Path) -> str:
        """Describe for reports what was merged with what."""
        return f"an adapter (LoRA of {len(self.changes)} layers) merged with its base, {base.parent.name}/{base.name}"

    def _is_saved(self, name: str) -> bool:
        """True for a tensor of `modules_to_save`, which lists modules, or ends of their paths."""
        return any(f".{module}." in f".{name}" for module in self.saved)


def read_adapter(tensors: Mapping[str, Tensor], path: Path) -> Adapter:
    """Read the adapter among some tensors; the remaining tensors are its `others`.

    Args:
        tensors: tensors by name.
        path: the file that they are from, beside its configuration.

    Raises:
        WeightsError: no configuration, another kind of adapter, or one whose effect is not alpha / r * B A.
    """
    pairs, config = _pairs(tensors, path.name), read_adapter_config(path.parent)
    if config is None:
        raise WeightsError(
            f"{path.name} holds an adapter ({next(iter(pairs))}), and no {ADAPTER_CONFIG} beside it says its alpha: "
            f"put that there. {_ADVICE}"
        )
    _check(config, path.parent / ADAPTER_CONFIG)
    saved = config.get("modules_to_save") or ()
    return Adapter(
        path,
        {f"{layer}.weight": _product(layer, *pair, config, path.name) for layer, pair in pairs.items()},
        dict(_others(tensors)),
        tuple(map(str, saved)),
    )


def merge_inside(found: Mapping[Any, Any], path: Path, deep: int = _DEEPEST) -> Mapping[Any, Any]:
    """Return the content of a checkpoint with every adapter merged with the weights beside it.

    Args:
        found: state dicts, in dictionaries.
        path: the file.
        deep: depth of nested dictionaries to search.

    Raises:
        WeightsError: as in `read_adapter`, or the weights that an adapter changes are not in the same state dict.
    """
    tensors = {name: value for name, value in found.items() if isinstance(name, str) and isinstance(value, Tensor)}
    result = dict(found)
    if any(_ANY.search(name) for name in tensors):
        adapter = read_adapter(tensors, path)
        alone = next((name for name in adapter.changes if name not in adapter.others), None)
        if alone is not None:
            raise WeightsError(f"{path.name} holds an adapter without the weights that it changes ({alone}). {_ADVICE}")
        result = {name: value for name, value in found.items() if name not in tensors}
        result.update(adapter.others)
        for name, change in adapter.changes.items():
            result[name] = _added(adapter.others[name], change, name, path.name)
    for name, value in found.items():
        if deep and isinstance(value, Mapping) and value is not found:
            result[name] = merge_inside(value, path, deep - 1)
    return result


def _pairs(tensors: Mapping[str, Tensor], file: str) -> dict[str, tuple[Tensor, Tensor]]:
    """Return A [r, in] and B [out, r] by the name of the layer."""
    sides: dict[str, dict[str, Tensor]] = {}
    adapters = set()
    for name, tensor in tensors.items():
        if part := _PAIR.fullmatch(name):
            sides.setdefault(part["layer"], {})[part["side"]] = _plain(tensor, name, file)
            adapters.add(part["name"])
        elif _ANY.search(name):
            kind = "DoRA" if "lora_magnitude" in name else "an adapter of another kind than LoRA's pairs of matrices"
            raise WeightsError(f"{file} holds {kind} ({name}), which is not merged here. {_ADVICE}")
    if len(adapters) > 1:
        names = ", ".join(sorted(map(str, adapters)))
        raise WeightsError(f"{file} holds several adapters ({names}), and nothing says which is in use. {_ADVICE}")
    half = next((layer for layer, found in sides.items() if len(found) < 2), None)
    if half is not None or not sides:
        raise WeightsError(f"{file} has no pair of lora_A and lora_B {f'for {half}' if half else 'in it'}. {_ADVICE}")
    return {layer: (found["A"], found["B"]) for layer, found in sides.items()}


def _check(config: Mapping[str, Any], path: Path) -> None:
    """Refuse an adapter with another effect than alpha / r * B A."""
    kind = str(config.get("peft_type", "")).upper()
    named = [f"peft_type {kind}"] if kind != "LORA" else []
    named += [f"{name} {value}" for name, value in config.items() if value and name not in _WITHOUT_EFFECT]
    if config.get("init_lora_weights", True) not in _PLAIN_STARTS:
        named.append(f"init_lora_weights {config['init_lora_weights']}, which changes the base")
    if named:
        what = "DoRA (use_dora)" if config.get("use_dora") else ", ".join(named)
        raise WeightsError(f"{path} has {what}, which is not merged here. {_ADVICE}")


def _product(layer: str, a: Tensor, b: Tensor, config: Mapping[str, Any], file: str) -> Tensor:
    """Return the summand of a layer's weight: [out, in], or [out, in, height, width] of a convolution."""
    rank = len(a)
    path = layer.rpartition(_WRAPPED)[2]
    alpha, r = (_of_layer(config, path, *names) for names in (("alpha_pattern", "lora_alpha"), ("rank_pattern", "r")))
    if r != rank or b.numel() != len(b) * rank or not isinstance(alpha, int | float):
        raise WeightsError(
            f"{file} has lora_A {list(a.shape)} and lora_B {list(b.shape)} for {path}, {ADAPTER_CONFIG} r {r} and "
            f"alpha {alpha}: they do not belong together, or one was edited"
        )
    scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    return (b.flatten(1) @ a.flatten(1)).reshape(len(b), *a.shape[1:]) * scale


def _of_layer(config: Mapping[str, Any], layer: str, patterns: str, usual: str) -> Any:
    """Return a setting of one layer: by the first pattern that matches the end of its path, or else the default."""
    found = config.get(patterns) or {}
    return next((found[key] for key in found if re.match(rf"(.*\.)?({key})$", layer)), config.get(usual))


def _others(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors beside the pairs, by the names that they have without peft."""
    names = {part["name"] for part in map(_PAIR.fullmatch, tensors) if part}
    own = rf"\.modules_to_save(?:\.(?:{'|'.join(re.escape(name) for name in names if name)}))?(?=\.)"
    for name, tensor in tensors.items():
        if not _PAIR.fullmatch(name) and ".original_module." not in name:
            yield re.sub(own, "", name).replace(".base_layer.", "."), tensor


def _finder(base: Mapping[str, Tensor]) -> Callable[[str], tuple[str | None, str | None]]:
    """Return a function that finds the tensors of an adapter in its base, whose names lack some leading parts.

    It returns those parts and the name in the base; no name for a tensor that does not affect the output, and no parts
    either for an unknown tensor.
    """
    place = places_in(base)
    known = {place(name): name for name in base}

    def find(name: str) -> tuple[str | None, str | None]:
        parts = name.rpartition(_WRAPPED)[2].split(".")
        for at in range(len(parts)):
            wrapping, tail = ".".join(parts[:at]), ".".join(parts[at:])
            if (target := known.get(place(tail))) is not None:
                return wrapping, target
            if has_no_part(tail):
                return wrapping, None
        return None, None

    return find


def _plain(tensor: Tensor, name: str, file: str) -> Tensor:
    """Convert a tensor to float32; numbers that need a scale are refused."""
    if tensor.dtype not in (torch.float32, torch.float16, torch.bfloat16, torch.float64):
        raise WeightsError(f"{name} in {file} is {tensor.dtype}, expected floating-point numbers. {_ADVICE}")
    return tensor.float()


def _added(weight: Tensor, change: Tensor, name: str, file: str) -> Tensor:
    if weight.shape != change.shape:
        raise WeightsError(
            f"{file} changes {name} by {list(change.shape)}, its base has {list(weight.shape)}: give the base that it "
            "was trained on"
        )
    return _plain(weight, name, file) + change
