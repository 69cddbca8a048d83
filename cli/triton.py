"""`tofu-export triton`: write a model repository for Triton Inference Server."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tofu_export.cli.command import Run, command
from tofu_export.engines.describing.triton_options import TritonOptions
from tofu_export.errors import OptionError
from tofu_export.options import shared
from tofu_export.options.declaration import positional

__all__ = ["triton_command"]


@dataclass(frozen=True)
class TritonWork:
    """Options for what is served, and the repository."""

    export: Path = positional(metavar="DIR|FILE.onnx")
    output: Path = shared.output(
        "The repository: a folder for each model in it, which must not exist yet.", "DIR", required=True
    )


@command("triton", short_help="Write a Triton model repository from exported files.", as_json=False)
def triton_command(work: TritonWork, options: TritonOptions, run: Run) -> None:
    """Write a Triton model repository from what an export has written: ONNX files and TensorRT plans.

    Preprocessing is not part of the served model: images are sent normalised, as the parameter
    tofu_export.preprocessing of each model says.
    """
    from tofu_export.engines.describing.triton import collect_models, write_repository
    from tofu_export.system.files import staging

    output = work.output
    models, left_out = collect_models(work.export, options)
    taken = [model.name for model in models if (output / model.name).exists()]
    if taken:
        raise OptionError(f"{output / taken[0]} exists: choose another --output or --name, or remove it")
    with staging(output) as stage:
        write_repository(models, stage.folder, options.version)
        stage.publish(*(model.name for model in models))
    for model in models:
        run.say(f"{output / model.name}: {model.source.name}, {model.backend} backend")
    for reason in left_out:
        run.say(f"left out: {reason}")
    run.say(f"serve it: tritonserver --model-repository={output.absolute()}")
