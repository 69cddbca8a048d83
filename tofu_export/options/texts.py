"""Parsers of option texts that hold several values."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import TypeVar

from tofu_export.errors import OptionError

__all__ = ["comma_list", "parse_batches", "parse_names", "parse_shapes", "whole"]

Value = TypeVar("Value")

_SHAPE = re.compile(r"(?P<name>.+):(?P<sizes>\d+(x\d+)*)")


def parse_names(text: str) -> tuple[str, ...]:
    """Read names from a comma list, such as that of `--compute-capability`, in capitals; empty text gives none."""
    return tuple(name.strip().upper() for name in text.split(",") if name.strip())


def parse_batches(text: str, option: str = "--batch") -> tuple[int, ...]:
    """Read batch sizes from a comma list.

    Args:
        text: the list; may be empty.
        option: name of the option in error messages.

    Raises:
        OptionError: a part is not a whole number >= 1.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise OptionError(f"{option} is {text!r}, expected batch sizes with commas between, for example 1,8")
    return tuple(int(part) for part in parts)


def whole(text: str) -> int:
    """Read a whole number >= 0.

    Raises:
        ValueError: the text is not one.
    """
    if not text.isdecimal():
        raise ValueError(text)
    return int(text)


def comma_list(convert: Callable[[str], Value], option: str, expected: str) -> Callable[[str], tuple[Value, ...]]:
    """Return a parser of comma lists.

    Args:
        convert: reads one part; raises KeyError or ValueError.
        option: name of the option in error messages.
        expected: what the messages say was expected.

    Returns:
        A function from text to the parts, which raises OptionError if one of them cannot be read.
    """

    def read(text: str) -> tuple[Value, ...]:
        try:
            return tuple(convert(part.strip()) for part in text.split(",") if part.strip())
        except (KeyError, ValueError) as error:
            raise OptionError(f"{option} is {text!r}, expected {expected}") from error

    return read


def parse_shapes(texts: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """Read shapes by input name from texts such as `input:1x3x224x224`.

    Raises:
        OptionError: a text has another form, or an input is named twice.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for text in texts:
        match = _SHAPE.fullmatch(text)
        if match is None or "0" in match["sizes"].split("x"):
            raise OptionError(f"--shape is {text!r}, expected NAME:SIZES such as input:1x3x224x224")
        if match["name"] in shapes:
            raise OptionError(f"--shape names {match['name']} twice: give each input once")
        shapes[match["name"]] = tuple(int(size) for size in match["sizes"].split("x"))
    return shapes
