"""Made-up records: for any dataclass that `tofu_export.system.typed_json` takes, a strategy for its instances."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from hypothesis import strategies as st

from tofu_export.artifact.preprocessing import INTERPOLATIONS, Preprocessing
from tofu_export.options import Halting

SIMPLE: Mapping[Any, st.SearchStrategy[Any]] = {
    str: st.text(max_size=5),
    int: st.integers(-9, 9),
    float: st.floats(allow_nan=False, allow_infinity=False) | st.integers(-9, 9),
    bool: st.booleans(),
    types.NoneType: st.none(),
}

PREPARED = st.tuples(*[st.integers(1, 9)] * 3).flatmap(
    lambda size: st.builds(
        Preprocessing,
        input_size=st.just(size),
        interpolation=st.sampled_from(INTERPOLATIONS),
        mean=st.tuples(*[st.floats(-2, 2)] * size[0]),
        std=st.tuples(*[st.floats(0.1, 2)] * size[0]),
        crop_pct=st.floats(0.1, 1),
    )
)
GATES = st.builds(Halting, scale=st.floats(0.1, 9), center=SIMPLE[float], least=st.floats(0, 0.9))
CHECKED: Mapping[Any, st.SearchStrategy[Any]] = {Preprocessing: PREPARED, Halting: GATES}
"""Records that refuse some values of their fields."""


def records(kind: Any) -> st.SearchStrategy[Any]:
    origin, inner = get_origin(kind), get_args(kind)
    if kind in CHECKED:
        return CHECKED[kind]
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        return st.builds(kind, **{entry.name: records(hints[entry.name]) for entry in fields(kind)})
    if origin in (Union, types.UnionType):
        return st.one_of(map(records, inner))
    if origin is Literal:
        return st.sampled_from(inner)
    if origin is tuple:
        if inner[1:] == (...,):
            return st.lists(records(inner[0]), max_size=2).map(tuple)
        return st.tuples(*map(records, inner))
    if origin is not None:
        return st.dictionaries(records(inner[0]), records(inner[1]), max_size=2)
    return st.sampled_from(kind) if issubclass(kind, Enum) else SIMPLE[kind]
