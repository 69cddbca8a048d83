"""`tofu-export tune`: find method and r of each layer that keep a model closest to the full one, under a budget."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tofu_export.cli.command import Run, command
from tofu_export.cli.stopping import if_stopped
from tofu_export.options import shared
from tofu_export.system.typed_json import to_object
from tofu_export.tune.request import TuneRequest

if TYPE_CHECKING:
    from tofu_export.tune.run import TuneResult

__all__ = ["tune_command"]


@dataclass(frozen=True)
class TuneOutput:
    """Options for where the plan goes."""

    output: Path = shared.output("Plan file to write, which --plan-file reads.", "FILE", default=Path("tuned.json"))


@command(
    "tune", short_help="Find method and r of each layer on unlabelled images; write a plan file.", quiet="Only errors."
)
def tune_command(request: TuneRequest, written: TuneOutput, run: Run) -> None:
    """Search for the plan of MODEL that agrees best with the full model on unlabelled images, under one budget.

    It is compared with the default (a quarter of the layers prunes, the rest merges, r constant) at the same budget, on
    images that played no part in the search. A run that was killed goes on when it is started again.

    \b
    tofu-export tune demo_vit --speedup 2 -o tuned.json
    tofu-export demo_vit --plan-file tuned.json
    """  # fmt: skip
    from tofu_export.planning.plan_file import write_plan_file
    from tofu_export.tune.run import tune  # imports torch

    output = written.output
    kept = request.state or output.with_name(f"{output.name}.state.jsonl")
    with if_stopped(lambda: _what_is_kept(kept)), run.listening(f"tuning {request.model}") as listener:
        result = tune(replace(request, state=kept), listener.tick)
    write_plan_file(output, result.spec, result.chosen, result.provenance(run.command))
    run.say(_text(result))
    run.say(f"written: {output}")
    run.document(lambda: to_object(result.document(run.command)))


def _what_is_kept(state: Path) -> str:
    """Return the message for a user who interrupts a run."""
    try:
        measured = state.read_bytes().count(b"\n") - 1  # the first line holds the settings
    except OSError:
        return "no plan was tried yet, and nothing was written"
    if measured < 1:
        return f"no plan was tried yet; {state} holds only the settings of this run, and the same command begins there"
    tried = "1 plan that was tried is" if measured == 1 else f"{measured} plans that were tried are"
    return f"{tried} kept in {state}: the same command goes on there"


def _text(result: TuneResult) -> str:
    """Return the chosen plan beside the baseline."""
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
        lines.append(f"{name:<12} {row.baseline:>14.6f} {row.chosen:>14.6f}   {result.objective.value} loss")
    for key, name in (("top1_agreement", "same class"), ("logit_cosine_mean", "logit cosine"),
                      ("feature_cosine_mean", "feat. cosine")):  # fmt: skip
        found = [getattr(result.held_out[who], key) for who in ("baseline", "chosen")]
        if None not in found:
            lines.append(f"{name:<12} {found[0]:>14.4f} {found[1]:>14.4f}   held out")
    if result.latency_ms is not None:
        times = result.latency_ms
        lines.append(
            f"{'ms a batch':<12} {times['baseline']:>14.2f} {times['chosen']:>14.2f}   full {times['full']:.2f}"
        )
    difference = result.difference
    lines += [
        "",
        f"tuned less fixed on held-out images: {difference.mean:+.6f} "
        f"(95 %: {difference.low:+.6f} to {difference.high:+.6f}): {result.verdict}",
        f"pattern {result.chosen.pattern}, r {','.join(str(layer.removed) for layer in result.chosen.layers)}",
    ]
    return "\n".join(lines)
