"""Readers of values that depend on several options: sources of weights, and reductions, which a file may give."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from tofu_export.cli.parameters import first_given
from tofu_export.errors import OptionError
from tofu_export.evaluate.request import is_file
from tofu_export.options import Reduction
from tofu_export.zoo.names import ALIASES
from tofu_export.zoo.weights import WeightsSource

__all__ = ["READERS"]

_BESIDE_A_PLAN_FILE = ("plan_file", "restore_grid")
"""Options of a reduction that may be given beside a plan file."""


def _read_weights(values: dict[str, Any], default: WeightsSource | None) -> WeightsSource:
    text = values.pop("kind", default)
    if text is None:
        raise OptionError("--weights-key and --allow-dropped say how a file is read: give it with --weights PATH")
    return WeightsSource.parse(str(text), **values)


def _read_reduction(values: dict[str, Any], _default: Reduction | None) -> Reduction:
    subject = str(click.get_current_context().params.get("subject", ""))
    if is_file(subject):
        given = first_given([f"reduction_{name}" for name in values])
        raise OptionError(f"{subject} is a file and has its reduction in it: leave out {given}")
    path = values.get("plan_file")
    if path is None:
        return Reduction(**values)
    from tofu_export.planning.plan_file import PlanFile

    if settled := [name for name in values if name not in _BESIDE_A_PLAN_FILE]:
        given = first_given([f"reduction_{name}" for name in settled])
        raise OptionError(f"--plan-file already says what {given} would: leave out one of them")
    file = PlanFile.read(path)
    _note_other_model(file.path, file.model)
    return file.reduction(values.get("restore_grid"))


def _note_other_model(path: Path, made_for: str | None) -> None:
    given = click.get_current_context().params
    model = str(given.get("subject") or given.get("model") or "")
    architecture = model.partition(".")[0]
    if made_for is None or given.get("quiet") or ALIASES.get(architecture, architecture) == made_for.partition(".")[0]:
        return
    click.echo(f"note: {path} was made for {made_for}, and is used for {model}", err=True)


READERS: Mapping[type[Any], Callable[[dict[str, Any], Any], Any]] = {
    Reduction: _read_reduction,
    WeightsSource: _read_weights,
}
"""Function for each type that makes it from the given options of its fields and the default of its field."""
