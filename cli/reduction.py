"""Options that say what a reduction is, and how they are read."""

from __future__ import annotations

from pathlib import Path

import click

from tofu_export.cli.parameters import first_given
from tofu_export.cli.sections import Section, option
from tofu_export.cli.shared_options import (
    PROP_ATTN,
    Decorator,
    all_of,
    image_size_option,
    num_classes_option,
    prop_attn_option,
    schedule_option,
)
from tofu_export.errors import OptionError
from tofu_export.options import DEFAULT_R, KeySource, Mode, PrunedSizes, Reduction, Schedule, parse_layers, parse_r

__all__ = ["exclude_layers_option", "make_reduction", "reduction_options"]

_SETTLED = frozenset(
    {"r", "keep_rate", "gmacs", "speedup", "exclude_layers", "mode", "prune_layers", "pattern", "schedule", "prop_attn",
     "pruned_sizes", "keys"}
)  # fmt: skip
"""Options that a plan file stands for."""


def exclude_layers_option() -> Decorator:
    """`--exclude-layers`."""
    return option(Section.REDUCTION, "--exclude-layers", default="", metavar="LIST",
                  help="Layers that remove nothing, counted from 0, such as 0,11.")  # fmt: skip


def reduction_options() -> Decorator:
    """Options that say how many tokens leave, where and how; and the sizes of the model."""
    return all_of(
        option(Section.REDUCTION, "--r", "r", default=None, metavar="N|N,N,...",
               help=f"Tokens to remove per layer: one number, or one per layer.  [default: {DEFAULT_R}]"),
        option(Section.REDUCTION, "--keep-rate", type=float, default=None, metavar="SHARE",
               help="Instead of --r: share of its tokens that each layer keeps, for example 0.9."),
        option(Section.REDUCTION, "--gmacs", type=float, default=None, metavar="X",
               help="Instead of --r: the smallest reduction that needs at most X GMACs per image."),
        option(Section.REDUCTION, "--speedup", type=float, default=None, metavar="X",
               help="Instead of --r: the smallest reduction that needs X times fewer GMACs, such as 1.8."),
        option(Section.REDUCTION, "--mode", type=click.Choice([mode.value for mode in Mode]),
               default=Mode.WEIGHTED_MLERP.value, show_default=True, help="What merging layers do."),
        option(Section.REDUCTION, "--prune-layers", type=click.IntRange(min=0), default=None, metavar="D",
               help="The first D layers prune, the others merge.  [default: a quarter of the layers; tome: 0; the "
               "paper's modes: 6, at most half]"),
        option(Section.REDUCTION, "--pattern", default=None, metavar="LETTERS",
               help="Instead of both: a letter per layer, P prune, A average, M mlerp, W weighted mlerp, T tome, "
               "- none."),
        schedule_option(),
        exclude_layers_option(),
        prop_attn_option(),
        option(Section.REDUCTION, "--no-prop-attn", "prop_attn", flag_value="off", help="The same as --prop-attn off."),
        option(Section.REDUCTION, "--pruned-sizes", type=click.Choice([sizes.value for sizes in PrunedSizes]),
               default=PrunedSizes.TAKE_OVER.value, show_default=True,
               help="A destination takes over the size of what is pruned into it, or it is lost."),
        option(Section.REDUCTION, "--restore-grid/--no-restore-grid", "restore_grid", default=None,
               help="Bring all tokens back after the last block.  [default: only for a grid output]"),
        option(Section.REDUCTION, "--keys", type=click.Choice([source.value for source in KeySource]),
               default=KeySource.POST_ROPE.value, show_default=True,
               help="Compare tokens by keys with or without their rotary embedding."),
        option(Section.REDUCTION, "--plan-file", type=click.Path(path_type=Path), default=None, metavar="FILE",
               help="Instead of all these: a file that plan -o or tune wrote, or a report.json."),
        image_size_option(),
        num_classes_option(),
    )  # fmt: skip


def make_reduction(
    *,
    r: str | None,
    mode: str,
    prune_layers: int | None,
    pattern: str | None,
    schedule: str,
    prop_attn: str,
    pruned_sizes: str,
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
        from tofu_export.planning.plan_file import PlanFile

        if (given := first_given(_SETTLED)) is not None:
            raise OptionError(f"--plan-file already says what {given} would: leave out one of them")
        file = PlanFile.read(plan_file)
        _note_other_model(file.path, file.model)
        return file.reduction(restore_grid)
    return Reduction(
        r=None if r is None else parse_r(r),
        mode=Mode(mode),
        prune_layers=prune_layers,
        pattern=pattern,
        schedule=Schedule(schedule),
        prop_attn=PROP_ATTN[prop_attn],
        pruned_sizes=PrunedSizes(pruned_sizes),
        keep_rate=keep_rate,
        gmacs=gmacs,
        speedup=speedup,
        exclude_layers=parse_layers(exclude_layers),
        restore_grid=restore_grid,
        keys=KeySource(keys),
    )


def _note_other_model(path: Path, made_for: str | None) -> None:
    from tofu_export.zoo.names import ALIASES

    given = click.get_current_context().params
    model = str(given.get("subject") or given.get("model") or "")
    architecture = model.partition(".")[0]
    if made_for is None or given.get("quiet") or ALIASES.get(architecture, architecture) == made_for.partition(".")[0]:
        return
    click.echo(f"note: {path} was made for {made_for}, and is used for {model}", err=True)
