"""`tofu-export plan`: what would be removed where, and what that saves."""

from __future__ import annotations

import json
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import click

from tofu_export.cli.parameters import command_line
from tofu_export.cli.reduction import make_reduction, reduction_options
from tofu_export.cli.sections import command
from tofu_export.cli.shared_options import json_option, output_option

__all__ = ["plan_command"]


@command("plan", short_help="Show what a reduction removes, layer by layer, without weights.")
@click.argument("model")
@reduction_options()
@output_option("Also write a plan file, which --plan-file reads.", "FILE", default=None)
@json_option()
def plan_command(
    model: str,
    image_size: tuple[int, int] | None,
    num_classes: int | None,
    output: Path | None,
    as_json: bool,
    **reduction: Any,
) -> None:
    """Show what a reduction of MODEL removes, layer by layer, and the GMACs that it saves. Needs no weights."""
    chosen = make_reduction(**reduction)
    from tofu_export.report.document import plan_table
    from tofu_export.zoo.specs import plan_model

    spec, plan = plan_model(model, chosen, image_size, num_classes)
    if output is not None:
        from tofu_export.planning.plan_file import write_plan_file

        command = command_line()
        version = metadata.version("tofu-export")
        write_plan_file(output, spec, plan, {"made_by": "plan", "tofu_export": version, "command": command})
    if as_json:
        structure = {key: value for key, value in asdict(spec).items() if not key.endswith(("macs", "token", "fixed"))}
        structure.pop("blocks")
        click.echo(json.dumps({"model": {**structure, "depth": spec.depth}, "plan": plan.to_dict()}, indent=2))
    else:
        click.echo(plan_table(spec, plan))
    if output is not None:
        click.echo(f"written: {output}", err=True)
