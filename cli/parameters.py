"""Options that several commands share, and how their text is read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from tofu_export.errors import OptionError
from tofu_export.options import DEFAULT_R, KeySource, Mode, Reduction, Schedule, parse_layers, parse_r

__all__ = ["ImageSize", "make_reduction", "parse_batches", "read_labels", "reduction_options"]

_SETTLED = frozenset(
    {"r", "keep_rate", "gmacs", "speedup", "exclude_layers", "mode", "prune_layers", "pattern", "schedule", "prop_attn",
     "keys"}
)  # fmt: skip
"""Options that a plan file stands for."""

Command = TypeVar("Command", bound=Callable[..., Any])


class ImageSize(click.ParamType):  # type: ignore[type-arg]  # not generic at run time before click 8.2
    """`224` or `HEIGHTxWIDTH`, as (height, width) in pixels."""

    name = "pixels"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """Read the text."""
        if isinstance(value, tuple):
            return value
        parts = str(value).lower().split("x")
        if len(parts) > 2 or not all(part.isdecimal() and int(part) > 0 for part in parts):
            self.fail(f"{value!r} is not a size in pixels, for example 224 or 224x288", param, ctx)
        return int(parts[0]), int(parts[-1])


def reduction_options(command: Command) -> Command:
    """Add the options that say how many tokens leave, where and how."""
    for option in reversed(
        (
            click.option("--r", "r", default=None, metavar="N|N,N,...",
                         help=f"Tokens to remove per layer: one number, or one per layer.  [default: {DEFAULT_R}]"),
            click.option("--keep-rate", type=float, default=None, metavar="SHARE",
                         help="Instead of --r: share of its tokens that each layer keeps, for example 0.9."),
            click.option("--gmacs", type=float, default=None, metavar="X",
                         help="Instead of --r: the smallest reduction that needs at most X GMACs per image."),
            click.option("--speedup", type=float, default=None, metavar="X",
                         help="Instead of --r: the smallest reduction that needs X times fewer GMACs, such as 1.8."),
            click.option("--exclude-layers", default="", metavar="LIST",
                         help="Layers that remove nothing, counted from 0, such as 0,11."),
            click.option("--mode", type=click.Choice([mode.value for mode in Mode]), default=Mode.MLERP.value,
                         show_default=True, help="What merging layers do."),
            click.option("--prune-layers", type=click.IntRange(min=0), default=None, metavar="D",
                         help="The first D layers prune, the others merge.  [default: 6, at most half; tome: 0]"),
            click.option("--pattern", default=None, metavar="LETTERS",
                         help="One letter per layer instead: P prune, A average, M mlerp, T tome, - none."),
            click.option("--schedule", type=click.Choice([schedule.value for schedule in Schedule]),
                         default=Schedule.CONSTANT.value, show_default=True,
                         help="Spread r evenly, or falling from 2r to 0."),
            click.option("--prop-attn/--no-prop-attn", "prop_attn", default=None,
                         help="Add the log of token sizes to the attention.  [default: only for tome]"),
            click.option("--restore-grid/--no-restore-grid", "restore_grid", default=None,
                         help="Bring all tokens back after the last block.  [default: only for a grid output]"),
            click.option("--keys", type=click.Choice([source.value for source in KeySource]),
                         default=KeySource.POST_ROPE.value, show_default=True,
                         help="Compare tokens by keys with or without their rotary embedding."),
            click.option("--plan-file", type=click.Path(path_type=Path), default=None, metavar="FILE",
                         help="Method and r of each layer from a file that plan -o or tune wrote, or a report.json."),
            click.option("--image-size", type=ImageSize(), default=None, metavar="H[xW]", help="Input size in pixels."),
            click.option("--num-classes", type=click.IntRange(min=0), default=None, metavar="N",
                         help="Width of the classifier, if not the model's own."),
        )
    ):  # fmt: skip
        command = option(command)
    return command


def make_reduction(
    *,
    r: str | None,
    mode: str,
    prune_layers: int | None,
    pattern: str | None,
    schedule: str,
    prop_attn: bool | None,
    keep_rate: float | None,
    gmacs: float | None,
    speedup: float | None,
    exclude_layers: str,
    restore_grid: bool | None,
    keys: str,
    plan_file: Path | None = None,
) -> Reduction:
    """The reduction that the options, or the plan file, describe.

    Raises:
        OptionError: a value cannot be used, or two of them contradict each other.
    """
    if plan_file is not None:
        from tofu_export.plan_file import PlanFile

        _refuse_beside_plan_file()
        file = PlanFile.read(plan_file)
        _note_other_model(file.path, file.model)
        return file.reduction(restore_grid)
    return Reduction(
        r=None if r is None else parse_r(r),
        mode=Mode(mode),
        prune_layers=prune_layers,
        pattern=pattern,
        schedule=Schedule(schedule),
        prop_attn=prop_attn,
        keep_rate=keep_rate,
        gmacs=gmacs,
        speedup=speedup,
        exclude_layers=parse_layers(exclude_layers),
        restore_grid=restore_grid,
        keys=KeySource(keys),
    )


def _refuse_beside_plan_file() -> None:
    """Pass if the command line has none of the options that a plan file settles."""
    context = click.get_current_context()
    for option in context.command.params:
        given = context.get_parameter_source(option.name or "") is not click.core.ParameterSource.DEFAULT
        if option.name in _SETTLED and given:
            raise OptionError(f"--plan-file already says what {option.opts[0]} would: leave out one of them")


def _note_other_model(path: Path, made_for: str | None) -> None:
    from tofu_export.zoo.names import ALIASES

    given = click.get_current_context().params
    model = str(given.get("subject") or given.get("model") or "")
    architecture = model.partition(".")[0]
    if made_for is None or given.get("quiet") or ALIASES.get(architecture, architecture) == made_for.partition(".")[0]:
        return
    click.echo(f"note: {path} was made for {made_for}, and is used for {model}", err=True)


def parse_batches(text: str, option: str) -> tuple[int, ...]:
    """Batch sizes from a comma list.

    Args:
        text: the list; nothing gives none.
        option: how messages call it, for example `--batch`.

    Raises:
        OptionError: a part of it is not a number from 1.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise OptionError(f"{option} is {text!r}, expected batch sizes with commas between, for example 1,8")
    return tuple(int(part) for part in parts)


def read_labels(path: Path | None) -> tuple[str, ...]:
    """Class names, one per line.

    Raises:
        OptionError: the file cannot be read.
    """
    if path is None:
        return ()
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(
            f"cannot read labels from {path}: {error}; expected a text file, one label per line"
        ) from error
    return tuple(line.strip() for line in lines if line.strip())
