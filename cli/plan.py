"""`tofu-export plan`: show what a reduction removes in each layer, and what it saves."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

import click

from tofu_export.cli.command import Run, command
from tofu_export.options import Reduction, shared
from tofu_export.options.declaration import group, positional

__all__ = ["plan_command"]


@dataclass(frozen=True)
class PlanRequest:
    """Options for what to plan, and where to write it."""

    model: str = positional()
    reduction: Reduction = group(Reduction)
    image_size: tuple[int, int] | None = shared.image_size()
    num_classes: int | None = shared.num_classes()
    output: Path | None = shared.output("Also write a plan file, which --plan-file reads.", "FILE")


@command("plan", short_help="Show what a reduction removes, layer by layer, without weights.")
def plan_command(request: PlanRequest, run: Run) -> None:
    """Show what a reduction of MODEL removes, layer by layer, and the GMACs that it saves. Needs no weights."""
    from tofu_export.planning.plan_text import plan_table
    from tofu_export.zoo.specs import plan_model

    spec, plan = plan_model(request.model, request.reduction, request.image_size, request.num_classes)
    if request.output is not None:
        from tofu_export.planning.plan_file import write_plan_file

        version = metadata.version("tofu-export")
        write_plan_file(request.output, spec, plan, {"made_by": "plan", "tofu_export": version, "command": run.command})
    structure = {key: value for key, value in asdict(spec).items() if not key.endswith(("macs", "token", "fixed"))}
    structure.pop("blocks")
    run.document({"model": {**structure, "depth": spec.depth}, "plan": plan.to_dict()})
    if not run.as_json:
        click.echo(plan_table(spec, plan))
    if request.output is not None:
        run.say(f"written: {request.output}")
