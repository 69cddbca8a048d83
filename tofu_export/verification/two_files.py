"""What two files state, before they are compared: whether the same inputs suit both, and whether they reduce alike."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from tofu_export.errors import OptionError
from tofu_export.options import Selection
from tofu_export.system.ort import TensorSpec
from tofu_export.verification.facts import FileFacts

__all__ = ["check_inputs", "counterparts", "other_plan"]


def counterparts(names: Iterable[str], others: Iterable[str]) -> dict[str, str] | None:
    """Map inputs or outputs of a file to those of another, by name or else by order; None if one would be left."""
    mine, theirs = list(names), list(others)
    if set(mine) == set(theirs):
        return {name: name for name in mine}
    return dict(zip(mine, theirs, strict=True)) if len(mine) == len(theirs) else None


def check_inputs(file: FileFacts, reference: FileFacts) -> None:
    """Check that the same inputs suit both files, as far as they state types and sizes.

    Raises:
        OptionError: an input and its counterpart are of different types or sizes.
    """
    pairs = counterparts(file.inputs, reference.inputs)
    for name, twin in (pairs or {}).items():
        mine, other = file.inputs[name], reference.inputs[twin]
        if not _agree(mine, other):
            raise OptionError(
                f"{name} of {file.path.name} is {mine}, {twin} of {reference.path.name} is {other}: no input suits "
                "both. Inputs are matched by name, or by their order where names differ; export one file again with "
                "the other's batch, sizes and types"
            )


def _agree(mine: TensorSpec, other: TensorSpec) -> bool:
    kinds = mine.dtype == other.dtype or (_is_real(mine.dtype) and _is_real(other.dtype))
    if not mine.shape or not other.shape:  # a scalar or unstated
        return kinds
    sizes = len(mine.shape) == len(other.shape) and all(
        None in pair or pair[0] == pair[1] for pair in zip(mine.shape, other.shape, strict=True)
    )
    return kinds and sizes


def _is_real(dtype: np.dtype[Any]) -> bool:
    """True for floating-point types, bfloat16 and float8 included, which are no subtypes of numpy's."""
    return np.issubdtype(dtype, np.floating) or dtype.kind == "V"


def other_plan(file: FileFacts, reference: FileFacts) -> tuple[str, ...]:
    """Say if two files of this project state reductions that differ, those of a ViT before its last block.

    A wide tolerance, such as that of int8, would let the outputs pass. The last block is left out: an output that does
    not depend on its reduction is the same without it, and others tell.
    """
    mine, other = _reductions(file), _reductions(reference)
    if mine is None or other is None or mine == other:
        return ()
    return (f"it states another reduction than {reference.path.name}: {_words(mine)}, there {_words(other)}",)


_Reductions = tuple[str, tuple[tuple[str, int], ...]]


def _reductions(file: FileFacts) -> _Reductions | None:
    """Return the selection, and the method and amount of each block that tells; None if the file states no plan.

    All blocks of a UNet tell, since its output depends on each.
    """
    if (plan := file.card.find("plan", dict)) is not None and file.card.is_ours:
        select, rows = str(plan.get("select") or Selection.BIPARTITE.value), _steps(plan.get("layers"))[:-1]
    elif (plan := file.card.find("unet_plan", dict)) is not None:
        select, rows = "by cell", _steps(plan.get("blocks"))
    else:
        return None
    return (select, rows) if any(removed for _, removed in rows) else ("", ())


def _steps(rows: object) -> tuple[tuple[str, int], ...]:
    """Return method and amount by the rows of a plan; what is no row or no number removes nothing."""
    found = [row if isinstance(row, dict) else {} for row in (rows if isinstance(rows, list) else ())]
    amounts = [row.get("removed") for row in found]
    return tuple(
        (str(row.get("method")), amount) if isinstance(amount, int) and amount else ("none", 0)
        for row, amount in zip(found, amounts, strict=True)
    )


def _words(found: _Reductions) -> str:
    select, steps = found
    if not select:
        return "no token leaves"
    return f"{', '.join(f'{removed} by {method}' if removed else '-' for method, removed in steps)} ({select})"
