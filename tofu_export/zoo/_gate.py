"""Find the gate by which the tokens of a checkpoint were trained to halt: in its options, or in its name.

Nothing in the tensors shows it: a checkpoint of A-ViT has the names and shapes of DeiT.

Source of the names: https://github.com/NVlabs/A-ViT, `main_act.py` (options, and `[model]-[scale]-[center].pth`).
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from tofu_export.errors import OptionError, WeightsError
from tofu_export.options import Halting

__all__ = ["gate_of"]

_OPTIONS: Final = ("gate_scale", "gate_center")
_NAME: Final = re.compile(r"(?:avit[_-]?)?(?:tiny|small|base|demo)-(\d+(?:\.\d+)?)-(\d+(?:\.\d+)?)")


def gate_of(found: Mapping[Any, Any], path: Path) -> Halting | None:
    """Return the gate that a checkpoint says it was trained with; None if it does not say.

    Args:
        found: content of the checkpoint.
        path: the file, whose name says it where the content does not.

    Raises:
        WeightsError: the gate is impossible or half of one, or name and content contradict each other.
    """
    options = found.get("args")
    values: Any = vars(options) if isinstance(options, argparse.Namespace) else options
    given = [values.get(name) for name in _OPTIONS] if isinstance(values, Mapping) else [None, None]
    if given.count(None) == 1:
        raise WeightsError(
            f"args in {path.name} say {' without '.join(sorted(_OPTIONS, key=lambda name: values.get(name) is None))}: "
            "a gate has both"
        )
    inside = None if None in given else _gate(given, f"args in {path.name}")
    name = _NAME.fullmatch(path.stem)
    named = None if name is None else _gate([float(number) for number in name.groups()], f"the name {path.name}")
    if inside is not None and named is not None and inside != named:
        raise WeightsError(
            f"args in {path.name} say a gate of scale {inside.scale:g} and center {inside.center:g}, its name says "
            f"{named.scale:g} and {named.center:g}: rename the file, or give the one that belongs to that name"
        )
    return inside or named


def _gate(values: list[Any], where: str) -> Halting:
    try:
        return Halting(*values)
    except OptionError as error:
        raise WeightsError(f"{where} says an impossible gate: {error}") from error
