"""`tofu-export tune`: the method and r of each layer that keep a model closest to the full one, under a budget."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tofu_export.cli.parameters import command_line
from tofu_export.cli.reduction import exclude_layers_option
from tofu_export.cli.sections import Section, command, option
from tofu_export.cli.shared_options import (
    image_batch_option,
    image_size_option,
    images_option,
    json_option,
    limit_option,
    output_option,
    quiet_option,
    seed_option,
    weights_option,
)
from tofu_export.cli.stopping import if_stopped
from tofu_export.options import parse_layers

if TYPE_CHECKING:
    from tofu_export.tune import TuneResult
    from tofu_export.zoo.weights import WeightsSource

__all__ = ["tune_command"]


@command("tune", short_help="Find method and r of each layer on unlabelled images; write a plan file.")
@click.argument("model")
@weights_option()
@image_size_option()
@seed_option("the split, the search and random weights")
@option(Section.REDUCTION, "--gmacs", type=float, default=None, metavar="X", help="Budget: at most X GMACs per image.")
@option(Section.REDUCTION, "--speedup", type=float, default=None, metavar="X", help="Budget: X times fewer GMACs.")
@option(Section.REDUCTION, "--latency", "latency_ms", type=float, default=None, metavar="MS",
        help="Budget: milliseconds for a --batch in eager PyTorch on this machine.")  # fmt: skip
@option(Section.REDUCTION, "--methods", default="PMWT", show_default=True, metavar="LETTERS",
        help="What layers may do: P prune, A average, M mlerp, W weighted mlerp, T tome.")  # fmt: skip
@exclude_layers_option()
@option(Section.REDUCTION, "--objective", type=click.Choice(["kl", "logits", "features", "top1"]), default=None,
        help="What to keep close to the full model.  [default: kl, features without classes]")  # fmt: skip
@option(Section.REDUCTION, "--evaluations", type=click.IntRange(min=1), default=200, show_default=True, metavar="N",
        help="Plans to try.")  # fmt: skip
@images_option(" like those that it will see, without labels", unless="demo_vit's own")
@limit_option(640, minimum=10, use=": 40 % to search on, 20 % to choose on, 40 % to report on")
@image_batch_option(32)
@output_option("Plan file to write, which --plan-file reads.", "FILE", default=Path("tuned.json"), show_default=True)
@option(Section.OUTPUT, "--state", type=click.Path(path_type=Path), default=None, metavar="FILE",
        help="What was measured, to go on after a kill.  [default: OUTPUT.state.jsonl]")  # fmt: skip
@json_option()
@quiet_option()
def tune_command(
    model: str,
    objective: str | None,
    exclude_layers: str,
    weights: WeightsSource,
    state: Path | None,
    output: Path,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Search for the plan of MODEL that agrees best with the full model on unlabelled images, under one budget.

    It is compared with the default (a quarter of the layers prunes, the rest merges, r constant) at the same budget, on
    images that played no part in the search. A run that was killed goes on when it is started again.

    \b
    tofu-export tune demo_vit --speedup 2 -o tuned.json
    tofu-export demo_vit --plan-file tuned.json
    """  # fmt: skip
    logging.basicConfig(level=logging.ERROR, format="%(name)s: %(message)s")
    layers = parse_layers(exclude_layers)
    from tofu_export.cli.console import listening
    from tofu_export.errors import OutputError
    from tofu_export.planning.plan_file import write_plan_file
    from tofu_export.tune import Objective, TuneRequest, tune  # imports torch

    if output.is_dir():
        raise OutputError(f"{output} is a folder, expected the name of a plan file to write")
    kept = state or output.with_name(f"{output.name}.state.jsonl")
    request = TuneRequest(
        model,
        objective=None if objective is None else Objective(objective),
        exclude_layers=layers,
        weights=weights,
        state=kept,
        **options,
    )
    with if_stopped(lambda: _what_is_kept(kept)), listening(quiet=quiet, first=f"tuning {model}") as listener:
        result = tune(request, listener.tick)
    command = command_line()
    write_plan_file(output, result.spec, result.chosen, result.provenance(command))
    if not quiet:
        click.echo(_text(result), err=True)
        click.echo(f"written: {output}", err=True)
    if as_json:
        click.echo(json.dumps(result.to_dict(command), indent=2, allow_nan=False))


def _what_is_kept(state: Path) -> str:
    """What to say to somebody who stops a run."""
    try:
        measured = state.read_bytes().count(b"\n") - 1  # the first line holds the settings
    except OSError:
        measured = 0
    if measured < 1:
        return "no plan was tried yet, and nothing was written"
    tried = "1 plan that was tried is" if measured == 1 else f"{measured} plans that were tried are"
    return f"{tried} kept in {state}: the same command goes on there"


def _text(result: TuneResult) -> str:
    """Chosen beside baseline."""
    images = result.images
    lines = [
        f"{result.spec.name}: {result.evaluations} plans tried on {images['calibration']} images, the best compared on "
        f"{images['validation']} others; {images['held_out']} held out",
        f"weights: {result.loaded}",
        "",
        f"{'':<12} {'fixed plan':>14} {'tuned':>14}",
        f"{'GMACs':<12} {result.baseline.gmacs_reduced:>14.4f} {result.chosen.gmacs_reduced:>14.4f}",
    ]
    for part, name in (("calibration", "search"), ("validation", "choice"), ("held_out", "held out")):
        row = result.losses[part]
        lines.append(f"{name:<12} {row['baseline']:>14.6f} {row['chosen']:>14.6f}   {result.objective.value} loss")
    for key, name in (("top1_agreement", "same class"), ("logit_cosine_mean", "logit cosine"),
                      ("feature_cosine_mean", "feat. cosine")):  # fmt: skip
        found = [result.held_out[who][key] for who in ("baseline", "chosen")]
        if None not in found:
            lines.append(f"{name:<12} {found[0]:>14.4f} {found[1]:>14.4f}   held out")
    if result.latency_ms is not None:
        times = result.latency_ms
        lines.append(
            f"{'ms a batch':<12} {times['baseline']:>14.2f} {times['chosen']:>14.2f}   full {times['full']:.2f}"
        )
    mean, low, high = result.difference
    lines += [
        "",
        f"tuned less fixed on held-out images: {mean:+.6f} (95 %: {low:+.6f} to {high:+.6f}): {result.verdict}",
        f"pattern {result.chosen.pattern}, r {','.join(str(layer.removed) for layer in result.chosen.layers)}",
    ]
    return "\n".join(lines)
