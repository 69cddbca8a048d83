"""Declare an option once, on the dataclass field that holds it.

The field gives name, type and default; `Option` adds help, section and how text is read. The command line
(`tofu_export.cli.derive`) is generated from these declarations, and the Python API reads texts by them. This module
imports nothing for that.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field
from enum import Enum
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from tofu_export.errors import OptionError

__all__ = [
    "Alias", "Option", "Section", "choice_of", "group", "opt", "option_of", "plain_type", "positional", "read_value",
]  # fmt: skip

Choice = TypeVar("Choice", bound=Enum)

_KEY = "tofu_export.option"


class Section(Enum):
    """Section headings for options, in the order in which the help shows them."""

    MODEL = "Model and input"
    REDUCTION = "Reduction"
    FILES = "Files to write"
    IMAGES = "Images"
    ENGINE = "Engines"
    CHECK = "Checks"
    TIMING = "Timing"
    BACKEND = "What runs the files"
    OUTPUT = "Results"


@dataclass(frozen=True)
class Alias:
    """Flag that stands for one value of an option.

    Attributes:
        flag: as it is typed, for example `--no-prop-attn`.
        value: what it stands for, as it would be typed.
        help: one sentence.
    """

    flag: str
    value: str
    help: str


@dataclass(frozen=True)
class Option:
    """Metadata of an option that the name, type and default of its field do not give.

    Attributes:
        help: one sentence.
        section: heading of the help that it stands under; None for a positional argument.
        flags: as they are typed, `--a/--no-a` for a pair; empty for the name of the field with dashes.
        metavar: placeholder of the value.
        unless: what happens without the option, if the default does not show it.
        shown: the default as it would be typed, if that differs from its text.
        parse: reads the text; raises OptionError. None: the type of the field says how.
        choices: words to choose from; a mapping also says which value each stands for.
        minimum: smallest number.
        maximum: largest number.
        typed: type of the typed value, if it differs from that of the field: `Path` for a file that `parse` reads.
        multiple: the option may be repeated; `parse` gets a tuple.
        nargs: of a positional argument, -1 for any number.
        required: the option must be given.
        everyday: `--help` shows the option even in commands with many options.
        alias: a flag that stands for one of the values.
        writes: the value is a path that is written: that of a file, or of a folder for files.
    """

    help: str
    section: Section | None
    flags: tuple[str, ...] = ()
    metavar: str | None = None
    unless: str = ""
    shown: str | None = None
    parse: Callable[[Any], Any] | None = None
    choices: Sequence[str] | Mapping[str, Any] = ()
    minimum: float | None = None
    maximum: float | None = None
    typed: type | None = None
    multiple: bool = False
    nargs: int = 1
    required: bool = False
    everyday: bool = False
    alias: Alias | None = None
    writes: Literal["file", "folder"] | None = None

    @property
    def text(self) -> str:
        """Help text, followed by what happens without the option."""
        return f"{self.help}  [default: {self.unless}]" if self.unless else self.help


def opt(default: Any, help: str, section: Section, **details: Any) -> Any:
    """Return a dataclass field that declares an option.

    Args:
        default: default of the field, or a function that makes it; MISSING for none.
        help: one sentence.
        section: heading of the help that lists it.
        **details: further fields of `Option`.
    """
    return _field(default, Option(help, section, **details))


def positional(default: Any = MISSING, **details: Any) -> Any:
    """Return a dataclass field for a positional argument of the command line.

    Args:
        default: default of the field; MISSING if the argument is required.
        **details: further fields of `Option`.
    """
    return field(default=default, metadata={_KEY: Option("", None, **details)})


def group(default: Any, **changes: Mapping[str, Any]) -> Any:
    """Return a field whose type is a dataclass with options of its own.

    Args:
        default: of the field, or a function that makes it.
        **changes: by field of that dataclass, what overrides its declared option; `default` changes the default
            that is shown.
    """
    return _field(default, changes)


def _field(default: Any, declared: Any) -> Any:
    given = "default_factory" if callable(default) else "default"
    return field(**{given: default}, metadata={_KEY: declared})


def option_of(declared: Field[Any]) -> Option | Mapping[str, Mapping[str, Any]] | None:
    """Return the option of a field, the overrides of an option group, or None for a field that only code sets."""
    return declared.metadata.get(_KEY)


def plain_type(hint: Any) -> Any:
    """Return a field's type without None."""
    if get_origin(hint) in (Union, types.UnionType):
        kinds = [part for part in get_args(hint) if part is not type(None)]
        return kinds[0] if len(kinds) == 1 else hint
    return hint


def read_value(value: Any, hint: Any, option: Option) -> Any:
    """Convert an option's value as it is typed to that of its field.

    Args:
        value: text, or what `typed` says.
        hint: type of the field, without None.
        option: its declaration.

    Raises:
        OptionError: the value cannot be used.
    """
    if isinstance(option.choices, Mapping):
        return option.choices[value]
    if option.parse is not None:
        return option.parse(value)
    if option.typed is None and isinstance(hint, type) and issubclass(hint, Enum):
        return choice_of(hint, value)
    return value


def choice_of(kind: type[Choice], value: Choice | str) -> Choice:
    """Return the member of an enum that a text names.

    Raises:
        OptionError: no member has this value.
    """
    try:
        return kind(value)
    except ValueError:
        known = ", ".join(str(choice.value) for choice in kind)
        raise OptionError(f"{value!r} is no {kind.__name__.lower()}, expected one of {known}") from None
