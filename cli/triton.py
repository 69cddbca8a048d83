"""`tofu-export triton`: a model repository for Triton Inference Server."""

from __future__ import annotations

from pathlib import Path

import click

from tofu_export.cli.sections import Section, command, option
from tofu_export.cli.shared_options import output_option
from tofu_export.errors import OptionError

__all__ = ["triton_command"]


@command("triton", short_help="Write a Triton model repository from exported files.")
@click.argument("export", type=click.Path(path_type=Path), metavar="DIR|FILE.onnx")
@output_option("The repository: a folder for each model in it, which must not exist yet.", "DIR", required=True)
@option(Section.FILES, "--name", default=None, metavar="NAME", help="Of the model.  [default: the one in the file]")
@option(Section.FILES, "--version", type=click.IntRange(min=1), default=1, show_default=True, metavar="N",
        help="Number of the version.")  # fmt: skip
@option(Section.FILES, "--device", type=click.Choice(["auto", "gpu", "cpu"]), default="auto", show_default=True,
        help="Where onnxruntime runs.")  # fmt: skip
@option(Section.FILES, "--instances", type=click.IntRange(min=1), default=1, show_default=True, metavar="N",
        help="Copies of a model that run at the same time.")  # fmt: skip
@option(Section.FILES, "--queue-delay", type=click.IntRange(min=0), default=1000, show_default=True, metavar="US",
        help="Microseconds that a request may wait for others to make up a batch.")  # fmt: skip
def triton_command(
    export: Path, output: Path, name: str | None, version: int, device: str, instances: int, queue_delay: int
) -> None:
    """Write a Triton model repository from what an export has written: ONNX files and TensorRT plans.

    Preprocessing is not part of the served model: images are sent normalised, as the parameter
    tofu_export.preprocessing of each model says.
    """
    from tofu_export.engines.describing.triton import TritonOptions, collect_models, write_repository
    from tofu_export.system.files import staging

    options = TritonOptions(name, version, device, instances, queue_delay)
    models, left_out = collect_models(export, options)
    taken = [model.name for model in models if (output / model.name).exists()]
    if taken:
        raise OptionError(f"{output / taken[0]} exists: choose another --output or --name, or remove it")
    with staging(output) as stage:
        write_repository(models, stage.folder, version)
        stage.publish(*(model.name for model in models))
    for model in models:
        click.echo(f"{output / model.name}: {model.source.name}, {model.backend} backend", err=True)
    for reason in left_out:
        click.echo(f"left out: {reason}", err=True)
    click.echo(f"serve it: tritonserver --model-repository={output.absolute()}", err=True)
