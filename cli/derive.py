"""Make command-line options from the fields of dataclasses, and those dataclasses from the command line.

A field whose type has options of its own is flattened: its options are among the others. A field whose option was not
given keeps its default.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, fields, replace
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import click

from tofu_export.cli.parameters import ImageSize, Numbers
from tofu_export.cli.reading import READERS
from tofu_export.cli.sections import SectionedOption
from tofu_export.errors import OutputError
from tofu_export.options.declaration import Option, option_of, plain_type, read_value

__all__ = ["check_outputs", "make", "parameters_of"]

Kind = TypeVar("Kind")


def parameters_of(kind: type[Any], prefix: str = "", changes: Mapping[str, Any] | None = None) -> list[click.Parameter]:
    """Return the options of a dataclass; those that it adds to its base come before those of the base.

    Args:
        kind: the dataclass.
        prefix: prefix of the parameters' names, so that those of a group differ from others.
        changes: by field, what overrides its declared option.
    """
    hints = get_type_hints(kind)
    found: list[click.Parameter] = []
    for field, option in _declared(kind):
        name = f"{prefix}{field.name}"
        hint = plain_type(hints[field.name])
        if not isinstance(option, Option):
            found += parameters_of(hint, f"{name}_", option)
            continue
        change = dict((changes or {}).get(field.name, {}))
        default = change.pop("default", field.default)
        option = replace(option, **change)
        if option.section is None:
            found.append(_argument(name, hint, default, option))
            continue
        flags = option.flags or _flags(field.name, hint, default, option)
        found.append(_option([*flags, name], hint, default, option))
        if (alias := option.alias) is not None:
            words = [alias.flag, name]
            found.append(SectionedOption(words, flag_value=alias.value, help=alias.help, section=option.section))
    return found


def make(kind: type[Kind], given: Mapping[str, Any], prefix: str = "") -> Kind:
    """Make a dataclass from the given options.

    Args:
        kind: the dataclass.
        given: values of the given options, by their names from `parameters_of`.
        prefix: prefix of the parameters' names, as in `parameters_of`.

    Raises:
        OptionError: a value cannot be used, or two of them contradict each other.
    """
    return kind(**_values(kind, given, prefix))


def check_outputs(request: Any) -> None:
    """Check that the files and folders that a request names can be written, before any work.

    Raises:
        OutputError: a file is named where a folder is expected or the reverse, or the place cannot be written.
    """
    for field, option in _declared(type(request)):
        value = getattr(request, field.name)
        if not isinstance(option, Option):
            if value is not None:  # a group that is left out
                check_outputs(value)
        elif option.writes is not None and value is not None:
            from tofu_export.system.files import check_writable, check_writable_file

            check = check_writable if option.writes == "folder" else check_writable_file
            try:
                check(value)
            except OutputError as error:
                flag = option.flags[0] if option.flags else f"--{field.name}"
                raise OutputError(f"{flag}: {error}") from error


def _values(kind: type[Any], given: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    hints = get_type_hints(kind)
    values = {}
    for field, option in _declared(kind):
        name = f"{prefix}{field.name}"
        hint = plain_type(hints[field.name])
        if isinstance(option, Option):
            if name in given:
                values[field.name] = read_value(given[name], hint, option)
        elif parts := _values(hint, given, f"{name}_"):
            default = field.default if field.default_factory is MISSING else field.default_factory()
            values[field.name] = READERS[hint](parts, default) if hint in READERS else hint(**parts)
    return values


def _declared(kind: type[Any]) -> Iterator[tuple[Field[Any], Any]]:
    """Yield the fields with an option or a group of options."""
    inherited = {field.name for base in kind.__bases__ for field in getattr(base, "__dataclass_fields__", {}).values()}
    for field in sorted(fields(kind), key=lambda field: field.name in inherited):
        if (option := option_of(field)) is not None:
            yield field, option


def _argument(name: str, hint: Any, default: Any, option: Option) -> click.Argument:
    kind, needed = _type(hint, option), default is MISSING
    return click.Argument([name], type=kind, nargs=option.nargs, required=needed, metavar=option.metavar)


def _option(names: list[str], hint: Any, default: Any, option: Option) -> click.Option:
    settings: dict[str, Any] = {"section": option.section, "everyday": option.everyday}
    if hint is bool and not option.choices:
        pair = "/" in names[0]
        settings |= {"is_flag": True, "default": default, "show_default": pair and default is not None}
        settings |= {} if pair else {"flag_value": not default}
    else:
        shown = _text(default, option)
        settings |= {"type": _type(hint, option), "default": shown, "show_default": shown is not None}
        settings |= {"metavar": option.metavar, "multiple": option.multiple, "required": option.required}
    return SectionedOption(names, help=option.text, **settings)


def _flags(name: str, hint: Any, default: Any, option: Option) -> tuple[str, ...]:
    word = name.replace("_", "-")
    pair = hint is bool and not option.choices and default is not False
    return (f"--{word}/--no-{word}",) if pair else (f"--{word}",)


def _type(hint: Any, option: Option) -> click.ParamType[Any] | None:
    """Return how click reads an option; text for `Option.parse` is not converted."""
    if option.choices:
        return click.Choice(list(option.choices))
    kind = option.typed or (str if option.parse is not None else hint)
    if get_origin(kind) is tuple:
        if option.nargs != 1 or option.multiple:
            kind = get_args(kind)[0]
        else:
            return ImageSize() if get_args(kind) == (int, int) else Numbers()
    if kind is Path:
        return click.Path(path_type=Path)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return click.Choice([member.value for member in kind])
    bounded = option.minimum is not None or option.maximum is not None
    if kind is int:
        least, most = (None if bound is None else int(bound) for bound in (option.minimum, option.maximum))
        return click.IntRange(least, most) if bounded else click.INT
    if kind is float:
        return click.FloatRange(option.minimum, option.maximum) if bounded else click.FLOAT
    return click.STRING


def _text(default: Any, option: Option) -> Any:
    """Return the default as it would be typed; None if there is none to show."""
    if option.shown is not None or option.unless:
        return option.shown
    if isinstance(option.choices, Mapping):
        return next(word for word, value in option.choices.items() if value == default and type(value) is type(default))
    if default in (MISSING, None, (), ""):
        return None
    if isinstance(default, tuple):
        return ",".join(str(_text(part, option)) for part in default)
    if isinstance(default, Enum):
        return default.value
    return default if isinstance(default, int | float | Path) else str(default)
