"""`tofu-export lower`: rewrite a file of another exporter so that a runtime accepts it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tofu_export.cli.command import SCHEMA_VERSION, Run, command
from tofu_export.errors import ExitCode, OptionError
from tofu_export.options import Target, shared
from tofu_export.options.declaration import positional

if TYPE_CHECKING:
    from tofu_export.linting.lower_file import LoweredFile

__all__ = ["lower_command"]

_SHOWN = 8


@dataclass(frozen=True)
class LowerWork:
    """Options of lowering a file."""

    model: Path = positional(metavar="MODEL.onnx")
    target: Target = shared.target()
    shapes: Mapping[str, tuple[int, ...]] = shared.shapes()
    seed: int = shared.seed("the random inputs that both files are run on")
    output: Path = shared.output("The file to write.", "FILE.onnx", required=True)

    def __post_init__(self) -> None:
        if self.output.suffix != ".onnx":
            raise OptionError(f"--output is {self.output}, expected the name of an .onnx file")
        if self.output.resolve() == self.model.resolve():
            raise OptionError(
                f"--output is {self.model} itself: choose another name, the original is what the result must equal"
            )


@command(
    "lower", short_help="Rewrite an ONNX file of another exporter so that a runtime accepts it.", quiet="Only errors."
)
def lower_command(work: LowerWork, run: Run) -> ExitCode | None:
    """Rewrite what a runtime rejects in MODEL.onnx, and compare the result with it in onnxruntime.

    Known: scatters with a sum, product, maximum or minimum, as token merging is traced, writing through a mask, and the
    Attention operator. What is not known is left as it is, and said. Exit code 7 if the target still rejects something.
    """  # fmt: skip
    from tofu_export.api import lower

    output, target = work.output, work.target.value
    result = lower(work.model, output, work.target, shapes=work.shapes, seed=work.seed)
    run.say(_text(result, output, target))
    run.document(lambda: {"schema_version": SCHEMA_VERSION, "target": target, "path": str(output), **result.to_dict()})
    return ExitCode.PRECISION if result.rejected else None


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
