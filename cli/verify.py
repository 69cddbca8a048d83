"""`tofu-export verify`: does this file compute what it should?"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tofu_export.cli.parameters import command_line, parse_batches
from tofu_export.cli.sections import Section, command, option
from tofu_export.cli.shared_options import (
    bundle_option,
    file_precision_option,
    images_option,
    json_option,
    model_option,
    num_classes_option,
    output_kind_option,
    quiet_option,
    seed_option,
    shape_option,
    verbose_option,
    weights_option,
)
from tofu_export.errors import OptionError, VerificationError
from tofu_export.options import OutputKind, Precision

if TYPE_CHECKING:
    from tofu_export.verification import VerificationResult, VerifyRequest
    from tofu_export.zoo.weights import WeightsSource

__all__ = ["verify_command"]

SCHEMA_VERSION = 1
_WIDTH = 200


@command("verify", short_help="Compare an ONNX file or an engine with the eager model, or with another file.")
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
@model_option()
@weights_option(None, unless="what the file says")
@num_classes_option("what the file says, or the model's own")
@output_kind_option("what the file says, or logits")
@seed_option("random weights and generated images")
@option(Section.CHECK, "--reference", type=click.Path(path_type=Path), default=None, metavar="OTHER.onnx",
        help="Compare with this file, and with no model.")  # fmt: skip
@shape_option()
@images_option(" to compare on", unless="demo_vit's own; for others generated ones", section=Section.CHECK)
@option(Section.CHECK, "--batch", default="", metavar="LIST",
        help="Batch sizes, such as 1,8.  [default: some of those that the file serves]")  # fmt: skip
@file_precision_option("what it says, or the type of its weights")
@option(Section.CHECK, "--tolerance", default=None, metavar="NAME",
        help="Tolerance of another precision.  [default: the file's; of two files the wider one]")  # fmt: skip
@option(Section.CHECK, "--atol", type=float, default=None, metavar="X",
        help="Largest difference, in place of the tolerance's.")  # fmt: skip
@option(Section.CHECK, "--rtol", type=float, default=None, metavar="X",
        help="The same as a share of the largest value, or of 1; adds to --atol.")  # fmt: skip
@option(Section.CHECK, "--cosine", type=float, default=None, metavar="X", help="Smallest cosine of two outputs.")
@bundle_option()
@json_option()
@quiet_option()
@verbose_option("decisions and errors block by block")
def verify_command(
    file: Path,
    model: str | None,
    weights: WeightsSource | None,
    seed: int,
    num_classes: int | None,
    output_kind: str | None,
    reference: Path | None,
    shapes: tuple[str, ...],
    images: Path | None,
    batch: str,
    precision: str | None,
    tolerance: str | None,
    atol: float | None,
    rtol: float | None,
    cosine: float | None,
    bundle: Path | None,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Compare FILE with the eager model that it was made from, or with another file, in onnxruntime.

    A file of this project says which model, weights and reduction it holds. A foreign one needs --model and --weights,
    or --reference. Matching decisions are compared apart from arithmetic. Exit code 4: it is wrong.

    A TensorRT engine is run on the GPU, and compared with the eager model and with the ONNX file beside it that it was
    built from, or with --reference alone. Exit code 5: there is no GPU, or no TensorRT, to run it.

    \b
    tofu-export verify out/model.fp16.onnx -v
    tofu-export verify out/model.fp32.onnx --weights vit_base.pth
    tofu-export verify lowered.onnx --reference original.onnx --atol 1e-4
    tofu-export verify out/model.fp16.tensorrt-rtx.engine
    """  # fmt: skip
    logging.basicConfig(level=logging.INFO if verbose else logging.ERROR, format="%(name)s: %(message)s")
    batches = parse_batches(batch, "--batch")
    from tofu_export.artifact.feeds import parse_shapes
    from tofu_export.bundle import check_folder
    from tofu_export.verification import ToleranceChoice, VerifyRequest  # imports torch: only after the cheap checks
    from tofu_export.verification.bundling import bundle_failure

    request = VerifyRequest(
        path=file,
        model=model,
        weights=weights,
        seed=seed,
        num_classes=num_classes,
        output_kind=None if output_kind is None else OutputKind(output_kind),
        reference=reference,
        images=images,
        batches=batches,
        precision=None if precision is None else Precision(precision),
        tolerance=ToleranceChoice(tolerance, atol, rtol, cosine),
        layers=verbose or bundle is not None,
        shapes=parse_shapes(shapes),
    )
    if bundle is not None:
        check_folder(bundle)
    engine = _is_engine(file)
    if engine and bundle is not None:
        raise OptionError(
            "--bundle holds an ONNX file: leave it out, or verify the file that the engine was built from"
        )
    results: tuple[VerificationResult, ...] = ()
    failure = None
    try:
        results = _run(request, engine=engine, quiet=quiet, verbose=verbose)
    except VerificationError as error:  # it lacks what must be compared: the document says so as well
        failure = error
    wrong = next((result for result in results if not result.passed), None)
    if wrong is not None:
        advice = "Run again with -v to see it block by block"
        if engine:
            advice = "Verify its ONNX file too, to see which of the two is wrong"
        failure = wrong.failure("" if request.layers else advice)
    document = _document([result.to_dict() for result in results], failure)
    if failure is not None and bundle is not None and file.is_file():
        failure = bundle_failure(bundle, file, failure, document, wrong, reference)
    if as_json:
        click.echo(json.dumps(document, indent=2, allow_nan=False))
    if failure is not None:
        raise failure


def _is_engine(file: Path) -> bool:
    from tofu_export.options import PLAN_SUFFIXES

    return file.suffix in PLAN_SUFFIXES


def _run(request: VerifyRequest, *, engine: bool, quiet: bool, verbose: bool) -> tuple[VerificationResult, ...]:
    from rich.console import Console

    from tofu_export.cli.console import listening
    from tofu_export.cli.verify_text import show
    from tofu_export.verification import verify_file
    from tofu_export.verification.engines import verify_engine

    # Off a terminal rich would squeeze tables into 80 columns.
    console = Console(stderr=True, width=None if sys.stderr.isatty() else _WIDTH)
    with listening(console, quiet=quiet, first=f"reading {request.path.name}") as listener:
        results = verify_engine(request, listener.step) if engine else (verify_file(request, listener.step),)
    for result in () if quiet else results:
        show(console, result, verbose=verbose)
    return results


def _document(verification: list[dict[str, Any]], error: VerificationError | None) -> dict[str, Any]:
    from tofu_export.system import environment

    return {
        "schema_version": SCHEMA_VERSION,
        "command": command_line(),
        "environment": environment.collect(),
        "verification": verification,
        "error": None if error is None else str(error),
    }
