"""`tofu-export lower`: make a file of another exporter acceptable to a runtime."""

from __future__ import annotations

import json
import logging
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tofu_export.cli.sections import command
from tofu_export.cli.shared_options import (
    json_option,
    output_option,
    quiet_option,
    seed_option,
    shape_option,
    target_option,
)
from tofu_export.errors import ExitCode, OptionError
from tofu_export.options import Target

if TYPE_CHECKING:
    from tofu_export.linting.lower_file import LoweredFile

__all__ = ["lower_command"]

_SHOWN = 8


@command("lower", short_help="Rewrite an ONNX file of another exporter so that a runtime accepts it.")
@click.argument("model", type=click.Path(path_type=Path), metavar="MODEL.onnx")
@target_option()
@shape_option()
@seed_option("the random inputs that both files are run on")
@output_option("The file to write.", "FILE.onnx", required=True)
@json_option()
@quiet_option()
def lower_command(
    model: Path, target: str, output: Path, shapes: tuple[str, ...], seed: int, as_json: bool, quiet: bool
) -> None:
    """Rewrite what a runtime rejects in MODEL.onnx, and compare the result with it in onnxruntime.

    Known: scatters with a sum, product, maximum or minimum, as token merging is traced, writing through a mask, and the
    Attention operator. What is not known is left as it is, and said. Exit code 7 if the target still rejects something.
    """  # fmt: skip
    logging.basicConfig(level=logging.ERROR, format="%(name)s: %(message)s")
    from tofu_export.linting.lower_file import lower_file
    from tofu_export.options.texts import parse_shapes
    from tofu_export.system.files import staging

    if output.suffix != ".onnx" or output.is_dir():
        raise OptionError(f"--output is {output}, expected the name of an .onnx file")
    if output.resolve() == model.resolve():
        raise OptionError(
            f"--output is {model} itself: choose another name, the original is what the result must equal"
        )
    with staging(output.parent) as stage:
        result = lower_file(model, stage.path(output.name), Target(target), shapes=parse_shapes(shapes), seed=seed)
        data = f"{output.name}.data"
        stage.publish(*([data] if stage.path(data).exists() else []), output.name)
    if not quiet:
        click.echo(_text(result, output, target), err=True)
    if as_json:
        click.echo(
            json.dumps({"schema_version": 1, "target": target, "path": str(output), **result.to_dict()}, indent=2)
        )
    if result.rejected:
        raise SystemExit(int(ExitCode.PRECISION))


def _text(result: LoweredFile, output: Path, target: str) -> str:
    rewritten = Counter(change.op_type for change in result.changes if not change.left)
    done = ", ".join(f"{count} {kind}" for kind, count in rewritten.items()) or "nothing to rewrite"
    lines = [f"{output}: {done}"]
    left = [f"left: node {change.node!r} ({change.op_type}): {change.left}" for change in result.changes if change.left]
    known = {change.node for change in result.changes if change.left}
    left += [f"{target} rejects {finding}" for finding in result.rejected if finding.node not in known]
    left += [f"warning: {finding}" for finding in result.warned]
    lines += left[:_SHOWN]
    if len(left) > _SHOWN:
        lines.append(f"and {len(left) - _SHOWN} more")
    sizes = ", ".join(map(str, result.batches))
    lines.append(f"same outputs as the original at batch {sizes}: largest difference {result.max_abs:.1e}")
    if result.unchecked:
        lines.append(f"NOT COMPARED: {result.unchecked}")
    return "\n".join(lines)
