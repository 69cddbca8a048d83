"""`tofu-export doctor`: show what works here, what is missing, and how to install it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from tofu_export.cli.command import Run, command
from tofu_export.errors import ExitCode
from tofu_export.system.typed_json import to_object

if TYPE_CHECKING:
    from tofu_export.job.doctor import Diagnosis, FlavourState

__all__ = ["doctor_command"]


@command("doctor", short_help="Show what is installed, what is missing, and how to install it.")
def doctor_command(run: Run) -> ExitCode | None:
    """Show versions, onnxruntime's providers, GPU and TensorRT, and the command that installs what is missing.

    Exit code 5 if a required package is missing or broken, else 0: additions may be missing.
    """
    from tofu_export.job.doctor import examine

    found = examine()
    run.document(lambda: to_object(found))
    if not run.as_json:
        click.echo(_text(found))
    return None if found.healthy else ExitCode.BACKEND_MISSING


def _text(found: Diagnosis) -> str:
    about = found.environment
    gpu = f"{about.gpu}, driver {about.driver}" if about.gpu else "no NVIDIA GPU with a driver"
    lines = [f"{name:<14} {version or '-'}" for name, version in about.versions.items()]
    lines += [
        "",
        f"{'CPU':<14} {about.cpu}, {about.logical_cores} logical cores",
        f"{'GPU':<14} {gpu}",
        f"{'providers':<14} {', '.join(found.onnxruntime.providers) or 'none'}",
        *(f"{state.name:<14} {_engine(state)}" for state in found.tensorrt),
        "",
    ]
    for finding in found.findings:
        lines += [f"{'BROKEN' if finding.required else 'missing'}: {finding.what}", f"  {finding.fix}"]
    lines += ["Exporting works." if found.healthy else "Exporting cannot work: see BROKEN above."]
    return "\n".join(lines)


def _engine(state: FlavourState) -> str:
    if state.usable and state.compute_capabilities:
        return f"{state.version}, builds engines for {', '.join(state.compute_capabilities)}"
    if state.usable:
        return f"{state.version}, builds engines for the GPU of this machine"
    return f"not usable: {state.reason}"
