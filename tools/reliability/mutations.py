"""Ways to damage bytes, texts and documents, each a function of a random generator: the same seed, the same damage."""

from __future__ import annotations

import copy
import json
from random import Random
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

__all__ = ["damaged", "damaged_document", "damaged_message", "damaged_text", "varint"]

_LARGE = (2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**62, 2**63 - 1, 2**63, 2**64 - 1)
_DEEP = "deep"
"""Stands for lists in lists, deeper than the interpreter's stack."""
_STRANGE_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1.5, 1e308, -1e308, 2**63, 10**400, float("nan"), float("inf"), "", "x", "\x00", "\ud800",
    "../../x", "é" * 300, [], [[]], [None], {}, {"": None}, [1] * 500, _DEEP,
)  # fmt: skip
_STRANGE_TEXTS = (
    "", "\x00", "\ufeff", "é", "\u202e", "💥", " ", "\n", "\r\n", "-", "--", "%s", "{}", "[bold]", "$(id)", "9" * 400,
    "-1", "1e309", "nan", "NaN", "inf", "0x10", "1_000", "\u0663", "½", ",", ":", "x",
)  # fmt: skip


def damaged(data: bytes, random: Random) -> bytes:
    """The bytes with one to four kinds of damage."""
    for _ in range(random.choice((1, 1, 1, 2, 3, 4))):
        data = random.choice(_BYTE_DAMAGES)(data, random)
    return data


def _flip(data: bytes, random: Random) -> bytes:
    """A few single bits the other way."""
    found = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 8, 64))):
        if found:
            place = random.randrange(len(found))
            found[place] ^= 1 << random.randrange(8)
    return bytes(found)


def _cut(data: bytes, random: Random) -> bytes:
    return data[: random.randrange(len(data) + 1)]


def _splice(data: bytes, random: Random) -> bytes:
    """A piece of it in another place, over what was there or between."""
    if len(data) < 4:
        return data * 2
    start = random.randrange(len(data))
    piece = data[start : start + random.choice((1, 4, 16, 256, 4096))]
    place = random.randrange(len(data))
    return data[:place] + piece + data[place + random.choice((0, len(piece))) :]


def _drop(data: bytes, random: Random) -> bytes:
    start = random.randrange(len(data) + 1)
    return data[:start] + data[start + random.choice((1, 3, 64, 1000)) :]


def _oversize(data: bytes, random: Random) -> bytes:
    """A number far too large where a length may stand: protocol buffers' form, or eight or four bytes."""
    value = random.choice(_LARGE)
    form = random.randrange(3)
    number = varint(value) if form == 0 else (value % 2 ** (32 * form)).to_bytes(4 * form, "little")
    place = random.randrange(min(len(data), random.choice((16, 256, 1 << 30))) + 1)
    return data[:place] + number + data[place + len(number) :]


def _noise(data: bytes, random: Random) -> bytes:
    start = random.randrange(len(data) + 1)
    length = random.choice((1, 8, 100))
    return data[:start] + random.randbytes(length) + data[start + length :]


def _zero(data: bytes, random: Random) -> bytes:
    start = random.randrange(len(data) + 1)
    length = min(random.choice((4, 64, 4096)), len(data) - start)
    return data[:start] + bytes(length) + data[start + length :]


def _repeat(data: bytes, random: Random) -> bytes:
    return data + data[random.randrange(len(data) + 1) :]


_BYTE_DAMAGES = (_flip, _flip, _flip, _cut, _splice, _drop, _oversize, _noise, _zero, _repeat)


def damaged_text(text: str, random: Random) -> str:
    """A text with characters changed, doubled or gone, or with something in it that does not belong there."""
    for _ in range(random.choice((1, 1, 2, 3))):
        place = random.randrange(len(text) + 1)
        kind = random.randrange(5)
        if kind == 0:
            text = text[:place] + random.choice(_STRANGE_TEXTS) + text[place:]
        elif kind == 1:
            text = text[:place] + text[place + random.choice((1, 2, 10)) :]
        elif kind == 2:
            text = text[:place] + random.choice("0123456789-.,:;x=_ %\"'\\/*") + text[place + 1 :]
        elif kind == 3:
            text = text[:place] + text[random.randrange(len(text) + 1) :]
        else:
            text = random.choice(_STRANGE_TEXTS)
    return text


def damaged_document(document: Any, random: Random) -> str:
    """The JSON text of a document some of whose values are of another kind, gone or doubled; or damage to the text."""
    if random.random() < 0.3:
        return damaged_text(json.dumps(document), random)
    changed = copy.deepcopy(document)
    for _ in range(random.choice((1, 1, 2, 4))):
        changed = _damage_value(changed, random)
    return json.dumps(changed).replace(f'"{_DEEP}"', "[" * 5000 + "]" * 5000)


def _damage_value(value: Any, random: Random) -> Any:
    """The document with one value in it replaced; the deeper a value, the likelier that one inside it is taken."""
    if isinstance(value, (dict, list)) and value and random.random() < 0.9:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        key = random.choice(keys)
        if random.random() < 0.1:
            del value[key]
        else:
            value[key] = _damage_value(value[key], random)
        return value
    return copy.deepcopy(random.choice(_STRANGE_VALUES))


def damaged_message(message: Message, random: Random) -> bytes:
    """A protocol buffer some of whose fields have other values, are gone, doubled or swapped: well formed but wrong."""
    changed = copy.deepcopy(message)
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        _damage_message(changed, random)
    return changed.SerializeToString()


def _damage_message(message: Any, random: Random) -> None:
    while True:
        present = [field for field, _ in message.ListFields()]
        field = random.choice(present or list(message.DESCRIPTOR.fields))
        if field.type != FieldDescriptor.TYPE_MESSAGE or random.random() < 0.15:
            break
        inner = getattr(message, field.name)
        message = random.choice(inner) if _repeated(field) and len(inner) else inner
        if _repeated(field) and not present:
            return
    if random.random() < 0.15:
        field = random.choice(message.DESCRIPTOR.fields)
    if _repeated(field):
        _damage_repeated(getattr(message, field.name), field, random)
    elif field.type == FieldDescriptor.TYPE_MESSAGE or random.random() < 0.2:
        message.ClearField(field.name)
    else:
        setattr(message, field.name, _scalar(field, random, getattr(message, field.name)))


def _damage_repeated(values: Any, field: FieldDescriptor, random: Random) -> None:
    kind = random.randrange(4)
    if kind == 0 and len(values):
        del values[random.randrange(len(values))]
    elif kind == 1 and len(values):
        copied = random.choice(values)
        values.extend([copied] * random.choice((1, 1, 20)))
    elif kind == 2 and len(values) > 1:
        first, second = random.sample(range(len(values)), 2)
        kept = [copy.deepcopy(value) for value in values]
        kept[first], kept[second] = kept[second], kept[first]
        del values[:]
        values.extend(kept)
    elif field.type == FieldDescriptor.TYPE_MESSAGE:
        values.add()
    else:
        values.append(_scalar(field, random, None))


def _repeated(field: FieldDescriptor) -> bool:
    return bool(field.is_repeated) if hasattr(field, "is_repeated") else field.label == FieldDescriptor.LABEL_REPEATED


def _scalar(field: FieldDescriptor, random: Random, old: Any) -> Any:
    if field.type == FieldDescriptor.TYPE_STRING:
        return damaged_text(old or "x", random).encode("utf-8", "ignore").decode()
    if field.type == FieldDescriptor.TYPE_BYTES:
        return damaged(old or b"x", random)
    if field.type in (FieldDescriptor.TYPE_FLOAT, FieldDescriptor.TYPE_DOUBLE):
        return random.choice((0.0, -1.0, 3e38, float("nan"), float("inf")))
    if field.type == FieldDescriptor.TYPE_ENUM:
        return random.choice([value.number for value in field.enum_type.values])
    bits = 31 if field.type in (FieldDescriptor.TYPE_INT32, FieldDescriptor.TYPE_UINT32) else 63
    signed = field.type in (FieldDescriptor.TYPE_INT32, FieldDescriptor.TYPE_INT64)
    numbers = [0, 1, 2, 7, 255, 65536, 2**bits - 1] + [-1, -(2**bits)] * signed
    return random.choice(numbers)


def varint(value: int) -> bytes:
    """A number as protocol buffers write it."""
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)
