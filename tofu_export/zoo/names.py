"""Model names: our aliases, timm's names and tags, and suggestions for unknown names.

This module imports neither torch nor timm, so that the command line can list the aliases quickly.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from types import MappingProxyType
from typing import Final

from tofu_export.errors import UnknownModelError
from tofu_export.zoo import catalog

__all__ = ["ALIASES", "DEMO_MODEL", "resolve"]

DEMO_MODEL: Final = "demo_vit"
"""Name of the model inside this package, which needs no download and no timm registry."""

ALIASES: Final = MappingProxyType(
    {
        "vit_tiny": "vit_tiny_patch16_224",
        "vit_small": "vit_small_patch16_224",
        "vit_base": "vit_base_patch16_224",
        "vit_large": "vit_large_patch16_224",
        "vit_huge": "vit_huge_patch14_224",
    }
)
"""Short names for the models of the paper, with their names in timm."""

_SOURCES: Final = ("hf-hub:", "hf_hub:", "local-dir:")
"""Prefixes that timm resolves itself, to a hub repository or a folder with config.json."""

_CHECKPOINT_SUFFIXES: Final = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".npz", ".onnx")


def resolve(name: str) -> str:
    """Return the name that timm knows a model by: white space stripped, alias followed, architecture and tag checked.

    An alias may carry a pretrained tag (`vit_base.augreg2_in21k_ft_in1k`). `hf-hub:REPO` and `local-dir:FOLDER` are
    returned unchanged: their content is known only when they are opened.

    Raises:
        UnknownModelError: neither an alias nor a model of the installed timm, or the architecture lacks the tag.
    """
    name = name.strip()
    if name == DEMO_MODEL:
        return name
    for source in _SOURCES:
        if name.startswith(source):
            if not name[len(source) :].strip():
                raise UnknownModelError(f"model {name!r} names nothing after {source!r}, for example {source}timm/vit")
            return name
    if name.lower().endswith(_CHECKPOINT_SUFFIXES):
        raise UnknownModelError(
            f"model {name!r} is a file name, expected an architecture: "
            f"give the name of the model that was saved, and the file as --weights {name}"
        )
    architecture, _, tag = name.partition(".")
    architecture = ALIASES.get(architecture, architecture)
    return _check_timm(name, architecture, tag)


def _check_timm(name: str, architecture: str, tag: str) -> str:
    import timm  # 2 s: only when a name has to be checked

    architectures = timm.list_models()
    if architecture not in architectures:
        raise UnknownModelError(_unknown(name, architecture, architectures))
    if not tag:
        return architecture
    resolved = f"{architecture}.{tag}"
    tagged = [known for known in timm.list_models(architecture, include_tags=True) if "." in known]
    if resolved not in tagged:
        tags = [known.partition(".")[2] for known in tagged]
        close = _close(tag, tags)
        raise UnknownModelError(
            f"{architecture} has no pretrained tag {tag!r}: "
            f"{'it has none' if not tags else 'its tags are ' + ', '.join(tags)}. "
            f"Try `tofu-export plan {f'{architecture}.{close[0]}' if close else architecture}`"
        )
    return resolved


def _unknown(name: str, architecture: str, architectures: Iterable[str]) -> str:
    from timm.models import get_deprecated_models

    reducible = catalog.names() or tuple(architectures)  # with another timm, all may be
    renamed = get_deprecated_models().get(architecture)
    close = [renamed] if renamed and renamed.partition(".")[0] in reducible else []
    close += _close(architecture, [*ALIASES, DEMO_MODEL, *reducible])
    close = close or list(catalog.search(architecture)) if architecture.strip("*?[]_ ") else close
    message = f"unknown model {name!r}, expected a timm name, {DEMO_MODEL} or one of {', '.join(ALIASES)}. "
    if "/" in name or "\\" in name:
        message += f"For a hub repository write hf-hub:{name}, for a folder local-dir:{name}. "
    if close:
        message += f"Did you mean {', '.join(close[:3])}? Try `tofu-export plan {close[0]}`"
    else:
        message += "docs/models.md lists those that can be reduced"
    return message


def _close(name: str, known: Iterable[str]) -> list[str]:
    return difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.6)
