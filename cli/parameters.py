"""Parameter types of options."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Collection
from typing import Any

import click

__all__ = ["ImageSize", "Numbers", "command_line", "first_given"]


class ImageSize(click.ParamType):  # type: ignore[type-arg]  # not generic at run time before click 8.2
    """Parameter type of `224` or `HEIGHTxWIDTH`, as (height, width) in pixels."""

    name = "pixels"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """Read the text."""
        if isinstance(value, tuple):
            return value
        parts = str(value).lower().split("x")
        if len(parts) > 2 or not all(part.isdecimal() and int(part) > 0 for part in parts):
            self.fail(f"{value!r} is not a size in pixels, for example 224 or 224x288", param, ctx)
        return int(parts[0]), int(parts[-1])


class Numbers(click.ParamType):  # type: ignore[type-arg]  # not generic at run time before click 8.2
    """Parameter type of `0.485,0.456,0.406`, as a tuple of numbers."""

    name = "numbers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        """Read the text."""
        if isinstance(value, tuple):
            return value
        try:
            return tuple(float(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is not a list of numbers with commas between, for example 0.5,0.5,0.5", param, ctx)


def command_line() -> str:
    """Return the command line as it was typed, for reports."""
    return shlex.join(["tofu-export", *sys.argv[1:]])


def first_given(names: Collection[str]) -> str | None:
    """Return the first option of these parameter names on the command line, as it was typed."""
    context = click.get_current_context()
    for parameter in context.command.params:
        given = context.get_parameter_source(parameter.name or "") is not click.core.ParameterSource.DEFAULT
        if parameter.name in names and given:
            return parameter.opts[0]
    return None
