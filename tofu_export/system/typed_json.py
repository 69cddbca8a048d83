"""Convert dataclasses to JSON values and back, checked against their declarations.

Fields may hold other dataclasses, tuples, mappings, enums, literals, plain values and unions of these. Dataclasses of a
union are distinguished by a field of each whose type is a `Literal`. Undeclared keys are ignored, so that a document
with more in it can still be read.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import MISSING, Field, field, fields, is_dataclass
from enum import Enum
from functools import cache
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from tofu_export.errors import OptionError

__all__ = ["JsonObject", "from_plain", "optional", "rounded_object", "to_object", "to_plain"]

T = TypeVar("T")

JsonObject = dict[str, object]
"""JSON object to be written; to read a value from one, use `from_plain`."""

_OPTIONAL = "left out where it is None"


def optional() -> Any:
    """Return a field that is None by default, and whose key is then left out."""
    return field(default=None, metadata={_OPTIONAL: True})


def to_plain(value: Any) -> Any:
    """Convert a value for `json`: dataclasses and mappings become dicts, tuples lists, and enums their values."""
    if is_dataclass(value) and not isinstance(value, type):
        held = ((entry, getattr(value, entry.name)) for entry in fields(value))
        return {entry.name: to_plain(one) for entry, one in held if one is not None or _OPTIONAL not in entry.metadata}
    if isinstance(value, Mapping):
        return {key: to_plain(one) for key, one in value.items()}
    if isinstance(value, tuple | list):
        return [to_plain(one) for one in value]
    return value.value if isinstance(value, Enum) else value


def to_object(record: Any) -> JsonObject:
    """Convert a dataclass or mapping to a JSON object."""
    return cast(JsonObject, to_plain(record))


def rounded_object(record: Any) -> JsonObject:
    """Convert a dataclass or mapping to a JSON object, numbers rounded to six decimals (a nanosecond, in ms)."""
    return cast(JsonObject, _rounded(to_plain(record)))


def from_plain(kind: type[T], value: object, place: str = "") -> T:
    """Read a value of type `kind` that `to_plain` wrote, also after a round trip through JSON.

    Args:
        kind: a dataclass, or another supported type.
        value: the parsed value.
        place: its place, for messages: a file, or a file and the keys down to the value.

    Raises:
        OptionError: a field is missing or holds something else; the message names it.
    """
    return cast(T, _read(kind, value, place))


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return round(value, 6) if isinstance(value, float) else value


def _read(kind: Any, value: Any, place: str) -> Any:
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Any or kind is object:
        return value
    if origin in (Union, types.UnionType):
        return _read(_member(inner, value, place), value, place)
    if origin is Literal:
        return value if value in inner else _refuse(place, value, " or ".join(map(repr, inner)))
    if origin is tuple:
        return _read_tuple(inner, value, place)
    if is_dataclass(kind):
        return _read_dataclass(kind, value, place)
    if origin is not None:  # a mapping; its keys are text in JSON
        entries = value.items() if isinstance(value, Mapping) else _refuse(place, value, "an object")
        return {_key(inner[0], key, place): _read(inner[1], one, _under(place, key)) for key, one in entries}
    if issubclass(kind, Enum):
        known = {member.value: member for member in kind}
        found = known.get(value) if isinstance(value, str | int) else None
        return _refuse(place, value, f"one of {', '.join(map(str, known))}") if found is None else found
    return value if _is(kind, value) else _refuse(place, value, _NAMES.get(kind, kind.__name__))


def _read_dataclass(kind: Any, value: Any, place: str) -> Any:
    if not isinstance(value, Mapping):
        _refuse(place, value, "an object")
    given = {}
    for name, (entry, declared) in _declared(kind).items():
        if name in value:
            given[name] = _read(declared, value[name], _under(place, name))
        elif entry.default is MISSING and entry.default_factory is MISSING:
            raise OptionError(f"{_under(place, name)} is missing")
    return kind(**given)


def _read_tuple(inner: tuple[Any, ...], value: Any, place: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        _refuse(place, value, "a list")
    kinds = [inner[0]] * len(value) if inner[1:] == (...,) else list(inner)
    if len(kinds) != len(value):
        _refuse(place, value, f"a list of {len(kinds)}")
    return tuple(_read(one, item, f"{place}[{at}]") for at, (one, item) in enumerate(zip(kinds, value, strict=True)))


def _member(members: tuple[Any, ...], value: Any, place: str) -> Any:
    """Return the member of a union that a value should be read as."""
    classes: list[Any] = [member for member in members if is_dataclass(member)]
    if isinstance(value, Mapping) and len(classes) > 1:
        tag = next(name for name, (_, declared) in _declared(classes[0]).items() if get_origin(declared) is Literal)
        by_word = {word: member for member in classes for word in get_args(_declared(member)[tag][1])}
        word = value.get(tag)
        return by_word.get(word) or _refuse(_under(place, tag), word, f"one of {', '.join(by_word)}")
    for member in members:
        origin = get_origin(member)
        if member is types.NoneType:
            fits = value is None
        elif origin is tuple:
            fits = isinstance(value, list | tuple)
        elif is_dataclass(member) or origin is not None:
            fits = isinstance(value, Mapping)
        else:
            fits = isinstance(value, str) if issubclass(member, Enum) else _is(member, value)
        if fits:
            return member
    return next((member for member in members if member is not types.NoneType), types.NoneType)  # which refuses it


@cache
def _declared(kind: Any) -> dict[str, tuple[Field[Any], Any]]:
    """Return the fields of a dataclass by name, with their types."""
    hints = get_type_hints(kind)
    return {entry.name: (entry, hints[entry.name]) for entry in fields(kind) if entry.init}


_NAMES: Mapping[type, str] = {
    str: "text", int: "a whole number", float: "a number", bool: "true or false", types.NoneType: "null",
}  # fmt: skip


def _is(kind: type, value: object) -> bool:
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, int | float if kind is float else kind)


def _key(kind: type, key: str, place: str) -> Any:
    if kind is str:
        return key
    try:
        return kind(key)
    except ValueError:
        return _refuse(_under(place, key), key, f"a key that is {_NAMES[kind]}")


def _under(place: str, name: object) -> str:
    """Return the place of a key below another place; a colon separates a file from its first key."""
    return f"{place}{'.' if place and not place.endswith(': ') else ''}{name}"


def _refuse(place: str, value: object, expected: str) -> Any:
    shown = repr(value)
    raise OptionError(f"{place} is {shown if len(shown) <= 60 else shown[:57] + '...'}, expected {expected}")
